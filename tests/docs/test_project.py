"""The project's files are of use to everybody: locks are complete, and no file names a machine or a registry."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib

import pytest

from service.version import DISTRIBUTION
from tests.docs.pages import ROOT

LOCKS = ("requirements.lock", "requirements-dev.lock")

# Spelled in parts, so that this file does not find itself.
MACHINE_PATHS = re.compile("|".join(("/" + "root/", "/" + "work/", "/" + "home/[a-z]", "/" + "Users/[A-Za-z]")))
REGISTRIES = re.compile(
    "|".join(("pypi" + r"\.org", "python" + "hosted", "npm" + r"js\.", "--(extra-)?index" + "-url"))
)


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_have_a_hash_for_every_package_and_no_address(lock: str) -> None:
    """A lock installs the same bytes from whatever registry the machine is set to."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert "://" not in text
    packages = re.split(r"\n(?=[a-z])", text.strip())
    assert [package.split()[0] for package in packages if "--hash=sha256:" not in package] == []


def test_the_development_lock_has_all_that_runs() -> None:
    """In the same versions: what is tested is what is installed."""
    run, develop = (
        set(re.findall(r"^[a-z0-9-]+==\S+", (ROOT / lock).read_text(encoding="utf-8"), re.MULTILINE)) for lock in LOCKS
    )
    assert run < develop


@pytest.mark.parametrize(("what", "pattern"), [("machine", MACHINE_PATHS), ("registry", REGISTRIES)])
def test_no_file_knows_a_machine_or_a_registry(what: str, pattern: re.Pattern[str]) -> None:
    """A path of one developer's machine, or a registry's address, is of no use to anybody else."""
    found = [
        f"{name}: {line.strip()}"
        for name in project_files()
        for line in (ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines()
        if pattern.search(line)
    ]
    assert found == [], what


def test_nothing_names_another_project_as_the_package_to_install() -> None:
    """`claude-code-proxy` and `ccproxy` are other people's packages: whoever installs those gets their code."""
    installs = r"(?:\b(?:pip3?|pipx|uv|brew)(?: tool| pip)? (?:install|run|add)|\buvx|--from)(?:\s+-\S+)*[\s=]+['\"]?"
    taken = re.compile(installs + r"(?:claude-code-proxy|ccproxy)(?![\w/.-])")
    for line in ("pip install -U 'ccproxy[otlp]'", "uvx --from=claude-code-proxy==1.0 x", "uvx ccproxy demo"):
        assert taken.search(line)
    found = [
        f"{name}: {line.strip()}"
        for name in project_files()
        if not name.startswith("tests/docs/test_project")
        for line in (ROOT / name).read_text(encoding="utf-8", errors="replace").splitlines()
        if taken.search(line)
    ]
    assert found == []
    metadata = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["name"] == DISTRIBUTION
    assert metadata["scripts"][DISTRIBUTION] == metadata["scripts"]["ccproxy"]


def project_files() -> list[str]:
    """The files of the project: those that git tracks, or, where there is no git, those of its folders."""
    git = shutil.which("git")
    if git and (ROOT / ".git").exists():
        answer = subprocess.run([git, "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            return [name for name in answer.stdout.splitlines() if (ROOT / name).is_file()]
    folders = ("service", "workers", "tests", ".ci")
    paths = [*ROOT.glob("*.*"), *(path for folder in folders for path in (ROOT / folder).rglob("*.*"))]
    return [str(path.relative_to(ROOT)) for path in paths if path.is_file() and path.suffix != ".pyc"]
