"""Brings the schema up to date: numbered steps, each once, forward only, under a lock that one process at a time holds.

Not here: going back, and anything that reads or writes the ledger.
"""

from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from typing import NamedTuple

import psycopg

from workers.store import QUERIES


class Migration(NamedTuple):
    """One step of the schema."""

    number: int
    name: str
    sql: bytes

    @property
    def digest(self) -> str:
        """What a database that has this step recorded of it."""
        return sha256(self.sql).hexdigest()


class Applied(NamedTuple):
    """A step that a database has, and the digest of what it was."""

    number: int
    name: str
    digest: str


class SchemaError(Exception):
    """The database's schema is not one that these workers can go on from. The message says why."""


def migrations() -> list[Migration]:
    """All steps that this version knows, in order."""
    found = []
    for file in files("workers.migrations").iterdir():
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            found.append(Migration(int(number), name, file.read_bytes()))
    return sorted(found)


def pending(connection: psycopg.Connection) -> list[Migration]:
    """The steps that the database lacks. Raises SchemaError when it has steps that differ from ours."""
    _, has_table = has_schema(connection)
    applied = applied_migrations(connection) if has_table else []
    check_known(applied)
    done = {number for number, _, _ in applied}
    return [migration for migration in migrations() if migration.number not in done]


def applied_migrations(connection: psycopg.Connection) -> list[Applied]:
    """The steps that the database has."""
    return [Applied(*row) for row in connection.execute(QUERIES["applied_migrations"]).fetchall()]


def check_known(applied: Sequence[Applied]) -> None:
    """Raises SchemaError when one of these steps is not ours, or is not what ours is."""
    known = {migration.number: migration for migration in migrations()}
    for number, name, digest in applied:
        if number not in known:
            raise SchemaError(f"migration {number:04} ({name}) is newer than this version; run a newer one")
        if known[number].digest != digest:
            raise SchemaError(
                f"migration {number:04} ({name}) was applied with another content; the release is damaged"
            )


def migrate(connection: psycopg.Connection, upto: int | None = None) -> list[Migration]:
    """Apply what is missing (up to a number), all or nothing; returns what was applied."""
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
    """Whether the schema is there, and whether the table of migrations is."""
    row = connection.execute(QUERIES["has_schema"]).fetchone()
    return (bool(row[0]), bool(row[1])) if row else (False, False)
