"""How long a connection to Postgres may take: DB_CONNECTION_TIMEOUT_MS, wherever one is opened."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event
from urllib.parse import urlsplit

import click
import psycopg
import pytest
from click.testing import CliRunner

from service.embedded.postgres import Postgres
from workers import cli, worker_command
from workers.archive import open_archive
from workers.store import PostgresAddress, Store
from workers.worker_process import WorkerProcess, check_schema, wait_for_schema

SLACK_S = 8.0


@pytest.fixture
def black_hole() -> Iterator[str]:
    """A database URL on the loopback: connections are made, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"postgresql://u:p@127.0.0.1:{listening.getsockname()[1]}/x"


@pytest.fixture
def variables(black_hole: str, tmp_path: Path) -> dict[str, str]:
    return {"CCPROXY_HOME": str(tmp_path), "DATABASE_URL": black_hole}


@pytest.mark.parametrize(("text", "expected_s"), [("100", 2), ("2001", 3)])
def test_a_command_ends_when_postgres_does_not_answer(variables: dict[str, str], text: str, expected_s: int) -> None:
    """In whole seconds, rounded up, at least two: libpq's own unit."""
    begun_s = time.monotonic()
    result = CliRunner().invoke(cli.migrate, env=variables | {"DB_CONNECTION_TIMEOUT_MS": text})
    took_s = time.monotonic() - begun_s
    assert (result.exit_code, "timeout expired" in result.output) == (1, True), result.output
    assert expected_s - 0.1 <= took_s < expected_s + SLACK_S


COMMANDS: list[tuple[click.Command, list[str]]] = [
    (cli.migrate, []),
    (cli.verify_ledger, []),
    (cli.rebuild_ledger, []),
    (cli.dead, []),
    (cli.usage, []),
    (cli.backup, ["backup.zip"]),
]


@pytest.fixture
def asked_s(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The time-outs of the connections that are opened; each is refused."""
    asked: list[int] = []

    def refuse(_: str, *, connect_timeout: int, **__: object) -> None:
        asked.append(connect_timeout)
        raise psycopg.OperationalError("refused")

    monkeypatch.setattr(psycopg, "connect", refuse)
    return asked


@pytest.mark.parametrize(("command", "arguments"), COMMANDS, ids=[str(command.name) for command, _ in COMMANDS])
def test_each_command_heeds_the_setting(
    command: click.Command, arguments: list[str], variables: dict[str, str], asked_s: list[int]
) -> None:
    result = CliRunner().invoke(command, arguments, env=variables | {"DB_CONNECTION_TIMEOUT_MS": "7000"})
    assert (result.exit_code, asked_s) == (1, [7]), result.output


def test_each_part_of_a_worker_heeds_the_setting(
    variables: dict[str, str], asked_s: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folding, reports, retention and the wait for the schema open connections of their own."""
    made: list[WorkerProcess] = []

    def keep(process: WorkerProcess) -> None:
        made.append(process)

    environ = variables | {
        "REDIS_URL": "redis://127.0.0.1:1/0",
        "DB_CONNECTION_TIMEOUT_MS": "7000",
        "LEDGER_RETENTION_WEEKS": "1",
    }
    monkeypatch.setattr(worker_command, "keep_own_variables", lambda: None)
    monkeypatch.setattr(WorkerProcess, "run", keep)
    result = CliRunner().invoke(worker_command.worker, env=environ)
    assert result.exit_code == 0, result.output + str(result.exception)
    [process] = made
    for opening in (process.load_ledger, process.retention.drop_expired):
        with pytest.raises(psycopg.OperationalError):
            opening()
    assert process.report_service.answer("usage", {}) == {"failed": "Postgres or Redis did not answer"}
    assert asked_s == [7, 7, 7]
    stopping = Event()
    monkeypatch.setattr(stopping, "wait", lambda _: stopping.set())
    assert not wait_for_schema(process.postgres, stopping, process.database, process.schema)
    assert asked_s == [7] * 4


def test_whatever_opens_a_connection_has_its_time_out(asked_s: list[int]) -> None:
    address = PostgresAddress("postgresql://127.0.0.1/x", 9)
    for opening in (check_schema, open_archive, lambda one: Store(one).connection):
        with pytest.raises(psycopg.OperationalError):
            opening(address)
    assert asked_s == [9] * 3


@pytest.mark.parametrize(
    ("which", "arguments"), COMMANDS, ids=[f"{which.name} {' '.join(arguments)}" for which, arguments in COMMANDS]
)
@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_DIRECT_URL"])
def test_a_command_that_cant_log_in_says_what_check_says(
    postgres: Postgres, tmp_path: Path, which: click.Command, arguments: list[str], variable: str
) -> None:
    """The mend, and the variable that is meant; never the password."""
    address = postgres.url.replace(str(urlsplit(postgres.url).password), "marked-password")
    env = {"CCPROXY_HOME": str(tmp_path), "DATABASE_URL": postgres.url, variable: address}
    given = [str(tmp_path / one) for one in arguments]
    result = CliRunner().invoke(which, given, env=env)
    assert result.exit_code == 1
    assert f"; correct user and password in {variable}" in result.output
    assert "marked" not in result.output
