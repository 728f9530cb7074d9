"""Reads event rows in pages and checks them: no gaps in positions, a valid hash chain, columns that agree with the
event.

Long streams are read and checked by processes of their own, while the caller works on the pages. Rows below a
checkpoint never change, so that the processes need no common snapshot. Not here: what is wrong with a row that may be
faulty (`recount`).
"""

import fcntl
import multiprocessing
import os
import signal
import sys
from array import array
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import NamedTuple, TypeAlias

import psycopg

from workers.store import QUERIES, PostgresAddress, connect, events_table, templated

READERS = max(1, min(2, (os.cpu_count() or 1) - 1))
"""Processes that read and check pages. One keeps up with the caller; where there are cores to spare, two stay ahead."""
PIPE_BYTES = 1 << 20
"""Pages that a process is ahead of the caller: as much as Linux gives to any user."""
FEW_ROWS = 100_000
"""So many rows are read by the caller's process: another one takes as long to start."""


class Span(NamedTuple):
    """The rows of a stream with `after` < position <= `upto`."""

    stream: str
    after: int
    upto: int


class SuspectRow(NamedTuple):
    """An event row that may be faulty, with position and hash of the row before it, None at the start of a range."""

    position: int
    event_id: str
    type: str
    at_ms: int
    request_id: str
    body: str
    hash: bytes
    prior: int | None
    before: bytes | None


class PageBytes(NamedTuple):
    """Columns of a page's rows as bytes, in the order of the positions; lines, or values of one length side by side.

    `before` is the hash of the row before them, None if there is none.
    """

    events: bytes = b""
    positions: bytes = b""
    beginnings: bytes = b""
    request_ids: bytes = b""
    hashes: bytes = b""
    before: bytes | None = None


class RowPage(NamedTuple):
    """Rows of a stream: their events, one a line, and the rows that may be faulty."""

    events: bytes
    suspects: list[SuspectRow]


Pages: TypeAlias = Generator[RowPage, None, None]
"""Pages in their order; whoever does not read them all closes it, which ends its processes."""


def connect_reader(postgres: PostgresAddress) -> psycopg.Connection:
    """Connect with the limits of a reader of all events."""
    connection = connect(postgres)
    connection.execute(QUERIES["reader_session"])
    connection.prepare_threshold = 1  # to plan the query of a page takes as long as a tenth of its rows
    return connection


def pages_of(connection: psycopg.Connection, postgres: PostgresAddress, rows: Span, page_rows: int) -> Pages:
    """Yield rows in pages, from the caller's connection if they are few."""
    starts = range(rows.after, rows.upto, page_rows)
    spans = [Span(rows.stream, start, min(start + page_rows, rows.upto)) for start in starts]
    if rows.upto - rows.after > FEW_ROWS:
        yield from read_in_parallel(postgres, spans)
    else:
        for span in spans:
            yield read_page(connection, span)


def read_page(connection: psycopg.Connection, span: Span) -> RowPage:
    """Read and check a page."""
    parameters, table = span._asdict(), events_table(span.stream)
    row = connection.execute(templated("page", table), parameters, binary=True).fetchone()
    page = PageBytes(*row) if row else PageBytes()
    if is_intact(page, span):
        return RowPage(page.events, [])
    suspects = connection.execute(templated("suspect_rows", table), parameters).fetchall()
    return RowPage(page.events, [SuspectRow(*suspect) for suspect in suspects])


def is_intact(page: PageBytes, span: Span) -> bool:
    """True if no position is missing, each hash follows from the one before, and the columns are those of the events.

    Columns that JSON writes in another way than Postgres may fail although they are right.
    """
    if page.before is None or page.positions != packed(range(span.after + 1, span.upto + 1)):
        return False
    lines = (page.events.split(b"\n"), page.beginnings.split(b"\n"), page.request_ids.split(b"\n"))
    if any(len(some) != span.upto - span.after for some in lines):
        return False
    chained, chain = page.before, []
    for event, beginning, request_id in zip(*lines, strict=True):
        if not event.startswith(beginning) or request_id not in event:
            return False
        chained = sha256(chained + event).digest()
        chain.append(chained)
    return b"".join(chain) == page.hashes


def packed(positions: range) -> bytes:
    """Return positions as Postgres sends them: 8 bytes each, the highest first."""
    numbers = array("q", positions)
    if sys.byteorder == "little":
        numbers.byteswap()
    return numbers.tobytes()


def read_in_parallel(postgres: PostgresAddress, spans: Sequence[Span]) -> Iterator[RowPage]:
    """Yield pages in their order, as processes read and check them. Raises psycopg.Error."""
    with ExitStack() as stack:
        pipes = [stack.enter_context(reader_process(postgres, spans[number::READERS])) for number in range(READERS)]
        for number in range(len(spans)):
            yield receive(pipes[number % READERS])


@contextmanager
def reader_process(postgres: PostgresAddress, spans: Sequence[Span]) -> Iterator[Connection]:
    """Run a process that reads pages, some ahead of the caller. It ends with the block, or when its pipe breaks."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    widen(sender)
    process = context.Process(target=send_pages, args=(sender, postgres, spans), daemon=True)
    with interrupts_held():
        process.start()
    sender.close()
    try:
        yield receiver
    finally:
        receiver.close()
        process.terminate()
        process.join()


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Hold interrupts back, for ever from a process that is started meanwhile: the caller gets them, and ends it."""
    resource_tracker.ensure_running()  # else `start` does so, and lets interrupts through after it
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def widen(pipe: Connection) -> None:
    """Let a pipe hold PIPE_BYTES, where the system can."""
    with suppress(AttributeError, OSError):
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def receive(pipe: Connection) -> RowPage:
    """Return the next page of a process. Raises psycopg.Error."""
    try:
        suspects = pipe.recv()
        if isinstance(suspects, psycopg.Error):
            raise suspects
        return RowPage(pipe.recv_bytes(), suspects)
    except (EOFError, OSError):  # between two messages, or within one
        raise psycopg.Error("a process that read the ledger was ended from outside; try again") from None


def send_pages(pipe: Connection, postgres: PostgresAddress, spans: Sequence[Span]) -> None:
    """Read pages and send them, or the error that ended it. The caller is interrupted, and ends this process."""
    with suppress(BrokenPipeError):
        try:
            with connect_reader(postgres) as connection:
                for span in spans:
                    page = read_page(connection, span)
                    pipe.send(page.suspects)
                    pipe.send_bytes(page.events)
        except psycopg.Error as error:
            pipe.send(error)
