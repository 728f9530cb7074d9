"""The load: a process that carries out jobs, one a line on its input, and tells the figures of each on its output.

A closed loop keeps so many requests open; an open loop begins them at a fixed rate, whatever becomes of the earlier
ones, and counts from the moment at which each was due. An answer counts when it is 200 and whole.
"""

import asyncio
import re
import sys
import time
from typing import cast

import httptools
import msgspec
import uvloop
from msgspec import Struct, field

from bench.traffic import STAMP, Kind, body, request

STAMPED = re.compile(STAMP.encode() + rb"(\d+)")
ENDS = (b"message_stop", b'"end_turn"')
PATIENCE_S = 60.0
MOST_OPEN = 512
"""In an open loop: a target that leaves more than this unanswered can't keep up, which is told as errors."""


class Job(Struct, kw_only=True):
    """A load. `rate` 0 is a closed loop of `open_at_once`; `most` 0 is as many as there is time for.

    Each `leave_every`-th client goes away at the first byte of its answer, 0 is none.
    """

    port: int
    path: str
    headers: dict[str, str] = {}
    kind: Kind
    body_bytes: int
    open_at_once: int = 1
    rate: float = 0
    seconds: float = 4.0
    most: int = 0
    leave_every: int = 0


class Figures(Struct, kw_only=True):
    """The result of a load. Times in milliseconds, None where there is none."""

    seconds: float
    done: int
    left: int
    errors: int
    error: str
    first_p50: float | None
    first_p99: float | None
    chunk_p50: float | None
    """A paced event's time from the stand-in to here."""
    chunk_p99: float | None


class Tally(Struct):
    """Counters of a running load."""

    done: int = 0
    left: int = 0
    errors: int = 0
    error: str = ""
    first_byte_ms: list[float] = field(default_factory=list)
    chunk_ms: list[float] = field(default_factory=list)

    def figures(self, seconds: float) -> Figures:
        """All in all."""
        return Figures(
            seconds=seconds,
            done=self.done,
            left=self.left,
            errors=self.errors,
            error=self.error,
            first_p50=part(self.first_byte_ms, 0.5),
            first_p99=part(self.first_byte_ms, 0.99),
            chunk_p50=part(self.chunk_ms, 0.5),
            chunk_p99=part(self.chunk_ms, 0.99),
        )


def part(values: list[float], share: float) -> float | None:
    """The value below which such a share lies."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else None


class Connection(asyncio.Protocol):
    """A client's connection."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[bool] | None = None
        self._leaves = False
        self.closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It stands."""
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, data: bytes, due_ns: int, *, leaves: bool) -> None:
        """One request, from when it was due."""
        self._leaves = leaves
        self._parser = httptools.HttpResponseParser(self)
        self._tail, self._seen, self._first_ns = b"", False, 0
        self._done = self._loop.create_future()
        self._transport.write(data)
        good = await self._done
        if self._leaves and self._first_ns:
            self._tally.left += 1
        elif good:
            self._tally.done += 1
            self._tally.first_byte_ms.append((self._first_ns - due_ns) / 1e6)
        else:
            self._tally.errors += 1
            self.abort()

    def abort(self) -> None:
        """Close at once."""
        self.closed = True
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer."""
        now_ns = time.monotonic_ns()
        self._first_ns = self._first_ns or now_ns
        if self._leaves:
            self.abort()
            self._end("")
            return
        for stamp in STAMPED.findall(data):
            self._tally.chunk_ms.append((now_ns - int(stamp)) / 1e6)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"no HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        """The target has closed."""
        self.closed = True
        self._end(f"closed: {exc}")

    def on_body(self, part: bytes) -> None:
        """Look for the last event of a stream, or the end of a JSON response: then the response is complete."""
        look = self._tail + part
        self._seen = self._seen or any(end in look for end in ENDS)
        self._tail = look[-40:]

    def on_message_complete(self) -> None:
        """The answer is at its end."""
        if not self._parser.should_keep_alive():
            self.closed = True
        status = self._parser.get_status_code()
        self._end("" if status == 200 and self._seen else f"status {status}, {self._tail!r}")

    def _end(self, error: str) -> None:
        if self._done and not self._done.done():
            self._tally.error = self._tally.error or error
            self._done.set_result(not error)


class Load:
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tally = Tally()
        self._data = request(f"127.0.0.1:{job.port}", job.path, job.headers, body(job.body_bytes, job.kind))
        self._idle: list[Connection] = []
        self._begun = 0

    async def run(self) -> Figures:
        """Carry it out."""
        start = time.monotonic()
        until = start + self._job.seconds
        if self._job.rate:
            await self._open_loop(start, until)
        else:
            await asyncio.gather(*(self._one_after_another(until) for _ in range(self._job.open_at_once)))
        seconds = time.monotonic() - start
        for connection in self._idle:
            connection.abort()
        return self._tally.figures(seconds)

    async def _one_after_another(self, until: float) -> None:
        while time.monotonic() < until and (not self._job.most or self._begun < self._job.most):
            await self._ask(time.monotonic_ns())

    async def _open_loop(self, start: float, until: float) -> None:
        tasks: set[asyncio.Task[None]] = set()
        number = 0
        while (due := start + number / self._job.rate) < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            number += 1
            if len(tasks) >= MOST_OPEN:
                self._tally.errors += 1
                continue
            task = asyncio.ensure_future(self._ask(int(due * 1e9)))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=PATIENCE_S)

    async def _ask(self, due_ns: int) -> None:
        self._begun += 1
        leaves = bool(self._job.leave_every) and self._begun % self._job.leave_every == 0
        connection = self._idle.pop() if self._idle else None
        try:
            if connection is None or connection.closed:
                connection = await self._connect()
            async with asyncio.timeout(PATIENCE_S):
                await connection.ask(self._data, due_ns, leaves=leaves)
        except (OSError, TimeoutError) as error:
            self._tally.errors += 1
            self._tally.error = self._tally.error or repr(error)
            await asyncio.sleep(0.05)
            return
        if not connection.closed:
            self._idle.append(connection)

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, made = await loop.create_connection(lambda: Connection(self._tally), "127.0.0.1", self._job.port)
        return made


def main() -> None:
    """A job a line, until the input ends."""
    for line in sys.stdin:
        figures = uvloop.run(Load(msgspec.json.decode(line, type=Job)).run())
        print(msgspec.json.encode(figures).decode(), flush=True)


if __name__ == "__main__":
    main()
