"""Read access to the ledger in Postgres: event rows in pages, closing balances, projections, and recounted usage.

Each method runs one statement of `queries.sql`, on a connection separate from the workers' `Store`: its statements may
run longer, and it reads from one database snapshot while the workers write. Not here: folding (`recount`) and
comparison (`verify`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

import msgspec
from psycopg import sql

from service.ledger.ids import lowest_id
from service.ledger.state import ReplicaHealth, Usage
from workers.page_reader import Pages, Span, connect_reader, pages_of
from workers.store import (
    GENESIS_HASH,
    QUERIES,
    USAGE_FIELDS,
    Cell,
    Checkpoint,
    PostgresAddress,
    SkippedSeq,
    add_usage,
    cells_since,
    checkpoint_of,
    events_table,
    health_row,
    templated,
)

_health_decoder = msgspec.json.Decoder(ReplicaHealth)


EventBody: TypeAlias = tuple[int, str]
"""An event's position, and its JSON as stored."""


class Balance(NamedTuple):
    """Starting point of a recount: position, hash and state up to the dropped events, and the last skipped number
    covered."""

    position: int
    hash: bytes
    skipped_number: int
    state: bytes


class SkippedRow(NamedTuple):
    """A skipped event number, with the stream position at which it was recorded."""

    number: int
    position: int
    skipped: SkippedSeq


class CellDifference(NamedTuple):
    """A usage cell that differs from its recount; None on the side where the cell is missing."""

    hour: str
    model: str
    client_key: str
    stored: Usage | None
    expected: Usage | None


class Unowned(NamedTuple):
    """A resource recorded without an owner, and the owner found in the ledger."""

    resource_id: str
    stream: str
    event_id: str
    owner: str


def open_archive(postgres: PostgresAddress) -> "Archive":
    """Open an archive on a connection of its own. Raises psycopg.Error."""
    archive = Archive(postgres)
    archive.connection.execute(QUERIES["create_recount"])
    return archive


class Archive:
    """The ledger in Postgres, for readers that process all of it."""

    def __init__(self, postgres: PostgresAddress) -> None:
        self.postgres = postgres
        self.connection = connect_reader(postgres)

    def close(self) -> None:
        """Close the connection, which also drops the recounted cells."""
        self.connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Run all reads of the block against one snapshot of the database."""
        with self.connection.transaction():
            self.connection.execute(QUERIES["one_snapshot"])
            yield

    def streams(self) -> list[str]:
        """All streams that have a checkpoint or projections."""
        return [stream for (stream,) in self.connection.execute(QUERIES["known_streams"]).fetchall()]

    def checkpoint(self, stream: str) -> Checkpoint | None:
        """Return a stream's checkpoint, or None."""
        return checkpoint_of(self.connection.execute(QUERIES["checkpoint"], (stream,)).fetchone())

    def await_checkpoint(self, stream: str) -> Checkpoint | None:
        """Lock and return a stream's checkpoint until the end of the transaction; waits up to the session's lock
        timeout."""
        return checkpoint_of(self.connection.execute(QUERIES["await_checkpoint"], (stream,)).fetchone())

    def balance(self, stream: str) -> Balance:
        """Return the closing balance at which a recount of the stream begins."""
        row = self.connection.execute(QUERIES["balance"], (stream,)).fetchone()
        return Balance._make((*row[:3], row[3].encode())) if row else Balance(0, GENESIS_HASH, 0, b"{}")

    def last_position(self, stream: str, table: str = "") -> int:
        """Return the highest position of the stream's rows, in all of them or in one partition."""
        query = templated("last_position", table or events_table(stream))
        row = self.connection.execute(query, (stream,)).fetchone()
        return int(row[0]) if row else 0

    def pages(self, stream: str, after: int, upto: int, size: int) -> Pages:
        """Yield a stream's rows with `after` < position <= `upto` in pages."""
        return pages_of(self.connection, self.postgres, Span(stream, after, upto), size)

    def bodies(self, stream: str, after: int, upto: int) -> list[EventBody]:
        """Return a stream's events with `after` < position <= `upto`, one by one."""
        parameters = {"stream": stream, "after": after, "upto": upto}
        return self.connection.execute(templated("rows_between", events_table(stream)), parameters).fetchall()

    def last_place(self, stream: str, upto: int) -> tuple[int, bytes] | None:
        """Return position and hash of a stream's last row up to a position; None if there is none."""
        parameters = {"stream": stream, "upto": upto}
        return self.connection.execute(templated("last_place", events_table(stream)), parameters).fetchone()

    def priced_events(self, stream: str, from_ms: int, until_ms: int) -> list[str]:
        """Return a stream's events with usage and prices whose ids have a time in this span, in their order."""
        parameters = {"stream": stream, "first": lowest_id(from_ms), "last": lowest_id(until_ms)}
        return [body for (body,) in self.connection.execute(QUERIES["priced_events"], parameters).fetchall()]

    def resource_readings(self, stream: str) -> list[str]:
        """Return a stream's readings of running totals, in their order."""
        return [body for (body,) in self.connection.execute(QUERIES["resource_readings"], (stream,)).fetchall()]

    def skipped_after(self, stream: str, after: int, upto: int) -> list[SkippedRow]:
        """Return the event numbers skipped after the aside id `after`, up to position `upto`."""
        parameters = {"stream": stream, "after": after, "upto": upto}
        rows = self.connection.execute(QUERIES["asides_after"], parameters).fetchall()
        return [SkippedRow(number, position, SkippedSeq(*rest)) for number, position, *rest in rows]

    def begin_recount(self, stream: str) -> None:
        """Initialize the recounted cells with those of the closing balance."""
        self.connection.execute(QUERIES["empty_recount"], (stream,))
        self.connection.execute(QUERIES["begin_recount"], (stream,))

    def recounted(self, stream: str, oldest_hour: int) -> list[tuple[Cell, Usage]]:
        """Return the recounted cells from `oldest_hour` on."""
        return cells_since(self.connection, "pg_temp.recount", stream, -1, oldest_hour)

    def recount(self, stream: str, position: int, usage: dict[Cell, Usage]) -> None:
        """Add to the recounted cells."""
        if usage:
            add_usage(self.connection, "pg_temp.recount", stream, position, usage)

    def usage_differences(self, stream: str, limit: int) -> list[CellDifference]:
        """Return the cells that differ from the recount."""
        rows = self.connection.execute(QUERIES["usage_differences"], {"route": stream, "limit": limit}).fetchall()
        size = len(USAGE_FIELDS)
        return [
            CellDifference._make((*row[:3], usage_of(row[3 : 3 + size]), usage_of(row[3 + size :]))) for row in rows
        ]

    def health(self, stream: str) -> dict[str, ReplicaHealth]:
        """Return a route's stored health by replica."""
        rows = self.connection.execute(QUERIES["health"], (stream,)).fetchall()
        return {replica: _health_decoder.decode(account) for replica, account in rows}

    def set_aside_counts(self, stream: str) -> tuple[int, int]:
        """Count a stream's dead letters and quarantined events."""
        row = self.connection.execute(QUERIES["put_aside_counts"], {"stream": stream}).fetchone()
        return (int(row[0]), int(row[1])) if row else (0, 0)

    def set_aside_rows(self, stream: str | None, limit: int) -> list[dict[str, Any]]:
        """Return dead letters and quarantined events, newest first, as JSON-compatible values."""
        rows = self.connection.execute(QUERIES["put_aside"], {"stream": stream, "limit": limit}).fetchall()
        names = ("kind", "stream", "seen_at", "stream_id", "reason", "raw")
        return [
            dict(zip(names, row, strict=True))
            | {"seen_at": f"{row[2]:%Y-%m-%dT%H:%M:%SZ}", "raw": row[5].decode(errors="replace")}
            for row in rows
        ]

    def swap(self, stream: str, health: dict[str, ReplicaHealth]) -> None:
        """Replace the live projections with the recounted ones."""
        self.connection.execute(QUERIES["drop_other_cells"], {"route": stream})
        self.connection.execute(QUERIES["swap_cells"], {"route": stream})
        self.connection.execute(QUERIES["drop_all_health"], (stream,))
        with self.connection.cursor() as cursor:
            cursor.executemany(QUERIES["save_health"], [health_row(stream, *item) for item in sorted(health.items())])

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint that this transaction has locked."""
        parameters = checkpoint._asdict() | {"state": checkpoint.state.decode()}
        self.connection.execute(QUERIES["save_checkpoint"], parameters)

    def partitions(self) -> list[str]:
        """Return the weekly partitions, oldest first."""
        return [name for (name,) in self.connection.execute(QUERIES["partitions"]).fetchall()]

    def lock_retention(self) -> bool:
        """Try to lock retention for this transaction; False if another process has it. Later locks get a short
        timeout."""
        self.connection.execute(QUERIES["haste"])
        row = self.connection.execute(QUERIES["lock_retention"]).fetchone()
        return bool(row and row[0])

    def await_all_checkpoints(self) -> list[str]:
        """Lock all checkpoints until the end of the transaction and return their streams."""
        return [stream for (stream,) in self.connection.execute(QUERIES["await_all_checkpoints"]).fetchall()]

    def close_stream(self, stream: str, balance: Balance) -> None:
        """Save a stream's closing balance with the recounted cells."""
        self.connection.execute(QUERIES["save_balance"], (stream, *balance[:3], balance.state.decode()))
        self.connection.execute(QUERIES["empty_closed_usage"], (stream,))
        self.connection.execute(QUERIES["close_usage"], (stream,))

    def unowned(self) -> list[Unowned]:
        """Return the resources that a client key created but that were recorded without an owner."""
        return [Unowned(*row) for row in self.connection.execute(QUERIES["unowned_resources"]).fetchall()]

    def drop_partition(self, name: str, kept_from: str) -> None:
        """Drop a weekly partition; events with ids below `kept_from` are rejected from then on."""
        self.connection.execute(QUERIES["keep_from"], (kept_from,))
        self.connection.execute(sql.SQL(QUERIES["drop_partition"].decode()).format(name=sql.Identifier(name)))


def usage_of(columns: tuple[int | None, ...]) -> Usage | None:
    """Build a usage cell from its columns; None if all are NULL."""
    return None if columns[0] is None else Usage(*(count or 0 for count in columns))
