"""The whole proxy in this process and on this loop, without Redis, before fake providers; and what it wrote down."""

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import certifi
import httpx
import msgspec
import pytest
import uvicorn.server

from service import app
from service.fleet.outbox import StreamPort
from service.ledger.events import AttemptEnded, AttemptStarted, Event
from service.proxy import ClaudeCodeProxy
from service.settings import Timeouts, load
from service.settings.redis_url import redis_address
from tests.fakes import FakeProvider
from tests.support.ports import free_port

ANTHROPIC_KEY = "sk-ant-api03-owner-marked-aaaaaaaaaaaa"
ZAI_KEY = "zai-owner-marked-bbbbbbbbbbbbbbbb"
ASK: dict[str, Any] = {
    "model": "claude-opus-5-5",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "hi"}],
}
STREAM = ASK | {"stream": True}
PATIENT = {
    "CIRCUIT_BREAKER_ENABLED": "false",
    "CIRCUIT_BREAKER_COOLDOWN_MS": "1",
    "API_RETRY_DELAY_MS": "1",
    "LOG_LEVEL": "debug",
}


class Serving:
    """A proxy that serves."""

    def __init__(self, proxy: ClaudeCodeProxy, parts: app.Parts) -> None:
        self.proxy = proxy
        self.parts = parts
        self.events: list[tuple[str, Event]] = []
        self.http = httpx.AsyncClient(
            base_url=proxy.url,
            trust_env=False,
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            timeout=20,
            headers={"anthropic-version": "2023-06-01"},
        )
        parts.outbox.listeners.insert(0, lambda stream, event: self.events.append((stream, event)))

    @property
    def url(self) -> str:
        return self.proxy.url

    @property
    def connections(self) -> Collection[Any]:
        """The proxy's ends of its clients' connections."""
        assert self.proxy._server
        return self.proxy._server.server_state.connections

    async def ask(self, body: Mapping[str, Any] = STREAM, **more: Any) -> httpx.Response:
        """A request for a message."""
        return await self.http.post("/v1/messages", json=body, **more)

    @property
    def ends(self) -> list[tuple[str, AttemptEnded]]:
        """The attempts that ended, with their routes."""
        return [(stream, event) for stream, event in self.events if isinstance(event, AttemptEnded)]

    @property
    def told(self) -> list[tuple[str, str, str]]:
        """Route, outcome and kind of each attempt that ended."""
        return [(stream, event.outcome, event.kind) for stream, event in self.ends]

    def forget(self) -> None:
        """What happened so far counts no more: neither here nor for routing."""
        self.events.clear()
        self.parts.watcher.view.routes.clear()

    def open_attempts(self) -> set[str]:
        """Attempts that began and have not ended."""
        began = {event.event_id for _, event in self.events if isinstance(event, AttemptStarted)}
        return began - {event.attempt_id for _, event in self.ends}


class Server:
    """Starts proxies for one test, and looks for what they left behind."""

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.patch = patch
        self.complaints: list[str] = []
        self.served: list[Serving] = []

    async def start(
        self,
        *,
        anthropic: FakeProvider | str | None = None,
        zai: FakeProvider | str | None = None,
        variables: Mapping[str, str] | None = None,
        port: StreamPort | None = None,
        redis_url: str | None = None,
        slow_ms: int = 60_000,
        **timeouts: int,
    ) -> Serving:
        """A proxy before these providers; `timeouts` are fields of `Timeouts`. No Redis without `redis_url`."""
        found = {**PATIENT, "CCPROXY_HOME": str(self.home), "PROXY_PORT": str(free_port())}
        for name, key, fake in (("ANTHROPIC", ANTHROPIC_KEY, anthropic), ("ZAI", ZAI_KEY, zai)):
            if fake is not None:
                found[f"{name}_API_KEY"] = key
                found[f"{name}_BASE_URL"] = fake if isinstance(fake, str) else fake.base_url
        settings = load(None, {**found, **(variables or {})})
        limits = msgspec.structs.replace(settings.timeouts, **timeouts)
        assert isinstance(limits, Timeouts)
        circuit = msgspec.structs.replace(settings.policy.circuit, slow_ms=slow_ms)
        policy = msgspec.structs.replace(settings.policy, circuit=circuit)
        settings = msgspec.structs.replace(
            settings, redis_url=redis_url and redis_address(redis_url).value, timeouts=limits, policy=policy
        )
        made: list[app.Parts] = []

        class Parts(app.Parts):
            def __init__(self, given: Any) -> None:
                super().__init__(given)
                if redis_url is None:
                    self.outbox._port = port
                made.append(self)

        with self.patch.context() as patch:
            patch.setattr(app, "Parts", Parts)
            proxy = ClaudeCodeProxy(settings)
            await proxy.start()
        self.served.append(Serving(proxy, made[0]))
        return self.served[-1]

    async def stop(self) -> None:
        """End all of it; whatever the event loop had to complain of fails the test."""
        for served in self.served:
            await served.http.aclose()
            await served.proxy.stop()
        gc.collect()
        await asyncio.sleep(0)
        assert not self.complaints, self.complaints
        for served in self.served:
            assert not served.open_attempts(), "an attempt that began has no end on the ledger"


@asynccontextmanager
async def server_of(home: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[Server]:
    """A server under asyncio's debug mode."""
    server = Server(home, patch)
    loop = asyncio.get_running_loop()
    loop.set_debug(True)
    loop.slow_callback_duration = 60
    patch.setattr(uvicorn.server, "asyncio", Hasty())
    patch.setenv("SSL_CERT_FILE", str(few_certificates(home)))
    gc.freeze()
    loop.set_exception_handler(lambda _, context: server.complaints.append(str(context)))
    try:
        yield server
    finally:
        await server.stop()


def few_certificates(home: Path) -> Path:
    """One certificate to trust: reading the usual two hundred would be most of a proxy's start."""
    first, end, _ = Path(certifi.where()).read_text("utf-8").partition("-----END CERTIFICATE-----")
    path = home / "trusted.pem"
    path.write_text(first + end + "\n", "utf-8")
    return path


class Hasty:
    """asyncio for uvicorn, whose rounds of 100 ms would be most of a test's time."""

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(min(delay_s, 0.005))


class Wire:
    """A client at byte level: what came so far, and the wish for more."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.got = b""

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until(self, wanted: bytes) -> bytes:
        """Read until these bytes came."""
        while wanted not in self.got:
            async with asyncio.timeout(20):
                data = await self.reader.read(65_536)
            assert data, f"closed after {self.got[-200:]!r}"
            self.got += data
        return self.got

    async def to_the_end(self) -> bytes:
        """Read until the proxy closes."""
        async with asyncio.timeout(20):
            self.got += await self.reader.read(-1)
        return self.got

    async def listen(self, for_s: float) -> bytes:
        """What came within a while, quiet or not: nothing announces what must not come."""
        with suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                while data := await self.reader.read(65_536):
                    self.got += data
        return self.got

    async def quiet(self, for_s: float = 0.15) -> bytes:
        """What came, when nothing more did for a while."""
        while True:
            try:
                async with asyncio.timeout(for_s):
                    data = await self.reader.read(65_536)
            except TimeoutError:
                return self.got
            if not data:
                return self.got
            self.got += data

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


@asynccontextmanager
async def connected(served: Serving) -> AsyncIterator[Wire]:
    """A connection to the proxy."""
    wire = Wire(*await asyncio.open_connection("127.0.0.1", served.proxy.settings.port))
    try:
        yield wire
    finally:
        await wire.close()


def request_bytes(body: bytes, path: str = "/v1/messages", headers: str = "") -> bytes:
    """A POST as it goes on the wire."""
    head = f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{headers}"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def chunked(data: bytes) -> bytes:
    """The body of a chunked answer without its framing."""
    body = data.partition(b"\r\n\r\n")[2]
    parts = []
    while body:
        size, _, body = body.partition(b"\r\n")
        number = int(size, 16)
        parts.append(body[:number])
        body = body[number + 2 :]
    return b"".join(parts)


STREAM_BYTES = msgspec.json.encode(STREAM)
ASK_BYTES = msgspec.json.encode(ASK)
