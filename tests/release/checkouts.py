"""A small repository with this project's build settings, to see which version is made of it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD_FILES = ("pyproject.toml", ".git_archival.txt", ".gitattributes", "README.md", "LICENSE")
AUTHOR = ("-c", "user.name=Someone", "-c", "user.email=someone@example.invalid")


def git(folder: Path, *arguments: str) -> str:
    """What git prints."""
    answer = subprocess.run(["git", *AUTHOR, *arguments], cwd=folder, capture_output=True, text=True, check=True)  # noqa: S607
    return answer.stdout.strip()


def commit(folder: Path, text: str) -> str:
    """Commit all that is there; the commit's id."""
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", text)
    return git(folder, "rev-parse", "HEAD")


def repository(folder: Path) -> Path:
    """A repository with one commit."""
    (folder / "service").mkdir(parents=True)
    (folder / "workers").mkdir()
    (folder / "service" / "__init__.py").touch()
    (folder / "workers" / "__init__.py").touch()
    for name in BUILD_FILES:
        shutil.copy(ROOT / name, folder)
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder, "the first")
    return folder


def hatchling(folder: Path, *arguments: str) -> str:
    """What hatchling prints: a version, or where it has put what it has built."""
    command = [sys.executable, "-m", "hatchling", *arguments]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=60)
    return answer.stdout.strip()
