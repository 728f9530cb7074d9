"""The processes around every measurement: the provider's stand-in, and the one that makes the load."""

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import msgspec

from bench.load import Figures, Job
from bench.targets import ROOT


class Loader:
    """The process that makes the load."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.load"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )

    def run(self, job: Job) -> Figures:
        """Carry out one job."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(msgspec.json.encode(job).decode() + "\n")
        self._process.stdin.flush()
        if (line := self._process.stdout.readline()).endswith("\n"):
            return msgspec.json.decode(line, type=Figures)
        raise RuntimeError(f"the load's process ended with {self._process.wait()}")

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(10)


@contextlib.contextmanager
def stand_in() -> Iterator[int]:
    """The provider's stand-in; its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.standin", str(port)], stdout=subprocess.PIPE, cwd=ROOT, text=True
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        yield port
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    """A port that was free just now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def say(line: str) -> None:
    """Progress, apart from the results."""
    print(line, file=sys.stderr, flush=True)
