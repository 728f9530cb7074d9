"""A client's connection: parsing HTTP, keep-alive, pipelining and flow control are uvicorn's (httptools, llhttp).

Each request's head is checked (`request_head`) and its target read (`request_target`) once, here. The Messages API goes
straight to its handler, all else to the framework, both by way of a `RequestCycle`: framework, router and uvicorn's own
cycle cost more than the relay.

- A request is handled when its body is complete, so that no task wakes for each part of it, or as much of it is there
  as is buffered unasked. An upload (no JSON), a longer body, and one that waits for a 100 are handled at once.
- A head has bounds of size and time, a body a least speed. What exceeds them, or is no HTTP, is answered in its turn,
  behind the answers that are still due; the connection is closed and nothing more of it is read.
- An offer to upgrade is ignored (RFC 9110, section 7.8), and the body read by its framing.
- A client that half-closes behind a whole HTTP/1.1 request gets its answer. An end of file looks the same when the
  client has gone, so until the answer begins it is sent `100 Continue`, which a live client ignores and a dead socket
  resets. With HTTP/1.0, or once the answer has begun, the client has gone.
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
"""Of a body that nobody has asked for yet; then nothing more is read."""
HEAD_S = 60.0
"""From a head's first byte (or the connection's beginning) to its last; nginx and Node give it a minute as well."""
BODY_WINDOW_S = 60.0
BODY_WINDOW_BYTES = 16 * 1024
"""A body whose client is waited for brings this much in each window, or its end: 270 bytes a second. The slowest mobile
networks carry several times that, and a connection that stalls for half a minute and recovers passes."""
MOST_HEADERS = 256
"""Clients send about 25. Many tiny headers would take twenty times their size in memory."""
MOST_PIPELINED = 64
"""Requests that wait behind one that is being answered; clients that pipeline at all send a handful."""
LINGER_S = 2.0
"""A client that was refused while it sends has this time to read the answer: a socket that is closed with unread data
resets the connection, and the answer may be lost with it."""
PROBES_S = (0.25, 0.25, 1.0, 5.0)
"""When a client that has half-closed is probed, each after the one before; the last one repeats. A socket that is gone
resets at the first and is noticed at the second."""
WRONG_VERSION = ("Invalid HTTP version", "Invalid major version", "Invalid minor version", "Pause on PRI/Upgrade")
"""llhttp's words for a version that it does not know; the last one is HTTP/2's preface."""


class ConnectionLimits(Struct, frozen=True):
    """Bounds of a request's head, in bytes, and of the patience with who does not read."""

    head_bytes: int = 65_536
    url_bytes: int = 16_384
    unread_s: float = 300.0
    """How long a client may read nothing of its answer."""


class Shortcut(Struct, frozen=True):
    """How the Messages API is answered without the framework, and how what has no handler at all is.

    The API lies below `base_path` as well.
    """

    handler: ASGIApp
    base_path: str
    drain: Drain
    refusals: Refusals
    memory: BodyMemory
    limits: ConnectionLimits = ConnectionLimits()


class ClientConnection(HttpToolsProtocol):
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
        self.memory = shortcut.memory
        self._exchange: RequestCycle | None = None
        """That whose request was read last."""
        self._open: set[RequestCycle] = set()
        self._in_head = False
        self._in_body = False
        self._resuming = False
        """Whether a new parser is given the head behind which another stopped."""
        self._offers_upgrade = False
        self._ended = False
        """Whether nothing more is read: the last request has come, or what came is none."""
        self._refused = False
        self._read_bytes = 0
        self._mid_read = False
        """Whether a request has ended within the bytes that were read last."""
        self._overhead_bytes = 0
        """What has come of the current head, or since the last part of a body."""
        self._since_s = self.loop.time()
        """Since when the client is waited for."""
        self._body_bytes = 0
        """Bytes of a body since then."""
        self._unread_bytes = 0
        """What was written and not sent when the client was last seen to read, since `_unread_since_s`."""
        self._unread_since_s = 0.0

    @property
    def closing(self) -> bool:
        """Whether this process shuts down."""
        return self._shortcut.drain.begun

    # -- asyncio's side

    def data_received(self, data: bytes) -> None:
        """Read on, unless nothing more is read."""
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
        """The client sends no more. Returns whether the connection stays open for an answer."""
        exchange = self._exchange
        if exchange is None or not exchange.survives_eof:
            return False
        self._ended = True
        exchange.keep_alive = False
        self._probe_later(exchange, 0)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone, or was disconnected."""
        if self._exchange:
            self._begin(self._exchange)  # a request that was broken off counts as well
            self.cycle = self.scope = None  # type: ignore[assignment] # both lead back here
        super().connection_lost(exc)
        self._exchange = None
        for exchange in self._open:
            exchange.lose()
        self._open.clear()

    # -- the server's side

    def shutdown(self) -> None:
        """The server ends: what has come so far may come to its end."""
        super().shutdown()
        if self._exchange:
            self._begin(self._exchange)

    def close_if_slow(self) -> None:
        """Refuse the rest of a head that takes too long, or of a body that makes no progress; drop a client that does
        not read its answer. To be called every few seconds."""
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
        """Close the socket of a client that reads nothing: an orderly end would wait for it for ever, with all that
        was written and also with what the handler holds."""
        unread_bytes, now_s = self.transport.get_write_buffer_size(), self.loop.time()
        reads = unread_bytes > self._unread_bytes or unread_bytes <= self._unread_bytes - BODY_WINDOW_BYTES
        if reads or not unread_bytes:
            self._unread_bytes, self._unread_since_s = unread_bytes, now_s
        elif now_s - self._unread_since_s >= self._shortcut.limits.unread_s:
            self.transport.abort()

    # -- the parser's side

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
        """A part of the target."""
        if self._in_head:
            self.url += url
            if len(self.url) > self._shortcut.limits.url_bytes:
                raise UrlTooLong(f"the URL is longer than {self._shortcut.limits.url_bytes:,} bytes (MAX_URL_BYTES)")

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are dropped."""
        if not self._in_head:
            return
        name, value = name.lower(), value.rstrip(b" \t")
        if name == b"expect" and value.lower() == b"100-continue":
            self.expect_100_continue = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """The head of a request has come: it is lined up for whoever answers it."""
        if self._resuming:
            return
        self._check_size()
        scope, version, named = self.scope, self.parser.get_http_version(), dict(self.headers)
        scope["method"] = method = self.parser.get_method().decode("ascii")
        scope["http_version"] = version
        check_head(method, version, self.headers, named)
        handler, is_current = self._handler_of(scope), version == "1.1"
        exchange = RequestCycle(
            self,
            scope,
            keep_alive=is_current and self.parser.should_keep_alive(),
            expects=is_current and self.expect_100_continue,
            takes_interim=is_current,
        )
        self._line_up(exchange, handler, waits=is_kept(named) and not exchange.expects)
        self._in_head, self._in_body = False, True
        self._overhead_bytes = 0
        self._offers_upgrade = self.parser.should_upgrade()
        self._restart_window()

    def on_body(self, body: bytes) -> None:
        """A part of a body has come."""
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 - its head has come
        self._overhead_bytes = 0
        self._body_bytes += len(body)
        exchange.take(body)
        if exchange.held > KEPT_BYTES:
            self.flow.pause_reading()
            self._begin(exchange)
        elif self.memory.unasked > self.memory.most_unasked_bytes:
            self._begin(exchange)

    def on_message_complete(self) -> None:
        """A request is complete."""
        if self._offers_upgrade:
            return  # llhttp ends it with its head: the body is still to be read
        exchange = self._exchange
        assert exchange is not None  # noqa: S101 - its head has come
        self._in_body = False
        self._mid_read = True
        self._ended = not exchange.keep_alive
        exchange.end()
        self._begin(exchange)

    # -- the exchanges' side

    def end(self) -> None:
        """The last answer is complete: close, but let a client that was refused while it sends read it."""
        if not self._refused or self.pipeline:
            self.transport.close()
        elif not self.transport.is_closing():
            with suppress(OSError):  # it has gone
                self.transport.write_eof()
            self.loop.call_later(LINGER_S, self.transport.close)

    def let_go(self, exchange: RequestCycle) -> None:
        """Nothing more is done for this request."""
        self._open.discard(exchange)

    # -- reading

    def _feed(self, data: bytes) -> None:
        """Parse; where a request offers an upgrade, its body is read as if it had not."""
        while True:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                data = data[offer.args[0] :]
                self._resume()
            else:
                return

    def _resume(self) -> None:
        """Go on with a new parser where one stopped: behind a head with an offered upgrade. It is given a head with
        the same framing."""
        framing = (b"%b: %b\r\n" % header for header in self.headers if header[0] in FRAMING)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
        self._offers_upgrade = False
        self._resuming = True
        try:
            self.parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(framing))
        finally:
            self._resuming = False

    def _check_size(self) -> None:
        """Raises HeadTooLarge for the head that has come."""
        limit = self._shortcut.limits.head_bytes
        if len(self.headers) > MOST_HEADERS:
            raise HeadTooLarge(f"the request has more than {MOST_HEADERS} headers")
        headers = self.headers
        if len(self.url) + sum(map(len, chain.from_iterable(headers))) + 4 * len(headers) > limit:
            raise HeadTooLarge(f"the request's line and headers are larger than {limit:,} bytes (MAX_HEAD_BYTES)")

    def _check_unfinished(self) -> None:
        """Raises HeadTooLarge for a part of a head, or trailers or chunk extensions, over the bound."""
        limit = self._shortcut.limits.head_bytes
        if self._overhead_bytes > limit and (self._in_head or self._in_body):
            what = "line and headers" if self._in_head else "trailers or chunk extensions"
            raise HeadTooLarge(f"the request's {what} are larger than {limit:,} bytes (MAX_HEAD_BYTES)")
        if self._in_head and len(self.headers) > MOST_HEADERS:
            raise HeadTooLarge(f"the request has more than {MOST_HEADERS} headers")

    def _handler_of(self, scope: Any) -> ASGIApp:
        """Who answers the request; its target goes into the scope."""
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

    def _line_up(self, exchange: RequestCycle, handler: ASGIApp, *, waits: bool) -> None:
        """Handle a request at once, or when more of it is there, or when those before it have their answers."""
        before = self._exchange
        if len(self.pipeline) >= MOST_PIPELINED and not self._refused:
            raise ClientError(
                f"more than {MOST_PIPELINED} requests are pipelined on this connection; wait for responses"
            )
        self.cycle = exchange  # type: ignore[assignment]
        self._exchange = exchange
        self._open.add(exchange)
        if before is None or before.response_complete:
            exchange.waiting_handler = handler
            if not waits:
                self._begin(exchange)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, handler))  # type: ignore[arg-type]

    def _begin(self, exchange: RequestCycle) -> None:
        """Handle a request that waits for more of its body, if it does."""
        if handler := exchange.waiting_handler:
            exchange.waiting_handler = None
            task = self.loop.create_task(exchange.run_asgi(handler))
            task.add_done_callback(self.tasks.discard)
            self.tasks.add(task)

    def _refuse(self, error: ClientError) -> None:
        """Answer with an error, in its turn; then close. Nothing more is read."""
        if self._ended:
            return
        self._ended = self._refused = True
        exchange = self._exchange
        if not self._in_body or exchange is None:
            self._line_up_refusal(error)
        elif exchange.response_complete:
            self.end()
        else:
            exchange.keep_alive = False
            exchange.fail(error)
            self._begin(exchange)

    def _line_up_refusal(self, error: ClientError) -> None:
        """Answer a request of which no more than a part of the head was read."""
        if not self._in_head:
            super().on_message_begin()  # makes a scope
        self.scope.setdefault("method", "GET")
        exchange = RequestCycle(self, self.scope, keep_alive=False, expects=False, takes_interim=False)
        exchange.end()
        self._line_up(exchange, self._shortcut.refusals.answer_with(error), waits=False)

    # -- waiting for the client

    def _is_clients_turn(self) -> bool:
        """Whether the client has to send: the rest of a request, or its first. Between two requests uvicorn's own timer
        runs."""
        exchange = self._exchange
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
        """Find out whether a client that has half-closed is still there."""
        if exchange.response_started or exchange.disconnected or self.transport.is_closing():
            return
        if not self.pipeline:  # else an answer before this one may be on its way
            self.transport.write(CONTINUE)
        self._probe_later(exchange, number + 1)


def is_kept(named: Mapping[bytes, bytes]) -> bool:
    """Whether a body is kept until it is whole."""
    if not named.get(b"content-type", b"").startswith(b"application/json"):
        return False
    return int(named.get(b"content-length", b"0")) <= KEPT_BYTES


def cause_of(error: httptools.HttpParserError) -> ClientError:
    """Why the parser refuses a request; its own words are fixed texts, without anything of the request."""
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
