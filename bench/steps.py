"""Python calls and bytecodes of one request in the proxy: `make bench-steps`. Deterministic; no clock is read.

    python -m bench.steps [--json] [--write]

The proxy, a stand-in for the provider and a client share one event loop in this process; events go to a port in memory
that acknowledges at once. Counted is what runs in this project's code and in the libraries below it, without asyncio
and the standard library: how often the event loop comes round depends on the machine. Each figure is the least of
several requests, since tasks that run beside the requests may fall into one.

`steps.toml` beside this file has the figures of each Python version as they were when they were last written; a test
compares (`tests/bench/test_steps.py`). On Python 3.14 only calls can be compared: tracing tells less than a third of
the bytecodes there, and not the same ones each time. Not here: how long anything takes (`bench.__main__`).
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Self
from unittest.mock import patch

from msgspec import Struct, structs

from bench.servers import free_port
from bench.standin import Connection as StandIn
from bench.traffic import KEY, Kind, body, request
from service import app
from service.proxy import ClaudeCodeProxy
from service.settings import load

FIGURES = Path(__file__).with_suffix(".toml")
SCENARIOS: tuple[tuple[str, Kind, int], ...] = (
    ("whole_2k", "json", 2_000),
    ("whole_60k", "json", 60_000),
    ("stream_2k", "sse", 2_000),
    ("stream_60k", "sse", 60_000),
)
WARM_UP = 40
"""Requests until every cache is filled, and code is specialised."""
COUNTED = 7
LIMIT_S = 20
FAR_LIMIT = "900000000000000"
"""Tokens a week, which no bench comes near."""
OWN = str(Path(__file__).parent)
STANDARD_LIBRARY = (str(Path(os.__file__).parent), "<frozen")


class Steps(Struct, frozen=True):
    """Calls and bytecodes of one request."""

    calls: int
    bytecodes: int


class InstantPort:
    """Streams that acknowledge at once."""

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Taken."""


class Counter:
    """Counts calls and bytecodes while it is on."""

    def __init__(self) -> None:
        self.calls = 0
        self.bytecodes = 0
        self._is_counted: dict[str, bool] = {}

    def __enter__(self) -> Self:
        sys.settrace(self._on_call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, _: Any) -> Any:
        name = frame.f_code.co_filename
        if (counted := self._is_counted.get(name)) is None:
            counted = self._is_counted[name] = is_counted(name)
        if not counted or event != "call":
            return None
        self.calls += 1
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._on_opcode

    def _on_opcode(self, _frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "opcode":
            self.bytecodes += 1
        return self._on_opcode


def is_counted(filename: str) -> bool:
    """Return true if code of this file belongs to the proxy or a library that it uses."""
    if filename.startswith(OWN):
        return False
    return "site-packages" in filename or not filename.startswith(STANDARD_LIBRARY)


class Client(asyncio.Protocol):
    """Sends one request after the other on one connection, and waits for the end of each answer."""

    def __init__(self) -> None:
        self._transport: Any = None
        self._received = b""
        self._waiting: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        self._received += data
        if self._waiting and not self._waiting.done() and is_whole(self._received):
            self._waiting.set_result(None)

    async def ask(self, data: bytes) -> None:
        """One request. Raises AssertionError when it fails."""
        self._received = b""
        self._waiting = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        async with asyncio.timeout(LIMIT_S):
            await self._waiting
        assert self._received.startswith(b"HTTP/1.1 200"), self._received[:200]

    def close(self) -> None:
        """Leave."""
        self._transport.abort()


def is_whole(received: bytes) -> bool:
    """Return true if a response is complete."""
    head, _, rest = received.partition(b"\r\n\r\n")
    length = next((line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), None)
    return len(rest) >= int(length) if length else rest.endswith(b"0\r\n\r\n")


async def measured(home: Path) -> dict[str, Steps]:
    """The figures of all scenarios."""
    loop = asyncio.get_running_loop()
    provider = await loop.create_server(StandIn, "127.0.0.1", 0)
    upstream = f"http://127.0.0.1:{provider.sockets[0].getsockname()[1]}"
    proxy = await started(home, upstream)
    _, client = await loop.create_connection(Client, "127.0.0.1", proxy.settings.port)
    try:
        authority = f"127.0.0.1:{proxy.settings.port}"
        return {
            name: await least(client, request(authority, "/v1/messages", {"x-api-key": KEY}, body(size, kind)))
            for name, kind, size in SCENARIOS
        }
    finally:
        client.close()
        await proxy.stop()
        provider.close()


async def started(home: Path, upstream: str) -> ClaudeCodeProxy:
    """A proxy with a client key and a weekly limit, as teams have them, whose ledger is in memory."""
    found = {
        "CCPROXY_HOME": str(home),
        "PROXY_PORT": str(free_port()),
        "ANTHROPIC_API_KEY": KEY,
        "ANTHROPIC_BASE_URL": upstream,
        "ANTHROPIC_WEEKLY_LIMIT": FAR_LIMIT,
        "PROXY_API_KEYS": f"bench:{KEY}",
        "ZAI_API_KEY": KEY,
        "ZAI_BASE_URL": upstream,
    }
    settings = structs.replace(load(None, found), redis_url=None)

    class Parts(app.Parts):
        def __init__(self, given: Any) -> None:
            super().__init__(given)
            self.outbox._port = InstantPort()  # noqa: SLF001 - a program has no Redis to give

    with patch.object(app, "Parts", Parts):
        proxy = ClaudeCodeProxy(settings)
        await proxy.start()
    return proxy


async def least(client: Client, data: bytes) -> Steps:
    """The least that one request takes, once everything is warm."""
    for _ in range(WARM_UP):
        await client.ask(data)
    found = []
    for _ in range(COUNTED):
        counter = Counter()
        with counter:
            await client.ask(data)
        await asyncio.sleep(0)
        found.append(Steps(counter.calls, counter.bytecodes))
    return Steps(min(steps.calls for steps in found), min(steps.bytecodes for steps in found))


def measure() -> dict[str, Steps]:
    """The figures of this Python and this checkout."""
    with tempfile.TemporaryDirectory(prefix="ccproxy-steps-") as folder:
        return asyncio.run(measured(Path(folder)))


def written(version: str) -> dict[str, Steps]:
    """The figures that were written down for a Python version; none for one that was not measured."""
    table = tomllib.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    return {name: Steps(**steps) for name, steps in table.get(version, {}).items()}


def python_version() -> str:
    """Bytecodes differ between minor versions."""
    return ".".join(platform.python_version_tuple()[:2])


def write_down(found: dict[str, Steps]) -> None:
    """Replace this Python's figures."""
    table = tomllib.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    table[python_version()] = {name: structs.asdict(steps) for name, steps in found.items()}
    lines = ["# Calls and bytecodes of one request, by Python version: `make bench-steps ARGS=--write`.", ""]
    for version, scenarios in sorted(table.items()):
        lines.append(f'["{version}"]')
        lines += [f"{name} = {{ calls = {s['calls']}, bytecodes = {s['bytecodes']} }}" for name, s in scenarios.items()]
        lines.append("")
    FIGURES.write_text("\n".join(lines), encoding="utf-8")


def main() -> int:
    """Measure, print, and write down where that was asked for."""
    parser = argparse.ArgumentParser(prog="bench.steps", description="Python calls and bytecodes of one request.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--write", action="store_true", help=f"write the figures to {FIGURES.name}")
    options = parser.parse_args()
    found = measure()
    before = written(python_version())
    if options.write:
        write_down(found)
    if options.json:
        print(json.dumps({name: structs.asdict(steps) for name, steps in found.items()}))
        return 0
    print(f"{'Python ' + python_version():12} {'calls':>8} {'was':>8} {'bytecodes':>10} {'was':>8}")
    for name, steps in found.items():
        was = before.get(name, Steps(0, 0))
        print(f"{name:12} {steps.calls:8} {was.calls or '-':>8} {steps.bytecodes:10} {was.bytecodes or '-':>8}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
