"""Reads event rows in pages and checks them: no gaps in positions, a valid hash chain, columns that agree with the
event.

Long streams are read and checked by processes of their own, while the caller works on the pages. Rows below a
checkpoint never change, so that the processes need no common snapshot. Not here: what is wrong with a row that may be
faulty (`recount`).
"""

import multiprocessing
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from hashlib import sha256
from multiprocessing.connection import Connection
from typing import NamedTuple

import psycopg

from workers.store import QUERIES, PostgresAddress, connect, events_table, templated

READERS = 2
"""Processes that read and check pages."""
FEW_ROWS = 100_000
"""So many rows are read by the caller's process: another one takes as long to start."""
HASH_BYTES = 32


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


class RowPage(NamedTuple):
    """Rows of a stream: their events, one a line, and the rows that may be faulty."""

    events: bytes
    suspects: list[SuspectRow]


def connect_reader(postgres: PostgresAddress) -> psycopg.Connection:
    """Connect with the limits of a reader of all events."""
    connection = connect(postgres)
    connection.execute(QUERIES["reader_session"])
    return connection


def pages_of(
    connection: psycopg.Connection, postgres: PostgresAddress, rows: Span, page_rows: int
) -> Iterator[RowPage]:
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
    events, hashes, has_suspects = row or (b"", b"", True)
    if not has_suspects and is_chain(events, hashes):
        return RowPage(events, [])
    suspects = connection.execute(templated("suspect_rows", table), parameters).fetchall()
    return RowPage(events, [SuspectRow(*suspect) for suspect in suspects])


def is_chain(events: bytes, hashes: bytes) -> bool:
    """True if `hashes`, that of the row before among them, are those of the events."""
    chained = hashes[:HASH_BYTES]
    chain = [chained]
    for event in events.split(b"\n"):
        chained = sha256(chained + event).digest()
        chain.append(chained)
    return b"".join(chain) == hashes


def read_in_parallel(postgres: PostgresAddress, spans: Sequence[Span]) -> Iterator[RowPage]:
    """Yield pages in their order, as processes read and check them. Raises psycopg.Error."""
    with ExitStack() as stack:
        pipes = [stack.enter_context(reader_process(postgres, spans[number::READERS])) for number in range(READERS)]
        for number in range(len(spans)):
            yield receive(pipes[number % READERS])


@contextmanager
def reader_process(postgres: PostgresAddress, spans: Sequence[Span]) -> Iterator[Connection]:
    """Run a process that reads pages, one ahead of the caller. It ends with the block, or when its pipe breaks."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=send_pages, args=(sender, postgres, spans), daemon=True)
    process.start()
    sender.close()
    try:
        yield receiver
    finally:
        receiver.close()
        process.terminate()
        process.join()


def receive(pipe: Connection) -> RowPage:
    """Return the next page of a process. Raises psycopg.Error."""
    try:
        suspects = pipe.recv()
        if isinstance(suspects, str):
            raise psycopg.OperationalError(suspects)
        return RowPage(pipe.recv_bytes(), suspects)
    except EOFError:
        raise psycopg.OperationalError("a process that read the ledger has ended early") from None


def send_pages(pipe: Connection, postgres: PostgresAddress, spans: Sequence[Span]) -> None:
    """Read pages and send them; an error in its words. The caller is interrupted, and ends this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with suppress(BrokenPipeError):
        try:
            with connect_reader(postgres) as connection:
                for span in spans:
                    page = read_page(connection, span)
                    pipe.send(page.suspects)
                    pipe.send_bytes(page.events)
        except psycopg.Error as error:
            pipe.send(str(error))
