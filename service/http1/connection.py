"""A connection to a provider: sends requests and receives one response at a time.

Rules
- A wait is a future and a deadline. One timer per connection checks the deadline, which has usually moved on by then:
  no task and no timer per chunk.
- Received data that was not taken is bounded: above READ_AHEAD_BYTES, reading from the socket pauses.
- A response may arrive before the request is sent. The rest of the request is still sent, unless it is an error.
- A connection is reused only if its request was sent and its response read, both completely, and nothing followed.
- A reused connection that closes before the first byte of a response was stale; that has its own exception.

Not here: choosing a connection (`pool`), and opening it (`connector`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from copy import copy
from typing import cast

import httpx

from service.http1.request_head import Origin
from service.http1.response_parser import ResponseParser

READ_AHEAD_BYTES = 131_072
"""Buffer for a slow client; one more read of the event loop (at most 256 KiB) may come on top."""
WRITE_AHEAD_BYTES = 262_144
"""Large enough for most requests to be written without waiting."""


class StaleSocket(httpx.ReadError):
    """The provider had closed the idle connection before it received the request, which can be sent on another one."""


class UpstreamConnection(asyncio.Protocol):
    """Created by the pool; `on_lost` is called when the socket is closed."""

    def __init__(self, origin: Origin, on_lost: "Callable[[UpstreamConnection], None]") -> None:
        self.origin = origin
        self.idle_since = 0.0
        self._lost = False
        self._closing = False
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._answer: ResponseParser | None = None
        self._served = 0
        self._heard = False
        self._sender: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        """Copies of it are raised, since a raised exception references its frames, and so this connection."""
        self._reading = True
        self._waiter: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._over: asyncio.Future[None] | None = None

    # -- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The connection is open, TLS included."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(WRITE_AHEAD_BYTES)

    def data_received(self, data: bytes) -> None:
        """Receive bytes of a response; if none is due, the connection becomes unusable."""
        answer = self._answer
        if answer is None:
            self.abort()
            return
        self._heard = True
        try:
            answer.feed(data)
        except httpx.RemoteProtocolError as error:
            self._fail(error)
            return
        if answer.size > READ_AHEAD_BYTES and self._reading:
            self._transport.pause_reading()
            self._reading = False
        self._wake()

    def eof_received(self) -> None:
        """The provider has closed its side; the transport closes."""
        self._closing = True
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed."""
        self._end(exc)
        self._lost = True
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._wake_writer()
        if self._over and not self._over.done():
            self._over.set_result(None)
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The send buffer is full."""
        self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        """The send buffer has room again."""
        self._wake_writer()

    # -- requests

    @property
    def usable(self) -> bool:
        """True if a request can be sent."""
        return not (self._lost or self._closing)

    @property
    def security(self) -> object:
        """The TLS object, None on a plain connection."""
        return self._transport.get_extra_info("ssl_object")

    def send(self, head: bytes, body: bytes, *, is_head: bool) -> None:
        """Send a complete request."""
        self._begin(is_head=is_head)
        self._transport.writelines((head, body) if body else (head,))

    def upload(self, head: bytes, parts: AsyncIterator[bytes], write_s: float | None, *, is_head: bool) -> None:
        """Send a request whose framed body comes in parts; `write_s` is the time each may wait for room."""
        self._begin(is_head=is_head)
        self._sender = self._loop.create_task(self._send(head, parts, write_s))
        self._sender.add_done_callback(self._sent)

    async def head(self, limit_s: float | None) -> ResponseParser:
        """Wait for the head and return the response. Raises an httpx.TransportError, or the upload's exception."""
        answer = self._answer
        assert answer is not None  # noqa: S101 - a request was sent
        while not answer.has_head and not answer.complete:
            if self._error:
                raise self._told(self._error)
            await self.wait_for_data(limit_s)
        if self._sender and answer.status >= 400:
            self._sender.cancel()  # the request was rejected, so the rest of it is useless
        return answer

    def take(self, *, joined: bool) -> bytes | None:
        """Return the next part of the body, or everything received; b"" at its end, None if there is none yet.

        Raises an httpx.TransportError.
        """
        answer = self._answer
        assert answer is not None  # noqa: S101 - a request was sent
        if not answer.parts:
            if answer.complete:
                return b""
            if self._error:
                raise copy(self._error)
            return None
        data = answer.take() if joined else answer.take_part()
        if not self._reading and answer.size <= READ_AHEAD_BYTES:
            self._reading = True
            if not self._transport.is_closing():
                self._transport.resume_reading()
        return data

    def wait_for_data(self, limit_s: float | None) -> asyncio.Future[None]:
        """Return a future resolved on new data or on timeout."""
        self._waiter = waiter = self._loop.create_future()
        self._due = None
        if limit_s is not None:
            self._due = self._loop.time() + limit_s
            if self._timer is None or self._timer_at > self._due:
                self._look_at(self._due)
        return waiter

    @property
    def at_end(self) -> bool:
        """True if the whole response was taken."""
        return self._answer is not None and self._answer.complete and not self._answer.parts

    def finish(self) -> bool:
        """End the request; True if the connection can be reused, else it is closed."""
        answer, sender = self._answer, self._sender
        reusable = self._is_reusable()
        self._answer, self._sender, self._due = None, None, None
        if sender:
            sender.cancel()
        if reusable:
            return True
        if answer:
            answer.drop()
        self.abort()
        return False

    def abort(self) -> None:
        """Close the socket at once."""
        self._closing = True
        if not self._lost:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Wait until the socket is closed."""
        if not self._lost:
            self._over = self._loop.create_future()
            await self._over

    # -- internals

    def _is_reusable(self) -> bool:
        """True if request and response are complete, with nothing left of either."""
        answer, sender = self._answer, self._sender
        if sender and (not sender.done() or sender.cancelled()):
            return False
        if not answer or answer.parts or not (answer.complete and answer.keep_alive):
            return False
        return self.usable and not self._error and not self._transport.get_write_buffer_size()

    def _begin(self, *, is_head: bool) -> None:
        self._answer = ResponseParser(is_head=is_head)
        self._heard = False
        self._served += 1
        if not self.usable:
            self._error = httpx.ReadError("the connection was closed")

    async def _send(self, head: bytes, parts: AsyncIterator[bytes], write_s: float | None) -> None:
        self._transport.write(head)
        async for part in parts:
            if self._transport.is_closing():
                return
            self._transport.write(part)
            if self._writable:
                await self._flushed(self._writable, write_s)

    async def _flushed(self, room: asyncio.Future[None], write_s: float | None) -> None:
        """Wait until most of the buffer is sent. Raises httpx.WriteTimeout."""
        try:
            async with asyncio.timeout(write_s):
                await room
        except TimeoutError:
            raise httpx.WriteTimeout("the provider stopped reading the request") from None

    def _sent(self, sender: asyncio.Task[None]) -> None:
        if not sender.cancelled() and (error := sender.exception()) and sender is self._sender:
            self._fail(error if isinstance(error, Exception) else httpx.WriteError("the upload ended early"))

    def _end(self, error: Exception | None) -> None:
        """End the response."""
        if self._answer is None or self._error:
            return
        try:
            if error:
                raise httpx.ReadError(str(error) or type(error).__name__)
            self._answer.feed_eof()
        except httpx.TransportError as ended:
            if not self._answer.complete:
                self._error = ended.with_traceback(None)
        self._answer.keep_alive = False
        self._wake()

    def _fail(self, error: Exception) -> None:
        """Fail the request and close the connection."""
        self._error = self._error or error.with_traceback(None)
        self._wake()
        self.abort()

    def _told(self, error: Exception) -> Exception:
        stale = self._served > 1 and not self._heard and isinstance(error, httpx.NetworkError | httpx.ProtocolError)
        return StaleSocket(str(error)) if stale else copy(error)

    def _look_at(self, moment: float) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(moment, self._check_deadline), moment

    def _check_deadline(self) -> None:
        """Check the deadline, if anything waits."""
        self._timer = None
        if self._due is None or self._lost:
            return
        if self._loop.time() < self._due:
            self._look_at(self._due)
        else:
            self._fail(httpx.ReadTimeout("the provider sent nothing for too long"))

    def _wake(self) -> None:
        waiter, self._waiter, self._due = self._waiter, None, None
        if waiter and not waiter.done():
            waiter.set_result(None)

    def _wake_writer(self) -> None:
        if self._writable and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None
