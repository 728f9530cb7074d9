"""A Postgres of the mind: the workers' tables, with transactions, row locks and sessions that end.

`ModelStore` stands in for `workers.store.Store`, method by method; `tests/simulation/test_contract.py` holds both to
the same scripts. What a transaction wrote is seen by others after its commit alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import sha256

import msgspec
import psycopg
from msgspec import Struct, field
from psycopg import errors

from service.ledger.fold import add_usage
from service.ledger.state import ReplicaHealth, Usage
from tests.simulation.fibers import Places
from tests.simulation.virtual import Died, Now
from workers.store import (
    GENESIS_HASH,
    Cell,
    Checkpoint,
    DeadLetter,
    KnownEvent,
    PostgresAddress,
    Rejected,
    Row,
    SkippedSeq,
    Store,
    health_row,
)

Aparts = dict[tuple[str, bytes], Rejected]
"""Dead letters or quarantined events, by stream and digest."""
SEEN_AT = datetime(2026, 9, 10, tzinfo=UTC)
"""When the model saw every dead letter."""
IDLE_S = 10.0
"""A session that is idle within a transaction for this long is ended by the server (`session` in queries.sql)."""


NEW_CHECKPOINT = Checkpoint("", 0, "", "0-0", 0, GENESIS_HASH, 0, 0, "00000000-0000-0000-0000-000000000000", b"{}")


class Counted(Struct):
    """A cell of `usage_hourly`, and the position at which it was last added to."""

    usage: Usage
    position: int


class Session:
    """One connection. `holds` are the checkpoints that it has locked."""

    def __init__(self, now: Now) -> None:
        self.now = now
        self.alive = True
        self.heard_s = now.s
        self.holds: set[str] = set()

    def is_alive(self) -> bool:
        """Whether the server still knows it: one that sleeps with a lock in hand is ended."""
        if self.holds and self.now.s - self.heard_s > IDLE_S:
            self.alive = False
        return self.alive


class Writes(Struct):
    """What an open transaction has written."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    ids: dict[str, Row] = field(default_factory=dict)
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    opened: dict[str, Checkpoint] = field(default_factory=dict)
    usage: list[tuple[str, int, dict[Cell, Usage]]] = field(default_factory=list)
    health: dict[tuple[str, str], tuple[object, ...] | None] = field(default_factory=dict)
    dead: Aparts = field(default_factory=dict)
    quarantined: Aparts = field(default_factory=dict)
    asides: dict[tuple[str, str, int], SkippedSeq] = field(default_factory=dict)
    revived: set[bytes] = field(default_factory=set)


class Database:
    """The tables as committed. `on_commit` is shown what a transaction wrote, and what stood before it."""

    unique_ids = True

    def __init__(self, now: Now) -> None:
        self.now = now
        self.up = True
        self.rows: dict[str, list[Row]] = {}
        self.ids: dict[str, Row] = {}
        self.checkpoints: dict[str, Checkpoint] = {}
        self.usage: dict[str, dict[Cell, Counted]] = {}
        self.health: dict[tuple[str, str], tuple[object, ...]] = {}
        self.dead: Aparts = {}
        self.quarantined: Aparts = {}
        self.asides: dict[tuple[str, str, int], SkippedSeq] = {}
        self.sessions: list[Session] = []
        self.on_commit: Callable[[Writes, dict[str, Checkpoint]], None] = lambda _writes, _before: None

    def go_away(self) -> None:
        """Refuse everybody, and end all sessions."""
        self.up = False
        for session in self.sessions:
            session.alive = False
        self.sessions = []

    def holder(self, stream: str) -> Session | None:
        """Who has the stream's checkpoint locked."""
        self.sessions = [session for session in self.sessions if session.is_alive()]
        return next((session for session in self.sessions if stream in session.holds), None)

    def commit(self, writes: Writes) -> None:
        """Make it all true at once."""
        before = {stream: self.checkpoints[stream] for stream in writes.checkpoints}
        for stream, checkpoint in writes.opened.items():
            self.checkpoints.setdefault(stream, checkpoint)
        self.checkpoints.update(writes.checkpoints)
        for stream, rows in writes.rows.items():
            self.rows.setdefault(stream, []).extend(rows)
        self.ids.update(writes.ids)
        for route, position, added in writes.usage:
            cells = self.usage.setdefault(route, {})
            add_cells(cells, position, added)
        for key, row in writes.health.items():
            if row is None:
                self.health.pop(key, None)
            else:
                self.health[key] = row
        for mine, theirs in ((self.dead, writes.dead), (self.quarantined, writes.quarantined)):
            for name, one in theirs.items():
                mine.setdefault(name, one)
        self.dead = {key: one for key, one in self.dead.items() if key[1] not in writes.revived}
        self.asides.update(writes.asides)
        self.on_commit(writes, before)


def add_cells(cells: dict[Cell, Counted], position: int, added: dict[Cell, Usage]) -> None:
    """`add_usage` of queries.sql."""
    for cell, more in added.items():
        counted = cells.setdefault(cell, Counted(Usage(), position))
        counted.position = position
        counted.usage = msgspec.structs.replace(counted.usage)
        add_usage(counted.usage, more)


class ModelStore(Store):
    """A worker's view of the model; `places` are where it fails, sleeps and dies."""

    def __init__(self, database: Database, places: Places) -> None:
        super().__init__(PostgresAddress("model", 2))
        self.database = database
        self.places = places
        self.lingers = False
        self._session: Session | None = None
        self._writes = Writes()

    @property
    def connection(self) -> psycopg.Connection:
        raise NotImplementedError("the model has no SQL")

    def _open(self) -> Session:
        if self._session is None:
            if not self.database.up:
                raise psycopg.OperationalError("refused")
            self._session = Session(self.database.now)
            self.database.sessions.append(self._session)
            self.generation += 1
        return self._session

    def close(self) -> None:
        session, self._session = self._session, None
        self._writes = Writes()
        if session is not None and not self.lingers:
            session.alive = False
            session.holds.clear()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        try:
            self._open()
            self._writes = Writes()
            yield
            self._commit()
        except Died:
            self.close()  # what a server notices of a killed client
            raise
        except BaseException:
            self.lingers = False
            self.close()
            raise

    def _commit(self) -> None:
        what = self._at("commit")
        session = self._open()
        session.holds.clear()
        self.database.commit(self._writes)
        self._writes = Writes()
        if what == "late" or self.places.come_to("store.committed"):
            raise psycopg.OperationalError("the connection broke after the commit")

    def _at(self, name: str) -> str:
        """One statement: whatever happens at this place, and a session that may be gone."""
        self._open()
        what = self.places.come_to("store." + name)
        session = self._session
        if what == "fail" or session is None or not session.is_alive() or not self.database.up:
            raise psycopg.OperationalError("the connection is gone")
        session.heard_s = self.database.now.s
        return what

    def streams(self) -> list[str]:
        self._at("streams")
        return sorted(self.database.checkpoints)

    def open_checkpoint(self, stream: str) -> None:
        with self.transaction():
            self._at("open_checkpoint")
            self._writes.opened[stream] = NEW_CHECKPOINT._replace(stream=stream)

    def lock_checkpoint(self, stream: str) -> Checkpoint | None:
        self._at("lock_checkpoint")
        session = self._open()
        if stream not in self.database.checkpoints or self.database.holder(stream) not in (None, session):
            return None
        session.holds.add(stream)
        return self.database.checkpoints[stream]

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        self._at("save_checkpoint")
        self._writes.checkpoints[checkpoint.stream] = checkpoint

    def known_events(self, stream: str, event_ids: Sequence[str]) -> list[KnownEvent]:  # noqa: ARG002 - Store's
        self._at("known_events")
        found = [self.database.ids.get(one) or self._writes.ids.get(one) for one in dict.fromkeys(event_ids)]
        return [KnownEvent(row.event_id, row.stream, row.body.encode()) for row in found if row is not None]

    @contextmanager
    def adding_events(self, stream: str, event_ids: Sequence[str]) -> Iterator[Callable[[Row], None]]:  # noqa: ARG002
        rows: list[Row] = []
        yield rows.append
        self._at("adding_events")
        for row in rows:
            if self.database.unique_ids and (row.event_id in self.database.ids or row.event_id in self._writes.ids):
                raise errors.UniqueViolation(f"the event {row.event_id} is there")
            self._writes.ids[row.event_id] = row
        self._writes.rows.setdefault(stream, []).extend(rows)

    def add_usage(self, route: str, position: int, added: dict[Cell, Usage]) -> None:
        self._at("add_usage")
        self._writes.usage.append((route, position, added))

    def usage_since(self, route: str, position: int, oldest_hour: int) -> list[tuple[Cell, Usage]]:
        self._at("usage_since")
        cells = {cell: msgspec.structs.replace(one) for cell, one in self.database.usage.get(route, {}).items()}
        for of_route, at, added in self._writes.usage:
            if of_route == route:
                add_cells(cells, at, added)
        return [
            (cell, msgspec.structs.replace(one.usage))
            for cell, one in cells.items()
            if cell.hour >= oldest_hour and one.position > position
        ]

    def save_health(self, route: str, health: dict[str, ReplicaHealth], gone: Iterable[str]) -> None:
        self._at("save_health")
        for name, account in health.items():
            self._writes.health[route, name] = health_row(route, name, account)
        for name in gone:
            self._writes.health[route, name] = None

    def add_dead_letters(self, stream: str, epoch: int, dead: Sequence[Rejected]) -> int:  # noqa: ARG002 - Store's
        return self._reject(self.database.dead, self._writes.dead, stream, dead)

    def add_quarantined(self, stream: str, epoch: int, rejected: Sequence[Rejected]) -> int:  # noqa: ARG002 - Store's
        return self._reject(self.database.quarantined, self._writes.quarantined, stream, rejected)

    def _reject(self, there: Aparts, written: Aparts, stream: str, rejected: Sequence[Rejected]) -> int:
        new = {(stream, sha256(one.raw).digest()): one for one in reversed(rejected)}
        new = {key: one for key, one in new.items() if key not in there and key not in written}
        written.update(new)
        return len(new)

    def dead_letters(self, stream: str, after: DeadLetter | None, limit: int) -> list[DeadLetter]:
        self._at("dead_letters")
        there = self.database.dead | self._writes.dead
        found = sorted(
            DeadLetter(SEEN_AT, digest, one.stream_id, one.raw)
            for (of_stream, digest), one in there.items()
            if of_stream == stream and digest not in self._writes.revived
        )
        return [one for one in found if after is None or one.digest > after.digest][:limit]

    def drop_dead_letters(self, stream: str, digests: Sequence[bytes]) -> int:
        self._at("drop_dead_letters")
        there = self.database.dead | self._writes.dead
        gone = {digest for digest in digests if (stream, digest) in there} - self._writes.revived
        self._writes.revived |= gone
        return len(gone)

    def add_skipped(self, stream: str, position: int, skipped: Sequence[SkippedSeq]) -> list[SkippedSeq]:  # noqa: ARG002 - Store's
        self._at("add_skipped")
        new = {(stream, one.replica, one.seq): one for one in reversed(skipped)}
        new = {
            key: one for key, one in new.items() if key not in self.database.asides and key not in self._writes.asides
        }
        self._writes.asides.update(new)
        return [one for one in skipped if any(one is other for other in new.values())]
