"""`make release`: what it refuses, that two builds are equal, and what lies in `dist/` afterwards."""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest
import tree_sitter_ruby
import yaml
from tree_sitter import Language, Parser

from service.version import DISTRIBUTION
from tests.release import release as releases
from tests.release.checkouts import ROOT, commit, git, repository
from tests.release.release import (
    IMAGE,
    UPGRADING,
    ReleaseError,
    Repository,
    check,
    notes_of,
    release,
    tag,
    upgrade_notes_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

VERSION = "1.2.3"
ADDRESS = "https://files.example.invalid/v1.2.3"
CHANGELOG = (
    f"# Changelog\n\n## [{VERSION}] - 2026-01-02\n\n### Added\n\n- Something.\n\n## [1.2.2] - 2026-01-01\n\n- Else.\n"
)
NOTES = f"# Upgrading\n\n## Notes for each version\n\n### {VERSION}\n\n- Restart.\n\n### 1.2.2\n\n## Else\n"


@pytest.fixture
def ready(tmp_path: Path) -> Repository:
    """A repository from which the release can be made."""
    root = repository(tmp_path / "checkout")
    for name in ("deploy", "docs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "images"))
    for name in ("docker-compose.yml", ".env.docker.example", "requirements.lock", ".gitignore"):
        shutil.copy(ROOT / name, root)
    (root / "CHANGELOG.md").write_text(CHANGELOG, encoding="utf-8")
    (root / UPGRADING).write_text(NOTES, encoding="utf-8")
    settings = root / "pyproject.toml"
    text = re.sub('fallback-version = ".*"', f'fallback-version = "{VERSION}"', settings.read_text(encoding="utf-8"))
    settings.write_text(text, encoding="utf-8")
    commit(root, "the release")
    return Repository(root)


@pytest.fixture(autouse=True)
def no_docker(monkeypatch: pytest.MonkeyPatch) -> None:
    """The image is not what these tests are about."""
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "docker" else found(name))


def spoil_version(_ready: Repository) -> str:
    return "1.2"


def spoil_section(ready: Repository) -> str:
    rewrite(ready, f"[{VERSION}]", "[Unreleased]")
    return VERSION


def spoil_date(ready: Repository) -> str:
    rewrite(ready, "2026-01-02", "unreleased")
    return VERSION


def spoil_fallback(ready: Repository) -> str:
    rewrite(ready, "1.2.2", "1.2.4")
    rewrite(ready, "2026-01-01", "2026-01-03")
    return "1.2.4"


def spoil_upgrade_notes(ready: Repository) -> str:
    (ready.root / UPGRADING).write_text(NOTES.replace(VERSION, "Unreleased"), encoding="utf-8")
    commit(ready.root, "changed")
    return VERSION


def spoil_tree(ready: Repository) -> str:
    (ready.root / "service" / "forgotten.py").touch()
    return VERSION


def spoil_tag(ready: Repository) -> str:
    tag(ready, VERSION)
    commit(ready.root, "later")
    return VERSION


def rewrite(ready: Repository, before: str, after: str) -> None:
    """Change the changelog."""
    path = ready.root / "CHANGELOG.md"
    path.write_text(path.read_text(encoding="utf-8").replace(before, after), encoding="utf-8")
    commit(ready.root, "changed")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (spoil_version, "make release VERSION=1.2.3"),
        (spoil_section, r"no section `## \[1.2.3\]"),
        (spoil_date, "has no date"),
        (spoil_fallback, "set it to 1.2.4"),
        (spoil_upgrade_notes, f"docs/upgrading.md has no notes for {VERSION}"),
        (spoil_tree, "forgotten.py"),
        (spoil_tag, "stands on another commit"),
    ],
)
def test_a_release_that_does_not_fit_is_refused(
    spoil: Callable[[Repository], str], words: str, ready: Repository, tmp_path: Path
) -> None:
    """With the mend, before anything is built or tagged."""
    version = spoil(ready)
    before = git(ready.root, "tag")
    with pytest.raises(ReleaseError, match=words):
        release(ready, version, "", tmp_path / "dist")
    assert git(ready.root, "tag") == before
    assert not (tmp_path / "dist").exists()


def test_everything_of_a_release_has_its_version(ready: Repository, tmp_path: Path) -> None:
    """Built twice, in two places, with equal bytes; what can't be made here is said, and the rest is made."""
    dist = tmp_path / "dist"
    told = release(ready, VERSION, ADDRESS, dist)
    assert git(ready.root, "describe", "--tags") == f"v{VERSION}"
    assert "image: left out, as there is no Docker engine with buildx here" in told
    names = {path.name for path in dist.iterdir()}
    wheel, source = f"claude_failover-{VERSION}-py3-none-any.whl", f"claude_failover-{VERSION}.tar.gz"
    chart, compose = f"{IMAGE}-{VERSION}.tgz", f"{DISTRIBUTION}-{VERSION}-compose.tar.gz"
    assert names == {wheel, source, chart, compose, f"{DISTRIBUTION}.rb", "NOTES.md", "SHA256SUMS"}
    lines = [line.split() for line in (dist / "SHA256SUMS").read_text(encoding="utf-8").splitlines()]
    sums = {name: digest for digest, name in lines}
    assert sums.keys() == names - {"NOTES.md", "SHA256SUMS"}
    assert all(hashlib.sha256((dist / name).read_bytes()).hexdigest() == digest for name, digest in sums.items())
    assert (dist / "NOTES.md").read_text(encoding="utf-8") == "### Added\n\n- Something.\n"
    with zipfile.ZipFile(dist / wheel) as opened:
        metadata = opened.read(f"claude_failover-{VERSION}.dist-info/METADATA").decode()
        points = opened.read(f"claude_failover-{VERSION}.dist-info/entry_points.txt").decode()
    assert f"\nName: {DISTRIBUTION}\nVersion: {VERSION}\n" in metadata
    assert "claude-failover = service.cli:main" in points
    about = yaml.safe_load(member(dist / chart, f"{IMAGE}/Chart.yaml"))
    assert (about["version"], about["appVersion"]) == (VERSION, VERSION)
    assert member(dist / source, f"claude_failover-{VERSION}/requirements.lock")
    services = yaml.safe_load(member(dist / compose, f"{DISTRIBUTION}-{VERSION}-compose/docker-compose.yml"))[
        "services"
    ]
    images = [service["image"] for service in services.values() if IMAGE in service["image"]]
    assert images
    assert all(image == f"${{CCPROXY_IMAGE:-{IMAGE}:{VERSION}}}" for image in images)
    assert not [name for name, service in services.items() if "build" in service]
    again = tmp_path / "again"
    release(ready, VERSION, ADDRESS, again)
    assert {path.name: path.read_bytes() for path in again.iterdir()} == {
        path.name: path.read_bytes() for path in dist.iterdir()
    }


def member(archive: Path, name: str) -> bytes:
    """A file of an archive."""
    with tarfile.open(archive) as opened:
        file = opened.extractfile(name)
        assert file
        return file.read()


def test_the_formula_is_ruby_and_names_what_was_built(tmp_path: Path) -> None:
    """It is written only where the address is known, which is in no file of the project."""
    wheel, source = tmp_path / "one.whl", tmp_path / "one.tar.gz"
    wheel.write_bytes(b"wheel")
    source.write_bytes(b"source")
    assert "URL=" in str(releases.write_formula(wheel, source, "", tmp_path))
    text = (releases.write_formula(wheel, source, ADDRESS + "/", tmp_path)).read_text(encoding="utf-8")  # type: ignore[union-attr]
    assert not Parser(Language(tree_sitter_ruby.language())).parse(text.encode()).root_node.has_error
    assert f'url "{ADDRESS}/one.tar.gz"' in text
    assert all(hashlib.sha256(file.read_bytes()).hexdigest() in text for file in (wheel, source))
    assert "example.invalid" not in releases.FORMULA


def test_builds_that_differ_are_no_release(ready: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tag goes again."""
    built = releases.hatchling

    def with_the_place(repository: Repository, dist: Path) -> list[Path]:
        found = built(repository, dist)
        found[0].write_bytes(found[0].read_bytes() + str(repository.root).encode())
        return found

    monkeypatch.setattr(releases, "hatchling", with_the_place)
    with pytest.raises(ReleaseError, match=rf"not the same bytes: claude_failover-{VERSION}-py3-none-any.whl"):
        release(ready, VERSION, "", tmp_path / "dist")
    assert git(ready.root, "tag") == ""


def test_a_tag_on_the_commit_is_no_obstacle(ready: Repository) -> None:
    """As in CI, which runs on a tag."""
    assert tag(ready, VERSION)
    assert not tag(ready, VERSION)
    check(ready, VERSION)


def test_each_version_has_upgrade_notes() -> None:
    """Those of the changelog, the one that comes next among them; or it is said that none are needed."""
    versions = re.findall(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions
    page = (ROOT / UPGRADING).read_text(encoding="utf-8")
    assert all(upgrade_notes_of(page, version) for version in versions)
    assert upgrade_notes_of(NOTES, VERSION) == "- Restart.\n"
    for version in ("1.2.2", "1.2", "9.9.9"):
        with pytest.raises(ReleaseError, match=f"no notes for {version}; write them"):
            upgrade_notes_of(NOTES, version)


def test_notes_end_where_the_next_version_begins() -> None:
    assert notes_of(CHANGELOG, "1.2.2") == "- Else.\n"
    with pytest.raises(ReleaseError, match="is empty"):
        notes_of(f"## [{VERSION}] - 2026-01-02\n\n## [1.2.2] - 2026-01-01\n- Else.\n", VERSION)
