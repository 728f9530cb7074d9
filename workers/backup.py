"""Backup of the whole ledger into one file: every table in COPY format, from one snapshot, with a manifest of
checksums.

The file is a zip archive that standard tools can open: `tables/NAME.copy` for each table of the schema `ccproxy`, and
`manifest.json`, written last, so that a truncated file has no manifest and is rejected. Traffic, workers and retention
continue meanwhile. Not here: restoring it (`restore`).
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO, Literal
from zipfile import ZIP_DEFLATED, ZipFile

import msgspec
import psycopg
from msgspec import Struct
from psycopg import sql

from service.version import product_version
from workers.migrate import Applied, applied_migrations
from workers.recount import Progress
from workers.store import QUERIES

MANIFEST = "manifest.json"
FORMAT_VERSION: Literal[1] = 1
PIECE_BYTES = 1 << 18
COMPRESSION = 4
"""For JSON text, higher levels save little and take twice the time."""


class BackupError(Exception):
    """A file can't be written, or is not a valid backup. The message says why, and how to fix it."""


class TableCopy(Struct, frozen=True):
    """A table in the file. `bytes` and `sha256` are of its uncompressed text."""

    name: str
    columns: tuple[str, ...]
    rows: int
    bytes: int
    sha256: str


class StreamPlace(Struct, frozen=True):
    """The checkpoint of a stream without its state. `hash` is the head of the hash chain, in hex."""

    stream: str
    epoch: int
    position: int
    stream_id: str
    hash: str


class Manifest(Struct, frozen=True, kw_only=True):
    """Contents of the file, and the schema that it was made from."""

    format: Literal["ccproxy-backup"] = "ccproxy-backup"
    version: int = FORMAT_VERSION
    made_at_ms: int
    made_by: str
    postgres: str
    migrations: tuple[Applied, ...]
    streams: tuple[StreamPlace, ...]
    tables: tuple[TableCopy, ...]

    @property
    def rows(self) -> int:
        """The number of rows in all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def schema(self) -> int:
        """The number of the last migration."""
        return max((step.number for step in self.migrations), default=0)


def back_up(connection: psycopg.Connection, path: Path, progress: Progress = lambda _: None) -> Manifest:
    """Write the ledger to a new file, atomically and readable by its owner only.

    `progress` is called with the number of rows so far. Raises BackupError, psycopg.Error.
    """
    if path.exists():
        raise BackupError(f"{path} already exists; nothing was overwritten. Use another name")
    connection.execute(QUERIES["copying_session"])
    try:
        with atomic_file(path) as file, ZipFile(file, "w", ZIP_DEFLATED, compresslevel=COMPRESSION) as archive:
            return copy_ledger(connection, archive, progress)
    except OSError as error:
        raise BackupError(f"{path} can't be written: {error.strerror or error}") from error


def expected_rows(connection: psycopg.Connection) -> int:
    """Estimate how many rows there are to copy. Raises psycopg.Error."""
    row = connection.execute(QUERIES["expected_rows"]).fetchone()
    return int(row[0]) if row else 0


def copy_ledger(connection: psycopg.Connection, archive: ZipFile, progress: Progress) -> Manifest:
    """Copy all tables from one snapshot of the database."""
    with connection.transaction():
        connection.execute(QUERIES["one_snapshot"])
        connection.execute(QUERIES["hold_ledger"])
        tables = connection.execute(QUERIES["tables"]).fetchall()
        streams = connection.execute(QUERIES["stream_places"]).fetchall()
        migrations = applied_migrations(connection)
        count = RowCount(progress)
        copied = []
        for name, columns in tables:
            with archive.open(member_of(name), "w", force_zip64=True) as member:
                copied.append(copy_table(connection, name, tuple(columns), member, count))
    manifest = Manifest(
        made_at_ms=time.time_ns() // 1_000_000,
        made_by=product_version(),
        postgres=str(connection.info.server_version),
        migrations=tuple(migrations),
        streams=tuple(StreamPlace(*row) for row in streams),
        tables=tuple(copied),
    )
    archive.writestr(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def member_of(table: str) -> str:
    """Return the name of a table's member in the archive."""
    return f"tables/{table}.copy"


class RowCount:
    """Counter of the rows in COPY text."""

    def __init__(self, progress: Progress) -> None:
        self.rows = 0
        self._progress = progress

    def add(self, piece: bytes) -> None:
        """Count the rows that end in this piece: each ends with a line feed, which is escaped within values."""
        self.rows += piece.count(b"\n")
        self._progress(self.rows)


def copy_table(
    connection: psycopg.Connection, name: str, columns: tuple[str, ...], member: IO[bytes], count: RowCount
) -> TableCopy:
    """Copy one table's rows."""
    digest, size, before = sha256(), 0, count.rows
    with connection.cursor() as cursor, cursor.copy(copy_statement("copy_out", name, columns)) as copy:
        for piece in joined_pieces(copy):
            digest.update(piece)
            member.write(piece)
            count.add(piece)
            size += len(piece)
    return TableCopy(name, columns, count.rows - before, size, digest.hexdigest())


def joined_pieces(pieces: Iterable[bytes | bytearray | memoryview]) -> Iterator[bytes]:
    """Join the pieces into larger ones: Postgres sends each row by itself."""
    buffered = bytearray()
    for piece in pieces:
        buffered += piece
        if len(buffered) >= PIECE_BYTES:
            yield bytes(buffered)
            buffered.clear()
    if buffered:
        yield bytes(buffered)


def copy_statement(query: str, table: str, columns: Iterable[str]) -> sql.Composed:
    """Return a COPY statement for a table of the schema."""
    return sql.SQL(QUERIES[query].decode()).format(
        table=sql.Identifier("ccproxy", table), columns=sql.SQL(", ").join(map(sql.Identifier, columns))
    )


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a draft beside `path`, which replaces it after an fsync unless an error occurs."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    descriptor = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
