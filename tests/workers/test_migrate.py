"""The laws of the schema: each step once, forward only, by one process at a time, and by no superuser."""

from pathlib import Path
from threading import Thread

import pytest

from service.cli import main
from tests.workers.conftest import apply, run
from workers import cli
from workers.migrate import Migration, SchemaError, migrate, migrations, pending
from workers.store import PostgresAddress, connect
from workers.worker_process import check_schema


def test_the_schema_is_made_once_by_whoever_comes_first(url: str) -> None:
    """Two processes at once make one schema; a third finds it; a worker is content with it."""
    with pytest.raises(SchemaError, match="ccproxy migrate"):
        check_schema(PostgresAddress(url, connect_s=5))
    missing = "".join(f"migration.missing number={step.number:04d} name={step.name}\n" for step in migrations())
    assert run(cli.migrate, "--check") == (1, missing)
    processes = [Thread(target=apply, args=(url,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    check_schema(PostgresAddress(url, connect_s=5))
    assert run(cli.migrate) == (0, "schema.current\n")
    assert run(cli.migrate, "--check") == (0, "schema.current\n")
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        applied = connection.execute("SELECT number FROM ccproxy.migrations").fetchall()
        assert applied == [(migration.number,) for migration in migrations()]
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
        connection.execute("UPDATE ccproxy.migrations SET sha256 = 'edited' WHERE number = 1")
        with pytest.raises(SchemaError, match="different content"):
            pending(connection)
        connection.execute("UPDATE ccproxy.migrations SET number = number + 9999")
        with pytest.raises(SchemaError, match="newer"):
            pending(connection)


NEWEST = max(step.number for step in migrations())
ADDED = b"-- Later.\n-- compatible-from: %d\nALTER TABLE ccproxy.checkpoints ADD COLUMN later bigint DEFAULT 7;"
CHANGED = b"ALTER TABLE ccproxy.checkpoints RENAME COLUMN hash TO chain;"


def plant(monkeypatch: pytest.MonkeyPatch, url: str, *steps: bytes) -> None:
    """A later version, with these steps after today's, migrates the database; then it is today's version again."""
    later = [Migration(NEWEST + number, f"later_{number}", sql) for number, sql in enumerate(steps, start=1)]
    with monkeypatch.context() as patched:
        known = [*migrations(), *later]
        patched.setattr("workers.migrate.migrations", lambda: known)
        patched.setattr("workers.migrate.product_version", lambda: "9.8.7")
        apply(url)


@pytest.mark.parametrize("compatible_from", [NEWEST, NEWEST - 1])
def test_a_worker_starts_over_a_later_schema_that_only_adds(
    url: str, monkeypatch: pytest.MonkeyPatch, compatible_from: int
) -> None:
    """The later version says so in its step; commands go on, too, and there is nothing to migrate."""
    apply(url)
    plant(monkeypatch, url, ADDED % compatible_from)
    check_schema(PostgresAddress(url, connect_s=5))
    assert run(cli.migrate) == (0, "schema.current\n")
    assert run(cli.migrate, "--check") == (0, "schema.current\n")


@pytest.mark.parametrize(
    "steps",
    [(CHANGED,), (ADDED % NEWEST, CHANGED), (ADDED % (NEWEST + 1),), (ADDED % NEWEST, b"SELECT 1;")],
    ids=["changes", "adds, and changes then", "adds to what is newer", "says nothing"],
)
def test_a_worker_refuses_a_later_schema_that_it_may_not_write(
    url: str, monkeypatch: pytest.MonkeyPatch, steps: tuple[bytes, ...]
) -> None:
    """In one line that names the step and the mend; one such step among compatible ones is enough."""
    apply(url)
    plant(monkeypatch, url, *steps)
    name = rf"{NEWEST + len(steps):04} \(later_{len(steps)}\) is newer than this version, \S+, which"
    with pytest.raises(SchemaError, match=name):
        check_schema(PostgresAddress(url, connect_s=5))
    for arguments in ((), ("--check",), ("--dry-run",)):
        status, said = run(cli.migrate, *arguments)
        assert (status, said.count("\n")) == (1, 1)
        assert "; run 9.8.7 or a later one, or go back with a backup that was made before it: `ccproxy restore" in said


def test_a_later_schema_whose_version_nobody_noted(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Migrated by a version that did not write itself down."""
    apply(url)
    plant(monkeypatch, url, CHANGED)
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        connection.execute("UPDATE ccproxy.migrations SET version = NULL")
    assert "; run a version that has it, or go back with a backup" in run(cli.migrate)[1]


def test_a_schema_of_the_version_before_is_read(url: str) -> None:
    """Its table of steps has no column for what they are compatible with; the next migration adds it."""
    apply(url)
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        connection.execute("ALTER TABLE ccproxy.migrations DROP COLUMN compatible_from")
        assert pending(connection) == []
        connection.execute("DELETE FROM ccproxy.migrations WHERE number = %s", (NEWEST,))
        connection.execute("ALTER TABLE ccproxy.usage_hourly DROP COLUMN estimated, DROP COLUMN estimated_tokens")
        connection.execute("ALTER TABLE ccproxy.usage_closed DROP COLUMN estimated, DROP COLUMN estimated_tokens")
        assert [applied.step.number for applied in migrate(connection)] == [NEWEST]


def test_steps_are_numbered_without_a_gap() -> None:
    """No number is left out or used twice."""
    assert [migration.number for migration in migrations()] == list(range(1, len(migrations()) + 1))


@pytest.mark.parametrize(("command", "variable"), [("worker", "REDIS_URL"), ("migrate", "DATABASE_URL")])
def test_a_missing_setting_is_named(
    command: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command without its servers says which variable names them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path))
    for name in ("REDIS_URL", "DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)
    status, output = run(main, command)
    assert status == 1
    assert output.startswith(f"Error: {variable} is not set")
