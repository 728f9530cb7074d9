"""What a worker does, on a real Postgres and a real Valkey."""

import threading
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.testing import CliRunner

from service.embedded.postgres import Postgres
from service.embedded.valkey import Valkey
from service.ledger import wire
from tests.support.server_fixtures import address_of
from tests.support.stream_factories import NOON_MS, STREAM
from workers.archive import Archive, open_archive
from workers.consume import Streams, open_redis
from workers.fold_job import FoldJob
from workers.migrate import migrate
from workers.outage import Outage
from workers.project import Projected, Projector
from workers.publish import Publisher
from workers.store import GENESIS_HASH, PostgresAddress, Store, connect
from workers.verify import StreamReport, verify
from workers.wake import WakeQueue, open_queue


class Bench:
    """Both servers, and what a worker makes of them, to be taken apart and put together as a test likes."""

    def __init__(self, postgres: Postgres, valkey: Valkey) -> None:
        self.postgres = postgres
        self.valkey = valkey
        self.redis = open_redis(valkey.url)
        self.queue = open_queue(valkey.url)
        self.stores: list[Store] = []
        self.archives: list[Archive] = []
        self.projector = self.new_projector()

    @property
    def address(self) -> PostgresAddress:
        """Postgres, as workers reach it."""
        return address_of(self.postgres)

    def new_projector(self, streams: Any = None) -> Projector:
        """Another worker's projector, with a connection of its own and nothing in memory."""
        store = Store(self.address)
        self.stores.append(store)
        return Projector(store, streams or Streams(self.redis))

    def new_archive(self) -> Archive:
        """What the commands read the ledger with."""
        self.archives.append(open_archive(self.address))
        return self.archives[-1]

    def verify(self, stream: str = STREAM) -> StreamReport:
        """Recount a stream and compare."""
        archive = open_archive(self.address)
        try:
            return verify(archive, stream)
        finally:
            archive.close()

    def execute(self, statement: str, *parameters: object) -> None:
        """Meddle with the database."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            connection.execute(statement.encode(), parameters)

    def new_publisher(self) -> Publisher:
        """A publisher that has published nothing yet."""
        return Publisher(self.redis, threading.Event())

    def new_shift(self, projector: Projector) -> FoldJob:
        """A worker's shift with this projector."""
        wake = WakeQueue(self.redis, self.queue)
        return FoldJob(projector, self.new_publisher(), Streams(self.redis), wake, threading.Event(), Outage("redis"))

    def beat(self, *names: str, **fields: int) -> None:
        """Proxies' heartbeats."""
        mapping: dict[Any, Any] = {"at_ms": NOON_MS, **fields}
        for name in names:
            self.redis.hset(wire.replica_key(name), mapping=mapping)
            self.redis.zadd(wire.REPLICAS_KEY, {name: NOON_MS})

    def project(self, stream: str = STREAM) -> Projected:
        """Fold the next batch; nobody else has the stream."""
        projected = self.projector.project(stream)
        assert projected is not None
        return projected

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What Postgres answers, on a connection of the test's own."""
        with psycopg.connect(self.postgres.url, autocommit=True) as connection:
            return connection.execute(query.encode(), parameters).fetchall()

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(self.rows(f"SELECT count(*) FROM ccproxy.{table}")[0][0])  # noqa: S608 - our own tables

    def attempts(self, stream: str = STREAM) -> int:
        """How many attempts the projections count."""
        query = "SELECT coalesce(sum(attempts), 0) FROM ccproxy.usage_hourly WHERE route = %s"
        return int(self.rows(query, stream)[0][0])

    def snapshot(self, stream: str = STREAM) -> wire.Snapshot | None:
        """What the proxies would read."""
        raw: bytes | None = self.redis.get(wire.snapshot_key(stream))  # type: ignore[assignment]
        return None if raw is None else wire.decode_snapshot(raw)

    def check_chain(self, stream: str = STREAM) -> None:
        """Positions without a gap, each hash made of the one before and the event's own bytes, up to the checkpoint."""
        table = "control_events" if stream == wire.CONTROL else "events"
        query = f"SELECT position, body::text, hash FROM ccproxy.{table} WHERE stream = %s ORDER BY position"  # noqa: S608
        chained, position = GENESIS_HASH, 0
        for row_position, body, row_hash in self.rows(query, stream):
            position += 1
            chained = sha256(chained + body.encode()).digest()
            assert (row_position, row_hash) == (position, chained)
        assert self.rows("SELECT position, hash FROM ccproxy.checkpoints WHERE stream = %s", stream) == [
            (position, chained)
        ]

    def close(self) -> None:
        """Let go of all connections."""
        for store in self.stores:
            store.close()
        for archive in self.archives:
            archive.close()
        self.redis.close()
        self.queue.connection.close()


@pytest.fixture
def bench(postgres: Postgres, valkey: Valkey) -> Iterator[Bench]:
    """Both servers, running and empty."""
    made = Bench(postgres, valkey)
    yield made
    made.close()


@pytest.fixture
def command(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[int, str]]:
    """Runs a command against both servers: its exit code, and what it prints."""
    monkeypatch.chdir(tmp_path)
    for name, value in (
        ("CCPROXY_HOME", str(tmp_path)),
        ("DATABASE_URL", bench.postgres.url),
        ("REDIS_URL", bench.valkey.url),
        ("COLUMNS", "200"),
        ("NO_COLOR", "1"),
    ):
        monkeypatch.setenv(name, value)

    def run(which: click.Command, *arguments: str) -> tuple[int, str]:
        result = CliRunner().invoke(which, arguments)
        return result.exit_code, result.stdout + (result.stderr if result.exit_code else "")

    return run


@pytest.fixture(scope="session")
def spare_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A Postgres for tests that make and migrate the schema themselves."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
def empty_database(spare_postgres: Postgres) -> Postgres:
    """A Postgres without the schema."""
    with psycopg.connect(spare_postgres.url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        connection.execute(f"ALTER DATABASE {connection.info.dbname} RESET ALL".encode())
        connection.execute("DROP SCHEMA IF EXISTS ccproxy CASCADE")
    return spare_postgres


@pytest.fixture
def url(empty_database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty database, which the settings of this process name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", empty_database.url)
    return empty_database.url


def apply(url: str) -> None:
    """Migrate, as a process does."""
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        migrate(connection)


def run(command: click.Command, *arguments: str) -> tuple[int, str]:
    """What a command says, and how it ends."""
    result = CliRunner().invoke(command, arguments)
    return result.exit_code, result.output
