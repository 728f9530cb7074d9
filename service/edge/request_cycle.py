"""One request on a connection and its answer, as ASGI has them: uvicorn's cycle made lean for what comes most often.

- `receive` gives the body in one piece where it is there, uncopied.
- The head of an answer leaves with what follows it, in one call of the operating system; it waits for that no longer
  than until the event loop comes round.
- Whoever handles a request may be called back when its client goes (the extension `LEAVING`), and needs no task that
  waits for it.

Not here: bytes of requests, and when their handling begins (`connection`).
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from litestar.types import ASGIApp
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from service.edge.body_memory import BodyMemory
from service.errors import ClientError

LEAVING = "ccproxy.leaving"
"""A function in an ASGI scope's extensions: what it is given is called when the client goes before its answer's end."""
DISCARD = "ccproxy.discard"
"""A function likewise: it is called when nothing of the body will be read, so that nothing of it is kept."""
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
STATUS = {status: line.removesuffix(b"\r\n") for status, line in STATUS_LINE.items()}
BODILESS = (204, 304)
LAST_CHUNK = b"0\r\n\r\n"
SMALL_BYTES = 1_024
"""Smaller parts of a body are put together as they come: chunks of two bytes would take forty times their size."""


class ConnectionPort(Protocol):
    """What is needed of the connection."""

    loop: asyncio.AbstractEventLoop
    transport: asyncio.Transport
    flow: FlowControl
    memory: BodyMemory

    @property
    def closing(self) -> bool:
        """Whether this process takes leave: the answer is the connection's last."""

    def on_response_complete(self) -> None:
        """An answer is complete."""

    def end(self) -> None:
        """The connection's last answer is complete."""

    def let_go(self, exchange: "RequestCycle") -> None:
        """Nothing more is done for this request."""


class RequestCycle:
    """A request as far as it has come, and its answer as far as it went."""

    __slots__ = (
        "_begun", "_chunked", "_discards", "_fault", "_gone", "_head", "_left", "_line", "_parts", "_read",
        "_takes_interim", "_waiter", "disconnected", "expects", "held", "keep_alive", "response_complete",
        "response_started", "scope", "waiting_handler", "whole",
    )  # fmt: skip

    def __init__(
        self, line: ConnectionPort, scope: Any, *, keep_alive: bool, expects: bool, takes_interim: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.expects = expects
        """Whether the client sends its body only when it is told to."""
        self.waiting_handler: ASGIApp | None = None
        """Its handler, while that waits for more of the body."""
        self.held = 0
        """Bytes of the body that were not asked for yet."""
        self.whole = False
        self.disconnected = False
        self.response_started = False
        self.response_complete = False
        self._line = line
        self._begun = False
        """Whether it is handled."""
        self._discards = False
        self._takes_interim = takes_interim
        self._fault: tuple[type[ClientError], str] | None = None
        """Why the rest of the body will not come, and what is the client's fault in it."""
        self._parts: list[bytes | bytearray] = []
        self._read = False
        self._waiter: asyncio.Future[None] | None = None
        self._gone: Callable[[], None] | None = None
        self._head = b""
        self._chunked = False
        self._left = 0
        extensions = scope.setdefault("extensions", {})
        extensions[LEAVING] = self.tell_leaving
        extensions[DISCARD] = self.discard

    async def run_asgi(self, app: ASGIApp) -> None:
        """Have the request handled. An answer that is left without its end is cut, which the client sees."""
        self._begun = True
        self._line.memory.unasked -= self.held
        try:
            await app(self.scope, self.receive, self.send)  # type: ignore[arg-type]
        finally:
            if self.held:
                self._release()
            self.scope = self._gone = None  # both lead back here: nothing is left to the collector
            self._line.let_go(self)
            if not self.response_complete and not self.disconnected:
                self._flush()
                self._line.transport.close()

    # -- what the connection tells

    def take(self, part: bytes) -> None:
        """A part of the body has come."""
        self.expects = False  # it has not waited
        if self.response_complete or self._discards:
            return
        parts = self._parts
        if not parts or len(part) >= SMALL_BYTES:
            parts.append(part)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += part
        else:
            parts.append(bytearray(part))
        self.held += len(part)
        self._line.memory.held += len(part)
        if not self._begun:
            self._line.memory.unasked += len(part)
        self._wake()

    def end(self) -> None:
        """The body is whole."""
        self.expects = False
        self.whole = True
        self._wake()

    def fail(self, error: ClientError) -> None:
        """The body will not be whole: who waits for it is told why."""
        self._fault = (type(error), error.message)
        self._wake()

    @property
    def survives_eof(self) -> bool:
        """Whether a client that sends no more may still wait for the answer."""
        return self._takes_interim and self.whole and not self.response_started

    def lose(self) -> None:
        """The client has gone."""
        self.disconnected = True
        self._release()
        self._wake()
        if self._gone and not self.response_complete:
            self._gone()

    # -- what the handler asks for

    def tell_leaving(self, gone: Callable[[], None]) -> None:
        """Call this when the client goes before its answer's end."""
        self._gone = gone
        if self.disconnected:
            gone()

    def discard(self) -> None:
        """Keep nothing of the body, now and later."""
        self._discards = True
        self._release()

    async def receive(self) -> dict[str, Any]:
        """What has come of the body, or comes next; later, that the exchange is over. Raises ClientError when the rest
        can't come."""
        if self.expects:
            self._send_continue()
        while not (self._parts or (self.whole and not self._read) or self._is_over):
            await self._come()
        if self.disconnected or self.response_complete:
            return {"type": "http.disconnect"}
        if self._fault:
            kind, message = self._fault
            raise kind(message)  # a new one for each: what is raised leads back here by its frames
        body = bytes(self._parts[0]) if len(self._parts) == 1 else b"".join(self._parts)
        self._read = self.whole
        self._release()
        return {"type": "http.request", "body": body, "more_body": not self.whole}

    async def send(self, message: Any) -> None:
        """A part of the answer; waits while the client is slow."""
        line = self._line
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
        """Whether nothing more of the body is given."""
        return self.disconnected or self.response_complete or self._fault is not None

    # -- how it goes on the wire

    def _begin(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """The head, and from it how the body is framed. Raises ValueError for one that would be several."""
        if self.response_started:
            raise RuntimeError("the response has already started")
        # Who waits for a 100 and gets this answer may leave its body out: nobody can tell what comes next.
        self.keep_alive = self.keep_alive and not (self._line.closing or self.expects)
        named = dict(headers)
        lines = [STATUS[status], *map(b": ".join, headers)]
        if not self.keep_alive:
            lines.append(b"connection: close")
        if b"content-length" in named:
            self._left = int(named[b"content-length"])
        elif status not in BODILESS and self.scope["method"] != "HEAD":
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        lines += (b"", b"")
        head = b"\r\n".join(lines)
        if not head.count(b"\n") == head.count(b"\r") == len(lines) - 1:
            raise ValueError("a header contains a line break")
        self.response_started = True
        self.expects = False
        self._head = head
        self._line.loop.call_soon(self._flush)

    def _write(self, data: bytes, *, last: bool) -> None:
        """A part of the body, behind the head that waits. Raises RuntimeError when it is not as long as was said."""
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
            self._line.transport.write(wire)
        if last:
            self._finish()

    def _finish(self) -> None:
        if self._left:
            raise RuntimeError("the response is shorter than its content-length")
        self.response_complete = True
        if self.held:
            self._release()
        self._wake()
        if not self.keep_alive:
            self._line.end()
        self._line.on_response_complete()

    def _flush(self) -> None:
        if self._head and not self.disconnected:
            head, self._head = self._head, b""
            self._line.transport.write(head)

    # -- waiting for the body

    def _send_continue(self) -> None:
        """Ask for the body of a client that waits for the word."""
        if not self._line.transport.is_closing():
            self.expects = False
            self._line.transport.write(CONTINUE)

    def _release(self) -> None:
        """What was kept of the body is kept no longer, or by somebody else."""
        self._line.memory.held -= self.held
        if not self._begun:
            self._line.memory.unasked -= self.held
        self._parts, self.held = [], 0

    async def _come(self) -> None:
        self._line.flow.resume_reading()
        self._waiter = self._line.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_result(None)


def chunk_of(data: bytes) -> tuple[bytes, ...]:
    """A chunk of a body that is framed by chunks; an empty one would be its end."""
    return (b"%x\r\n" % len(data), data, b"\r\n") if data else ()
