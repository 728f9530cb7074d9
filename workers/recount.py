"""A stream's projections made anew from its event rows, by the same fold, beside the live ones.

It begins at the stream's closing balance (or at nothing) and reads on in pages, so that memory is bounded. On the way
it checks what the rows themselves say: positions without a gap, each hash made of the one before and the event's bytes,
columns that agree with the event. A fault is named, and the recount goes on behind it. Not here: comparing with what
stands (`verify`), and writing (`rebuild`, `retention`).
"""

from collections.abc import Callable
from hashlib import sha256
from typing import NamedTuple

from service.ledger import fold, wire
from service.ledger.events import Event
from service.ledger.state import Ledger, ReplicaHealth, RouteLedger, Usage
from workers.archive import Archive, AsideRow, Balance, EventRow
from workers.project import health_of, hear_aside, put_cells, state_of
from workers.store import Cell

Progress = Callable[[int], None]
"""Told of positions, as they are reached."""
PAGE_ROWS = 5_000
KEPT_FAULTS = 1_000
"""Faults that are remembered; a table that was overwritten has a million of them."""


class Fault(NamedTuple):
    """What is wrong with event rows: which, what is found there, and what should be."""

    place: str
    stands: str
    should: str


class Recount:
    """One stream's ledger as its rows make it. The cells are in the archive's own table."""

    def __init__(self, archive: Archive, stream: str) -> None:
        self.archive = archive
        self.stream = stream
        balance = archive.balance(stream)
        archive.begin_recount(stream)
        self.began_at = balance.position
        self.position = balance.position
        self.hash = balance.hash
        self.aside = balance.aside
        self.ledger: Ledger = wire.decode_ledger(stream, balance.state)
        if isinstance(self.ledger, RouteLedger):
            # The hours in which it goes on: which models have cells of their own depends on those that are there.
            put_cells(self.ledger, archive.recounted(stream, max(0, fold.oldest_hour(self.ledger))))
        self.events = 0
        self.faults: list[Fault] = []
        self.fault_count = 0
        self._read_to = balance.position
        self._asides: list[AsideRow] = []

    @property
    def health(self) -> dict[str, ReplicaHealth]:
        """The recounted health by replica."""
        return health_of(self.ledger)

    @property
    def balance(self) -> Balance:
        """Where another recount could go on from here."""
        return Balance(self.position, self.hash, self.aside, state_of(self.ledger))

    def read(self, upto: int, progress: Progress = lambda _: None) -> None:
        """Read on up to a position, itself included."""
        while self._read_to < upto:
            end = min(self._read_to + PAGE_ROWS, upto)
            rows = self.archive.rows_between(self.stream, self._read_to, end)
            self._asides = self.archive.asides_after(self.stream, self.aside, end)[::-1]
            usage: dict[Cell, Usage] = {}
            for row in rows:
                self._hear_before(row.position)
                self._take(row, usage)
            self.archive.recount(self.stream, self.position, usage)
            self._hear_before(end + 1)
            self._read_to = end
            progress(end)
        # What was put aside since at the last position that was read.
        self._asides = self.archive.asides_after(self.stream, self.aside, upto)[::-1]
        self._hear_before(upto + 1)

    def expect(self, position: int) -> None:
        """All rows up to a position should have been there."""
        if self.position < position:
            self._note_gap(position + 1)

    def _hear_before(self, position: int) -> None:
        """Hear what was put aside before the event at a position was folded."""
        while self._asides and self._asides[-1].position < position:
            row = self._asides.pop()
            hear_aside(self.ledger, row.aside)
            self.aside = row.number

    def _take(self, row: EventRow, usage: dict[Cell, Usage]) -> None:
        """Check a row and fold its event."""
        body = row.body.encode()
        if row.position == self.position + 1:
            if sha256(self.hash + body).digest() != row.hash:
                self._note(f"position {row.position}", "bytes that its hash is not made of", "what was folded")
        else:
            self._note_gap(row.position)
        self.position, self.hash = row.position, row.hash
        self.events += 1
        event = wire.decode_event(body)
        if isinstance(event, wire.Undecodable):
            self._note(f"position {row.position}", f"no event: {event.reason}", "an event")
            return
        if words := mismatch(row, event):
            self._note(f"position {row.position}", f"another {words} in its columns", "that of its event")
        for charge in fold.advance(self.ledger, event):
            cell = Cell(charge.hour, charge.model, charge.client_key)
            fold.add_usage(usage.setdefault(cell, Usage()), charge.usage)

    def _note_gap(self, position: int) -> None:
        if position <= self.position:
            self._note(f"position {position}", "twice", "once")
        elif position == self.position + 2:
            self._note(f"position {position - 1}", "missing", "an event")
        else:
            self._note(f"positions {self.position + 1} to {position - 1}", "missing", "events")

    def _note(self, place: str, stands: str, should: str) -> None:
        self.fault_count += 1
        if len(self.faults) < KEPT_FAULTS:
            self.faults.append(Fault(place, stands, should))


def mismatch(row: EventRow, event: Event) -> str:
    """The first column that does not agree with the event; empty when all do."""
    if row.event_id != event.event_id:
        return "id"
    if row.type != event.__struct_config__.tag:
        return "type"
    if row.at_ms != event.at_ms:
        return "time"
    return "request id" if row.request_id != getattr(event, "request_id", "") else ""
