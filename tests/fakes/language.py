"""The language in which a test says how the fake answers: plain data, the same in Python and as JSON.

It is not the answer's bytes (`sse.py`, `api.py`) nor their way to the socket (`delivery.py`). `reply.py` has the
short words for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

Encoding: TypeAlias = Literal["identity", "gzip", "deflate", "br", "zstd"]
Framing: TypeAlias = Literal["auto", "chunked", "length", "close"]
How: TypeAlias = Literal["reset", "fin", "hang", "end"]
Ended: TypeAlias = Literal["open", "complete", "reset", "fin", "hang", "end", "client_gone"]
Point: TypeAlias = Literal[
    "request",
    "headers",
    "events",
    "bytes",
    "end",
    "message_start",
    "ping",
    "content_block_start",
    "content_block_delta",
    "content_block_stop",
    "message_delta",
    "message_stop",
    "error",
]


class Usage(msgspec.Struct, frozen=True):
    """Tokens as billed, kinds apart; `input` leaves the cached ones out, as on the wire."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))


class Text(msgspec.Struct, frozen=True, tag="text"):
    text: str


class Thinking(msgspec.Struct, frozen=True, tag="thinking"):
    """A thinking block; without a signature it gets one that tells its vendor."""

    thinking: str
    signature: str | None = None


class ToolUse(msgspec.Struct, frozen=True, tag="tool_use"):
    """A call of a tool; without an id it gets a new one."""

    name: str
    input: dict[str, Any] = {}
    id: str | None = None


class ServerToolUse(msgspec.Struct, frozen=True, tag="server_tool_use"):
    """A call of a tool that the vendor runs itself (web search)."""

    name: str
    input: dict[str, Any] = {}
    id: str | None = None


Block: TypeAlias = Text | Thinking | ToolUse | ServerToolUse


class StreamError(msgspec.Struct, frozen=True):
    """`event: error` in a stream that began with a 200; nothing follows it.

    `start`: it is the first event; `message_start`: it follows that one; `content`: it follows the first delta.
    A request that did not ask for a stream gets the HTTP error of the same type.
    """

    after: Literal["start", "message_start", "content"] = "start"
    error_type: str = "overloaded_error"
    message: str = "Overloaded"


class Message(msgspec.Struct, frozen=True, kw_only=True, tag="message"):
    """A model's answer: JSON or SSE as the request asks, unless `form` says otherwise.

    Without `usage`: small numbers that vary with the request. Without `model`: the one asked for.
    `prelude`: pings and comments that come before `message_start`.
    """

    content: tuple[Block, ...] = ()
    usage: Usage | None = None
    stop_reason: str | None = None
    model: str | None = None
    form: Literal["asked", "json", "sse"] = "asked"
    prelude: tuple[Literal["ping", "comment"], ...] = ()
    error: StreamError | None = None


class Error(msgspec.Struct, frozen=True, kw_only=True, tag="error"):
    """An HTTP error. Shapes: Anthropic's; Z.AI's `bare` (code in `error.code`, no type), `typed` (code in
    `error.type`), `message` (code only as `[1308]` in the message).
    """

    status: int
    error_type: str = "api_error"
    message: str = "Internal server error"
    details: dict[str, Any] | None = None
    code: str | int | None = None
    shape: Literal["anthropic", "bare", "typed", "message"] = "anthropic"


class Raw(msgspec.Struct, frozen=True, kw_only=True, tag="raw"):
    """Any bytes under any status: empty, HTML, garbage, JSON of another shape."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = None


Body: TypeAlias = Message | Error | Raw


class Cut(msgspec.Struct, frozen=True):
    """Where and how an answer breaks off.

    `after` is a point on the wire: `request` (nothing is answered), `headers`, the `count`-th of all `events` (pings
    count), `bytes` of the body as sent, the `count`-th event of a name, or the `end` (all but the closing chunk).
    A negative count of events or bytes counts from the end. An answer without events (JSON) takes an event's point to
    be the middle of its body. How: TCP `reset`, bare TCP `fin`, `hang` until the client
    goes, or `end` (HTTP ends properly, its content does not).
    """

    how: How
    after: Point = "request"
    count: int = 1


class Pause(msgspec.Struct, frozen=True):
    """A silence of `wait_ms` at a point (see `Cut`), after which the answer goes on."""

    wait_ms: int
    after: Point = "request"
    count: int = 1


class Delivery(msgspec.Struct, frozen=True, kw_only=True):
    """How the bytes travel.

    `chunk_bytes`: size of one write, 0 for whole events; `drip_ms`: silence between writes. `after_answer`: keep the
    connection, announce its `close`, or `drop` it unannounced, which leaves the client with a stale socket.
    """

    encoding: Encoding = "identity"
    framing: Framing = "auto"
    chunk_bytes: int = 0
    drip_ms: int = 0
    cut: Cut | None = None
    pauses: tuple[Pause, ...] = ()
    after_answer: Literal["keep", "close", "drop"] = "keep"


class Match(msgspec.Struct, frozen=True, kw_only=True):
    """Which requests a scripted reply is for; every given condition holds. `path` is without a vendor's base path."""

    method: str | None = None
    path: str = "/v1/messages"
    body: str | None = None
    header: tuple[str, str] | None = None
    credential: str | None = None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One scripted answer: what is said, in which headers, how it travels, for whom, how often (0: for ever).

    A header of None is left out. The methods return a changed copy, so that they chain.
    """

    body: Body = Message()
    headers: dict[str, str | None] = {}
    delivery: Delivery = Delivery()
    match: Match = Match()
    times: int = 1

    def _delivered(self, **changes: object) -> Reply:
        return msgspec.structs.replace(self, delivery=msgspec.structs.replace(self.delivery, **changes))

    def with_headers(self, headers: Mapping[str, str | None]) -> Reply:
        return msgspec.structs.replace(self, headers={**self.headers, **headers})

    def compressed(self, encoding: Encoding) -> Reply:
        """Travel compressed, each event flushed, whatever the request accepts."""
        return self._delivered(encoding=encoding)

    def framed(self, framing: Framing) -> Reply:
        return self._delivered(framing=framing)

    def in_chunks(self, chunk_bytes: int = 1, *, drip_ms: int = 0) -> Reply:
        """Travel in writes of so many bytes, with a silence between them."""
        return self._delivered(chunk_bytes=chunk_bytes, drip_ms=drip_ms)

    def dripping(self, drip_ms: int) -> Reply:
        """Travel one event at a time, with a silence between them."""
        return self._delivered(drip_ms=drip_ms)

    def cut(self, how: How, after: Point = "request", count: int = 1) -> Reply:
        return self._delivered(cut=Cut(how, after, count))

    def pausing(self, wait_ms: int, after: Point = "request", count: int = 1) -> Reply:
        return self._delivered(pauses=(*self.delivery.pauses, Pause(wait_ms, after, count)))

    def closing(self, *, announced: bool = True) -> Reply:
        """End the connection after the answer, announced (`connection: close`) or not (a stale socket)."""
        return self._delivered(after_answer="close" if announced else "drop")

    def when(
        self,
        path: str = "/v1/messages",
        *,
        method: str | None = None,
        body: str | None = None,
        header: tuple[str, str] | None = None,
        credential: str | None = None,
    ) -> Reply:
        """Keep this reply for requests of this path, with this text in body, header (name, value) or credential."""
        match = Match(path=path, method=method, body=body, header=header, credential=credential)
        return msgspec.structs.replace(self, match=match)

    def repeated(self, times: int) -> Reply:
        return msgspec.structs.replace(self, times=times)

    def forever(self) -> Reply:
        return self.repeated(0)


class Received(msgspec.Struct, kw_only=True):
    """A request as it came: headers in order and case, body bytes as sent; times are monotonic seconds.

    `aborted`: the client went before its answer was whole. `connection`: which connection of the fake it came on.
    """

    index: int
    connection: int
    method: str
    path: str
    query: str
    headers: list[tuple[str, str]]
    body: bytes
    credential_kind: Literal["none", "x-api-key", "bearer", "both", "raw"] = "none"
    credential: str | None = None
    received_s: float = 0.0
    aborted: bool = False
    client_closed_s: float | None = None

    def header(self, name: str) -> str | None:
        """The first value under this name, in any case."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), None)

    @property
    def json(self) -> dict[str, object]:
        """The decoded body, {} when it is not a JSON object."""
        try:
            value = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return {}
        return value if isinstance(value, dict) else {}


class Served(msgspec.Struct, kw_only=True):
    """What one answer put on the wire; `usage` is what the events (or the whole JSON) that were written said.

    `complete` is true for an answer that went out whole. Of an answer that was reset the client may have read less.
    """

    index: int
    path: str
    request_id: str
    status: int
    kind: Literal["message", "error", "raw", "api"]
    message_id: str | None = None
    model: str | None = None
    usage: Usage = Usage()
    complete: bool = False
    ended: Ended = "open"
    events_sent: int = 0
    body_bytes_sent: int = 0
