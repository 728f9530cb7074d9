"""Folds one batch in one transaction: lock, read, deduplicate, fold, save, advance the checkpoint.

The checkpoint moves in the same transaction as the rows and the projections, so that a batch is folded wholly or not at
all, whenever a worker dies. Not here: I/O (`consume`, `store`), what events mean (the ledger's `fold`), and publishing
(`publish`).

Why COPY goes straight into the table: the lock on the checkpoint leaves one writer per stream, so that nobody else can
insert ids which the SELECT did not find. The exception is the same id in another stream at the same moment; it violates
the primary key, the transaction is retried, and then the SELECT finds it.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple, TypeAlias, get_args

import msgspec

from service.ledger import fold, wire
from service.ledger.events import AttemptEnded, Event, EventBase, is_same_fact
from service.ledger.state import Ledger, ReplicaHealth, RouteLedger, Usage
from workers.consume import BATCH_EVENTS, NO_ENTRY, EventRecord, StreamSource, fault_of, number_of, read_batch
from workers.store import Cell, Checkpoint, Rejected, Row, SkippedSeq, Store

log = logging.getLogger("ccproxy.worker")

DEAD_LETTERS_PAGE = 1_000
Step: TypeAlias = Callable[[Checkpoint, Ledger], tuple[Checkpoint, bool]]
"""Takes a checkpoint and its ledger (changed in place); returns the next checkpoint, and True if there is more."""


class Projected(NamedTuple):
    """A stream as of a committed checkpoint. `moved`: this batch changed it; `full`: there is more to read; `folded`:
    how many events are new."""

    stream: str
    epoch: int
    position: int
    stream_id: str
    run_id: str
    ledger: Ledger
    moved: bool
    full: bool
    dead: int = 0
    quarantined: int = 0
    folded: int = 0


class CachedLedger(NamedTuple):
    """A cached ledger, valid for the checkpoint of this connection with the same epoch, position, hash and state.

    The state is compared too, because a batch of skipped events changes nothing else.
    """

    generation: int
    epoch: int
    position: int
    hash: bytes
    state: bytes
    ledger: Ledger


TAGS = {kind: str(kind.__struct_config__.tag) for kind in get_args(Event)}
"""Names of events by class."""
KnownEvents: TypeAlias = dict[str, tuple[str, Event | wire.Undecodable]]
"""Events by their id, each with the stream that it is of."""


class SortedBatch(NamedTuple):
    """The events of a batch by what becomes of them. `repeated`: known events that came again under another number."""

    fresh: list[EventRecord]
    quarantined: list[Rejected]
    repeated: list[Event]


class Projector:
    """Folds streams into a store, one batch at a time. Caches one ledger per stream."""

    def __init__(self, store: Store, streams: StreamSource) -> None:
        self.store = store
        self.streams = streams
        self._cached: dict[str, CachedLedger] = {}
        self._opened: set[str] = set()

    def project(self, stream: str) -> Projected | None:
        """Fold the stream's next batch; None if another worker holds the stream."""
        return self._with_lock(stream, self._advance)

    def retry_dead_letters(self, stream: str) -> Projected | None:
        """Fold dead letters that this version can decode; None if another worker holds the stream."""
        return self._with_lock(stream, self._retry_dead_letters)

    def load_ledger(self, stream: str) -> Projected | None:
        """Return the stream as of its checkpoint; None if another worker holds it."""
        return self._with_lock(stream, lambda checkpoint, _: (checkpoint, False))

    def _with_lock(self, stream: str, step: Step) -> Projected | None:
        """Run a step in a transaction that locks the stream's checkpoint."""
        if stream not in self._opened:
            self.store.open_checkpoint(stream)
            self._opened.add(stream)
        # Cached again only after the commit: a failed step leaves the ledger half folded.
        kept = self._cached.pop(stream, None)
        with self.store.transaction():
            before = self.store.lock_checkpoint(stream)
            if before is not None:
                ledger = self._load_ledger(before, kept)
                after, full = step(before, ledger)
        if before is None:
            self._opened.discard(stream)  # or it no longer exists: a restored ledger lacks this stream
            self._cache_ledger(stream, kept)
            return None
        self._cache_ledger(
            stream, CachedLedger(self.store.generation, after.epoch, after.position, after.hash, after.state, ledger)
        )
        place = (after.epoch, after.position, after.stream_id, after.run_id)
        moved = after is not before
        folded = after.position - before.position
        return Projected(stream, *place, ledger, moved, full, after.dead, after.quarantined, folded)

    def _cache_ledger(self, stream: str, kept: CachedLedger | None) -> None:
        if kept is not None:
            self._cached[stream] = kept

    def _load_ledger(self, checkpoint: Checkpoint, kept: CachedLedger | None) -> Ledger:
        """Return the ledger as of the checkpoint: the cached one, updated if other workers have folded since."""
        if kept is not None and kept.generation != self.store.generation:
            kept = None  # reconnected: the database may be another one, or an older state of it
        if kept is not None and kept[1:5] == (checkpoint.epoch, checkpoint.position, checkpoint.hash, checkpoint.state):
            return kept.ledger
        ledger = wire.decode_state(checkpoint.stream, checkpoint.state)
        if isinstance(ledger, RouteLedger):
            self._load_usage(checkpoint, ledger, kept)
        return ledger

    def _load_usage(self, checkpoint: Checkpoint, ledger: RouteLedger, kept: CachedLedger | None) -> None:
        since = -1
        # In another epoch the cells may have been recounted, regardless of positions.
        same_epoch = kept is not None and kept.epoch == checkpoint.epoch and kept.position <= checkpoint.position
        if kept is not None and same_epoch and isinstance(kept.ledger, RouteLedger):
            since = kept.position
            ledger.usage, ledger.hours = kept.ledger.usage, kept.ledger.hours
        oldest_hour = max(0, fold.oldest_hour(ledger))
        put_cells(ledger, self.store.usage_since(checkpoint.stream, since, oldest_hour))
        fold.prune(ledger)

    def _advance(self, before: Checkpoint, ledger: Ledger) -> tuple[Checkpoint, bool]:
        """Read and fold the next batch in the open transaction; return the new checkpoint, and True if there is
        more."""
        batch = read_batch(self.streams, before.stream, before.run_id, before.stream_id)
        after = before._replace(run_id=batch.run_id, stream_id=batch.stream_id)
        if batch.replaced and before.stream_id != NO_ENTRY:
            why = (
                "Redis was replaced" if batch.run_id != before.run_id else "it was deleted, or evicted by a full Redis"
            )
            log.warning("stream.replaced", extra={"stream": before.stream, "after": before.stream_id, "why": why})
        if batch.replaced:
            # Above the published epoch too: otherwise proxies would ignore a Postgres that was emptied or rolled back.
            after = after._replace(epoch=max(before.epoch, batch.epoch) + 1)
        if after == before:
            return before, False
        after = self._fold_batch(after, ledger, batch.records, batch.dead)
        self.store.save_checkpoint(after)
        return after, batch.full

    def _retry_dead_letters(self, before: Checkpoint, ledger: Ledger) -> tuple[Checkpoint, bool]:
        """Retry the dead letters in the open transaction. Those that decode now count as usage but not towards health,
        like spooled events."""
        records: list[EventRecord] = []
        digests: list[bytes] = []
        last, full = None, False
        while not full and (page := self.store.dead_letters(before.stream, last, DEAD_LETTERS_PAGE)):
            for letter in page:
                event = wire.decode_event(letter.raw)
                if not isinstance(event, wire.Undecodable) and not fault_of(before.stream, event):
                    records.append(EventRecord(letter.stream_id, msgspec.structs.replace(event, spooled=True)))
                    digests.append(letter.digest)
            last, full = page[-1], len(records) >= BATCH_EVENTS
        if not records:
            return before, False
        dropped = self.store.drop_dead_letters(before.stream, digests)
        after = self._fold_batch(before._replace(dead=before.dead - dropped), ledger, records, [])
        self.store.save_checkpoint(after)
        return after, full

    def _fold_batch(
        self, checkpoint: Checkpoint, ledger: Ledger, records: list[EventRecord], dead: list[Rejected]
    ) -> Checkpoint:
        """Fold new events, set aside what can't be folded, and return the new checkpoint."""
        stream, epoch = checkpoint.stream, checkpoint.epoch
        found = self._sort(checkpoint, ledger, records)
        after = checkpoint._replace(
            dead=checkpoint.dead + self.store.add_dead_letters(stream, epoch, dead),
            quarantined=checkpoint.quarantined + self.store.add_quarantined(stream, epoch, found.quarantined),
        )
        if found.fresh:
            after = self._fold(after, ledger, found.fresh)
        heard = self._record_skipped(after, ledger, numbers_of([*dead, *found.quarantined], found.repeated))
        return after._replace(state=state_of(ledger)) if found.fresh or heard else after

    def _record_skipped(self, checkpoint: Checkpoint, ledger: Ledger, skipped: list[SkippedSeq]) -> bool:
        """Record the numbers of events that are not folded; True if one was new."""
        new = self.store.add_skipped(checkpoint.stream, checkpoint.position, skipped)
        for aside in new:
            acknowledge_skipped(ledger, aside)
        return bool(new)

    def _fold(self, checkpoint: Checkpoint, ledger: Ledger, fresh: list[EventRecord]) -> Checkpoint:
        """Fold new events and save the projections; return the checkpoint with the new position and hash."""
        stream = checkpoint.stream
        replicas = set(health_of(ledger))
        chain = RowChain(checkpoint)
        with self.store.adding_events(stream, [record.event.event_id for record in fresh]) as add_row:
            usage = cells_of(fold.advance_all(ledger, chain.events_of(fresh, add_row)))
        after = checkpoint._replace(position=chain.position, hash=chain.hash)
        if usage:
            self.store.add_usage(stream, after.position, usage)
        health = health_of(ledger)
        ended = {record.event.replica for record in fresh if isinstance(record.event, AttemptEnded)}
        self.store.save_health(stream, {name: health[name] for name in ended & set(health)}, replicas - set(health))
        return after

    def _sort(self, checkpoint: Checkpoint, ledger: Ledger, records: list[EventRecord]) -> SortedBatch:
        """Drop events that Postgres or the batch already has; separate those that contradict it."""
        known = self._known_events(checkpoint.stream, records)
        if not known and are_new(records, checkpoint):
            return SortedBatch(records, [], [])
        batch = SortedBatch([], [], [])
        for record in records:
            if record.event.event_id not in known and is_of_dropped_week(record.event, checkpoint):
                if not is_acknowledged(ledger, record.event):
                    batch.quarantined.append(rejected(record, "its week was dropped, and it may have been counted"))
            else:
                sort_by_id(record, checkpoint.stream, known, batch)
        return batch

    def _known_events(self, stream: str, records: list[EventRecord]) -> KnownEvents:
        """Return the events in Postgres that have an id of these records."""
        if not records:
            return {}
        rows = self.store.known_events(stream, [record.event.event_id for record in records])
        return {row.event_id: (row.stream, wire.decode_event(row.body)) for row in rows}


def are_new(records: list[EventRecord], checkpoint: Checkpoint) -> bool:
    """True if none of the events, which Postgres does not have, comes twice or is of a dropped week."""
    ids = {record.event.event_id for record in records}
    return len(ids) == len(records) and (
        min(ids, default="") >= checkpoint.kept_from or checkpoint.stream == wire.CONTROL
    )


def is_of_dropped_week(event: Event, checkpoint: Checkpoint) -> bool:
    """True if the event's week was dropped, so that Postgres can't tell if it was folded. Control events are kept."""
    return event.event_id < checkpoint.kept_from and checkpoint.stream != wire.CONTROL


def sort_by_id(record: EventRecord, stream: str, known: KnownEvents, batch: SortedBatch) -> None:
    """Put an event where it belongs by what `known` has under its id; a new one is added to `known`."""
    event = record.event
    known_stream, first = known.setdefault(event.event_id, (stream, event))
    if first is event:
        batch.fresh.append(record)
    elif known_stream != stream or isinstance(first, wire.Undecodable) or not is_same_fact(first, event):
        batch.quarantined.append(rejected(record, f"another event of {known_stream} has this id"))
    elif (first.replica, first.seq) != (event.replica, event.seq):
        batch.repeated.append(event)


def is_acknowledged(ledger: Ledger, event: Event) -> bool:
    """True if an event was folded before: a stream that is read again includes events of dropped weeks."""
    account = ledger.heard.get(event.replica)
    return bool(event.seq) and account is not None and account.has(event.seq)


def rejected(record: EventRecord, reason: str) -> Rejected:
    """Return the quarantine record of an event."""
    return Rejected(record.stream_id, wire.encode_event(record.event), reason, record.event.event_id)


def numbers_of(put_aside: list[Rejected], repeated: list[Event]) -> list[SkippedSeq]:
    """Return the numbers of events that are not folded, without duplicates, as far as they can be decoded."""
    skipped = [number for one in put_aside if (number := number_of(one.raw))]
    skipped += [SkippedSeq(event.replica, event.seq, event.at_ms) for event in repeated if event.replica and event.seq]
    return list({aside[:2]: aside for aside in skipped}.values())


def acknowledge_skipped(ledger: Ledger, skipped: SkippedSeq) -> None:
    """Acknowledge the number of an event that is not folded, so that its replica can discard it."""
    fold.acknowledge_seq(
        ledger.heard, EventBase(event_id="", at_ms=skipped.at_ms, replica=skipped.replica, seq=skipped.seq)
    )


def cells_of(sums: fold.CellSums) -> dict[Cell, Usage]:
    """Return sums by usage cell."""
    return {Cell(*cell): usage for cell, usage in sums.items()}


class RowChain:
    """Makes the rows of new events, each with its position and the hash of all up to it."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.stream = checkpoint.stream
        self.epoch = checkpoint.epoch
        self.position = checkpoint.position
        self.hash = checkpoint.hash

    def events_of(self, records: Iterable[EventRecord], add_row: Callable[[Row], None]) -> Iterator[Event]:
        """Yield the events, each once its row is added: so they are folded while Postgres inserts."""
        for record in records:
            add_row(self.row_of(record))
            yield record.event

    def row_of(self, record: EventRecord) -> Row:
        """Return the row of the next event."""
        event = record.event
        body = wire.encode_event(event)
        self.position += 1
        self.hash = sha256(self.hash + body).digest()
        return Row(
            event.event_id,
            self.stream,
            self.position,
            TAGS[type(event)],
            event.at_ms,
            record.stream_id,
            self.epoch,
            getattr(event, "request_id", ""),
            body.decode(),
            self.hash,
        )


def state_of(ledger: Ledger) -> bytes:
    """Encode the part of a ledger stored with the checkpoint: all but the usage, which has its own table."""
    if isinstance(ledger, RouteLedger):
        ledger = msgspec.structs.replace(ledger, usage={}, hours={})
    return wire.encode_state(ledger)


def health_of(ledger: Ledger) -> dict[str, ReplicaHealth]:
    """Return a route's health by replica; empty for the control stream."""
    return ledger.health if isinstance(ledger, RouteLedger) else {}


def put_cells(ledger: RouteLedger, cells: Iterable[tuple[Cell, Usage]]) -> None:
    """Replace cells of a ledger with stored ones."""
    touched = set()
    for cell, usage in cells:
        ledger.usage.setdefault(cell.hour, {}).setdefault(cell.model, {})[cell.client_key] = usage
        touched.add(cell.hour)
    for hour in touched:
        ledger.hours[hour] = sum_of(ledger.usage[hour])


def sum_of(hour: dict[str, dict[str, Usage]]) -> Usage:
    """Sum the cells of an hour."""
    total = Usage()
    for by_key in hour.values():
        for usage in by_key.values():
            fold.add_usage(total, usage)
    return total
