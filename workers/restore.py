"""Restores a backup: checks it, then replaces the ledger in one transaction.

The tables are created as of the backup's schema, filled, and migrated to this version. Until the commit, other sessions
see the old ledger. Redis is not consulted: every checkpoint forgets the server's run id, so that workers read each
stream from its first entry. Events in the backup are recognized by id, later ones are folded, and those that Redis has
trimmed since are missing and reported (`gaps_of`). The epoch rises, so that proxies accept the snapshots that follow.
Not here: that folding (`project`).
"""

import zlib
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from zipfile import BadZipFile, ZipFile

import msgspec
import psycopg
from msgspec import Struct
from psycopg import sql
from redis import Redis

from service.ledger import wire
from workers.backup import (
    FORMAT_VERSION,
    MANIFEST,
    PIECE_BYTES,
    BackupError,
    Manifest,
    RowCount,
    StreamPlace,
    TableCopy,
    copy_statement,
    member_of,
)
from workers.migrate import StepOrigin, check_known, has_schema, migrate
from workers.recount import Progress
from workers.store import QUERIES, create_partition, templated, week_of_partition

PARTITION_PREFIX = "events_"
MAX_MANIFEST_BYTES = 16 << 20


class Backup:
    """A backup file open for reading."""

    def __init__(self, path: Path) -> None:
        """Raises BackupError if it is not a backup, and SchemaError if it is newer than this version."""
        self.path = path
        try:
            self._archive = ZipFile(path)
        except (OSError, BadZipFile) as error:
            raise BackupError(f"{path} is not a backup, or is truncated: {error}") from error
        try:
            self.manifest = self._read_manifest()
            made_by = StepOrigin(self.manifest.made_by)
            check_known(self.manifest.migrations, {step.number: made_by for step in self.manifest.migrations})
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._archive.close()

    def _read_manifest(self) -> Manifest:
        try:
            if self._archive.getinfo(MANIFEST).file_size > MAX_MANIFEST_BYTES:
                raise BackupError(f"{self.path}: its manifest is too large")
            manifest = msgspec.json.decode(self._archive.read(MANIFEST), type=Manifest)
        except (KeyError, BadZipFile, zlib.error, msgspec.DecodeError) as error:
            raise BackupError(f"{self.path} is not a ledger backup: {error}") from error
        if manifest.version != FORMAT_VERSION:
            raise BackupError(f"{self.path} has format {manifest.version}, and this version reads {FORMAT_VERSION}")
        return manifest

    def pieces(self, table: TableCopy) -> Iterator[bytes]:
        """Yield a table's text; raises BackupError, at the end at the latest, if the checksum differs."""
        digest = sha256()
        try:
            with self._archive.open(member_of(table.name)) as member:
                while piece := member.read(PIECE_BYTES):
                    digest.update(piece)
                    yield piece
        except (KeyError, OSError, BadZipFile, EOFError, zlib.error) as error:
            raise BackupError(f"{self.path} is damaged: {table.name} can't be read ({error})") from error
        if digest.hexdigest() != table.sha256:
            raise BackupError(f"{self.path} is damaged: {table.name} does not match the manifest")

    def check(self) -> None:
        """Read and check the whole file. Raises BackupError."""
        for table in self.manifest.tables:
            for _ in self.pieces(table):
                pass


class Gap(Struct, frozen=True):
    """A period of possibly missing events: the backup ends at `from_ms`, and the stream in Redis begins at `to_ms`."""

    stream: str
    from_ms: int
    to_ms: int


class NotEmpty(Exception):
    """The database holds a ledger, and replacing it was not confirmed."""


def restore(
    connection: psycopg.Connection, backup: Backup, progress: Progress = lambda _: None, *, replace: bool = False
) -> None:
    """Replace the ledger with the backup, all or nothing. `progress` is called with the number of rows so far.

    Raises NotEmpty (unless `replace`), BackupError, SchemaError, psycopg.Error.
    """
    backup.check()
    connection.execute(QUERIES["copying_session"])
    with connection.transaction():
        connection.execute(QUERIES["lock_migrations"])
        existing = has_schema(connection)[1]
        epoch = set_aside(connection, replace=replace) if existing else 0
        migrate(connection, backup.manifest.schema)
        fill(connection, backup, progress)
        migrate(connection)
        connection.execute(QUERIES["forget_runs"], (epoch,))
        if existing:
            connection.execute(QUERIES["await_replaced"])
            connection.execute(QUERIES["drop_replaced"])


def set_aside(connection: psycopg.Connection, *, replace: bool) -> int:
    """Rename the current ledger's schema and return its highest epoch. Raises NotEmpty."""
    if not replace and not is_empty(connection):
        raise NotEmpty("the database already has a ledger with events")
    (epoch,) = connection.execute(QUERIES["highest_epoch"]).fetchone() or (0,)
    connection.execute(QUERIES["set_ledger_aside"])
    return int(epoch)


def is_empty(connection: psycopg.Connection) -> bool:
    """True if nothing was ever folded. Idle workers create checkpoints at position 0."""
    tables = [name for name, _ in connection.execute(QUERIES["tables"]).fetchall() if name != "checkpoints"]
    queries = [QUERIES["has_positions"], *(templated("has_rows", f"ccproxy.{name}") for name in tables)]
    return not any(connection.execute(query).fetchone() == (True,) for query in queries)


def fill(connection: psycopg.Connection, backup: Backup, progress: Progress) -> None:
    """Copy all rows into the empty tables."""
    count = RowCount(progress)
    for table in backup.manifest.tables:
        if table.name.startswith(PARTITION_PREFIX):
            create_partition(connection, week_of_partition(table.name))
        copy_in(connection, backup, table, count)
    for name, column in connection.execute(QUERIES["numbered_columns"]).fetchall():
        go_on = sql.SQL(QUERIES["go_on_numbering"].decode()).format(
            name=f"ccproxy.{name}",
            column=column,
            table=sql.Identifier("ccproxy", name),
            identifier=sql.Identifier(column),
        )
        connection.execute(go_on)


def copy_in(connection: psycopg.Connection, backup: Backup, table: TableCopy, count: RowCount) -> None:
    """Copy one table's rows. Raises BackupError if the number of rows differs."""
    with connection.cursor() as cursor:
        with cursor.copy(copy_statement("copy_in", table.name, table.columns)) as copy:
            for piece in backup.pieces(table):
                copy.write(piece)
                count.add(piece)
        if cursor.rowcount != table.rows:
            raise BackupError(f"{backup.path} is damaged: {table.name} has {cursor.rowcount} rows, not {table.rows}")


def gaps_of(redis: Redis, streams: tuple[StreamPlace, ...]) -> list[Gap]:
    """Return where entries may be missing between a backup and the streams in Redis. Raises RedisError."""
    found = []
    for place in streams:
        entries = cast("list[tuple[bytes, object]]", redis.xrange(wire.events_key(place.stream), count=1))
        last = wire.entry_order(place.stream_id)
        if entries and (first := wire.entry_order(entries[0][0].decode())) > last > (0, 0):
            found.append(Gap(place.stream, last[0], first[0]))
    return found
