"""The workers' address of Postgres: checked by libpq at start, and TLS by the system's certificates."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from service.embedded.folder import is_free
from service.embedded.managed_process import ManagedProcess
from service.embedded.postgres import Postgres
from service.settings import Settings, SettingsError, load
from tests.support.ports import free_port
from tests.support.servers import STOP_S, program
from tests.support.waiting import eventually
from workers import postgres_address
from workers.postgres_address import direct_postgres_of, postgres_of, redis_url_of
from workers.store import connect

MARK = "hunter2"
CONFIGURATION = """\
[databases]
ledger = host=127.0.0.1 port={port} dbname={name} user={username} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = session
ignore_startup_parameters = options, extra_float_digits, client_connection_check_interval
client_tls_sslmode = require
client_tls_key_file = {place}/server.key
client_tls_cert_file = {place}/server.crt
"""


def settings_of(home: Path, **variables: str) -> Settings:
    return load(environ={"CCPROXY_HOME": str(home), **variables}, to_serve=False)


def new_certificate(folder: Path) -> Path:
    """Make a certificate for localhost that is its own authority; the key lies beside it."""
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    files = ("-keyout", folder / "server.key", "-out", folder / "server.crt")
    subprocess.run(["openssl", "req", "-x509", *curve, *subject, *files], check=True, capture_output=True, timeout=60)  # noqa: S607
    return folder / "server.crt"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificates that the system trusts."""
    return new_certificate(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def parts(shared_postgres: Postgres, store: Path) -> Iterator[dict[str, str]]:
    """A Postgres that speaks TLS, as DB_* variables: the packaged one has none, PgBouncer speaks it for it."""
    if not shared_postgres.alive:
        shared_postgres.start()
    url, port = urlsplit(shared_postgres.url), free_port()
    place = shared_postgres.place
    owner = (shared_postgres.data / "PG_VERSION").stat()
    names = {name: str(url.port if name == "port" else getattr(url, name)) for name in ("username", "password", "port")}
    (place / "pgbouncer.ini").write_text(CONFIGURATION.format(listen=port, place=place, name=url.path[1:], **names))
    for name in ("server.key", "server.crt"):
        shutil.copy(store.parent / name, place / name)
        os.chown(place / name, owner.st_uid, owner.st_gid)
    with (place / "pgbouncer.log").open("wb") as output:
        command = [program("pgbouncer", "pgbouncer"), place / "pgbouncer.ini"]
        process = ManagedProcess(command, account=shared_postgres.account, output=output.fileno())
    try:
        eventually(lambda: not is_free("127.0.0.1", port) or process.poll() is not None)
        yield {
            "DB_HOST": "localhost",
            "DB_PORT": str(port),
            "DB_USER": "anybody",
            "DB_PASSWORD": MARK,
            "DB_NAME": "ledger",
            "DB_SSL": "true",
        }
    finally:
        process.stop(STOP_S)


@pytest.mark.parametrize("form", ["parts", "url", "keywords"])
def test_tls_is_verified_by_the_systems_certificates(
    parts: dict[str, str], store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Without SSL_CERT_FILE, and in each form of an address."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.setattr(postgres_address, "stores", lambda: iter(("/nonexistent", str(store))))
    place = f"localhost:{parts['DB_PORT']}"
    url = f"postgresql://anybody:{MARK}@{place}/ledger?sslmode=verify-full&sslrootcert=system"
    keywords = (
        f"host=localhost port={parts['DB_PORT']} user=anybody dbname=ledger sslmode=verify-full sslrootcert=system"
    )
    given = {"parts": parts, "url": {"DATABASE_URL": url}, "keywords": {"DATABASE_URL": keywords}}[form]
    with connect(postgres_of(settings_of(tmp_path, **given))) as connection:
        assert connection.pgconn.ssl_in_use
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_untrusted_certificate_is_refused(
    parts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DB_SSL means a verified server."""
    other = new_certificate(tmp_path)
    monkeypatch.setattr(postgres_address, "stores", lambda: iter((str(other),)))
    address = postgres_of(settings_of(tmp_path, **parts))
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        connect(address)


def test_this_machine_has_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The store is a file that is there; SSL_CERT_FILE comes first."""
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    found = postgres_address.system_store()
    assert found is None or Path(found).is_file()
    (tmp_path / "own.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "own.pem"))
    assert postgres_address.system_store() == str(tmp_path / "own.pem")


@pytest.mark.parametrize("variable", ["DATABASE_URL", "DATABASE_DIRECT_URL"])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"postgresql://u:{MARK}@h/d?nonsense=1", 'invalid URI query parameter: "nonsense"'),
        (f"host=h nonsense=1 password={MARK}", 'invalid connection option "nonsense"'),
    ],
)
def test_what_libpq_does_not_know_is_refused_at_start(tmp_path: Path, variable: str, text: str, words: str) -> None:
    """By its name, in one line, which repeats no password."""
    settings = settings_of(tmp_path, **{"DATABASE_URL": "postgresql://h/d", variable: text})
    address_of = postgres_of if variable == "DATABASE_URL" else direct_postgres_of
    with pytest.raises(SettingsError) as error:
        address_of(settings)
    assert str(error.value).startswith(f"{variable}: {words}")
    assert MARK not in str(error.value)


def test_without_settings_the_running_servers_are_used(tmp_path: Path) -> None:
    """Those of `ccproxy up`, from its file; without one, the error names the setting."""
    with pytest.raises(SettingsError, match="DATABASE_URL is not set"):
        postgres_of(settings_of(tmp_path))
    assert redis_url_of(settings_of(tmp_path)) is None
    (tmp_path / "run.json").write_text('{"database_url": "postgresql://h/d", "redis_url": "redis://h"}')
    assert postgres_of(settings_of(tmp_path)).url == "postgresql://h/d"
    assert redis_url_of(settings_of(tmp_path)) == "redis://h"
