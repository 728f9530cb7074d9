"""This version's workers over the schema of a later one: a step that only adds, and one that changes more."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.support.installation import Installation
from tests.support.ledger_reader import LedgerReader
from tests.support.processes import Command, run
from tests.support.traffic import Traffic
from tests.support.waiting import settles_to
from workers.migrate import migrations

NEWEST = max(step.number for step in migrations())
ADD_STEP = "INSERT INTO ccproxy.migrations (number, name, sha256, compatible_from) VALUES (%s, 'later', 'later', %s)"
ADDED = """ALTER TABLE ccproxy.usage_hourly ADD COLUMN later bigint NOT NULL DEFAULT 0;
    ALTER TABLE ccproxy.usage_closed ADD COLUMN later bigint NOT NULL DEFAULT 0"""


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    """An installation of this version."""
    with Installation(tmp_path / "fleet") as made:
        yield made


def plant(installed: Installation, number: int, compatible_from: int | None, sql: str = "") -> None:
    """A later version migrates the database."""
    with psycopg.connect(installed.postgres.url, autocommit=True) as connection:
        for statement in filter(None, sql.split(";")):
            connection.execute(statement.encode())
        connection.execute(ADD_STEP, (number, compatible_from))


def test_workers_are_restarted_over_a_later_schema(installed: Installation) -> None:
    """Under traffic, each answer counts once. Over one that changes what they write, the worker that runs goes on, and
    a fresh one says which step keeps it from starting."""
    ledger = LedgerReader(installed)
    proxy = installed.start_proxy()
    with Traffic([proxy.url], clients=2) as traffic:
        plant(installed, NEWEST + 1, NEWEST, ADDED)
        before = installed.worker
        assert before is not None
        installed.start_worker()
        before.stop()
        traffic.flow()
        plant(installed, NEWEST + 2, None)
        fresh = Command("worker", home=installed.folder / "fresh", variables=installed.addresses)
        fresh.wait_until(lambda: f"migration {NEWEST + 2:04} (later) is newer" in fresh.text)
        assert "worker.ready" not in fresh.text
        fresh.stop()
        traffic.flow()
    assert traffic.faults == []
    served = len(installed.anthropic.requests) + len(installed.zai.requests)
    settles_to([(served,)], lambda: ledger.rows("SELECT sum(attempts)::bigint FROM ccproxy.usage_hourly"))
    ledger.check_sound()
    status, said = run("ledger", "verify", home=installed.folder / "verify", variables=installed.addresses)
    assert status == 1
    assert "run a version that has it" in said
