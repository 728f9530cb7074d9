"""What is read back of the ledger in Postgres: rows in pages, balances, projections, and what is recounted from them.

One method per statement of `queries.sql`, on a connection of its own, apart from the workers' `Store`: its statements
may take longer, and it reads in one snapshot of the database while the workers write. Not here: folding (`recount`),
and deciding what differs (`verify`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from service.ledger import wire
from service.ledger.state import ReplicaHealth, Usage
from workers.store import (
    GENESIS_HASH,
    QUERIES,
    USAGE_FIELDS,
    Cell,
    Checkpoint,
    SkippedSeq,
    add_usage,
    cells_since,
    checkpoint_of,
    connect,
    health_row,
)

_health_decoder = msgspec.json.Decoder(ReplicaHealth)


class EventRow(NamedTuple):
    """An event's row, as far as it is checked."""

    position: int
    event_id: str
    type: str
    at_ms: int
    request_id: str
    body: str
    hash: bytes


class Balance(NamedTuple):
    """Where a recount begins: the count, hash and state of what is not there any more, and the last aside in it."""

    position: int
    hash: bytes
    aside: int
    state: bytes


class AsideRow(NamedTuple):
    """The number of an event that was not folded, and where the stream stood when it was heard."""

    number: int
    position: int
    aside: SkippedSeq


class CellDifference(NamedTuple):
    """A cell that is not as it should be; None where there is none."""

    hour: str
    model: str
    client_key: str
    stands: Usage | None
    should: Usage | None


class Unowned(NamedTuple):
    """A resource of which no owner was noted when it was made, and whose it is."""

    resource_id: str
    stream: str
    event_id: str
    owner: str


def events_table(stream: str) -> str:
    """Where a stream's rows are."""
    return "ccproxy.control_events" if stream == wire.CONTROL else "ccproxy.events"


def open_archive(url: str) -> "Archive":
    """An archive on a connection of its own. Raises psycopg.Error."""
    connection = connect(url)
    connection.execute(QUERIES["reader_session"])
    connection.execute(QUERIES["create_recount"])
    return Archive(connection)


class Archive:
    """The ledger in Postgres, as those see it who read it whole."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection

    def close(self) -> None:
        """Let go of the connection, and with it of what was recounted."""
        self.connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads within see the database at one moment."""
        with self.connection.transaction():
            self.connection.execute(QUERIES["one_snapshot"])
            yield

    def streams(self) -> list[str]:
        """All streams that have a checkpoint or projections."""
        return [stream for (stream,) in self.connection.execute(QUERIES["known_streams"]).fetchall()]

    def checkpoint(self, stream: str) -> Checkpoint | None:
        """A stream's checkpoint."""
        return checkpoint_of(self.connection.execute(QUERIES["checkpoint"], (stream,)).fetchone())

    def await_checkpoint(self, stream: str) -> Checkpoint | None:
        """The same, ours until the transaction ends; waits for its turn, at most as long as the session allows."""
        return checkpoint_of(self.connection.execute(QUERIES["await_checkpoint"], (stream,)).fetchone())

    def balance(self, stream: str) -> Balance:
        """Where a recount of the stream begins."""
        row = self.connection.execute(QUERIES["balance"], (stream,)).fetchone()
        return Balance._make((*row[:3], row[3].encode())) if row else Balance(0, GENESIS_HASH, 0, b"{}")

    def last_position(self, stream: str, table: str = "") -> int:
        """The greatest position of the stream's rows, in all of them or in one partition."""
        query = templated("last_position", table or events_table(stream))
        row = self.connection.execute(query, (stream,)).fetchone()
        return int(row[0]) if row else 0

    def rows_between(self, stream: str, after: int, upto: int) -> list[EventRow]:
        """The rows of a stream behind a position, up to another."""
        query = templated("rows_between", events_table(stream))
        parameters = {"stream": stream, "after": after, "upto": upto}
        return [EventRow(*row) for row in self.connection.execute(query, parameters, binary=True).fetchall()]

    def asides_after(self, stream: str, after: int, upto: int) -> list[AsideRow]:
        """The numbers heard of events that were not folded, up to a position."""
        parameters = {"stream": stream, "after": after, "upto": upto}
        rows = self.connection.execute(QUERIES["asides_after"], parameters).fetchall()
        return [AsideRow(number, position, SkippedSeq(*rest)) for number, position, *rest in rows]

    def begin_recount(self, stream: str) -> None:
        """Begin with the cells of what is not there any more."""
        self.connection.execute(QUERIES["empty_recount"], (stream,))
        self.connection.execute(QUERIES["begin_recount"], (stream,))

    def recounted(self, stream: str, oldest_hour: int) -> list[tuple[Cell, Usage]]:
        """The recounted cells, from `oldest_hour` on."""
        return cells_since(self.connection, "pg_temp.recount", stream, -1, oldest_hour)

    def recount(self, stream: str, position: int, usage: dict[Cell, Usage]) -> None:
        """Add to the recounted cells."""
        if usage:
            add_usage(self.connection, "pg_temp.recount", stream, position, usage)

    def usage_differences(self, stream: str, limit: int) -> list[CellDifference]:
        """The cells that are not what was recounted."""
        rows = self.connection.execute(QUERIES["usage_differences"], {"route": stream, "limit": limit}).fetchall()
        size = len(USAGE_FIELDS)
        return [
            CellDifference._make((*row[:3], usage_of(row[3 : 3 + size]), usage_of(row[3 + size :]))) for row in rows
        ]

    def health(self, stream: str) -> dict[str, ReplicaHealth]:
        """A route's health by replica, as it stands."""
        rows = self.connection.execute(QUERIES["health"], (stream,)).fetchall()
        return {replica: _health_decoder.decode(account) for replica, account in rows}

    def put_aside_counts(self, stream: str) -> tuple[int, int]:
        """How many dead letters and quarantined events there are."""
        row = self.connection.execute(QUERIES["put_aside_counts"], {"stream": stream}).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def put_aside(self, stream: str | None, limit: int) -> list[dict[str, Any]]:
        """What was put aside, newest first, as plain values."""
        rows = self.connection.execute(QUERIES["put_aside"], {"stream": stream, "limit": limit}).fetchall()
        names = ("kind", "stream", "seen_at", "stream_id", "reason", "raw")
        return [
            dict(zip(names, row, strict=True))
            | {"seen_at": f"{row[2]:%Y-%m-%dT%H:%M:%SZ}", "raw": row[5].decode(errors="replace")}
            for row in rows
        ]

    def swap(self, stream: str, health: dict[str, ReplicaHealth]) -> None:
        """Put what was recounted in the place of the live projections."""
        self.connection.execute(QUERIES["drop_other_cells"], {"route": stream})
        self.connection.execute(QUERIES["swap_cells"], {"route": stream})
        self.connection.execute(QUERIES["drop_all_health"], (stream,))
        with self.connection.cursor() as cursor:
            cursor.executemany(QUERIES["save_health"], [health_row(stream, *item) for item in sorted(health.items())])

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Write down a checkpoint that is ours."""
        parameters = checkpoint._asdict() | {"state": checkpoint.state.decode()}
        self.connection.execute(QUERIES["save_checkpoint"], parameters)

    def partitions(self) -> list[str]:
        """The tables of weeks, oldest first."""
        return [name for (name,) in self.connection.execute(QUERIES["partitions"]).fetchall()]

    def lock_retention(self) -> bool:
        """Whether it is ours to drop weeks, until the transaction ends. Whoever waits later does so briefly."""
        self.connection.execute(QUERIES["haste"])
        row = self.connection.execute(QUERIES["lock_retention"]).fetchone()
        return bool(row and row[0])

    def await_all_checkpoints(self) -> list[str]:
        """All streams, ours until the transaction ends."""
        return [stream for (stream,) in self.connection.execute(QUERIES["await_all_checkpoints"]).fetchall()]

    def close_stream(self, stream: str, balance: Balance) -> None:
        """Write down a stream's closing balance, with the recounted cells."""
        self.connection.execute(QUERIES["save_balance"], (stream, *balance[:3], balance.state.decode()))
        self.connection.execute(QUERIES["empty_closed_usage"], (stream,))
        self.connection.execute(QUERIES["close_usage"], (stream,))

    def unowned(self) -> list[Unowned]:
        """The resources that were made by a key and noted without it."""
        return [Unowned(*row) for row in self.connection.execute(QUERIES["unowned_resources"]).fetchall()]

    def drop_partition(self, name: str, kept_from: str) -> None:
        """Drop a week; events with lesser ids than `kept_from` are not taken any more."""
        self.connection.execute(QUERIES["keep_from"], (kept_from,))
        self.connection.execute(sql.SQL(QUERIES["drop_partition"].decode()).format(name=sql.Identifier(name)))


def templated(query: str, table: str) -> bytes:
    """A statement about one of our own tables."""
    return QUERIES[query].replace(b"{table}", table.encode())


def usage_of(columns: tuple[int | None, ...]) -> Usage | None:
    """A cell from its columns; None when there is none."""
    return None if columns[0] is None else Usage(*(count or 0 for count in columns))
