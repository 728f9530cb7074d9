"""The workers' tables in Postgres: one method per statement of `queries.sql`, one transaction at a time.

Not here: what to write (`project`), and the schema (`migrate`).

A round trip costs more than most statements. So statements whose result nobody needs are sent together: BEGIN with the
session's limits, and projections and checkpoint with COMMIT.

A store is used by one thread. Any error within a transaction closes the connection: the server rolls back and frees the
locks, and the next transaction opens a new connection without cached state.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from importlib.resources import files
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from service.ledger import ids, wire
from service.ledger.state import ReplicaHealth, Usage

GENESIS_HASH = bytes(32)
"""Hash before the first event of a hash chain."""
USAGE_FIELDS = Usage.__struct_fields__
EPOCH_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)
EPOCH_MONDAY_MS = 4 * 86_400_000
WEEK_MS = 7 * 86_400_000
CONNECT_PARAMETERS: dict[str, Any] = {
    "application_name": "ccproxy-worker",
    "client_encoding": "utf8",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "10000",
}


Parameters = Sequence[object] | dict[str, object]


def read_queries() -> dict[str, bytes]:
    """Return the statements of queries.sql by name."""
    text = files("workers").joinpath("queries.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {name: body.rpartition(";")[0].strip().encode() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


QUERIES = read_queries()
CELL_TABLES = ("ccproxy.usage_hourly", "pg_temp.recount")
"""The live cells, and those of a recount."""
ADD_USAGE = {table: QUERIES["add_usage"].replace(b"{table}", table.encode()) for table in CELL_TABLES}
CELLS_SINCE = {table: QUERIES["cells_since"].replace(b"{table}", table.encode()) for table in CELL_TABLES}


def templated(query: str, table: str) -> bytes:
    """Return a statement with the name of one of the ledger's tables filled in."""
    return QUERIES[query].replace(b"{table}", table.encode())


def events_table(stream: str) -> str:
    """Return the name of the table that holds a stream's events."""
    return "ccproxy.control_events" if stream == wire.CONTROL else "ccproxy.events"


class Checkpoint(NamedTuple):
    """Progress of a stream: last entry folded, position, head of the hash chain, and the folded state.

    `dead` and `quarantined` count events set aside; events with an id below `kept_from` were dropped by retention.
    """

    stream: str
    epoch: int
    run_id: str
    stream_id: str
    position: int
    hash: bytes
    dead: int
    quarantined: int
    kept_from: str
    state: bytes


class Row(NamedTuple):
    """An event row, in the order of its columns."""

    event_id: str
    stream: str
    position: int
    type: str
    at_ms: int
    stream_id: str
    epoch: int
    request_id: str
    body: str
    hash: bytes


class KnownEvent(NamedTuple):
    """An event that is already stored."""

    event_id: str
    stream: str
    body: bytes


class Rejected(NamedTuple):
    """Bytes that were not folded, their stream entry, and the reason. `event_id` is empty if they are not an event."""

    stream_id: str
    raw: bytes
    reason: str
    event_id: str = ""


class DeadLetter(NamedTuple):
    """A dead letter, in the order of retries."""

    seen_at: datetime
    digest: bytes
    stream_id: str
    raw: bytes


class SkippedSeq(NamedTuple):
    """The number of an event that was read but not folded."""

    replica: str
    seq: int
    at_ms: int


class Cell(NamedTuple):
    """Key of a usage cell; `hour` is Unix time in units of 3600 s."""

    hour: int
    model: str
    client_key: str


class PostgresAddress(NamedTuple):
    """A database URL, and the longest wait for a connection, in the whole seconds that libpq counts in."""

    url: str
    connect_s: int


def connect(postgres: PostgresAddress) -> psycopg.Connection:
    """Connect with time limits on statements and locks, and without prepared statements, for poolers."""
    connection = psycopg.connect(
        postgres.url,
        autocommit=True,
        prepare_threshold=None,
        connect_timeout=postgres.connect_s,
        **CONNECT_PARAMETERS,
    )
    connection.execute(QUERIES["session"])
    return connection


class Store:
    """The ledger in Postgres for one worker. `generation` rises with every new connection."""

    def __init__(self, postgres: PostgresAddress) -> None:
        self.postgres = postgres
        self.generation = 0
        self._connection: psycopg.Connection | None = None
        self._weeks: set[int] = set()
        self._deferred: list[tuple[bytes, Parameters]] = []

    @property
    def connection(self) -> psycopg.Connection:
        """The connection, opened on first use."""
        if self._connection is None:
            self._connection = connect(self.postgres)
            self.generation += 1
        return self._connection

    def close(self) -> None:
        """Close the connection, which drops locks and uncommitted changes."""
        connection, self._connection = self._connection, None
        self._weeks.clear()
        self._deferred.clear()
        if connection is not None:
            connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in a transaction."""
        try:
            with ExitStack() as stack:
                with self.connection.pipeline():
                    stack.enter_context(psycopg.Transaction(self.connection))
                    self.connection.execute(QUERIES["bounds"])
                yield
                with self.connection.pipeline():
                    self._flush()
                    stack.close()
        except BaseException:
            self.close()
            raise

    def _flush(self) -> None:
        """Send deferred statements: with the commit, or before a read that has to see them."""
        for statement, parameters in self._deferred:
            self.connection.execute(statement, parameters)
        self._deferred.clear()

    def streams(self) -> list[str]:
        """The streams that have a checkpoint."""
        return [stream for (stream,) in self.connection.execute(QUERIES["streams"]).fetchall()]

    def open_checkpoint(self, stream: str) -> None:
        """Create the stream's checkpoint unless it exists."""
        with self.transaction():
            self.connection.execute(QUERIES["open_checkpoint"], (stream, GENESIS_HASH))

    def lock_checkpoint(self, stream: str) -> Checkpoint | None:
        """Lock and return the stream's checkpoint until the transaction ends; None if another worker holds it."""
        return checkpoint_of(self.connection.execute(QUERIES["lock_checkpoint"], (stream,)).fetchone())

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Save the stream's checkpoint."""
        parameters = checkpoint._asdict() | {"state": checkpoint.state.decode()}
        self._deferred.append((QUERIES["save_checkpoint"], parameters))

    def known_events(self, stream: str, event_ids: Sequence[str]) -> list[KnownEvent]:
        """Return which of these events are stored, in any stream of the same kind."""
        query = QUERIES["known_control_events" if stream == wire.CONTROL else "known_events"]
        parameters = {"ids": array_of(event_ids), "first": min(event_ids), "last": max(event_ids)}
        rows = self.connection.execute(query, parameters).fetchall()
        return [KnownEvent(event_id, stream, body.encode()) for event_id, stream, body in rows]

    @contextmanager
    def adding_events(self, stream: str, event_ids: Sequence[str]) -> Iterator[Callable[[Row], None]]:
        """Insert new events of one stream, with these ids, by the function that the block gets.

        Postgres inserts rows while the block makes others, and is waited for at its end.
        """
        if stream != wire.CONTROL:
            self._open_weeks(weeks_of(event_ids))
        query = QUERIES["copy_control_events" if stream == wire.CONTROL else "copy_events"]
        with self.connection.cursor() as cursor, cursor.copy(query) as copy:
            yield copy.write_row

    def _open_weeks(self, weeks: set[int]) -> None:
        """Create missing partitions for these weeks, under a lock so that workers don't collide."""
        missing = weeks - self._weeks
        if not missing:
            return
        self.connection.execute(QUERIES["lock_partitions"])
        for week in sorted(missing):
            name = partition_name(week)
            row = self.connection.execute(QUERIES["has_table"], (f"ccproxy.{name}",)).fetchone()
            if row is None or not row[0]:
                create_partition(self.connection, week)
        self._weeks |= missing

    def add_usage(self, route: str, position: int, added: dict[Cell, Usage]) -> None:
        """Add to the route's cells."""
        self._deferred.append((ADD_USAGE["ccproxy.usage_hourly"], usage_parameters(route, position, added)))

    def usage_since(self, route: str, position: int, oldest_hour: int) -> list[tuple[Cell, Usage]]:
        """Return the route's cells changed after `position`, from `oldest_hour` on."""
        self._flush()
        return cells_since(self.connection, "ccproxy.usage_hourly", route, position, oldest_hour)

    def save_health(self, route: str, health: dict[str, ReplicaHealth], removed: Iterable[str]) -> None:
        """Save these replicas' health, and delete the `gone` ones."""
        self._deferred += [(QUERIES["save_health"], health_row(route, *item)) for item in sorted(health.items())]
        if names := sorted(removed):
            self._deferred.append((QUERIES["drop_health"], (route, names)))

    def add_dead_letters(self, stream: str, epoch: int, dead: Sequence[Rejected]) -> int:
        """Insert undecodable events; return how many are new."""
        return self._add_rejected("add_dead_letters", stream, epoch, dead)

    def add_quarantined(self, stream: str, epoch: int, rejected: Sequence[Rejected]) -> int:
        """Insert events that contradict the ledger; return how many are new."""
        return self._add_rejected("add_quarantined", stream, epoch, rejected)

    def _add_rejected(self, query: str, stream: str, epoch: int, rejected: Sequence[Rejected]) -> int:
        if not rejected:
            return 0
        columns: dict[str, object] = {"stream": stream, "epoch": epoch}
        columns["digest"] = [sha256(each.raw).digest() for each in rejected]
        columns |= {field: [getattr(one, field) for one in rejected] for field in Rejected._fields}
        return self.connection.execute(QUERIES[query], columns).rowcount

    def dead_letters(self, stream: str, after: DeadLetter | None, limit: int) -> list[DeadLetter]:
        """Return the next dead letters of a stream."""
        after = after or DeadLetter(datetime.min.replace(tzinfo=UTC), b"", "", b"")
        parameters = {"stream": stream, "seen_at": after.seen_at, "digest": after.digest, "limit": limit}
        rows = self.connection.execute(QUERIES["dead_letters"], parameters).fetchall()
        return [DeadLetter(*row) for row in rows]

    def drop_dead_letters(self, stream: str, digests: Sequence[bytes]) -> int:
        """Delete dead letters that were folded; return how many."""
        return self.connection.execute(QUERIES["drop_dead_letters"], (stream, list(digests))).rowcount

    def add_skipped(self, stream: str, position: int, skipped: Sequence[SkippedSeq]) -> list[SkippedSeq]:
        """Insert the numbers of events that are not folded; return the new ones."""
        if not skipped:
            return []
        columns: dict[str, object] = {field: [getattr(one, field) for one in skipped] for field in SkippedSeq._fields}
        parameters = columns | {"stream": stream, "position": position}
        return [SkippedSeq(*row) for row in self.connection.execute(QUERIES["add_asides"], parameters).fetchall()]


def checkpoint_of(row: tuple[Any, ...] | None) -> Checkpoint | None:
    """Build a checkpoint from its columns."""
    return None if row is None else Checkpoint._make((*row[:-1], row[-1].encode()))


def create_partition(connection: psycopg.Connection, week: int) -> None:
    """Create the partition of a week."""
    table = sql.Identifier(partition_name(week))
    connection.execute(sql.SQL(QUERIES["create_partition"].decode()).format(name=table))
    first, end = (sql.Literal(first_id(each)) for each in (week, week + 1))
    attach = sql.SQL(QUERIES["attach_partition"].decode())
    connection.execute(attach.format(name=table, first=first, end=end))


def cells_since(
    connection: psycopg.Connection, table: str, route: str, position: int, oldest_hour: int
) -> list[tuple[Cell, Usage]]:
    """Return the route's cells of a table changed after `position`, from `oldest_hour` on."""
    parameters = {"route": route, "position": position, "oldest_hour": oldest_hour}
    rows = connection.execute(CELLS_SINCE[table], parameters).fetchall()
    return [(Cell(*row[:3]), Usage(*row[3:])) for row in rows]


def add_usage(connection: psycopg.Connection, table: str, route: str, position: int, added: dict[Cell, Usage]) -> None:
    """Add to a route's cells in a table."""
    connection.execute(ADD_USAGE[table], usage_parameters(route, position, added))


def usage_parameters(route: str, position: int, added: dict[Cell, Usage]) -> dict[str, object]:
    """Return the parameters for adding to a route's cells, sorted by key so that workers can't deadlock."""
    cells = sorted(added.items(), key=lambda item: item[0])
    columns: dict[str, object] = {
        field: array_of(getattr(usage, field) for _, usage in cells) for field in USAGE_FIELDS
    }
    columns["hour"] = array_of(cell.hour for cell, _ in cells)
    columns |= {field: [getattr(cell, field) for cell, _ in cells] for field in ("model", "client_key")}
    return columns | {"route": route, "position": position}


def array_of(values: Iterable[object]) -> str:
    """Format a Postgres array of values that need no quotes."""
    return "{" + ",".join(map(str, values)) + "}"


def health_row(route: str, replica: str, health: ReplicaHealth) -> tuple[object, ...]:
    """Return a replica's health in the order of its columns."""
    return route, replica, msgspec.json.encode(health).decode()


def week_of(event_id: str) -> int:
    """Return the week of an event's id, counted from the first Monday of 1970."""
    return (ids.time_of_id_ms(event_id) - EPOCH_MONDAY_MS) // WEEK_MS


def weeks_of(event_ids: Sequence[str]) -> set[int]:
    """Return the weeks of some ids; usually one."""
    first, last = week_of(min(event_ids)), week_of(max(event_ids))
    return {first} if first == last else {week_of(event_id) for event_id in event_ids}


def partition_name(week: int) -> str:
    """Return the partition of a week, named after its Monday."""
    return f"events_{EPOCH_MONDAY + timedelta(weeks=week):%Y%m%d}"


def week_of_partition(name: str) -> int:
    """Return the week of a partition."""
    monday = datetime.strptime(name.removeprefix("events_"), "%Y%m%d").replace(tzinfo=UTC)
    return (monday - EPOCH_MONDAY).days // 7


def first_id(week: int) -> str:
    """Return the lowest event id of a week."""
    return ids.lowest_id(max(0, EPOCH_MONDAY_MS + week * WEEK_MS))
