"""A wheel of this version or of an earlier one, and homes in which it is installed as users do it.

With the packages that the machine has already seen. Not here: what an installed program is asked for.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from service.embedded.managed_process import ManagedProcess
from service.version import DISTRIBUTION
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ROOT = Path(__file__).parents[2]
WHEEL_VERSION = "987.6.5"
INSTALL_S = 300
START_S = 120.0
STOP_S = 30.0
REGISTRIES = ("PIP_", "UV_", "SSL_", "XDG_CACHE")
"""How this machine reaches its package registry, and what it has already."""


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a source tree, as a release that no registry has, unless the tree says which it is."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    environ = os.environ | {"SETUPTOOLS_SCM_PRETEND_VERSION": WHEEL_VERSION}
    subprocess.run(command, cwd=source, env=environ, check=True, capture_output=True, timeout=INSTALL_S)
    [built] = folder.iterdir()
    return built


class Home:
    """A home folder with nothing in it, and what is installed there."""

    def __init__(self, folder: Path, wheel: Path, python: Path) -> None:
        (folder / "tmp").mkdir(parents=True)
        self.folder = folder
        self.wheel = wheel
        self.python = str(python)
        kept = {name: value for name, value in os.environ.items() if name.startswith(REGISTRIES)}
        self.environ = kept | {
            "HOME": str(folder),
            "PATH": f"{folder / '.local' / 'bin'}:/usr/bin:/bin",
            "UV_CACHE_DIR": output([tool("uv"), "cache", "dir"]),
            "UV_PYTHON_DOWNLOADS": "never",
            "UV_SYSTEM_CERTS": "true",
            "CCPROXY_HOME": str(folder / "state"),
            "TMPDIR": str(folder / "tmp"),
        }

    def run(self, *command: str, **variables: str) -> str:
        """What a command prints, run to its end."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environ | variables,
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_S,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    @property
    def uvx(self) -> tuple[str, ...]:
        """The start of `uvx claude-failover`, which finds the wheel instead of what a registry has."""
        return (tool("uvx"), "--python", self.python, "--find-links", str(self.wheel.parent), DISTRIBUTION)

    def uv_tool_install(self) -> None:
        """As `uv tool install` does it."""
        self.run(tool("uv"), "tool", "install", "--quiet", "--python", self.python, str(self.wheel))

    def pipx_install(self, backend: str) -> None:
        """As `pipx install` does it; the links go where it puts them by itself."""
        self.environ |= {"PIPX_DEFAULT_BACKEND": backend, "USE_EMOJI": "0"}
        self.run(tool("pipx"), "install", "--quiet", "--python", self.python, str(self.wheel))

    @contextmanager
    def started(
        self, command: Sequence[str], variables: dict[str, str], is_ready: Callable[[], bool]
    ) -> Iterator[None]:
        """A program that runs, from when it is ready; asked to end at the end."""
        log = self.folder / "program.log"
        with log.open("wb") as sink:
            program = ManagedProcess(
                ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", str(self.folder), *command],
                environ=self.environ | variables,
                output=sink.fileno(),
            )
        try:
            eventually(lambda: program.poll() is not None or is_ready(), START_S)
            assert program.poll() is None, log.read_text(encoding="utf-8")
            yield
        finally:
            program.stop(STOP_S)


def tool(name: str) -> str:
    """A tool of this environment: uv, uvx, pipx."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is not installed; `make test-install` does it"
    return found


def output(command: Sequence[str]) -> str:
    """What a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_S).stdout.strip()
