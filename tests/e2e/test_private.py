"""What `ccproxy up` leaves open to others on the machine: no file, no folder, and no key in a process without need.

It is started with umask 000, in a folder whose `.env` holds keys, with more of them in the environment.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from service.private_files import FOR_OTHERS
from service.settings import FOR_WORKERS, SECRETS, Secret, load_for_workers
from tests.support.ports import free_port
from tests.support.processes import ROOT, environment
from tests.support.waiting import PATIENCE_S, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

OPEN = ("home", "postgres", "valkey")
"""Root's servers run as another user, who must pass through these three."""
MARK = "sk-marked-"
KEYS = {name: f"{MARK}{name}-0123456789abcdef" for name in SECRETS if name not in FOR_WORKERS} | {
    "WORK_KEY": f"{MARK}WORK_KEY",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}AWS",
}


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The home of an `up` that runs, its folders of logs and events left open by somebody else."""
    folder = tmp_path_factory.mktemp("open")
    folder.chmod(0o755)
    home = folder / "home"
    environ = environment(home, KEYS | {"PROXY_PORT": str(free_port()), "CLAUDE_CODE_OAUTH_TOKEN": ""})
    (folder / ".env").write_text(f"ZAI_API_KEY={MARK}dotenv\n")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "service.cli", "up"], env=environ, cwd=folder, umask=0,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        eventually(lambda: (home / "run.json").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()
        yield home
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def open_to_others(home: Path) -> dict[str, str]:
    """Everything in a home that others could use, with its mode."""
    found = {}
    for path in (home, *home.rglob("*")):
        mode = stat.S_IMODE(path.stat().st_mode)
        allowed = 0o011 if os.geteuid() == 0 and path.name in OPEN else 0
        if mode & FOR_OTHERS & ~allowed:
            found[str(path.relative_to(home.parent))] = oct(mode)
    return found


def test_nothing_is_open_to_others(up: Path) -> None:
    """Folders 0700, files 0600: settings, logs, lock, ports, passwords, and the servers' data."""
    assert len(list(up.rglob("*"))) > 50
    assert open_to_others(up) == {}


def test_a_spool_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Also where the folder was there and open, and the process has umask 000."""
    root = tmp_path / "new" / "spool"
    root.mkdir(parents=True, mode=0o777)
    root.chmod(0o777)
    program = (
        "import os, sys; os.umask(0); from pathlib import Path; from service.fleet.spool import SpoolRecord, Spool;"
        "from service.console.auth import kept_token;"
        "from service.ledger.events import RouteEnabled;"
        "home = Path(sys.argv[1]); spool = Spool(home / 'spool' / 'r1');"
        "spool.append([SpoolRecord('control', RouteEnabled(event_id='x', at_ms=1, route='zai'))]);"
        "kept_token(home / 'deep' / 'er')"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "new")], cwd=ROOT, check=True, timeout=60)
    assert len(list(root.glob("r1/*.spool"))) == 1
    (tmp_path / "new").chmod(0o700)
    assert open_to_others(tmp_path / "new") == {}


def children(pid: int) -> dict[int, str]:
    """The processes below one, with their command lines."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                status = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                command = Path(f"/proc/{name}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if int(status[1]) == pid:
                found[int(name)] = command
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc")
def test_only_the_proxy_has_keys(up: Path) -> None:
    """Worker, Postgres and Valkey: no key of a provider, a client or an admin, whoever may read their environment."""
    below = children(json.loads((up / "run.json").read_text())["pid"])
    environs = {command: Path(f"/proc/{pid}/environ").read_text() for pid, command in below.items()}
    having = {command for command, environ in environs.items() if MARK in environ and "watchdog" not in command}
    assert [command for command in having if "service.cli serve" not in command] == []
    assert len(having) == 1
    (worker,) = (environ for command, environ in environs.items() if "service.cli worker" in command)
    assert "DATABASE_URL=" in worker
    assert {"postgres", "valkey"} <= {name for name in ("postgres", "valkey") for each in environs if name in each}


def test_a_worker_drops_what_it_was_given(up: Path, tmp_path: Path) -> None:
    """A worker started by hand, or by a container with everybody's env file."""
    run = json.loads((up / "run.json").read_text())
    given = KEYS | {"REDIS_URL": run["redis_url"], "DATABASE_URL": run["database_url"]}
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, "-P", "-m", "service.cli", "worker"], env=environment(tmp_path, given), cwd=tmp_path,
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        eventually(lambda: "worker.ready" in (tmp_path / "log").read_text() or worker.poll() is not None)
        assert worker.poll() is None
        if sys.platform == "linux":
            assert MARK not in Path(f"/proc/{worker.pid}/environ").read_text()
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(PATIENCE_S)


def test_workers_read_no_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither from the environment, nor from `.env`, nor from the TOML file; their own settings come from all three."""
    monkeypatch.chdir(tmp_path)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    for name in ("REDIS_URL", "LOG_FORMAT", "LEDGER_RETENTION_WEEKS", "CCPROXY_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CCPROXY_HOME", str(tmp_path))
    monkeypatch.setenv("LEDGER_RETENTION_WEEKS", "3")
    (tmp_path / ".env").write_text(f"ZAI_API_KEY={MARK}zai\nREDIS_URL=redis://dotenv/0\n")
    (tmp_path / "ccproxy.toml").write_text(
        f'[env]\nANTHROPIC_API_KEY = "{MARK}toml"\nLOG_FORMAT = "json"\n'
        f'[[routes]]\nid = "own"\nprovider = "anthropic"\napi_key = "{MARK}inline"\n'
    )
    found = load_for_workers()
    assert (found.redis_url, found.log_format, found.retention_weeks) == (Secret("redis://dotenv/0"), "json", 3)
    assert revealed(found) == []


def revealed(value: Any) -> list[str]:
    """Every marked secret in settings."""
    if hasattr(value, "reveal"):
        return [value.reveal()] if MARK in value.reveal() else []
    if isinstance(value, tuple | list):
        return [secret for each in value for secret in revealed(each)]
    fields = getattr(value, "__struct_fields__", ())
    return [secret for name in fields for secret in revealed(getattr(value, name))] + [value] * (
        isinstance(value, str) and MARK in value
    )
