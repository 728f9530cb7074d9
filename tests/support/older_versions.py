"""Versions that run side by side: this one and an earlier one, each as a checkout, or installed from its wheel."""

import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.support.processes import OWN_PROGRAM, ROOT
from tests.support.wheels import Home, build_wheel

BEFORE_LINES = "40dcfc5d4ab9c74546b1e39127c5b13ef981667c"
"""The last commit whose events have no lines and whose ledger knows no running totals."""


class Version(NamedTuple):
    """How `ccproxy` of a version is run."""

    program: Sequence[str]
    variables: Mapping[str, str]


THIS_CHECKOUT = Version(OWN_PROGRAM, {})


def git(*arguments: str) -> bytes | None:
    """What git prints about this checkout; None if it fails."""
    done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, check=False)  # noqa: S607
    return None if done.returncode else done.stdout


def last_release() -> str:
    """The tag of the last release before this commit; the commit above as long as there is none."""
    tag = git("describe", "--tags", "--abbrev=0", "--match=v[0-9]*", "HEAD^") or b""
    return tag.decode().strip() or BEFORE_LINES


def tree_of(commit: str, folder: Path) -> Path | None:
    """The files of a commit, below a folder; None where the history does not reach back so far (a shallow clone)."""
    archive = git("archive", commit)
    if archive is None:
        return None
    folder.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)  # noqa: S607
    return folder


def checkout_of(commit: str, folder: Path) -> Version | None:
    """A commit, on the packages of this checkout; None where the history does not reach back so far."""
    tree = tree_of(commit, folder)
    if tree is None:
        return None
    # It looks up its version under the name that the distribution had then, and its commands where they were then.
    known = tree / "claude_code_proxy-0.1.0.dist-info"
    known.mkdir()
    (known / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: claude-code-proxy\nVersion: 0.1.0\n", encoding="utf-8"
    )
    (known / "entry_points.txt").write_text(entry_points_of(tree), encoding="utf-8")
    return Version(OWN_PROGRAM, {"PYTHONPATH": str(tree)})


def entry_points_of(tree: Path) -> str:
    """Return a checkout's entry points as an installation has them."""
    groups: dict[str, dict[str, str]] = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "entry-points"
    ]
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in points.items())
        for group, points in groups.items()
    ]
    return "\n".join(lines)


def installed(source: Path, folder: Path) -> Version:
    """The wheel of these files, installed as users do it, with the packages that it asks for itself."""
    home = Home(folder, build_wheel(source, folder / "dist"), Path(sys.executable))
    home.uv_tool_install()
    return Version((str(folder / ".local" / "bin" / "ccproxy"),), {"PYTHONPATH": ""})
