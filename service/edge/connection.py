"""A client's connection: reading HTTP, keeping connections alive, pipelining and flow control are uvicorn's.

What a request asks for is read once, here, as a `RequestTarget`. The Messages API goes straight to its handler, all
else to the framework, both by way of an `Exchange`: framework, router and uvicorn's own cycle cost more than the relay.

A request is handled when its body is there, so that nobody has to be woken for each part of it: as soon as it is whole,
or as much of it is there as is kept unasked. At once begins what is no JSON (an upload is passed on as it comes), what
is longer than that, and what waits for a 100.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from litestar.types import ASGIApp
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.drain import Drain
from service.edge.exchange import Exchange
from service.edge.replies import refusal
from service.edge.request_target import TARGET, origin_form, read_target
from service.errors import ProxyError

KEPT_BYTES = 256 * 1024
"""Of a body that nobody has asked for yet; then nothing more is read."""
SILENCE_S = 60.0
"""A client that has a request to end, or one to begin, and sends nothing for so long is shown out: its network or its
machine is gone, or it means ill. An upload over a slow line still sends something each minute."""


class Shortcut(Struct, frozen=True):
    """How the Messages API is answered without the framework. It lies below `base_path` as well."""

    handler: ASGIApp
    base_path: str
    drain: Drain
    new_request_id: Callable[[], str]


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
        *,
        shortcut: Shortcut,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._shortcut = shortcut
        self._exchange: Exchange | None = None
        """That whose request was read last."""
        self._open: set[Exchange] = set()
        self._heard_s = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Something has come."""
        self._heard_s = self.loop.time()
        super().data_received(data)

    def show_out_when_silent(self) -> None:
        """Close the connection of a client that was waited for too long. To be called now and then."""
        if self.loop.time() - self._heard_s >= SILENCE_S and self._is_waiting():
            self.transport.close()

    def _is_waiting(self) -> bool:
        """Whether it is the client's turn: with the rest of a request, or its first. Between two requests uvicorn's own
        timer runs."""
        cycle: Any = self.cycle
        if self.flow.read_paused:
            return False
        if cycle is None:
            return True
        is_whole = cycle.whole if isinstance(cycle, Exchange) else not cycle.more_body
        return not is_whole or (cycle.response_complete and self.timeout_keep_alive_task is None)

    @property
    def closing(self) -> bool:
        """Whether this process takes leave."""
        return self._shortcut.drain.begun

    def on_headers_complete(self) -> None:
        """The head of a request has come: it is lined up for whoever answers it, or for its refusal."""
        scope, version = self.scope, self.parser.get_http_version()
        scope["method"] = method = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        handler: ASGIApp
        try:
            url = self.url if self.url.startswith(b"/") else origin_form(self.url, self.headers)
            target = read_target(method, url, self._shortcut.base_path)
        except ProxyError as error:
            handler = refusal(error, self._shortcut.new_request_id())
        else:
            scope["path"] = unquote(target.path) if "%" in target.path else target.path
            scope["raw_path"] = target.path.encode("ascii")
            scope["query_string"] = target.query.encode("ascii")
            scope["extensions"] = {TARGET: target}  # type: ignore[dict-item]
            handler = self._shortcut.handler if target.is_api else self.app
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self._line_up(Exchange(self, scope, keep_alive=keep_alive, expects=self.expect_100_continue), handler)

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 - its head has come
        exchange.take(body)
        if exchange.held > KEPT_BYTES:
            self.flow.pause_reading()
            self._begin(exchange)

    def on_message_complete(self) -> None:
        """A request has come to its end."""
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 - its head has come
        exchange.end()
        self._begin(exchange)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was shown out."""
        if self._exchange:
            self._begin(self._exchange)  # a request that was broken off counts as well
            self.cycle = self.scope = None  # type: ignore[assignment] # both lead back here
        super().connection_lost(exc)
        self._exchange = None
        for exchange in self._open:
            exchange.lose()
        self._open.clear()

    def shutdown(self) -> None:
        """The server ends: what has come so far may come to its end."""
        super().shutdown()
        if self._exchange:
            self._begin(self._exchange)

    def let_go(self, exchange: Exchange) -> None:
        """Nothing more is done for this request."""
        self._open.discard(exchange)

    def _line_up(self, exchange: Exchange, handler: ASGIApp) -> None:
        """Begin with a request at once, when more of it is there, or when those before it have their answers."""
        before: Any = self.cycle
        self.cycle = exchange  # type: ignore[assignment]
        self._exchange = exchange
        self._open.add(exchange)
        if before is None or before.response_complete:
            exchange.waiting_handler = handler
            if not is_kept(self.headers) or exchange.expects:
                self._begin(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, handler))  # type: ignore[arg-type]

    def _begin(self, exchange: Exchange) -> None:
        """Handle a request that waits for more of its body, if it does."""
        if handler := exchange.waiting_handler:
            exchange.waiting_handler = None
            task = self.loop.create_task(exchange.run_asgi(handler))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)


def is_kept(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a body is kept until it is whole."""
    named = dict(headers)
    if not named.get(b"content-type", b"").startswith(b"application/json"):
        return False
    return int(named.get(b"content-length", b"0")) <= KEPT_BYTES
