"""The version: from the tag, with the commit between tags, however the files have come here."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tomllib
from importlib import metadata
from typing import TYPE_CHECKING

from click.testing import CliRunner

from service import version as versions
from service.cli import main
from service.version import DISTRIBUTION, UNKNOWN, commit_of, product_version, version_at
from tests.release.checkouts import ROOT, commit, git, hatchling, repository

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FALLBACK = PROJECT["tool"]["hatch"]["version"]["fallback-version"]


def archived(folder: Path, target: Path) -> Path:
    """The files of the last commit, as `git archive` hands them out."""
    target.mkdir()
    made = subprocess.run(["git", "archive", "HEAD"], cwd=folder, capture_output=True, check=True)  # noqa: S607
    subprocess.run(["tar", "-x"], cwd=target, input=made.stdout, check=True)  # noqa: S607
    return target


def test_a_tag_is_the_version_and_behind_it_the_commit_is_named(tmp_path: Path) -> None:
    """In a clone, in an archive of git's, in a source archive; a tag of something else changes nothing."""
    folder = repository(tmp_path / "clone")
    git(folder, "tag", "v1.2.3")
    git(folder, "tag", "nightly")
    assert hatchling(folder, "version") == "1.2.3"
    assert hatchling(archived(folder, tmp_path / "tagged"), "version") == "1.2.3"
    later = commit(folder, "the next")
    between = hatchling(folder, "version")
    assert re.fullmatch(r"1\.2\.3\+g[0-9a-f]{7,}", between)
    assert later.startswith(between.partition("+g")[2])
    archive = hatchling(archived(folder, tmp_path / "later"), "version")
    assert later.startswith(archive.removeprefix("1.2.3+g"))
    hatchling(folder, "build", "-t", "sdist", "-d", str(tmp_path / "dist"))
    [source] = (tmp_path / "dist").iterdir()
    with tarfile.open(source) as opened:
        opened.extractall(tmp_path / "source", filter="data")
    [unpacked] = (tmp_path / "source").iterdir()
    assert hatchling(unpacked, "version") == between


def test_where_no_tag_is_to_be_had_the_build_works(tmp_path: Path) -> None:
    """In a new repository, a shallow clone without tags, an archive of either, and in bare files."""
    folder = repository(tmp_path / "clone")
    first = git(folder, "rev-parse", "HEAD")
    assert first.startswith(hatchling(folder, "version").removeprefix(f"{FALLBACK}+g"))
    assert hatchling(archived(folder, tmp_path / "archive"), "version") == FALLBACK
    git(folder, "tag", "v1.2.3")
    later = commit(folder, "the next")
    git(tmp_path, "clone", "--quiet", "--depth=1", "--no-local", f"file://{folder}", "shallow")
    assert later.startswith(hatchling(tmp_path / "shallow", "version").removeprefix(f"{FALLBACK}+g"))
    bare = archived(folder, tmp_path / "bare")
    (bare / ".git_archival.txt").unlink()
    assert hatchling(bare, "version") == FALLBACK


def test_a_checkout_names_its_commit_whatever_was_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was installed stands before it; neither that nothing is installed nor that git is missing is an error."""
    folder = repository(tmp_path / "clone")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    head = commit_of(folder)
    monkeypatch.delenv("GIT_DIR")
    assert head == git(folder, "rev-parse", "--short=9", "HEAD")
    installed = metadata.version(DISTRIBUTION)
    assert version_at(folder) == f"{installed.partition('+')[0]}+g{head}"
    assert version_at(tmp_path) == installed
    monkeypatch.setattr(versions, "DISTRIBUTION", "no-such-distribution-is-installed")
    assert version_at(tmp_path) == UNKNOWN
    assert version_at(folder) == f"{UNKNOWN}+g{head}"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert commit_of(folder) is None


def test_a_damaged_checkout_is_none(tmp_path: Path) -> None:
    """The link of a work tree whose repository is gone."""
    (tmp_path / ".git").write_text("gitdir: /nowhere\n", encoding="utf-8")
    assert commit_of(tmp_path) is None


def test_the_command_says_it() -> None:
    """As do health, heartbeats and metrics, which have tests of their own."""
    said = CliRunner().invoke(main, ["--version"]).output
    assert said.strip().endswith(f" {product_version()}")


def test_the_fallback_is_the_newest_version_of_the_changelog() -> None:
    """A shallow clone has nothing else to go by."""
    found = re.findall(r"^## \[([0-9]+\.[0-9]+\.[0-9]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert found[0] == FALLBACK
