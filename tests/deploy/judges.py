"""The programs that judge the files of this room: those of the development packages, and Debian's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"


def packaged(name: str) -> Path:
    """A program that comes inside a wheel; a test without it is skipped, because not every machine has such a wheel."""
    found = Path(sys.executable).parent / name
    if not found.exists():
        pytest.skip(f"{name} is not installed: its wheel is for 64-bit Linux")
    return found


def judged(judge: Path, *arguments: str | Path) -> str:
    """What a program says; it has to be content."""
    done = subprocess.run([judge, *arguments], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
