"""The servers that a team runs in production, as Debian packages them: Redis 7 and HAProxy. Neither comes as a wheel.

Without one of them a test is skipped with its reason; `.ci/run` installs both, and there a skip is a failure.
"""

import csv
import io
import os
import shutil
import socket
from pathlib import Path
from typing import Self

import pytest

from service.embedded.managed_process import ManagedProcess
from service.embedded.valkey import Valkey
from tests.support.ports import free_port
from tests.support.waiting import eventually

PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"))
STOP_S = 5.0
CONFIGURATION = """\
global
    stats socket ipv4@127.0.0.1:{control} level admin
    hard-stop-after 1s
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    retries 2
    option redispatch 1
frontend clients
    bind 127.0.0.1:{port}
    default_backend proxies
backend proxies
    balance leastconn
    option forwardfor
    option httpchk GET /readyz
    http-check expect status 200
    http-response set-header x-served-by %s
    default-server check inter 100ms fall 2 rise 2
"""


def program(name: str, package: str) -> Path:
    """Where a program is; without it the test is skipped."""
    found = shutil.which(name, path=PLACES)
    if found is None:
        pytest.skip(f"{name} is not installed; on Debian and Ubuntu: apt-get install {package}")
    return Path(found)


class Redis7(Valkey):
    """Debian's redis-server in the embedded one's place."""

    name = "Redis"

    def _program(self) -> Path:
        return program("redis-server", "redis-server")


class Balancer:
    """HAProxy before some proxies, which it asks for `/readyz` ten times a second."""

    def __init__(self, folder: Path, ports: dict[str, int]) -> None:
        self.port, self._control = free_port(), free_port()
        self.log = folder / "haproxy.log"
        lines = [f"    server {name} 127.0.0.1:{port}\n" for name, port in ports.items()]
        self._file = folder / "haproxy.cfg"
        self._file.write_text(CONFIGURATION.format(port=self.port, control=self._control) + "".join(lines))

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        with self.log.open("wb") as output:
            self._process = ManagedProcess(
                [program("haproxy", "haproxy"), "-db", "-f", self._file], output=output.fileno()
            )
        eventually(lambda: self._listens() or self._process.poll() is not None)
        assert self._process.poll() is None, self.log.read_text()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop(STOP_S)

    def up(self) -> set[str]:
        """The proxies that it sends requests to."""
        return {row["svname"] for row in self._servers() if row["status"].startswith("UP")}

    def retried(self) -> int:
        """Connections that it had to try again, here or elsewhere: a client may not have noticed."""
        return sum(int(row["wretr"]) + int(row["wredis"]) for row in self._servers())

    def _servers(self) -> list[dict[str, str]]:
        table = csv.DictReader(io.StringIO(self._ask("show stat").lstrip("# ")))
        return [row for row in table if row["pxname"] == "proxies" and row["svname"] != "BACKEND"]

    def _ask(self, command: str) -> str:
        with socket.create_connection(("127.0.0.1", self._control), timeout=5) as connection:
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65_536), b"")).decode()

    def _listens(self) -> bool:
        try:
            return bool(self._servers())
        except OSError:
            return False
