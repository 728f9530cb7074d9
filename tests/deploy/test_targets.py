"""The Makefile's targets for containers: which Compose they call, and with what."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.deploy.judges import ROOT
from tests.support.servers import program

if TYPE_CHECKING:
    from pathlib import Path

TOOLS = ("docker", "podman", "docker-compose", "podman-compose")


def planned(folder: Path, tools: dict[str, str], *arguments: str) -> str:
    """What make would run on a machine with these tools, each a script; the machine's own ones are hidden."""
    for name, body in (dict.fromkeys(TOOLS, "exit 1") | tools).items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        (folder / name).chmod(0o755)
    shutil.copy(ROOT / "Makefile", folder)
    environ = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    make = str(program("make", "make"))
    done = subprocess.run(
        [make, "--dry-run", "UV=", *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ({"docker": "exit 0", "podman": "exit 0"}, "docker compose"),
        ({"docker": '[ "$1" != compose ]', "podman": "exit 0"}, "podman compose"),
        ({"docker": '[ "$1" != compose ]', "docker-compose": "exit 0"}, "docker-compose"),
        ({"podman-compose": "exit 0"}, "podman-compose"),
        ({}, "docker compose"),
    ],
    ids=["docker", "docker without compose, and podman", "the old program", "podman's program", "none"],
)
def test_the_compose_that_is_there_is_called(tools: dict[str, str], expected: str, tmp_path: Path) -> None:
    """Docker's first; where there is none, Docker's error says what is missing."""
    assert planned(tmp_path, tools, "docker-stop").split()[: len(expected.split()) + 1] == [*expected.split(), "down"]


def test_what_the_user_has_set_is_told_to_compose(tmp_path: Path) -> None:
    """By --env-file, without which Compose would not read it; where there is none, the set-up makes it."""
    assert "deploy/setup-docker.sh" in planned(tmp_path, {"docker": "exit 0"}, "docker-run")
    (tmp_path / ".env.docker").write_text("", encoding="utf-8")
    said = planned(tmp_path, {"docker": "exit 0"}, "docker-run")
    assert "docker compose --env-file .env.docker up --detach" in said
    assert "setup-docker" not in said


def test_data_is_removed_only_by_who_is_sure(tmp_path: Path) -> None:
    """The volumes hold the ledger."""
    assert "--volumes" not in planned(tmp_path, {"docker": "exit 0"}, "docker-clean")
    assert "--volumes" in planned(tmp_path, {"docker": "exit 0"}, "docker-clean", "SURE=yes")
