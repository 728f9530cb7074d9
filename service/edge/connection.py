"""A client's connection: uvicorn's, but what is asked for under /v1/ goes straight to its handler.

The framework, its router and uvicorn's own cycle cost more than the relay itself. Everything else takes their way, and
reading HTTP, keeping connections alive, pipelining and flow control are uvicorn's for both.

A request is handled when its body is there, so that nobody has to be woken for each part of it: as soon as it is whole,
or as much of it is there as is kept unasked. At once begins what is no JSON (an upload is passed on as it comes), what
is longer than that, and what waits for a 100.
"""

import asyncio
import re
from typing import Any
from urllib.parse import unquote

from litestar.types import ASGIApp
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.drain import Drain
from service.edge.exchange import Exchange

KEPT_BYTES = 256 * 1024
"""Of a body that nobody has asked for yet; then nothing more is read."""
SILENCE_S = 60.0
"""A client that has a request to end, or one to begin, and sends nothing for so long is shown out: its network or its
machine is gone, or it means ill. An upload over a slow line still sends something each minute."""


class Shortcut(Struct, frozen=True):
    """What is served straight away: the handler of everything under /v1/, also below the base path."""

    handler: ASGIApp
    base_path: str
    drain: Drain


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
        self._targets = targets_under(shortcut.base_path)
        self._exchange: Exchange | None = None
        """That whose request was read last, None when it was no exchange of ours."""
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
        """The head of a request has come."""
        target = self._targets.fullmatch(self.url)
        if target is None:
            self._exchange = None
            super().on_headers_complete()
            return
        scope, version = self.scope, self.parser.get_http_version()
        scope["method"] = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        path = target[1].decode("ascii")
        scope["path"] = unquote(path) if "%" in path else path
        scope["raw_path"] = target[1]
        scope["query_string"] = target[2] or b""
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        self._line_up(Exchange(self, scope, keep_alive=keep_alive, expects=self.expect_100_continue))

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        exchange = self._exchange
        if exchange is None:
            super().on_body(body)
            return
        exchange.take(body)
        if exchange.held > KEPT_BYTES:
            self.flow.pause_reading()
            self._begin(exchange)

    def on_message_complete(self) -> None:
        """A request has come to its end."""
        exchange = self._exchange
        if exchange is None:
            super().on_message_complete()
            return
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

    def _line_up(self, exchange: Exchange) -> None:
        """Begin with a request at once, when more of it is there, or when those before it have their answers."""
        before: Any = self.cycle
        self.cycle = exchange  # type: ignore[assignment]
        self._exchange = exchange
        self._open.add(exchange)
        if before is None or before.response_complete:
            exchange.waits = True
            if not is_kept(self.headers) or exchange.expects:
                self._begin(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self._shortcut.handler))  # type: ignore[arg-type]

    def _begin(self, exchange: Exchange) -> None:
        if exchange.waits:
            exchange.waits = False
            task = self.loop.create_task(exchange.run_asgi(self._shortcut.handler))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)


def targets_under(base_path: str) -> re.Pattern[bytes]:
    """What is asked for under /v1/, in its usual form: path and query. Others find their way through the framework."""
    return re.compile(rb"((?:%b)?/v1/[!\"$->@-~]*)(?:\?([!\"$-~]*))?" % re.escape(base_path.encode()))


def is_kept(headers: list[tuple[bytes, bytes]]) -> bool:
    """Whether a body is kept until it is whole."""
    named = dict(headers)
    if not named.get(b"content-type", b"").startswith(b"application/json"):
        return False
    return int(named.get(b"content-length", b"0")) <= KEPT_BYTES
