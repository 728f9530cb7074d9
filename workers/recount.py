"""Folds a stream's event rows again, beside the live projections.

It starts at the stream's closing balance (or at zero) and reads in pages, so that memory is bounded. It also checks the
rows: no gaps in positions, a valid hash chain, and columns that agree with the event. Faults are recorded, and the
recount continues after them. Not here: comparison with the live projections (`verify`), and writing (`rebuild`,
`retention`).
"""

from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from service.ledger import fold, wire
from service.ledger.events import Event
from service.ledger.state import Ledger, ReplicaHealth, RouteLedger, Usage
from workers.archive import Archive, Balance, EventRow, SkippedRow
from workers.project import acknowledge_skipped, health_of, put_cells, state_of
from workers.store import Cell

Progress = Callable[[int], None]
"""Callback with the position reached so far."""
PAGE_ROWS = 5_000
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
        self.began_at = balance.position
        self.position = balance.position
        self.hash = balance.hash
        self.skipped_number = balance.skipped_number
        self.ledger: Ledger = wire.decode_ledger(stream, balance.state)
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
        while self._read_to < upto:
            end = min(self._read_to + PAGE_ROWS, upto)
            rows = self.archive.rows_between(self.stream, self._read_to, end)
            self._skipped = self.archive.skipped_after(self.stream, self.skipped_number, end)[::-1]
            usage: dict[Cell, Usage] = {}
            for row in rows:
                self._acknowledge_before(row.position)
                self._check_and_fold(row, usage)
            self.archive.recount(self.stream, self.position, usage)
            self._acknowledge_before(end + 1)
            self._read_to = end
            progress(end)
        # Numbers skipped since then, recorded at the last position read.
        self._skipped = self.archive.skipped_after(self.stream, self.skipped_number, upto)[::-1]
        self._acknowledge_before(upto + 1)

    def expect(self, position: int) -> None:
        """Record a fault unless all rows up to a position have been read."""
        if self.position < position:
            self._add_gap(position + 1)

    def _acknowledge_before(self, position: int) -> None:
        """Acknowledge the numbers that were skipped before the event at a position was folded."""
        while self._skipped and self._skipped[-1].position < position:
            row = self._skipped.pop()
            acknowledge_skipped(self.ledger, row.skipped)
            self.skipped_number = row.number

    def _check_and_fold(self, row: EventRow, usage: dict[Cell, Usage]) -> None:
        """Check a row and fold its event."""
        body = row.body.encode()
        if row.position == self.position + 1:
            if sha256(self.hash + body).digest() != row.hash:
                self._add_fault(f"position {row.position}", "bytes that do not match its hash", "what was folded")
        else:
            self._add_gap(row.position)
        self.position, self.hash = row.position, row.hash
        self.events += 1
        event = wire.decode_event(body)
        if isinstance(event, wire.Undecodable):
            self._add_fault(f"position {row.position}", f"not an event: {event.reason}", "an event")
            return
        if column := mismatch(row, event):
            self._add_fault(f"position {row.position}", f"{column} differs from its event", "the same")
        for charge in fold.advance(self.ledger, event):
            cell = Cell(charge.hour, charge.model, charge.client_key)
            fold.add_usage(usage.setdefault(cell, Usage()), charge.usage)

    def _add_gap(self, position: int) -> None:
        if position <= self.position:
            self._add_fault(f"position {position}", "twice", "once")
        elif position == self.position + 2:
            self._add_fault(f"position {position - 1}", "missing", "an event")
        else:
            self._add_fault(f"positions {self.position + 1} to {position - 1}", "missing", "events")

    def _add_fault(self, place: str, stands: str, should: str) -> None:
        self.fault_count += 1
        if len(self.faults) < KEPT_FAULTS:
            self.faults.append(Fault(place, stands, should))


def mismatch(row: EventRow, event: Event) -> str:
    """Return the first column that disagrees with the event; "" if none does."""
    if row.event_id != event.event_id:
        return "id"
    if row.type != event.__struct_config__.tag:
        return "type"
    if row.at_ms != event.at_ms:
        return "time"
    return "request id" if row.request_id != getattr(event, "request_id", "") else ""
