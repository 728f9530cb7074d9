"""A fake provider in a thread of this process: `with FakeProvider("anthropic") as fake:`.

Its face is synchronous and works from plain and from async tests alike. What it says is scripted with `reply`; as its
own process, with the same face, it is `FakeProcess`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any, Self

from tests.fakes.api import Api
from tests.fakes.book import Book
from tests.fakes.control import Control
from tests.fakes.listener import Listener, bound
from tests.fakes.vendors import VENDORS, Kind

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Collection, Coroutine, Iterator

    from tests.fakes.language import Received, Reply, Served, Usage
    from tests.fakes.oauth import OAuth
    from tests.fakes.resources import Resources
    from tests.fakes.zai_quota import ZaiQuota

START_TIMEOUT_S = 10.0


class FakeProvider:
    """One provider on the loopback.

    `keys`: the valid credentials, None for any. `refresh_tokens`: what the subscription's token endpoint takes.
    `model_prefixes`: the models served, () for every one, None for the vendor's own. `records` off keeps no requests
    and answers, for long benches. `failing_tls_url` is an https address at which every handshake fails.
    """

    def __init__(
        self,
        kind: Kind = "anthropic",
        *,
        keys: Collection[str] | None = None,
        refresh_tokens: Collection[str] = (),
        model_prefixes: tuple[str, ...] | None = None,
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        records: bool = True,
    ) -> None:
        self.kind = kind
        self._book = Book(records=records)
        valid = None if keys is None else set(keys)
        self._api = Api(
            VENDORS[kind], self._book, keys=valid, refresh_tokens=refresh_tokens, model_prefixes=model_prefixes
        )
        self._listener = Listener(self._api.serve, self._book, ssl_context=ssl_context)
        self._control: Listener | None = None
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"fake-{kind}", daemon=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> Self:
        self._thread.start()
        self._run(self._listener.open(self._port))
        self._api.resources.root_url = self._listener.url
        return self

    def stop(self) -> None:
        """Reset what is open and end; a fault of the fake itself is raised here."""
        for listener in filter(None, (self._listener, self._control)):
            self._run(listener.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)
        self._loop.close()
        if self._book.faults:
            raise self._book.faults[0]

    def open_control(self, port: int = 0) -> str:
        """Serve the control endpoint (`control.py`) on a port of its own; its URL."""
        book = Book(records=False)
        control = Control(self._api, self._book, self._listener)
        self._control = Listener(control.serve, book)
        self._run(self._control.open(port))
        return f"{self._control.url}/_fake"

    # -- addresses

    @property
    def root_url(self) -> str:
        return self._listener.url

    @property
    def base_url(self) -> str:
        """What a client's base URL is set to (for Z.AI it ends in its base path)."""
        return self._listener.url + self._api.vendor.base_path

    @property
    def failing_tls_url(self) -> str:
        return self.base_url.replace("http://", "https://", 1)

    # -- what it shall say

    def script(self, *replies: Reply) -> None:
        """Queue replies; each request takes the first that is for it, else `default` (or the API's own answer)."""
        self._book.script(replies)

    @property
    def scripted_left(self) -> int:
        return self._book.scripted_left

    @property
    def default(self) -> Reply:
        return self._book.default

    @default.setter
    def default(self, value: Reply) -> None:
        self._book.default = value

    @property
    def extra_headers(self) -> dict[str, str]:
        """Headers of every answer; lower-case names. A reply's own win."""
        return self._book.extra_headers

    @extra_headers.setter
    def extra_headers(self, value: dict[str, str]) -> None:
        self._book.extra_headers = value

    @property
    def keys(self) -> set[str] | None:
        return self._api.credentials.valid

    @keys.setter
    def keys(self, value: Collection[str] | None) -> None:
        self._api.credentials.valid = None if value is None else set(value)

    @property
    def oauth(self) -> OAuth:
        return self._api.oauth

    @property
    def quota(self) -> ZaiQuota:
        return self._api.quota

    @property
    def resources(self) -> Resources:
        return self._api.resources

    @contextlib.contextmanager
    def refusing(self) -> Iterator[Self]:
        """Connections are refused, and open ones reset, until the block ends."""
        self.refuse()
        try:
            yield self
        finally:
            self.listen()

    def refuse(self) -> None:
        self._run(self._listener.refuse())

    def listen(self) -> None:
        self._run(self._listener.open())

    def reset(self) -> None:
        """Forget scripts, requests and answers."""
        self._book.reset()

    # -- what it saw

    @property
    def requests(self) -> list[Received]:
        return self._book.requests()

    def requests_to(self, path: str) -> list[Received]:
        """The requests to a path, given without the vendor's base path."""
        return [each for each in self.requests if each.path in (path, self._api.vendor.base_path + path)]

    @property
    def served(self) -> list[Served]:
        return self._book.served()

    @property
    def usage_served(self) -> Usage:
        """All tokens that were put on the wire."""
        return self._book.usage()

    def wait_for(self, request_count: int, timeout_s: float = 10.0) -> list[Received]:
        """The requests, once there are so many."""
        self.wait_until(lambda: len(self.requests) >= request_count, timeout_s)
        return self.requests

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """Return when the condition holds; TimeoutError with what was seen when it does not in time."""
        if not self._book.wait_until(condition, timeout_s):
            raise TimeoutError(f"not within {timeout_s} s; seen: {[(r.method, r.path) for r in self.requests]}")

    async def wait_until_async(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
        """As `wait_until`, without holding up the test's own event loop."""
        await asyncio.to_thread(self.wait_until, condition, timeout_s)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(START_TIMEOUT_S)


@contextlib.contextmanager
def closed_port() -> Iterator[int]:
    """A port at which every connection is refused, and which no one can take meanwhile."""
    with bound() as sock:
        yield sock.getsockname()[1]
