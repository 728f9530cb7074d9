"""One transaction folds one batch: lock, read, drop what is known, fold, save, advance.

The checkpoint moves in the same transaction as the rows and the projections, so that a batch is folded wholly or not at
all, whenever a worker dies. Not here: how things are read and written (`consume`, `store`), what events mean (the
ledger's `fold`), and telling the proxies (`publish`).

Why COPY straight into the table: the lock on the checkpoint leaves one writer per stream, so that ids which one SELECT
did not find can't be added by anybody else meanwhile. An id of another stream that comes in at the same moment is the
exception; it breaks the primary key, the transaction is tried again, and then the SELECT finds it.
"""

from hashlib import sha256
from typing import NamedTuple

import msgspec

from service.ledger import fold, wire
from service.ledger.events import AttemptEnded, Event, is_same_fact
from service.ledger.state import Health, Ledger, RouteLedger, Usage
from workers.consume import Record, StreamPort, read_batch
from workers.store import Cell, Checkpoint, Rejected, Row, Store


class Projected(NamedTuple):
    """A stream as of a checkpoint that is committed. `moved`: this batch changed it; `full`: there is more to read."""

    stream: str
    epoch: int
    position: int
    stream_id: str
    run_id: str
    ledger: Ledger
    moved: bool
    full: bool


class Kept(NamedTuple):
    """A ledger in memory, good for the checkpoint of this connection with the same epoch, position and hash."""

    generation: int
    epoch: int
    position: int
    hash: bytes
    ledger: Ledger


class Sorted(NamedTuple):
    """The events of a batch, told apart."""

    fresh: list[Record]
    quarantined: list[Rejected]


class Folded(NamedTuple):
    """What a batch adds to Postgres."""

    rows: list[Row]
    usage: dict[Cell, Usage]
    replicas: set[str]
    hash: bytes


class Projector:
    """Folds streams into a store, one batch at a time. It owns the ledgers in memory, one per stream."""

    def __init__(self, store: Store, streams: StreamPort) -> None:
        self.store = store
        self.streams = streams
        self._kept: dict[str, Kept] = {}
        self._opened: set[str] = set()

    def project(self, stream: str) -> Projected | None:
        """Fold the stream's next batch; None when another worker has the stream."""
        if stream not in self._opened:
            self.store.open_checkpoint(stream)
            self._opened.add(stream)
        kept = self._kept.pop(
            stream, None
        )  # put back after the commit alone: a batch that failed leaves it half folded
        with self.store.transaction():
            before = self.store.lock_checkpoint(stream)
            if before is not None:
                ledger = self._recall(before, kept)
                after, full = self._advance(before, ledger)
        if before is None:
            self._keep(stream, kept)
            return None
        self._keep(stream, Kept(self.store.generation, after.epoch, after.position, after.hash, ledger))
        place = (after.epoch, after.position, after.stream_id, after.run_id)
        return Projected(stream, *place, ledger, after is not before, full)

    def _keep(self, stream: str, kept: Kept | None) -> None:
        if kept is not None:
            self._kept[stream] = kept

    def _recall(self, checkpoint: Checkpoint, kept: Kept | None) -> Ledger:
        """The ledger as of the checkpoint: the one in memory, brought up to date when other workers folded on."""
        if kept is not None and kept.generation != self.store.generation:
            kept = None  # the database went away: what came back may be another, or an older one
        if kept is not None and kept[1:4] == (checkpoint.epoch, checkpoint.position, checkpoint.hash):
            return kept.ledger
        ledger = wire.decode_ledger(checkpoint.stream, checkpoint.state)
        if isinstance(ledger, RouteLedger):
            self._recall_usage(checkpoint, ledger, kept)
        return ledger

    def _recall_usage(self, checkpoint: Checkpoint, ledger: RouteLedger, kept: Kept | None) -> None:
        since = -1
        if kept is not None and isinstance(kept.ledger, RouteLedger) and kept.position <= checkpoint.position:
            since = kept.position
            ledger.usage, ledger.hours = kept.ledger.usage, kept.ledger.hours
        oldest_hour = max(0, ledger.newest_ms // fold.HOUR_MS - fold.KEPT_HOURS)
        touched = set()
        for cell, usage in self.store.usage_since(checkpoint.stream, since, oldest_hour):
            ledger.usage.setdefault(cell.hour, {}).setdefault(cell.model, {})[cell.client_key] = usage
            touched.add(cell.hour)
        for hour in touched:
            ledger.hours[hour] = sum_of(ledger.usage[hour])
        fold.prune(ledger)

    def _advance(self, before: Checkpoint, ledger: Ledger) -> tuple[Checkpoint, bool]:
        """Read and fold the next batch in the open transaction: the checkpoint after it, and whether there is more."""
        batch = read_batch(self.streams, before.stream, before.run_id, before.stream_id)
        after = before._replace(run_id=batch.run_id, stream_id=batch.stream_id)
        if batch.replaced:
            # Above what Redis shows as well: a Postgres that came back empty or older must not stay unheard.
            after = after._replace(epoch=max(before.epoch, batch.epoch) + 1)
        if after == before:
            return before, False
        fresh, quarantined = self._sort(before.stream, batch.records)
        self.store.add_dead_letters(after.stream, after.epoch, batch.dead)
        self.store.add_quarantined(after.stream, after.epoch, quarantined)
        if fresh:
            after = self._fold(after, ledger, fresh)
        self.store.save_checkpoint(after)
        return after, batch.full

    def _fold(self, checkpoint: Checkpoint, ledger: Ledger, fresh: list[Record]) -> Checkpoint:
        """Fold new events and save what follows from them; the checkpoint with their count, hash and state."""
        stream = checkpoint.stream
        replicas = set(health_of(ledger))
        folded = fold_records(ledger, checkpoint, fresh)
        after = checkpoint._replace(position=checkpoint.position + len(fresh), hash=folded.hash, state=state_of(ledger))
        self.store.add_events(stream, folded.rows)
        if folded.usage:
            self.store.add_usage(stream, after.position, folded.usage)
        health = health_of(ledger)
        changed = {name: health[name] for name in folded.replicas if name in health}
        self.store.save_health(stream, changed, replicas - set(health))
        return after

    def _sort(self, stream: str, records: list[Record]) -> Sorted:
        """Leave out what Postgres, or the batch itself, has already; set apart what contradicts it."""
        if not records:
            return Sorted([], [])
        seen: dict[str, tuple[str, Event | wire.Undecodable]] = {
            known.event_id: (known.stream, wire.decode_event(known.body))
            for known in self.store.known_events(stream, [record.event.event_id for record in records])
        }
        fresh, quarantined = [], []
        for record in records:
            event = record.event
            known_stream, known = seen.setdefault(event.event_id, (stream, event))
            if known is event:
                fresh.append(record)
            elif known_stream != stream or isinstance(known, wire.Undecodable) or not is_same_fact(known, event):
                reason = f"another event of {known_stream} has this id"
                quarantined.append(Rejected(record.stream_id, wire.encode_event(event), reason, event.event_id))
        return Sorted(fresh, quarantined)


def fold_records(ledger: Ledger, checkpoint: Checkpoint, records: list[Record]) -> Folded:
    """Fold new events into the ledger in place, in stream order, and make their rows."""
    folded = Folded([], {}, set(), checkpoint.hash)
    position, chained = checkpoint.position, checkpoint.hash
    for stream_id, event in records:
        position += 1
        body = wire.encode_event(event)
        chained = sha256(chained + body).digest()
        folded.rows.append(
            Row(
                event_id=event.event_id,
                stream=checkpoint.stream,
                position=position,
                type=str(event.__struct_config__.tag),
                at_ms=event.at_ms,
                stream_id=stream_id,
                epoch=checkpoint.epoch,
                request_id=getattr(event, "request_id", ""),
                body=body.decode(),
                hash=chained,
            )
        )
        for charge in fold.advance(ledger, event):
            cell = Cell(charge.hour, charge.model, charge.client_key)
            fold.add_usage(folded.usage.setdefault(cell, Usage()), charge.usage)
        if isinstance(event, AttemptEnded):
            folded.replicas.add(event.replica)
    return folded._replace(hash=chained)


def state_of(ledger: Ledger) -> bytes:
    """The part of a ledger that the checkpoint keeps: all but the usage, which has a table of its own."""
    if isinstance(ledger, RouteLedger):
        ledger = msgspec.structs.replace(ledger, usage={}, hours={})
    return wire.encode_ledger(ledger)


def health_of(ledger: Ledger) -> dict[str, Health]:
    """The accounts of a route's replicas; the control stream has none."""
    return ledger.health if isinstance(ledger, RouteLedger) else {}


def sum_of(hour: dict[str, dict[str, Usage]]) -> Usage:
    """All cells of an hour together."""
    total = Usage()
    for by_key in hour.values():
        for usage in by_key.values():
            fold.add_usage(total, usage)
    return total
