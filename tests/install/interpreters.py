"""The interpreters that the wheel is installed on: those of this machine, and 3.14 from Debian's testing in a folder.

Where one is not to be had, the reason is told, and nothing is skipped: the versions that ran are printed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.npm import cache_folder

VERSIONS = ("3.11", "3.12", "3.13", "3.14")
BOOTSTRAP_S = 900
TOOLS = ("debootstrap", "patchelf")


class Interpreter(NamedTuple):
    """A version, and its program; without one, why there is none."""

    version: str
    path: Path | None
    missing: str = ""


def found(version: str) -> Interpreter:
    """This machine's interpreter of a version."""
    for candidate in candidates(version):
        if says(candidate) == version:
            return Interpreter(version, candidate)
    if version == "3.14":
        return from_debian(version)
    return Interpreter(version, None, "not on this machine")


def candidates(version: str) -> list[Path]:
    """Where it may be: this one, the PATH, pyenv's folder."""
    named = shutil.which(f"python{version}")
    kept = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    return [
        Path(sys.executable),
        *([Path(named)] if named else []),
        *sorted(kept.glob(f"{version}.*/bin/python"), reverse=True),
    ]


def says(program: Path) -> str:
    """The version that a program says it is; "" if it does not run."""
    ask = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    with suppress(OSError, subprocess.SubprocessError):
        return subprocess.run([program, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    return ""


def from_debian(version: str) -> Interpreter:
    """The interpreter of Debian's testing, in a folder that is kept; its own C library is named in the program."""
    root = cache_folder() / f"debian-python{version}"
    program = root / "usr" / "bin" / f"python{version}"
    if says(program) == version:
        return Interpreter(version, program)
    lacking = [tool for tool in TOOLS if not shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin")]
    if lacking or os.geteuid() != 0:
        return Interpreter(version, None, f"it takes root and {' and '.join(TOOLS)} to get it from Debian")
    try:
        bootstrap(root, program)
    except (OSError, subprocess.SubprocessError) as error:
        return Interpreter(version, None, f"Debian's testing could not be had: {error}")
    if says(program) == version:
        return Interpreter(version, program)
    return Interpreter(version, None, "Debian's testing has another one by now")


def bootstrap(root: Path, program: Path) -> None:
    """Install Debian's testing with Python below a folder. Raises OSError or SubprocessError."""
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    environ = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}

    def run(*command: object) -> None:
        subprocess.run(
            [str(part) for part in command], env=environ, capture_output=True, check=True, timeout=BOOTSTRAP_S
        )

    run("debootstrap", "--variant=minbase", "--include=python3,python3-venv", "testing", root)
    [libraries] = root.glob("usr/lib/*-linux-gnu")
    [loader] = libraries.glob("ld-linux-*.so.*")
    run("patchelf", "--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries, program)
