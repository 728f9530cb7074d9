"""What must be true, known from outside: who made which event, who was promised what, and what the rows must say.

The oracle sees every event when it is numbered and every commit when it lands. It folds with the ledger's own `fold`,
the room under test everywhere else, and counts tokens by itself besides.
"""

from collections import defaultdict
from hashlib import sha256
from random import Random

import msgspec

from service.ledger import fold, wire
from service.ledger.events import (
    AttemptEnded,
    AttemptLost,
    BatchItemUsed,
    Event,
    ResourceUsed,
    TokenCounts,
    UsageRepriced,
)
from service.ledger.state import Ledger, RouteLedger, Usage
from service.routing.quota import counted_tokens
from service.settings import QuotaWeights
from tests.simulation.postgres_model import Database, Writes
from tests.simulation.redis_model import Data, Server
from workers.project import acknowledge_skipped, health_of
from workers.store import GENESIS_HASH, Cell, Checkpoint, Row, health_row

Mark = tuple[int, int, str]
"""Epoch, position and stream id: the name of one state of a stream's ledger."""


class Broken(AssertionError):
    """A law does not hold."""


class Sessions:
    """Agents' sessions at the provider: what each, and each of its threads, has used so far."""

    def __init__(self) -> None:
        self.used = {name: {"": 0, "t1": 0, "t2": 0} for name in ("s1", "s2", "s3")}

    def look(self, rng: Random) -> tuple[str, str, TokenCounts]:
        """A session or a thread, and its total now: it may have gone on since somebody looked."""
        name, part = rng.choice(sorted(self.used)), rng.choice(("", "", "t1", "t2"))
        parts = self.used[name]
        parts[rng.choice(sorted(parts))] += rng.choice((0, 0, 10, 1_000))
        tokens = parts[part] if part else sum(parts.values())
        return name, part, TokenCounts(input=tokens, output=tokens // 10)


class Oracle:
    """The truth about one world. What it finds broken it keeps: the code under test must not swallow it."""

    def __init__(self, database: Database, server: Server) -> None:
        self.database = database
        self.server = server
        self.broken: list[str] = []
        self.sessions = Sessions()
        self.made: dict[str, tuple[str, list[Event]]] = {}
        self.own: dict[tuple[str, str], list[Event]] = {}
        self.acknowledged: dict[str, Event] = {}
        self.tokens: dict[tuple[str, str], int] = {}
        """Of the ends that a replica was told to rely upon, stream by stream."""
        self.landed: set[str] = set()
        self.on_disk: set[str] = set()
        self.vanished: set[str] = set()
        self.refused: set[str] = set()
        self.dead: set[str] = set()
        self.ledgers: dict[str, Ledger] = {}
        self.folded_at: dict[str, dict[str, int]] = {}
        self.usage: dict[str, dict[Cell, Usage]] = {}
        self.copies: dict[tuple[str, Mark], bytes] = {}
        self.hashes: dict[str, bytes] = {}
        self.published: dict[str, tuple[str, Mark]] = {}
        database.on_commit = self.note_commit

    def law(self, holds: object, text: str) -> None:
        """Write down a breach."""
        if not holds:
            self.broken.append(text)

    def note_own(self, replica: str, stream: str, event: Event) -> None:
        """A replica has numbered an event."""
        kept_stream, versions = self.made.setdefault(event.event_id, (stream, []))
        self.law(kept_stream == stream, "an id on two streams")
        versions.append(event)
        events = self.own.setdefault((replica, stream), [])
        events.append(event)
        self.law(event.seq == len(events), f"{replica} numbers {event.seq} after {len(events) - 1} on {stream}")

    def note_entry(self, stream: str, value: bytes) -> None:
        """An entry is on a stream. What a worker wrote there is true because it did."""
        for event in wire.decode_entry(value):
            if isinstance(event, AttemptLost | UsageRepriced):
                self.made.setdefault(event.event_id, (stream, []))[1].append(event)
            if not isinstance(event, wire.Undecodable):
                self.landed.add(event.event_id)

    def note_acknowledged(self, event: Event) -> None:
        """Somebody was told that the event may be relied upon: it is on a stream or on disk, or both refused it."""
        self.acknowledged[event.event_id] = event
        if isinstance(event, AttemptEnded):
            account = (event.replica, self.made[event.event_id][0])
            self.tokens[account] = self.tokens.get(account, 0) + event.tokens.input + event.tokens.output
        somewhere = event.event_id in self.landed or event.event_id in self.on_disk or event.event_id in self.refused
        self.law(somewhere, f"{event.event_id} was acknowledged and is nowhere")

    def note_redis_loss(self, before: Data, after: Data) -> None:
        """Redis is another one: what was on it and is neither there now nor in Postgres."""
        self.vanished |= ids_on(before) - ids_on(after) - self.database.ids.keys()
        self.published.clear()

    def note_commit(self, writes: Writes, before: dict[str, Checkpoint]) -> None:
        """A transaction landed: rows true, once, in order, chained; checkpoint and projections as they follow."""
        for stream in writes.rows.keys() | writes.checkpoints.keys():
            charges = self._note_rows(stream, writes.rows.get(stream, []))
            for key, aside in writes.asides.items():
                if key[0] == stream:
                    acknowledge_skipped(self.ledger(stream), aside)
            self._check_cells(stream, charges)
            if stream in writes.checkpoints:
                self._note_checkpoint(before[stream], self.database.checkpoints[stream])

    def ledger(self, stream: str) -> Ledger:
        """The fold of the stream's rows."""
        if stream not in self.ledgers:
            self.ledgers[stream] = wire.new_ledger(stream)
            self.hashes[stream] = GENESIS_HASH
            self.folded_at[stream] = {}
        return self.ledgers[stream]

    def _note_rows(self, stream: str, rows: list[Row]) -> list[Cell]:
        ledger, places, cells = self.ledger(stream), self.folded_at[stream], self.usage.setdefault(stream, {})
        touched = []
        for row in rows:
            self.law(row.position == len(places) + 1, f"{stream}: position {row.position} after {len(places)}")
            self.law(row.event_id not in places, f"{stream}: {row.event_id} is there twice")
            self.hashes[stream] = sha256(self.hashes[stream] + row.body.encode()).digest()
            self.law(row.hash == self.hashes[stream], f"{stream}: the chain breaks at {row.position}")
            event = wire.decode_event(row.body.encode())
            if isinstance(event, wire.Undecodable) or not self._is_true(stream, event):
                self.law(False, f"{stream}: nobody made {row.body}")
                continue
            places[row.event_id] = row.position
            for charge in fold.advance(ledger, event):
                cell = Cell(charge.hour, charge.model, charge.client_key)
                fold.add_usage(cells.setdefault(cell, Usage()), charge.usage)
                touched.append(cell)
        return touched

    def _is_true(self, stream: str, event: Event) -> bool:
        made_on, versions = self.made.get(event.event_id, ("", []))
        plain = msgspec.structs.replace(event, spooled=False)
        return made_on == stream and any(plain == msgspec.structs.replace(one, spooled=False) for one in versions)

    def _check_cells(self, stream: str, cells: list[Cell]) -> None:
        counted = self.database.usage.get(stream, {})
        for cell in cells:
            there = counted.get(cell)
            ours = self.usage[stream][cell]
            self.law(there and there.usage == ours, f"{stream}: {cell} says {there}, the rows say {ours}")

    def _note_checkpoint(self, before: Checkpoint, after: Checkpoint) -> None:
        stream, ledger = after.stream, self.ledger(after.stream)
        rows = len(self.folded_at[stream])
        self.law(after.position == rows, f"{stream}: checkpoint at {after.position}, {rows} rows")
        self.law(after.hash == self.hashes[stream], f"{stream}: the checkpoint's hash is not the last row's")
        self.law(
            (before.epoch, before.position) <= (after.epoch, after.position), f"{stream}: the checkpoint went back"
        )
        self.law(
            after.run_id == before.run_id or after.epoch > before.epoch, f"{stream}: another Redis, the same epoch"
        )
        if isinstance(ledger, RouteLedger):
            ledger = msgspec.structs.replace(ledger, usage={}, hours={})
        self.law(wire.decode_state(stream, after.state) == ledger, f"{stream}: the checkpoint's state is not the fold")
        self.copies[stream, (after.epoch, after.position, after.stream_id)] = wire.encode_ledger(self.ledger(stream))

    def note_published(self, raw: bytes) -> None:
        """A snapshot was published: the fold as of its checkpoint, and no older than the one before."""
        snapshot = wire.decode_snapshot(raw)
        if snapshot is None:
            self.law(False, "a snapshot that nobody can read")
            return
        mark = (snapshot.epoch, snapshot.position, snapshot.stream_id)
        known = self.copies.get((snapshot.stream, mark))
        if known is None:
            self.law(False, f"{snapshot.stream}: a snapshot of {mark}, which was never committed")
            return
        ours = wire.decode_ledger(snapshot.stream, known)
        theirs = wire.decode_ledger(snapshot.stream, snapshot.ledger)
        self.law(theirs == ours, f"{snapshot.stream}: the snapshot at {mark} is not the fold")
        run, last = self.published.get(snapshot.stream, ("", (0, 0, "")))
        went_back = run == self.server.run_id and mark[:2] < last[:2]
        self.law(not went_back, f"{snapshot.stream}: the snapshot went back from {last} to {mark}")
        self.published[snapshot.stream] = (self.server.run_id, mark)

    def snapshot_ledger(self, snapshot: wire.Snapshot | None, stream: str) -> tuple[Ledger, int]:
        """What a snapshot must hold, and its position; without one, nothing."""
        if snapshot is None:
            return wire.new_ledger(stream), 0
        known = self.copies[stream, (snapshot.epoch, snapshot.position, snapshot.stream_id)]
        return wire.decode_ledger(stream, known), snapshot.position

    def accounts_for(self, ledger: Ledger, stream: str, event: Event, position: int) -> bool:
        """Whether a snapshot of the stream's first rows, up to a position, has accounted for an event.

        An item of a batch may have been told by two replicas: then the numbers say whose was folded.
        """
        if isinstance(event, BatchItemUsed):
            account = ledger.heard.get(event.replica)
            return account is not None and account.has(event.seq)
        return self.folded_at.get(stream, {}).get(event.event_id, position + 1) <= position

    def check_rest(self) -> None:
        """With all healed and at rest: nothing that was promised is missing, and all projections agree."""
        for event_id, event in self.acknowledged.items():
            if event_id not in self.database.ids and not self.is_forgiven(event):
                self.law(False, f"{event_id} is lost: {self.tale_of(event)}")
        for stream in self.ledgers:
            self._check_usage(stream)
            self._check_health(stream)

    def tale_of(self, event: Event) -> str:
        """Where an event has been."""
        places = (
            ("dead", event.replica in self.dead),
            *((name, event.event_id in getattr(self, name)) for name in ("landed", "on_disk", "vanished", "refused")),
        )
        been = [name for name, was in places if was]
        return f"{event.replica}, number {event.seq} on {self.made[event.event_id][0]}, {been}"

    def is_forgiven(self, event: Event) -> bool:
        """The documented double losses: its process died, and either Redis lost what it had never been able to fold
        and no disk held, or the disk and Redis both refused it."""
        died = event.replica in self.dead and event.event_id not in self.on_disk
        return died and (event.event_id in self.vanished or event.event_id in self.refused)

    def _check_usage(self, stream: str) -> None:
        cells = {cell: counted.usage for cell, counted in self.database.usage.get(stream, {}).items()}
        self.law(cells == self.usage.get(stream, {}), f"{stream}: usage_hourly is not the fold of the rows")
        total = sum(counted_tokens(usage, QuotaWeights()) for usage in cells.values())
        ours = tokens_of(self.database.rows.get(stream, []))
        self.law(total == ours, f"{stream}: usage_hourly has {total} tokens, the rows {ours}")
        cost_nusd = sum(usage.cost_nusd for usage in cells.values())
        ours = nusd_of(self.database.rows.get(stream, []))
        self.law(cost_nusd == ours, f"{stream}: usage_hourly costs {cost_nusd}, the rows {ours}")

    def _check_health(self, stream: str) -> None:
        accounts = health_of(self.ledger(stream))
        expected = {(stream, name): health_row(stream, name, one) for name, one in accounts.items()}
        there = {key: row for key, row in self.database.health.items() if key[0] == stream}
        self.law(there == expected, f"{stream}: route_health is not the fold of the rows")


def ids_on(data: Data) -> set[str]:
    """All events on all streams."""
    return {
        event.event_id
        for stream in data.streams.values()
        for entry in stream.entries
        for event in wire.decode_entry(entry.fields.get(wire.ENTRY_FIELD.encode(), b""))
        if not isinstance(event, wire.Undecodable)
    }


def tokens_of(rows: list[Row]) -> int:
    """The tokens that rows tell of, counted by hand: true ends, items of batches, estimates without a true end, and of
    sessions the highest totals."""
    ends: dict[str, int] = {}
    estimates: dict[str, int] = {}
    totals: defaultdict[str, dict[str, TokenCounts]] = defaultdict(dict)
    items = 0
    for row in rows:
        event = wire.decode_event(row.body.encode())
        if isinstance(event, AttemptEnded):
            ends[event.attempt_id] = event.tokens.input + event.tokens.output
        elif isinstance(event, AttemptLost):
            estimates[event.attempt_id] = event.tokens.input + event.tokens.output
        elif isinstance(event, BatchItemUsed):
            items += event.tokens.input + event.tokens.output
        elif isinstance(event, ResourceUsed):
            known = totals[event.resource_id].get(event.part, TokenCounts())
            totals[event.resource_id][event.part] = max(known, event.tokens, key=lambda counts: counts.input)
    return items + sum((estimates | ends).values()) + sum(map(booked_of, totals.values()))


def booked_of(parts: dict[str, TokenCounts]) -> int:
    """What is booked of a session, in and out."""
    return sum(highest_of(parts))


def highest_of(parts: dict[str, TokenCounts]) -> tuple[int, int]:
    """The greater of the whole and of the sum of its threads, in and out."""
    whole, threads = parts.get("", TokenCounts()), [counts for part, counts in parts.items() if part]
    return max(whole.input, sum(one.input for one in threads)), max(whole.output, sum(one.output for one in threads))


def nusd_of(rows: list[Row]) -> int:
    """What rows cost, counted by hand: each usage at its newest price, sessions at five and 25 thousand a token."""
    ends: dict[str, int] = {}
    estimates: dict[str, int] = {}
    others: dict[str, int] = {}
    totals: defaultdict[str, dict[str, TokenCounts]] = defaultdict(dict)
    for row in rows:
        event = wire.decode_event(row.body.encode())
        if isinstance(event, AttemptEnded):
            ends[event.attempt_id] = event.cost_nusd or 0
        elif isinstance(event, AttemptLost):
            estimates[event.attempt_id] = event.cost_nusd or 0
        elif isinstance(event, BatchItemUsed):
            others[event.event_id] = event.cost_nusd or 0
        elif isinstance(event, UsageRepriced):
            costs = estimates if event.of_lost else ends if event.attempt_id else others
            costs[event.attempt_id or event.of] = sum(change.cost_nusd or 0 for change in event.changes)
        elif isinstance(event, ResourceUsed):
            known = totals[event.resource_id].get(event.part, TokenCounts())
            totals[event.resource_id][event.part] = max(known, event.tokens, key=lambda counts: counts.input)
    grown = sum(nusd_booked(parts) for parts in totals.values())
    return grown + sum(others.values()) + sum((estimates | ends).values())


def nusd_booked(parts: dict[str, TokenCounts]) -> int:
    """What a session costs."""
    used_in, used_out = highest_of(parts)
    return 5_000 * used_in + 25_000 * used_out
