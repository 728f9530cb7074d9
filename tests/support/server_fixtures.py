"""Fixtures of real servers: one Postgres and one Valkey for the whole run, which each test finds running and empty.

The conftest of all tests imports them. A test that needs a server of its own starts one.
"""

from collections.abc import Iterator

import psycopg
import pytest
from redis import Redis

from service.embedded.postgres import Postgres
from service.embedded.valkey import Valkey
from workers.migrate import migrate
from workers.store import PostgresAddress, connect

TABLES = (
    "events", "control_events", "checkpoints", "usage_hourly", "route_health", "dead_letters", "quarantine", "asides",
    "balances", "usage_closed",
)  # fmt: skip


def address_of(postgres: Postgres) -> PostgresAddress:
    """A Postgres, as workers reach it."""
    return PostgresAddress(postgres.url, connect_s=5)


def empty(postgres: Postgres) -> None:
    """Delete all rows of the ledger; quicker than TRUNCATE, which makes new files of all tables and indexes."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(";".join(f"DELETE FROM ccproxy.{name}" for name in TABLES).encode())  # noqa: S608


@pytest.fixture(scope="session")
def shared_valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """The Valkey of this run."""
    with Valkey(tmp_path_factory.mktemp("valkey")) as server:
        yield server


@pytest.fixture
def valkey(shared_valkey: Valkey) -> Valkey:
    """The Valkey of this run, running and empty."""
    if not shared_valkey.alive:
        shared_valkey.start()
    with Redis.from_url(shared_valkey.url, legacy_responses=False) as redis:
        redis.flushall()
    return shared_valkey


@pytest.fixture(scope="session")
def shared_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """The Postgres of this run, with the schema."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        with connect(address_of(server)) as connection:
            migrate(connection)
        yield server


@pytest.fixture
def postgres(shared_postgres: Postgres) -> Postgres:
    """The Postgres of this run, running and without rows."""
    if not shared_postgres.alive:
        shared_postgres.start()
    empty(shared_postgres)
    return shared_postgres
