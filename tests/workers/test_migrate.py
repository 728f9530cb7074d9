"""The laws of the schema: each step once, forward only, by one process at a time, and by no superuser."""

from pathlib import Path
from threading import Thread

import click
import pytest
from click.testing import CliRunner

from service.cli import main
from service.embedded.postgres import Postgres
from workers import cli
from workers.migrate import SchemaError, migrate, migrations, pending
from workers.store import PostgresAddress, connect
from workers.worker_process import check_schema


@pytest.fixture
def url(empty_database: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty database, named by the settings of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path))
    monkeypatch.setenv("DATABASE_URL", empty_database.url)
    return empty_database.url


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


def apply(url: str) -> None:
    """Migrate, as a process does."""
    with connect(PostgresAddress(url, connect_s=5)) as connection:
        migrate(connection)


def run(command: click.Command, *arguments: str) -> tuple[int, str]:
    """What a command says, and how it ends."""
    result = CliRunner().invoke(command, arguments)
    return result.exit_code, result.output


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
