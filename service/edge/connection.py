"""A client connection. HTTP parsing, keep-alive, pipelining and flow control are uvicorn's (httptools, llhttp).

Each request's head is validated (`request_head`) and its target parsed (`request_target`) once, here. Requests of the
Messages API go straight to their handler, all others to the framework, both through a `RequestCycle`: framework, router
and uvicorn's own cycle cost more than the relay.

- A request is handled once its body is complete, so that no task wakes for each part, or once the buffer is full.
  Uploads (not JSON), longer bodies, and requests that wait for a 100 are handled at once.
- A head is bounded in size and time, a body has a minimum rate. Violations and malformed requests are answered in
  order, after pending responses; then nothing more is read, and the connection is closed.
- An offer to upgrade is ignored (RFC 9110, section 7.8), and the body read by its framing.
- A client that half-closes after a complete HTTP/1.1 request gets its response. Since an EOF looks the same if the
  client has disconnected, `100 Continue` is sent until the response begins, which a live client ignores and a dead
  socket resets. With HTTP/1.0, or after the response began, an EOF means that the client has disconnected.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from itertools import chain
from typing import Any
from urllib.parse import unquote

import httptools
from litestar.types import ASGIApp
from msgspec import Struct
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.drain import Drain
from service.edge.body_memory import BodyMemory
from service.edge.refusals import Refusals
from service.edge.request_cycle import CONTINUE, RequestCycle
from service.edge.request_head import ALLOWED, WANTED_VERSIONS, check_head
from service.edge.request_target import TARGET, origin_form, read_target
from service.errors import (
    ClientError,
    HeadTooLarge,
    MethodNotAllowed,
    ProxyError,
    RequestTooSlow,
    UrlTooLong,
    VersionNotSupported,
)

log = logging.getLogger("ccproxy.edge")

FRAMING = frozenset((b"content-length", b"transfer-encoding"))
KEPT_BYTES = 256 * 1024
"""Buffer for a body that no handler has requested yet; then reading pauses."""
HEAD_S = 60.0
"""Maximum time from a head's first byte (or the connection's start) to its last; nginx and Node also allow a minute."""
BODY_WINDOW_S = 60.0
BODY_WINDOW_BYTES = 16 * 1024
"""Minimum bytes of an awaited body per window, unless it ends: 270 bytes a second. The slowest mobile networks are
several times faster, and a connection that stalls for half a minute and recovers passes."""
MOST_HEADERS = 256
"""Clients send about 25. Many tiny headers would take twenty times their size in memory."""
MOST_PIPELINED = 64
"""Maximum requests queued behind the current one; clients that pipeline at all send a handful."""
LINGER_S = 2.0
"""Time for a client that is rejected while it sends to read the response: closing a socket with unread data resets the
connection, and may lose the response."""
PROBES_S = (0.25, 0.25, 1.0, 5.0)
"""Delays between probes of a half-closed client; the last one repeats. A dead socket resets at the first and is noticed
at the second."""
WRONG_VERSION = ("Invalid HTTP version", "Invalid major version", "Invalid minor version", "Pause on PRI/Upgrade")
"""llhttp's messages for an unsupported version; the last one is HTTP/2's preface."""


class ConnectionLimits(Struct, frozen=True):
    """Limits of a request's head, in bytes, and of the time that a client may not read."""

    head_bytes: int = 65_536
    url_bytes: int = 16_384
    unread_s: float = 300.0
    """Maximum time that a client may read nothing of its response."""


class Shortcut(Struct, frozen=True):
    """Handlers that bypass the framework: for the Messages API, and for unknown paths.

    The API is also below `base_path`.
    """

    handler: ASGIApp
    base_path: str
    drain: Drain
    refusals: Refusals
    memory: BodyMemory
    limits: ConnectionLimits = ConnectionLimits()


class ClientConnection(HttpToolsProtocol):
    """A client connection."""

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
        self.memory = shortcut.memory
        self._cycle: RequestCycle | None = None
        """The last request that was parsed."""
        self._open: set[RequestCycle] = set()
        self._in_head = False
        self._in_body = False
        self._resuming = False
        """True while a new parser gets a copy of the head after which another one stopped."""
        self._offers_upgrade = False
        self._ended = False
        """True if nothing more is read: after the last request, or after a malformed one."""
        self._refused = False
        self._read_bytes = 0
        self._mid_read = False
        """True if a request ended within the last bytes read."""
        self._overhead_bytes = 0
        """Bytes of the current head, or since the last part of a body."""
        self._since_s = self.loop.time()
        """Time since which the client is awaited."""
        self._body_bytes = 0
        """Bytes of a body since then."""
        self._unread_bytes = 0
        """Unsent bytes when the client last read something, at `_unread_since_s`."""
        self._unread_since_s = 0.0

    @property
    def closing(self) -> bool:
        """True if this process is shutting down."""
        return self._shortcut.drain.begun

    # -- asyncio.Protocol

    def data_received(self, data: bytes) -> None:
        """Parse data, unless nothing more is read."""
        if self._ended:
            return
        self._unset_keepalive_if_required()
        self._read_bytes = len(data)
        self._mid_read = False
        self._overhead_bytes += len(data)
        try:
            self._feed(data)
            self._check_unfinished()
        except httptools.HttpParserError as error:
            self._refuse(cause_of(error))
        except ClientError as error:
            self._refuse(error)

    def eof_received(self) -> bool:  # type: ignore[override] # asyncio's signature, which uvicorn narrows
        """Handle an EOF. Returns True if the connection stays open for a response."""
        exchange = self._cycle
        if exchange is None or not exchange.survives_eof:
            return False
        self._ended = True
        exchange.keep_alive = False
        self._probe_later(exchange, 0)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has disconnected, or was disconnected."""
        if self._cycle:
            self._begin(self._cycle)  # an aborted request counts as well
            self.cycle = self.scope = None  # type: ignore[assignment] # both lead back here
        super().connection_lost(exc)
        self._cycle = None
        for exchange in self._open:
            exchange.lose()
        self._open.clear()

    # -- called by the server

    def shutdown(self) -> None:
        """Shut down: requests received so far may finish."""
        super().shutdown()
        if self._cycle:
            self._begin(self._cycle)

    def close_if_slow(self) -> None:
        """Disconnect slow clients: reject a head that takes too long or a body without progress; drop a client that
        does not read. Called every few seconds."""
        self._drop_unread()
        waited_s = self.loop.time() - self._since_s
        if not self._is_clients_turn():
            self._restart_window()
        elif self._in_body and waited_s >= BODY_WINDOW_S:
            if self._body_bytes < BODY_WINDOW_BYTES:
                self._refuse(RequestTooSlow("the request body arrived too slowly"))
            self._restart_window()
        elif self._in_head and waited_s >= HEAD_S:
            self._refuse(RequestTooSlow("the request head arrived too slowly"))
        elif waited_s >= HEAD_S:
            self.transport.close()

    def _drop_unread(self) -> None:
        """Close the socket of a client that reads nothing: a graceful close would wait forever, with all buffered data
        and whatever the handler holds."""
        unread_bytes, now_s = self.transport.get_write_buffer_size(), self.loop.time()
        reads = unread_bytes > self._unread_bytes or unread_bytes <= self._unread_bytes - BODY_WINDOW_BYTES
        if reads or not unread_bytes:
            self._unread_bytes, self._unread_since_s = unread_bytes, now_s
        elif now_s - self._unread_since_s >= self._shortcut.limits.unread_s:
            self.transport.abort()

    # -- parser callbacks

    def on_message_begin(self) -> None:
        """A request begins."""
        if self._resuming:
            return
        if self._ended:
            raise ClientError("nothing is read behind the last request")
        self._in_head = True
        self._overhead_bytes = 0 if self._mid_read else self._read_bytes
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """Append to the target."""
        if self._in_head:
            self.url += url
            if len(self.url) > self._shortcut.limits.url_bytes:
                raise UrlTooLong(f"the URL is longer than {self._shortcut.limits.url_bytes:,} bytes (MAX_URL_BYTES)")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header; trailers are dropped."""
        if self._in_head:
            self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        """A head is complete: validate and queue the request."""
        if self._resuming:
            return
        self._check_size()
        scope, version, named = self.scope, self.parser.get_http_version(), dict(self.headers)
        scope["method"] = method = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        check_head(method, version, self.headers, named)
        expects = named.get(b"expect", b"").lower() == b"100-continue"
        handler, is_current = self._handler_of(scope), version == "1.1"
        exchange = RequestCycle(
            self,
            scope,
            keep_alive=is_current and self.parser.should_keep_alive(),
            expects=is_current and expects,
            takes_interim=is_current,
        )
        self._enqueue(exchange, handler, waits=is_kept(named) and not exchange.expects)
        self._in_head, self._in_body = False, True
        self._overhead_bytes = 0
        self._offers_upgrade = self.parser.should_upgrade()
        self._restart_window()

    def on_body(self, body: bytes) -> None:
        """Append to the body."""
        exchange = self._cycle
        assert exchange is not None  # noqa: S101 - its head was parsed
        self._overhead_bytes = 0
        self._body_bytes += len(body)
        exchange.take(body)
        if exchange.buffered_bytes > KEPT_BYTES:
            self.flow.pause_reading()
            self._begin(exchange)
        elif self.memory.unasked > self.memory.most_unasked_bytes:
            self._begin(exchange)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._offers_upgrade:
            return  # llhttp ends it with its head; the body is still to be read
        exchange = self._cycle
        assert exchange is not None  # noqa: S101 - its head was parsed
        self._in_body = False
        self._mid_read = True
        self._ended = not exchange.keep_alive
        exchange.end()
        self._begin(exchange)

    # -- called by request cycles

    def end(self) -> None:
        """Close after the last response, but let a client that was rejected while it sends read it."""
        if not self._refused or self.pipeline:
            self.transport.close()
        elif not self.transport.is_closing():
            with suppress(OSError):  # already closed
                self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)

    def forget(self, exchange: RequestCycle) -> None:
        """Forget a request that is finished."""
        self._open.discard(exchange)

    # -- reading

    def _feed(self, data: bytes) -> None:
        """Parse data; if a request offers an upgrade, continue as if it had not."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._resume()
            else:
                return

    def _resume(self) -> None:
        """Continue with a new parser after a head with an offered upgrade. It gets a head with the same framing."""
        framing = (b"%b: %b\r\n" % header for header in self.headers if header[0] in FRAMING)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
        self._offers_upgrade = False
        self._resuming = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
        finally:
            self._resuming = False

    def _check_size(self) -> None:
        """Raise HeadTooLarge if the complete head exceeds its limit."""
        limit = self._shortcut.limits.head_bytes
        if len(self.headers) > MOST_HEADERS:
            raise HeadTooLarge(f"the request has more than {MOST_HEADERS} headers")
        headers = self.headers
        if len(self.url) + sum(map(len, chain.from_iterable(headers))) + 4 * len(headers) > limit:
            raise HeadTooLarge(f"the request's line and headers are larger than {limit:,} bytes (MAX_HEAD_BYTES)")

    def _check_unfinished(self) -> None:
        """Raise HeadTooLarge if a partial head, trailers or chunk extensions exceed the limit."""
        limit = self._shortcut.limits.head_bytes
        if self._overhead_bytes > limit and (self._in_head or self._in_body):
            what = "line and headers" if self._in_head else "trailers or chunk extensions"
            raise HeadTooLarge(f"the request's {what} are larger than {limit:,} bytes (MAX_HEAD_BYTES)")
        if self._in_head and len(self.headers) > MOST_HEADERS:
            raise HeadTooLarge(f"the request has more than {MOST_HEADERS} headers")

    def _handler_of(self, scope: Any) -> ASGIApp:
        """Return the handler of a request; stores the target in its scope."""
        try:
            url = self.url if self.url.startswith(b"/") else origin_form(self.url, self.headers)
            target = read_target(scope["method"], url, self._shortcut.base_path)
        except ProxyError as error:
            return self._shortcut.refusals.answer_with(error)
        scope["path"] = unquote(target.path) if "%" in target.path else target.path
        scope["raw_path"] = target.path.encode("ascii")
        scope["query_string"] = target.query.encode("ascii")
        scope["extensions"] = {TARGET: target}
        return self._shortcut.handler if target.is_api else self.app

    # -- handling

    def _enqueue(self, exchange: RequestCycle, handler: ASGIApp, *, waits: bool) -> None:
        """Handle a request at once, once more of it has arrived, or after those before it."""
        before = self._cycle
        if len(self.pipeline) >= MOST_PIPELINED and not self._refused:
            raise ClientError(
                f"more than {MOST_PIPELINED} requests are pipelined on this connection; wait for responses"
            )
        self.cycle = exchange  # type: ignore[assignment]
        self._cycle = exchange
        self._open.add(exchange)
        if before is None or before.response_complete:
            exchange.waiting_handler = handler
            if not waits:
                self._begin(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, handler))  # type: ignore[arg-type]

    def _begin(self, exchange: RequestCycle) -> None:
        """Handle a request that waits for more of its body."""
        if handler := exchange.waiting_handler:
            exchange.waiting_handler = None
            task = self.loop.create_task(exchange.run_asgi(handler))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def _refuse(self, error: ClientError) -> None:
        """Answer with an error, in order; then close. Nothing more is read."""
        if self._ended:
            return
        self._ended = self._refused = True
        exchange = self._cycle
        if not self._in_body or exchange is None:
            self._enqueue_refusal(error)
        elif exchange.response_complete:
            self.end()
        else:
            exchange.keep_alive = False
            exchange.fail(error)
            self._begin(exchange)

    def _enqueue_refusal(self, error: ClientError) -> None:
        """Queue an error for a request whose head is incomplete."""
        if not self._in_head:
            super().on_message_begin()  # creates a scope
        self.scope.setdefault("method", "GET")
        exchange = RequestCycle(self, self.scope, keep_alive=False, expects=False, takes_interim=False)
        exchange.end()
        self._enqueue(exchange, self._shortcut.refusals.answer_with(error), waits=False)

    # -- waiting for the client

    def _is_clients_turn(self) -> bool:
        """True if the client has to send: the rest of a request, or its first. Between two requests uvicorn's timer
        runs."""
        exchange = self._cycle
        if self._ended or self.flow.read_paused:
            return False
        if self._in_body and exchange is not None:
            return not exchange.expects
        if exchange is not None and not exchange.response_complete:
            return False
        return self._in_head or self.timeout_keep_alive_task is None

    def _restart_window(self) -> None:
        self._since_s = self.loop.time()
        self._body_bytes = 0

    def _probe_later(self, exchange: RequestCycle, number: int) -> None:
        delay_s = PROBES_S[min(number, len(PROBES_S) - 1)]
        self.loop.call_later(delay_s, self._probe, exchange, number)

    def _probe(self, exchange: RequestCycle, number: int) -> None:
        """Probe if a half-closed client is still connected."""
        if exchange.response_started or exchange.disconnected or self.transport.is_closing():
            return
        if not self.pipeline:  # else an earlier response may be in progress
            self.transport.write(CONTINUE)
        self._probe_later(exchange, number + 1)


def is_kept(named: Mapping[bytes, bytes]) -> bool:
    """True if a body is buffered until it is complete."""
    if not named.get(b"content-type", b"").startswith(b"application/json"):
        return False
    return int(named.get(b"content-length", b"0")) <= KEPT_BYTES


def cause_of(error: httptools.HttpParserError) -> ClientError:
    """Return the error for a parser error; the parser's messages are constants that quote nothing of the request."""
    cause = error.__context__
    if isinstance(cause, ClientError):
        return cause
    if cause is not None:
        log.error("request.not_read", exc_info=cause)
    if isinstance(error, httptools.HttpParserInvalidMethodError):
        return MethodNotAllowed(f"unsupported method; use one of {ALLOWED}", allowed=ALLOWED)
    if str(error) in WRONG_VERSION:
        return VersionNotSupported(WANTED_VERSIONS)
    return ClientError(f"invalid HTTP request: {error}")
