"""`ccproxy migrate --dry-run`: what a plan says of each step is what Postgres does, and making one changes nothing."""

import json
from contextlib import suppress
from typing import Any, NamedTuple

import psycopg
import pytest

from tests.workers.conftest import apply, run
from workers import cli
from workers.check import trouble_words
from workers.migrate import Migration, SchemaError, migrate, migrations
from workers.migration_plan import EFFECTS, Effect, earlier_workers, plan, plan_steps
from workers.store import PostgresAddress, connect

SAMPLES = {
    "uuid": "gen_random_uuid()",
    "json": "'{}'",
    "bytea": "'x'",
    "timestamp with time zone": "now()",
    "text": "'x'",
}
TABLES = """SELECT oid, relname, relfilenode FROM pg_class
    WHERE relnamespace = 'ccproxy'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition"""
COLUMNS = """SELECT attrelid, attname, atttypid FROM pg_attribute JOIN pg_class ON attrelid = pg_class.oid
    WHERE relnamespace = 'ccproxy'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped"""
NEEDED = """SELECT table_name, column_name, data_type FROM information_schema.columns
    WHERE table_schema = 'ccproxy' AND table_name NOT IN ('migrations', 'events_all')
    AND is_nullable = 'NO' AND column_default IS NULL AND is_identity = 'NO'"""
LOCKED = """SELECT DISTINCT relation FROM pg_locks
    WHERE pid = pg_backend_pid()
    AND mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"""
USED = """SELECT relid, seq_scan + coalesce(idx_scan, 0), n_tup_ins + n_tup_upd + n_tup_del
    FROM pg_stat_xact_user_tables WHERE schemaname = 'ccproxy'"""


class Rollback(Exception):
    """Nothing of it remains."""


class Seen(NamedTuple):
    """What a step did, as far as tables are concerned that were there before it."""

    locks: set[str]
    reads: set[str]
    writes: set[str]
    removes: bool


def fill(connection: psycopg.Connection) -> None:
    """A row in each table; events have a partition for it."""
    if connection.execute("SELECT to_regclass('ccproxy.events_all')").fetchone() == (None,):
        connection.execute("CREATE TABLE ccproxy.events_all PARTITION OF ccproxy.events DEFAULT")
    columns: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(NEEDED).fetchall():
        columns.setdefault(table, {})[column] = SAMPLES.get(kind, "1")
    for table, values in columns.items():
        names, samples = ", ".join(values), ", ".join(values.values())
        statement = f"INSERT INTO ccproxy.{table} ({names}) VALUES ({samples}) ON CONFLICT DO NOTHING"  # noqa: S608 - our own tables
        connection.execute(statement.encode())


def watch(url: str, step: Migration) -> Seen:
    """Apply a step, look at what Postgres has done, and undo it; in a session of its own, as its counts are a
    session's."""
    seen: list[Seen] = []
    with suppress(Rollback), psycopg.connect(url) as connection, connection.transaction():
        before = {oid: (name, node) for oid, name, node in connection.execute(TABLES).fetchall()}
        columns = set(connection.execute(COLUMNS).fetchall())
        connection.execute(step.sql)
        locked = {oid for (oid,) in connection.execute(LOCKED).fetchall()}
        used = {oid: (read, written) for oid, read, written in connection.execute(USED).fetchall()}
        nodes = {oid: node for oid, _, node in connection.execute(TABLES).fetchall()}
        written = {oid for oid, (_, rows) in used.items() if rows}
        written |= {oid for oid, (_, node) in before.items() if nodes.get(oid, node) != node}
        read = {oid for oid, (scans, _) in used.items() if scans} - written
        locks, reads, writes = ({before[oid][0] for oid in some & before.keys()} for some in (locked, read, written))
        seen.append(Seen(locks, reads, writes, not columns <= set(connection.execute(COLUMNS).fetchall())))
        raise Rollback
    return seen[0]


def test_a_step_does_what_is_declared_of_it(url: str) -> None:
    """With rows in each table: the locks it holds at its end, the tables whose rows it reads and writes again, and
    whether a column is gone. Each step has its declaration."""
    assert sorted(EFFECTS) == [step.number for step in migrations()]
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        migrate(connection, upto=1)
        for step in migrations()[1:]:
            fill(connection)
            effect = EFFECTS[step.number]
            assert effect.does.endswith(".")
            declared = Seen(set(effect.locks), set(effect.reads), set(effect.writes), effect.removes)
            assert watch(url, step) == declared, step.name
            assert [applied.step for applied in migrate(connection, upto=step.number)] == [step]


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("ALTER TABLE ccproxy.usage_hourly ALTER COLUMN failed TYPE numeric", (["usage_hourly"], [], ["usage_hourly"])),
        ("CREATE INDEX ON ccproxy.dead_letters (seen_at)", (["dead_letters"], ["dead_letters"], [])),
        ("UPDATE ccproxy.asides SET at_ms = 0", ([], [], ["asides"])),
        ("ALTER TABLE ccproxy.events ADD COLUMN later text", (["events"], [], [])),
        ("ALTER TABLE ccproxy.quarantine RENAME COLUMN raw TO bytes", (["quarantine"], [], [])),
    ],
    ids=["rewrites", "reads", "updates", "adds", "renames"],
)
def test_what_a_step_does_is_seen(url: str, sql: str, expected: tuple[list[str], ...]) -> None:
    """So that the test above would notice a step that does more than it says."""
    apply(url)
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        fill(connection)
    seen = watch(url, Migration(99, "later", sql.encode()))
    assert (seen.locks, seen.reads, seen.writes) == tuple(map(set, expected))
    assert seen.removes == any(word in sql for word in ("TYPE", "RENAME"))


def everything(url: str) -> list[tuple[Any, ...]]:
    """The catalogue of tables, and the rows of one."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute("SELECT oid, relname, relfilenode FROM pg_class ORDER BY 1").fetchall()
        if connection.execute("SELECT to_regclass('ccproxy.checkpoints')").fetchone() != (None,):
            found += connection.execute("SELECT ctid, xmin, stream FROM ccproxy.checkpoints").fetchall()
        return found


def test_a_dry_run_changes_nothing_and_says_all(url: str) -> None:
    """On an empty database, on an older schema with rows, and on the current one; in words and as JSON."""
    before = everything(url)
    status, said = run(cli.migrate, "--dry-run")
    assert (status, everything(url)) == (0, before)
    assert said.startswith(
        f"{len(migrations())} migrations would be applied, in one transaction:\n0001 ledger: Creates "
    )
    assert said.endswith("\nNothing was changed.\n")
    assert "version before" not in said
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        migrate(connection, upto=2)
        fill(connection)
    before = everything(url)
    status, said = run(cli.migrate, "--dry-run")
    assert (status, everything(url)) == (0, before)
    assert "0003 proof: " in said
    assert (
        "     locks checkpoints until the end; reads dead_letters, quarantine; writes checkpoints again; about 5"
        in said
    )
    assert "can't go on; events wait in Redis" in said
    assert "Basis: 50 ms a step, 20 MB a second" in said
    status, said = run(cli.migrate, "--dry-run", "--json")
    found = json.loads(said)
    assert (status, found["schema"], found["obstacle"]) == (0, 2, "")
    assert [step["number"] for step in found["steps"]] == [3, 4, 5]
    proof, health, estimated = found["steps"]
    assert proof["bytes"] > 0
    assert (health["earlier_workers"], estimated["earlier_workers"]) == ("fail", "run")
    assert (estimated["locks"], estimated["bytes"]) == (["usage_hourly"], 0)
    assert found["estimate_s"] == pytest.approx(sum(step["estimate_s"] for step in found["steps"]))
    assert run(cli.migrate, "--dry-run", "--check")[0] == 1
    apply(url)
    assert run(cli.migrate, "--dry-run") == (0, f"Nothing to do: the schema is current ({len(migrations()):04}).\n")
    assert json.loads(run(cli.migrate, "--dry-run", "--json", "--check")[1])["steps"] == []


def test_a_dry_run_says_what_the_migration_would_fail_for(url: str) -> None:
    """And how to mend that; a script sees it by the exit code."""
    with psycopg.connect(url, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    status, said = run(cli.migrate, "--dry-run")
    assert (status, said.splitlines()[-1]) == (
        1,
        "It would fail: it can only be read; use the primary's address in DATABASE_URL.",
    )
    status, said = run(cli.migrate)
    assert status == 1
    assert said.endswith(" in a read-only transaction; use the primary's address in DATABASE_URL\n")


def test_a_table_in_use_is_told_of_a_plan_too(url: str) -> None:
    """Another migration holds all of it; the statement that waited is nobody's business."""
    address = PostgresAddress(url, connect_s=5)
    with connect(address) as connection, psycopg.connect(url) as other:
        migrate(connection)
        connection.execute("SET lock_timeout = '50ms'")
        other.execute("LOCK TABLE ccproxy.migrations IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable) as caught:
            plan(connection)
    assert trouble_words(caught.value, address, "DATABASE_URL") == (
        "canceling statement due to lock timeout; another migration, a backup or a report holds a table; "
        "try again when that has ended"
    )


STEP = b"-- Later.\n%sALTER TABLE ccproxy.checkpoints ADD COLUMN later bigint DEFAULT 7;"


@pytest.mark.parametrize(("compatible_from", "expected"), [(4, "start"), (5, "start"), (6, "run"), (None, "run")])
def test_workers_of_the_version_before(compatible_from: int | None, expected: str) -> None:
    """They start over a step that says so of their schema."""
    sql = STEP % (b"" if compatible_from is None else b"-- compatible-from: %d\n" % compatible_from)
    assert earlier_workers(Migration(6, "later", sql), Effect(does="Adds."), schema=5) == expected


def test_the_estimate_follows_the_size_of_what_is_read_and_written() -> None:
    """1 GB at 20 MB a second; other tables, and those that are only locked, cost nothing."""
    sizes = {"dead_letters": 400_000_000, "checkpoints": 600_000_000, "events": 10**12, "usage_hourly": 10**12}
    proof, estimated = plan_steps([migrations()[2], migrations()[4]], 2, sizes)
    assert (proof.bytes, proof.estimate_s) == (1_000_000_000, 50.05)
    assert (estimated.bytes, estimated.estimate_s) == (0, 0.05)


def test_a_migration_says_what_it_did_and_how_long_it_took(url: str) -> None:
    """A line for each step, one for all."""
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        migrate(connection, upto=3)
    found = json.loads(run(cli.migrate, "--json")[1])
    assert [(step["number"], step["name"]) for step in found["steps"]] == [(4, "health"), (5, "estimated")]
    assert all(0 < step["took_s"] <= found["took_s"] for step in found["steps"])
    assert json.loads(run(cli.migrate, "--json")[1])["steps"] == []


@pytest.mark.usefixtures("url")
def test_lines_of_a_migration() -> None:
    """They go on as they began: a word, then names and values."""
    status, said = run(cli.migrate)
    *steps, last = said.splitlines()
    assert status == 0
    assert [line.partition(" took_ms=")[0] for line in steps] == [
        f"migration.applied number={step.number:04} name={step.name}" for step in migrations()
    ]
    assert all(line.endswith(f'does="{EFFECTS[number].does}"') for number, line in enumerate(steps, start=1))
    assert last.startswith(f"schema.migrated number={len(steps):04} took_ms=")


def test_a_table_in_use_is_told(url: str) -> None:
    """A backup reads them all for as long as it takes; nothing is changed, and the mend is named."""
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        migrate(connection, upto=4)
        connection.execute("SET lock_timeout = '50ms'")
        with psycopg.connect(url) as backup:
            backup.execute("SELECT count(*) FROM ccproxy.usage_closed")
            with pytest.raises(SchemaError, match=r"nothing was changed\. Run `ccproxy migrate` again"):
                migrate(connection)
        assert [step.number for step in plan(connection).steps] == [5]
        assert [applied.step.number for applied in migrate(connection)] == [5]


def test_a_step_may_take_longer_than_other_statements(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The session's limit of a statement holds for the rest."""
    apply(url)
    slow = Migration(len(migrations()) + 1, "slow", b"SELECT pg_sleep(0.05);")
    known = [*migrations(), slow]
    monkeypatch.setattr("workers.migrate.migrations", lambda: known)
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        connection.execute("SET statement_timeout = '20ms'")
        [applied] = migrate(connection)
        assert applied.took_s >= 0.05
        assert connection.execute("SHOW statement_timeout").fetchone() == ("20ms",)
