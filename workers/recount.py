"""Folds a stream's event rows again, beside the live projections.

It starts at the stream's closing balance (or at zero) and reads in pages, so that memory is bounded. A page comes with
the rows that need a closer look (`page_reader`). Faults are recorded, and the recount continues after them. Not here:
comparison with the live projections (`verify`), and writing (`rebuild`, `retention`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from hashlib import sha256
from itertools import chain
from typing import NamedTuple

from service.ledger import fold, wire
from service.ledger.events import Event
from service.ledger.state import Ledger, ReplicaHealth, RouteLedger
from workers.archive import Archive, Balance, EventBody, SkippedRow
from workers.page_reader import RowPage, SuspectRow
from workers.project import acknowledge_skipped, cells_of, health_of, put_cells, state_of

Progress = Callable[[int], None]
"""Callback with the position reached so far."""
PAGE_ROWS = 500
"""A quarter of a megabyte, and one of events: it stays in the cache of a core, and nobody has to ask the system for
memory. With pages of 10,000 rows everybody who works on them takes 1.4 times as long."""
STEP_PAGES = 20
"""Pages whose usage is summed before it is written."""
KEPT_FAULTS = 1_000
"""Maximum faults kept in memory; an overwritten table has a million."""


class Fault(NamedTuple):
    """A fault in event rows: which, what was found, and what was expected."""

    place: str
    found: str
    expected: str


class Recount:
    """Recounted ledger of a stream. Its usage cells are in the archive's temporary table."""

    def __init__(self, archive: Archive, stream: str) -> None:
        self.archive = archive
        self.stream = stream
        balance = archive.balance(stream)
        archive.begin_recount(stream)
        self.began_at, self.began_hash = balance.position, balance.hash
        self.position, self.hash = balance.position, balance.hash
        self.skipped_number = balance.skipped_number
        self.ledger: Ledger = wire.decode_state(stream, balance.state)
        if isinstance(self.ledger, RouteLedger):
            # The hours that are still open: which models get cells of their own depends on the existing ones.
            put_cells(self.ledger, archive.recounted(stream, max(0, fold.oldest_hour(self.ledger))))
        self.events = 0
        self.faults: list[Fault] = []
        self.fault_count = 0
        self._read_to = balance.position
        self._skipped: list[SkippedRow] = []

    @property
    def health(self) -> dict[str, ReplicaHealth]:
        """Recounted health by replica."""
        return health_of(self.ledger)

    @property
    def balance(self) -> Balance:
        """Return the balance from which a later recount can continue."""
        return Balance(self.position, self.hash, self.skipped_number, state_of(self.ledger))

    def read(self, upto: int, progress: Progress = lambda _: None) -> None:
        """Read on up to a position (inclusive)."""
        with closing(self.archive.pages(self.stream, self._read_to, upto, PAGE_ROWS)) as pages:
            while self._read_to < upto:
                end = min(self._read_to + STEP_PAGES * PAGE_ROWS, upto)
                self._skipped = self.archive.skipped_after(self.stream, self.skipped_number, end)[::-1]
                sums = fold.advance_all(self.ledger, chain.from_iterable(self._events_by_page(pages, end)))
                self.archive.recount(self.stream, end, cells_of(sums))
                self._acknowledge_before(end + 1)
                progress(end)
        # Numbers skipped since then, recorded at the last position read.
        self._skipped = self.archive.skipped_after(self.stream, self.skipped_number, upto)[::-1]
        self._acknowledge_before(upto + 1)
        self.position, self.hash = self._place_at(self._read_to)

    def expect(self, position: int) -> None:
        """Record a fault unless all rows up to a position have been read."""
        if self.position < position:
            self._add_gap(self.position, position + 1)

    def _acknowledge_before(self, position: int) -> None:
        """Acknowledge the numbers that were skipped before the event at a position was folded."""
        while self._skipped and self._skipped[-1].position < position:
            row = self._skipped.pop()
            acknowledge_skipped(self.ledger, row.skipped)
            self.skipped_number = row.number

    def _events_by_page(self, pages: Iterator[RowPage], end: int) -> Iterator[Iterable[Event]]:
        """Yield the events of the next pages up to a position, page by page."""
        while self._read_to < end:
            page_end = min(self._read_to + PAGE_ROWS, end)
            yield self._events(next(pages), page_end)
            self._read_to = page_end

    def _events(self, page: RowPage, end: int) -> Iterable[Event]:
        """Return the events of a page: decoded all at once, if none of its rows may be faulty."""
        for suspect in page.suspects:
            self._check(suspect)
        events = None if page.suspects else wire.decode_lines(page.events)
        if events is None:
            return self._events_singly(self.archive.bodies(self.stream, self._read_to, end))
        self.events += len(events)
        return self._after_skipped(events) if self._skipped else events

    def _after_skipped(self, events: list[Event]) -> Iterator[Event]:
        """Yield the events of a page without faults, each once the numbers skipped before it are acknowledged."""
        for position, event in enumerate(events, self._read_to + 1):
            self._acknowledge_before(position)
            yield event

    def _events_singly(self, rows: list[EventBody]) -> Iterator[Event]:
        """Yield the events of rows, each once the numbers skipped before it are acknowledged."""
        self.events += len(rows)
        for position, body in rows:
            self._acknowledge_before(position)
            event = wire.decode_event(body)
            if isinstance(event, wire.Undecodable):
                self._add_fault(f"position {position}", f"not an event: {event.reason}", "an event")
            else:
                yield event

    def _check(self, row: SuspectRow) -> None:
        """Record the faults of a row that Postgres has found suspect: a gap before it, its hash, its columns."""
        if row.prior is None or row.before is None:
            prior, before = self._place_at(row.position - 1)
        else:
            prior, before = row.prior, row.before
        if row.position != prior + 1:
            self._add_gap(prior, row.position)
        elif sha256(before + row.body.encode()).digest() != row.hash:
            where = f"position {row.position}"
            self._add_fault(where, "bytes that do not match its hash", "what was folded")
        event = wire.decode_event(row.body)
        if not isinstance(event, wire.Undecodable) and (column := mismatch(row, event)):
            where = f"position {row.position}"
            self._add_fault(where, f"{column} differs from its event", "the same")

    def _place_at(self, upto: int) -> tuple[int, bytes]:
        """Return position and hash of the last row up to a position, or those of the balance."""
        place = self.archive.last_place(self.stream, upto)
        return place if place and place[0] > self.began_at else (self.began_at, self.began_hash)

    def _add_gap(self, prior: int, position: int) -> None:
        if position <= prior:
            self._add_fault(f"position {position}", "twice", "once")
        elif position == prior + 2:
            self._add_fault(f"position {position - 1}", "missing", "an event")
        else:
            self._add_fault(f"positions {prior + 1} to {position - 1}", "missing", "events")

    def _add_fault(self, place: str, stands: str, should: str) -> None:
        self.fault_count += 1
        if len(self.faults) < KEPT_FAULTS:
            self.faults.append(Fault(place, stands, should))


def mismatch(row: SuspectRow, event: Event) -> str:
    """Return the first column that disagrees with the event; "" if none does."""
    if row.event_id != event.event_id:
        return "id"
    if row.type != event.__struct_config__.tag:
        return "type"
    if row.at_ms != event.at_ms:
        return "time"
    return "request id" if row.request_id != getattr(event, "request_id", "") else ""
