"""Schema migrations: numbered steps, applied once each, forward only, under an advisory lock.

Not here: downgrades, and anything that reads or writes the ledger.
"""

from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

import psycopg

from workers.store import QUERIES


class Migration(NamedTuple):
    """A migration step."""

    number: int
    name: str
    sql: bytes

    @property
    def digest(self) -> str:
        """Digest of the step, as recorded in a database that has applied it."""
        return sha256(self.sql).hexdigest()


class Applied(NamedTuple):
    """A step that a database has applied, with its digest."""

    number: int
    name: str
    digest: str


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
    """Return the steps that the database lacks. Raises SchemaError if it has steps that differ from ours."""
    _, has_table = has_schema(connection)
    applied = applied_migrations(connection) if has_table else []
    check_known(applied)
    done = {number for number, _, _ in applied}
    return [migration for migration in migrations() if migration.number not in done]


def applied_migrations(connection: psycopg.Connection) -> list[Applied]:
    """Return the steps that the database has applied."""
    return [Applied(*row) for row in connection.execute(QUERIES["applied_migrations"]).fetchall()]


def check_known(applied: Sequence[Applied]) -> None:
    """Raise SchemaError if one of these steps is unknown or differs from ours."""
    known = {migration.number: migration for migration in migrations()}
    for number, name, digest in applied:
        if number not in known:
            raise SchemaError(f"migration {number:04} ({name}) is newer than this version; run a newer one")
        if known[number].digest != digest:
            raise SchemaError(
                f"migration {number:04} ({name}) was applied with different content; this release is damaged"
            )


def migrate(connection: psycopg.Connection, upto: int | None = None) -> list[Migration]:
    """Apply the missing steps (up to a number) in one transaction and return them."""
    with connection.transaction():
        connection.execute(QUERIES["lock_migrations"])
        has_namespace, has_table = has_schema(connection)
        if not has_namespace:
            connection.execute(QUERIES["create_schema"])
        if not has_table:
            connection.execute(QUERIES["create_migrations"])
        missing = [step for step in pending(connection) if upto is None or step.number <= upto]
        for migration in missing:
            connection.execute(migration.sql)
            connection.execute(QUERIES["add_migration"], (migration.number, migration.name, migration.digest))
    return missing


def has_schema(connection: psycopg.Connection) -> tuple[bool, bool]:
    """Return whether the schema exists, and whether its table of migrations does."""
    row = connection.execute(QUERIES["has_schema"]).fetchone()
    return (bool(row[0]), bool(row[1])) if row else (False, False)
