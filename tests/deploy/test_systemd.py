"""The units of a fleet on machines of one's own, as systemd and the product read them. Not here: `ccproxy service`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from dotenv import dotenv_values

from service.cli import main
from service.settings import FOR_WORKERS, SECRETS, load
from tests.deploy.judges import DEPLOY, ROOT
from tests.support.servers import program
from workers.worker_command import NICENESS

if TYPE_CHECKING:
    from pathlib import Path

FOLDER = DEPLOY / "systemd"
UNITS = ("ccproxy-proxy@4181.service", "ccproxy-worker@1.service", "ccproxy-migrate.service")
COMMAND = "/opt/ccproxy/bin/ccproxy"
SCORE = re.compile(r"Overall exposure level for \S+: ([\d.]+)")


def source(unit: str) -> str:
    """The file of a unit."""
    return (FOLDER / re.sub(r"@\w+", "@", unit)).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All units in one folder, with a program that this machine has."""
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS:
        (folder / unit).write_text(source(unit).replace(COMMAND, sys.executable), encoding="utf-8")
    return folder


def analyzed(*arguments: str | Path, folder: Path) -> str:
    """What `systemd-analyze` says; it has to be content."""
    environ = os.environ | {"SYSTEMD_UNIT_PATH": f"{folder}:"}
    command = [program("systemd-analyze", "systemd"), "--no-pager", *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_reads_the_unit_without_a_complaint(installed: Path, unit: str) -> None:
    assert analyzed("verify", "--man=no", installed / unit, folder=installed) == ""


@pytest.mark.parametrize("unit", UNITS)
def test_the_score_is_the_one_in_the_docs(installed: Path, unit: str) -> None:
    """What `systemd-analyze security` gives (less is better); another version may rate a little otherwise."""
    found = SCORE.search(analyzed("security", "--offline=true", installed / unit, folder=installed))
    name = re.escape(re.sub("@.*", "@", unit).removesuffix(".service"))
    told = re.search(rf"^\| `{name}` .*\| ([\d.]+) \|$", page(), re.MULTILINE)
    assert found
    assert told
    assert float(found.group(1)) == pytest.approx(float(told.group(1)), abs=0.5)


def page() -> str:
    """The page that tells about them."""
    return (ROOT / "docs" / "service.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_runs_a_command_and_stops_as_long_as_it_takes(unit: str) -> None:
    """One command each, which there is; a proxy is given the time of a graceful shutdown with every default."""
    text = source(unit)
    [command] = re.findall(rf"^ExecStart={COMMAND} (\w+)$", text, re.MULTILINE)
    assert command in main.commands or command in ("worker", "migrate")
    if command == "serve":
        drain = load(environ={"PROXY_HOST": "0.0.0.0", "PROXY_API_KEYS": "ledger"}).drain  # noqa: S104 - not bound
        [stop_s] = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)
        assert int(stop_s) > drain.longest_s


def test_the_unit_gives_a_worker_its_priority() -> None:
    """The sandbox denies the worker's own call."""
    assert f"\nNice={NICENESS}\n" in source("ccproxy-worker@1.service")


def test_a_worker_is_given_no_secret_that_is_not_its_own() -> None:
    """Only proxies read the file with the providers' keys; what both read has nothing else than workers may have."""
    shared, own = (dotenv_values(FOLDER / f"{name}.env") for name in ("fleet", "proxy"))
    assert set(shared) <= set(FOR_WORKERS)
    assert set(own) & set(SECRETS)
    for unit in UNITS:
        assert ("EnvironmentFile=/etc/ccproxy/proxy.env" in source(unit)) == ("proxy@" in unit)
        assert "EnvironmentFile=/etc/ccproxy/fleet.env" in source(unit)
    settings = load(environ={name: value or "" for name, value in {**shared, **own}.items()})
    assert settings.ledger_keys
    assert settings.notices == ()


def test_an_operators_shell_reads_what_systemd_reads(tmp_path: Path) -> None:
    """By the line of docs/service.md, also an address with `&` and `$` in it."""
    [line] = re.findall(r"`(set -a; \. /etc/ccproxy/fleet\.env; set \+a;) ", page())
    text = (FOLDER / "fleet.env").read_text(encoding="utf-8")
    filled = text.replace("PASSWORD", "a$b").replace("5432/ccproxy", "5432/ccproxy?sslmode=verify-full&sslrootcert=/ca")
    assert filled != text
    (tmp_path / "fleet.env").write_text(filled, encoding="utf-8")
    script = line.replace("/etc/ccproxy/", f"{tmp_path}/") + ' printf "%s\\n" "$REDIS_URL" "$DATABASE_URL"'
    done = subprocess.run(["/bin/sh", "-euc", script], capture_output=True, text=True, check=True, env={}, timeout=10)
    assert done.stdout.splitlines() == [
        "redis://:a$b@127.0.0.1:6379/0",
        "postgresql://ccproxy:a$b@127.0.0.1:5432/ccproxy?sslmode=verify-full&sslrootcert=/ca",
    ]
