"""One client's connection at byte level: parses its requests, carries out the plans of the answers, breaks on demand.

asyncio's transport and httptools' parser, no framework: a reset has to be a reset. What to answer is asked of `Serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeAlias, cast

import httptools

from tests.fakes.delivery import Answer, Step, Stop, Wait, Write, plan
from tests.fakes.language import Ended, How, Received, Served

if TYPE_CHECKING:
    from tests.fakes.book import Book

RESET_SETTLE_S = 0.02  # so that the client has read what was written: a reset may overtake it

Serve: TypeAlias = Callable[[Received], Awaitable[Answer]]

_numbers = itertools.count()


class ClientGone(Exception):
    """The client closed its side while an answer was under way."""


class Connection(asyncio.Protocol):
    """Requests are answered one after the other, as they came; `alive` is the set of all open connections."""

    def __init__(self, serve: Serve, book: Book, alive: set[Connection]) -> None:
        self._serve = serve
        self._book = book
        self._alive = alive
        self._number = next(_numbers)
        self._parser = httptools.HttpRequestParser(self)
        self._pending: asyncio.Queue[Received] = asyncio.Queue()
        self._gone = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._last: Received | None = None
        self._we_closed = False
        self._transport: asyncio.Transport
        self._worker: asyncio.Task[None]

    # -- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._alive.add(self)
        self._worker = asyncio.get_running_loop().create_task(self._work())
        self._worker.add_done_callback(self._worker_ended)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._client_closed()
        self._alive.discard(self)
        self._writable.set()
        self._pending.put_nowait(_NOTHING)

    def eof_received(self) -> bool:
        self._client_closed()
        return False

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:  # for instance a TLS hello
            self._break("fin")

    # -- httptools' side

    def on_message_begin(self) -> None:
        self._target = b""
        self._headers: list[tuple[str, str]] = []
        self._body = bytearray()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        if any(name.lower() == "expect" for name, _ in self._headers):
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        path, _, query = self._target.decode("latin-1").partition("?")
        method = self._parser.get_method().decode()
        request = Received(
            index=0,
            connection=self._number,
            method=method,
            path=path,
            query=query,
            headers=self._headers,
            body=bytes(self._body),
        )
        self._pending.put_nowait(request)

    # -- the answers

    def shut(self) -> None:
        """Reset at once, whatever is under way (the fake is stopping, or refuses from now on)."""
        self._break("reset")

    async def settled(self) -> None:
        await asyncio.wait([self._worker])

    async def _work(self) -> None:
        while (request := await self._pending.get()) is not _NOTHING:
            self._last = request
            keeps = await self._answer(request)
            if not keeps:
                self._break("fin")
                return

    def _worker_ended(self, worker: asyncio.Task[None]) -> None:
        """A fault of the fake itself must not look like one that a test asked for."""
        if not worker.cancelled() and (fault := worker.exception()) is not None:
            self._book.fail(fault)
            self._break("reset")

    async def _answer(self, request: Received) -> bool:
        """Answer one request; whether the connection lives on."""
        self._book.received(request)
        answer = await self._serve(request)
        served = Served(
            index=request.index,
            path=request.path,
            request_id=answer.request_id,
            status=answer.status,
            kind=answer.kind,
            message_id=answer.message_id,
            model=answer.model,
        )
        self._book.opened(served)
        try:
            await self._carry_out(answer, served, bodiless=request.method == "HEAD")
        except ClientGone:
            whole = served.events_sent == len(answer.pieces)  # it went without the closing chunk: it has everything
            if served.ended == "open":
                self._finish(served, "complete" if whole else "client_gone")
            if not whole:
                self._book.note(lambda: _mark_aborted(request))
            return False
        closes = answer.delivery.after_answer != "keep" or answer.delivery.framing == "close"
        return served.ended in ("complete", "end") and not closes

    def _finish(self, served: Served, how: Ended) -> None:
        def change() -> None:
            served.ended = how
            served.complete = how == "complete"

        self._book.note(change)

    async def _carry_out(self, answer: Answer, served: Served, *, bodiless: bool) -> None:
        steps = plan(answer, bodiless=bodiless)
        step = next(steps, None)
        while step is not None:
            following = next(steps, None)
            match step:
                case Write():
                    await self._write(step, served, _ending(following))
                case Wait(wait_ms):
                    await self._sit(wait_ms / 1000)
                case Stop("hang"):
                    await self._hang(served)
                case Stop("end"):
                    pass  # its last write has said so
                case Stop(how):
                    await self._sit(RESET_SETTLE_S if served.body_bytes_sent and how == "reset" else 0)
                    self._finish(served, how)
                    self._break(how)
            step = following

    async def _write(self, step: Write, served: Served, ending: Ended) -> None:
        """Write, having noted it first: a client that holds the bytes must find them in what was served."""
        if self._gone.is_set():
            raise ClientGone
        before = (served.usage, served.events_sent)
        served.body_bytes_sent += step.body_bytes
        if step.piece is not None:
            served.usage = step.piece.usage
            served.events_sent += 1
        if ending != "open":
            self._finish(served, ending)
        self._transport.write(step.data)
        held_back = not self._writable.is_set()
        await asyncio.sleep(0)  # let the client's closing, and other connections, be seen between writes
        await self._writable.wait()
        if held_back and self._gone.is_set():  # it went without having read this
            served.usage, served.events_sent = before
            self._finish(served, "open")
            raise ClientGone

    async def _hang(self, served: Served) -> None:
        served.ended = "hang"
        await self._gone.wait()
        raise ClientGone

    async def _sit(self, wait_s: float) -> None:
        """Be silent for so long, or until the client goes."""
        if wait_s <= 0:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._gone.wait(), wait_s)
            raise ClientGone

    def _break(self, how: How) -> None:
        if self._transport.is_closing():
            return
        self._we_closed = True
        if how == "reset":
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()
        else:
            self._transport.close()

    def _client_closed(self) -> None:
        if self._gone.is_set():
            return
        self._gone.set()
        last = self._last
        if last is not None and not self._we_closed:
            self._book.note(lambda: _mark_closed(last))


_NOTHING = Received(index=-1, connection=-1, method="", path="", query="", headers=[], body=b"")


def _ending(following: Step | None) -> Ended:
    """How an answer has ended once a write is done, by the step that follows it."""
    if following is None:
        return "complete"
    return "end" if following == Stop("end") else "open"


def _mark_closed(request: Received) -> None:
    request.client_closed_s = time.monotonic()


def _mark_aborted(request: Received) -> None:
    request.aborted = True
