"""The ASGI cycle of one request and its response; a lean version of uvicorn's.

- `receive` returns a complete body in one piece, uncopied.
- The head of a response is sent with the data that follows, in one system call; it is delayed until the next iteration
  of the event loop at most.
- A response of unknown length ends with its last chunk; for HTTP/1.0, which has no chunks, with the connection.
- A handler may register a callback for a disconnect (the extension `LEAVING`), and needs no task that waits for it.

Not here: bytes of requests, and when their handling begins (`connection`).
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from litestar.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.edge.body_memory import BodyMemory
from service.errors import ClientError

LEAVING = "ccproxy.leaving"
"""Key of a function in an ASGI scope's extensions that registers a callback for a disconnect before the
response ends."""
DISCARD = "ccproxy.discard"
"""Key of a function that discards the body: it will not be read, so nothing of it is buffered."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUS = {status: line.removesuffix(b"\r\n") for status, line in STATUS_LINE.items()}
BODILESS = (204, 304)
LAST_CHUNK = b"0\r\n\r\n"
UNTIL_CLOSE = math.inf
"""What is left of a body that ends with the connection."""
SMALL_BYTES = 1_024
"""Smaller parts of a body are joined as they arrive: chunks of two bytes would take forty times their size."""


class ConnectionPort(Protocol):
    """Interface of the connection."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    memory: BodyMemory

    @property
    def closing(self) -> bool:
        """True during a shutdown: this response is the connection's last."""

    def on_response_complete(self) -> None:
        """A response is complete."""

    def end(self) -> None:
        """The connection's last response is complete."""

    def forget(self, exchange: "RequestCycle") -> None:
        """The request is finished."""


class RequestCycle:
    """A request as far as it was received, and its response as far as it was sent."""

    __slots__ = (
        "_begun",
        "_chunked",
        "_connection",
        "_discards",
        "_fault",
        "_gone",
        "_head",
        "_left",
        "_parts",
        "_read",
        "_takes_interim",
        "_waiter",
        "buffered_bytes",
        "disconnected",
        "expects",
        "keep_alive",
        "response_complete",
        "response_started",
        "scope",
        "waiting_handler",
        "whole",
    )  # fmt: skip

    def __init__(
        self, line: ConnectionPort, scope: Any, *, keep_alive: bool, expects: bool, takes_interim: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects = expects
        """True if the client waits for `100 Continue`."""
        self.waiting_handler: ASGIApp | None = None
        """The handler of a request that waits for more of its body."""
        self.buffered_bytes = 0
        """Bytes of the body that no handler has requested yet."""
        self.whole = False
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._connection = line
        self._begun = False
        """True once it is handled."""
        self._discards = False
        self._takes_interim = takes_interim
        self._fault: tuple[type[ClientError], str] | None = None
        """Error for a handler that waits for a body that will not arrive."""
        self._parts: list[bytes | bytearray] = []
        self._read = False
        self._waiter: asyncio.Future[None] | None = None
        self._gone: Callable[[], None] | None = None
        self._head = b""
        self._chunked = False
        self._left: float = 0
        extensions = scope.setdefault("extensions", {})
        extensions[LEAVING] = self.on_disconnect
        extensions[DISCARD] = self.discard

    async def run_asgi(self, app: ASGIApp) -> None:
        """Run the handler. A response without its end is aborted, which the client notices."""
        self._begun = True
        self._connection.memory.unasked -= self.buffered_bytes
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[arg-type]
        finally:
            if self.buffered_bytes:
                self._release()
            self.scope = self._gone = None  # break reference cycles, so that the garbage collector has nothing to do
            self._connection.forget(self)
            if not self.response_complete and not self.disconnected:
                self._flush()
                self._connection.transport.close()

    # -- called by the connection

    def take(self, part: bytes) -> None:
        """Append a part of the body."""
        self.expects = False  # the client has not waited
        if self.response_complete or self._discards:
            return
        parts = self._parts
        if not parts or len(part) >= SMALL_BYTES:
            parts.append(part)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += part
        else:
            parts.append(bytearray(part))
        self.buffered_bytes += len(part)
        self._connection.memory.held += len(part)
        if not self._begun:
            self._connection.memory.unasked += len(part)
        self._wake()

    def end(self) -> None:
        """The body is complete."""
        self.expects = False
        self.whole = True
        self._wake()

    def fail(self, error: ClientError) -> None:
        """The body will not be complete; a waiting handler gets the error."""
        self._fault = (type(error), error.message)
        self._wake()

    @property
    def survives_eof(self) -> bool:
        """True if a client that half-closes may still wait for the response."""
        return self._takes_interim and self.whole and not self.response_started

    def lose(self) -> None:
        """The client has disconnected."""
        self.disconnected = True
        self._release()
        self._wake()
        if self._gone and not self.response_complete:
            self._gone()

    # -- called by the handler

    def on_disconnect(self, gone: Callable[[], None]) -> None:
        """Register a callback for a disconnect before the response ends."""
        self._gone = gone
        if self.disconnected:
            gone()

    def discard(self) -> None:
        """Discard the body, now and later."""
        self._discards = True
        self._release()

    async def receive(self) -> dict[str, Any]:
        """Return the next part of the body, or the disconnect message once the cycle is over. Raises ClientError if the
        rest can't arrive."""
        if self.expects:
            self._send_continue()
        while not (self._parts or (self.whole and not self._read) or self._is_over):
            await self._come()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self._fault:
            kind, message = self._fault
            raise kind(message)  # a new exception each time: its frames reference this object
        body = bytes(self._parts[0]) if len(self._parts) == 1 else b"".join(self._parts)
        self._read = self.whole
        self._release()
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    async def send(self, message: Any) -> None:
        """Send a part of the response; waits while the client is slow."""
        line = self._connection
        if line.flow.write_paused and not self.disconnected:
            await line.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._begin(message["status"], message["headers"])
        else:
            self._write(message.get("body", b""), last=not message.get("more_body", False))

    @property
    def _is_over(self) -> bool:
        """True if no more of the body is returned."""
        return self.disconnected or self.response_complete or self._fault is not None

    # -- serializing

    def _begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Serialize the head, and derive the body's framing. Raises ValueError for a head that contains line breaks."""
        if self.response_started:
            raise RuntimeError("the response has already started")
        # A client that waits for a 100 and gets this response may omit its body, so what follows would be ambiguous.
        self.keep_alive = self.keep_alive and not (self._connection.closing or self.expects)
        named = dict(headers)
        lines = [STATUS[status], *map(b": ".join, headers)]
        if not self.keep_alive:
            lines.append(b"connection: close")
        if b"content-length" in named:
            self._left = int(named[b"content-length"])
        elif status not in BODILESS and self.scope["method"] != "HEAD":
            self._chunked = self.scope["http_version"] != "1.0"
            if self._chunked:
                lines.append(b"transfer-encoding: chunked")
            else:
                self._left = UNTIL_CLOSE
        lines += (b"", b"")
        head = b"\r\n".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines) - 1:
            raise ValueError("a header contains a line break")
        self.response_started = True
        self.expects = False
        self._head = head
        self._connection.loop.call_soon(self._flush)

    def _write(self, data: bytes, *, last: bool) -> None:
        """Write a part of the body, after the delayed head. Raises RuntimeError if it disagrees with the declared
        length."""
        if not self.response_started or self.response_complete:
            raise RuntimeError("the response has not started")
        if self._chunked:
            wire = b"".join((self._head, *chunk_of(data), LAST_CHUNK if last else b""))
        elif self.scope["method"] == "HEAD":
            wire, self._left = self._head, 0
        elif len(data) > self._left:
            raise RuntimeError("the response is longer than its content-length")
        else:
            wire = self._head + data
            self._left -= len(data)
        self._head = b""
        if wire:
            self._connection.transport.write(wire)
        if last:
            self._finish()

    def _finish(self) -> None:
        if self._left and self._left != UNTIL_CLOSE:
            raise RuntimeError("the response is shorter than its content-length")
        self.response_complete = True
        if self.buffered_bytes:
            self._release()
        self._wake()
        if not self.keep_alive:
            self._connection.end()
        self._connection.on_response_complete()

    def _flush(self) -> None:
        if self._head and not self.disconnected:
            head, self._head = self._head, b""
            self._connection.transport.write(head)

    # -- waiting for the body

    def _send_continue(self) -> None:
        """Send `100 Continue` to a client that waits for it."""
        if not self._connection.transport.is_closing():
            self.expects = False
            self._connection.transport.write(CONTINUE)

    def _release(self) -> None:
        """Stop counting the buffered body."""
        self._connection.memory.held -= self.buffered_bytes
        if not self._begun:
            self._connection.memory.unasked -= self.buffered_bytes
        self._parts, self.buffered_bytes = [], 0

    async def _come(self) -> None:
        self._connection.flow.resume_reading()
        self._waiter = self._connection.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


def chunk_of(data: bytes) -> tuple[bytes, ...]:
    """Frame a chunk; an empty one would end the body."""
    return (b"%x\r\n" % len(data), data, b"\r\n") if data else ()
