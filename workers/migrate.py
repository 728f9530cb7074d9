"""Schema migrations: numbered steps, applied once each, forward only, under an advisory lock.

A step that only adds, such as columns with a default, says so in a comment, `-- compatible-from: 5`: workers that know
the steps up to 0005 write nothing that is wrong after it. They run, and start, over a schema with such steps. Without
it, versions that don't know the step refuse to start.

Not here: downgrades, and anything that reads or writes the ledger.
"""

import re
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

import psycopg

from service.version import product_version
from workers.store import QUERIES

COMPATIBLE = re.compile(rb"^-- compatible-from: (\d+)$", re.MULTILINE)
WAY_BACK = ", or go back with a backup that was made before it: `ccproxy restore --replace FILE`"


class Migration(NamedTuple):
    """A migration step."""

    number: int
    name: str
    sql: bytes

    @property
    def digest(self) -> str:
        """Digest of the step, as recorded in a database that has applied it."""
        return sha256(self.sql).hexdigest()

    @property
    def compatible_from(self) -> int | None:
        """Number of the oldest step whose workers may go on over this one; None if none may."""
        found = COMPATIBLE.search(self.sql)
        return int(found[1]) if found else None


class Applied(NamedTuple):
    """A step that a database has applied, with its digest."""

    number: int
    name: str
    digest: str


class StepOrigin(NamedTuple):
    """Where an applied step comes from: the version that applied it, "" if none was recorded, and the oldest step whose
    workers may go on over it."""

    version: str
    compatible_from: int | None = None


class AppliedNow(NamedTuple):
    """A step that was applied just now, and how long that took."""

    step: Migration
    took_s: float


class SchemaError(Exception):
    """The database's schema can't be used or migrated by this version. The message says why."""


def migrations() -> list[Migration]:
    """Return all steps of this version, in order."""
    found = []
    for file in files("workers.migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            found.append(Migration(int(number), name, file.read_bytes()))
    return sorted(found)


def pending(connection: psycopg.Connection) -> list[Migration]:
    """Return the steps that the database lacks. Raises SchemaError if it has steps that differ from ours, or newer ones
    over which this version may not go on."""
    _, has_table = has_schema(connection)
    applied = applied_migrations(connection) if has_table else []
    check_known(applied, origins(connection) if has_table else {}, WAY_BACK)
    done = {number for number, _, _ in applied}
    return [migration for migration in migrations() if migration.number not in done]


def applied_migrations(connection: psycopg.Connection) -> list[Applied]:
    """Return the steps that the database has applied."""
    return [Applied(*row) for row in connection.execute(QUERIES["applied_migrations"]).fetchall()]


def origins(connection: psycopg.Connection) -> dict[int, StepOrigin]:
    """Return where each applied step comes from."""
    rows = connection.execute(QUERIES["origins_of_migrations"]).fetchall()
    return {number: StepOrigin(version, compatible_from) for number, version, compatible_from in rows}


def check_known(applied: Sequence[Applied], origins: Mapping[int, StepOrigin], way_back: str = "") -> None:
    """Raise SchemaError if one of these steps differs from ours, or is unknown and not compatible with ours.

    `way_back` is what else one can do about it than to run the newer version.
    """
    known = {migration.number: migration for migration in migrations()}
    newest = max(known)
    for number, name, digest in applied:
        if number not in known:
            version, compatible_from = origins.get(number, StepOrigin(""))
            if compatible_from is not None and compatible_from <= newest:
                continue
            raise SchemaError(
                f"migration {number:04} ({name}) is newer than this version, {product_version()}, which can't go on "
                f"over it; run {version or 'a version that has it'}{' or a later one' if version else ''}{way_back}"
            )
        if known[number].digest != digest:
            raise SchemaError(
                f"migration {number:04} ({name}) was applied with different content; this release is damaged"
            )


def migrate(connection: psycopg.Connection, upto: int | None = None) -> list[AppliedNow]:
    """Apply the missing steps (up to a number) in one transaction and return them. Raises SchemaError.

    A step may take as long as its tables need; only waiting for locks is bounded.
    """
    try:
        with connection.transaction():
            connection.execute(QUERIES["lock_migrations"])
            connection.execute(QUERIES["unbounded_statements"])
            return apply_missing(connection, upto)
    except psycopg.errors.LockNotAvailable:
        raise SchemaError(
            "a table is in use by another migration, a backup or a report; nothing was changed. "
            "Run `ccproxy migrate` again when that has ended"
        ) from None


def apply_missing(connection: psycopg.Connection, upto: int | None) -> list[AppliedNow]:
    """Apply the missing steps (up to a number), under the lock."""
    has_namespace, has_table = has_schema(connection)
    if not has_namespace:
        connection.execute(QUERIES["create_schema"])
    if not has_table:
        connection.execute(QUERIES["create_migrations"])
    connection.execute(QUERIES["add_origin"])
    return [apply_step(connection, step) for step in pending(connection) if upto is None or step.number <= upto]


def apply_step(connection: psycopg.Connection, step: Migration) -> AppliedNow:
    """Apply a step and record it."""
    began_s = time.monotonic()
    connection.execute(step.sql)
    row = (step.number, step.name, step.digest, step.compatible_from, product_version())
    connection.execute(QUERIES["add_migration"], row)
    return AppliedNow(step, time.monotonic() - began_s)


def has_schema(connection: psycopg.Connection) -> tuple[bool, bool]:
    """Return whether the schema exists, and whether its table of migrations does."""
    row = connection.execute(QUERIES["has_schema"]).fetchone()
    return (bool(row[0]), bool(row[1])) if row else (False, False)
