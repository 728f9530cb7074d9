"""Installs the wheel as users do, each in a home of its own, with the packages that the machine has already seen."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from service.embedded.managed_process import ManagedProcess
from service.version import DISTRIBUTION
from tests.support.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.install.interpreters import Interpreter

ROOT = Path(__file__).parents[2]
WHEEL_VERSION = "987.6.5"
INSTALL_S = 300
START_S = 120.0
STOP_S = 30.0
MESSAGE = json.dumps(
    {"model": "claude-sonnet-4-6", "max_tokens": 16, "messages": [{"role": "user", "content": "hello"}]}
).encode()
REGISTRIES = ("PIP_", "UV_", "SSL_", "XDG_CACHE")
"""How this machine reaches its package registry, and what it has already."""


class Home:
    """A home folder with nothing in it, and what is installed there."""

    def __init__(self, folder: Path, wheel: Path, interpreter: Interpreter) -> None:
        (folder / "tmp").mkdir(parents=True)
        self.folder = folder
        self.wheel = wheel
        self.python = str(interpreter.path)
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


def answers(port: int) -> bool:
    """Whether it answers the first request, with what the provider has sent."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_S)
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    try:
        connection.request("POST", "/v1/messages", MESSAGE, headers)
        answer = connection.getresponse()
        return answer.status == 200 and b'"usage"' in answer.read()
    except (OSError, HTTPException):
        return False
    finally:
        connection.close()


def health(port: int) -> dict[str, object]:
    """What the proxy says about itself."""
    connection = HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        connection.request("GET", "/health")
        told: dict[str, object] = json.loads(connection.getresponse().read())
        return told
    finally:
        connection.close()


def tool(name: str) -> str:
    """A tool of this environment: uv, uvx, pipx."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert found, f"{name} is not installed; `make test-install` does it"
    return found


def output(command: Sequence[str]) -> str:
    """What a program prints."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=INSTALL_S).stdout.strip()
