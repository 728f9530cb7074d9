"""Installs clients from npm, each release once for all checkouts of a machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

INSTALL_TIMEOUT_S = 600


def cache_folder() -> Path:
    """Where releases are kept between runs."""
    default = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return Path(os.environ.get("XDG_CACHE_HOME") or default) / "claude-code-proxy"


def name_for(requirements: Iterable[str]) -> str:
    """The name of a folder for packages in these versions together."""
    return hashlib.sha256("\n".join(sorted(requirements)).encode()).hexdigest()[:16]


def installed(name: str, package: str, version: str) -> Path:
    """The folder of modules with this release, installed when it is not there. RuntimeError names what is missing."""
    return _modules(cache_folder() / name / version, (f"{package}@{version}",))


def installed_together(requirements: Iterable[str]) -> Path:
    """The same for several packages, as `name@version`."""
    wanted = sorted(requirements)
    return _modules(cache_folder() / "npm" / name_for(wanted), wanted)


def _modules(folder: Path, requirements: Iterable[str]) -> Path:
    modules = folder / "node_modules"
    if modules.exists():
        return modules
    npm = shutil.which("npm")
    if npm is None:
        raise RuntimeError("npm is not on the PATH; install Node.js to run these tests")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        options = ["--no-save", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", fresh]
        command = [npm, "install", *options, *requirements]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"npm could not install {' '.join(requirements)}:\n{done.stderr[-2000:]}")
        _move_into_place(Path(fresh), modules)
    return modules


def _move_into_place(fresh: Path, modules: Path) -> None:
    """Put a whole installation there, never half of one; another run that was faster wins."""
    modules.parent.mkdir(exist_ok=True)
    try:
        (fresh / "node_modules").rename(modules)
    except OSError:
        if not modules.exists():
            raise
