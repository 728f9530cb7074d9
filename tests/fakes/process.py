"""A fake provider as its own process, with the face of `FakeProvider`: `with FakeProcess("zai") as fake:`."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import httpx
import msgspec

from tests.fakes.control import State
from tests.fakes.language import Received, Reply, Served, Usage
from tests.fakes.vendors import Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
STOP_TIMEOUT_S = 5.0
LOOK_AGAIN_S = 0.02


class Address(msgspec.Struct):
    """The line that the process prints once it listens."""

    kind: Kind
    pid: int
    root_url: str
    base_url: str
    control_url: str


class FakeProcess:
    """Started with the options of `python -m tests.fakes`; it ends with this object, or when this process dies."""

    def __init__(self, kind: Kind = "anthropic", *options: str) -> None:
        self.kind = kind
        self._options = options

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.fakes", "--kind", self.kind, "--until-stdin-closes", *self._options]
        self._process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the fake did not start, exit code {self._process.wait(STOP_TIMEOUT_S)}")
        self.address = msgspec.json.decode(line, type=Address)
        self._client = httpx.Client(base_url=self.address.control_url, trust_env=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()
        with self._process:  # closing its stdin ends it
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()

    @property
    def root_url(self) -> str:
        return self.address.root_url

    @property
    def base_url(self) -> str:
        return self.address.base_url

    def script(self, *replies: Reply) -> None:
        self._put("POST", "script", list(replies))

    def set_default(self, reply: Reply) -> None:
        self._put("PUT", "default", reply)

    def set_keys(self, keys: list[str] | None) -> None:
        self._put("PUT", "keys", keys)

    def set_extra_headers(self, headers: dict[str, str]) -> None:
        self._put("PUT", "headers", headers)

    @property
    def requests(self) -> list[Received]:
        return msgspec.json.decode(self._get("requests"), type=list[Received])

    @property
    def served(self) -> list[Served]:
        return msgspec.json.decode(self._get("served"), type=list[Served])

    @property
    def usage_served(self) -> Usage:
        return sum((each.usage for each in self.served), Usage())

    @property
    def state(self) -> State:
        return msgspec.json.decode(self._get("state"), type=State)

    @contextlib.contextmanager
    def refusing(self) -> Iterator[Self]:
        """Connections are refused, and open ones reset, until the block ends."""
        self._put("POST", "refuse", None)
        try:
            yield self
        finally:
            self._put("POST", "listen", None)

    def reset(self) -> None:
        self._put("POST", "reset", None)

    def wait_for(self, request_count: int, timeout_s: float = 10.0) -> list[Received]:
        """The requests, once there are so many."""
        self.wait_until(lambda: self.state.request_count >= request_count, timeout_s)
        return self.requests

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Return when the condition holds; TimeoutError when it does not in time."""
        deadline_s = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"not within {timeout_s} s; seen: {self.state}")
            time.sleep(LOOK_AGAIN_S)

    def _get(self, name: str) -> bytes:
        return self._client.get(name).raise_for_status().content

    def _put(self, method: str, name: str, value: Any) -> None:
        self._client.request(method, name, content=msgspec.json.encode(value)).raise_for_status()
