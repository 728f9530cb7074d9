"""Processes of a test: started with nothing of the developer's environment, ended by their id, their logs at hand.

They die with the test run, however it ends (`ManagedProcess`). Not here: what the processes are.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from service.embedded.managed_process import ManagedProcess
from tests.support.waiting import PATIENCE_S, eventually

ROOT = Path(__file__).parents[2]
STOP_S = 20.0
OWN_PROGRAM = (sys.executable, "-m", "service.cli")
"""`ccproxy` of this checkout."""
IN_FOLDER = 'cd "$1" && shift && exec "$@"'
"""In a folder of its own a process meets no `.env` of the developer's."""
PASSED_ON = ("PATH", "LANG", "TMPDIR", "SYSTEMROOT")
LOGS: list[Path] = []
"""The logs of all processes so far, shown when a test fails."""


def environment(home: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """All that a process sees: a home of its own, and these variables."""
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    own = {"HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "CCPROXY_HOME": str(home)}
    return passed_on | own | dict(variables)


class Command:
    """`ccproxy <arguments>` as a process, in its home."""

    def __init__(
        self, *arguments: str, home: Path, variables: Mapping[str, str], program: Sequence[str] = OWN_PROGRAM
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.log = home / f"{arguments[0]}-{len(LOGS)}.log"
        self.variables = dict(variables)
        LOGS.append(self.log)
        with self.log.open("wb") as output:
            self.process = ManagedProcess(
                ["/bin/sh", "-c", IN_FOLDER, "sh", home, *program, *arguments],
                environ=environment(home, variables),
                output=output.fileno(),
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def text(self) -> str:
        """All that it has said."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        status = self.process.wait(PATIENCE_S)
        assert status is not None, f"it runs on:\n{self.text}"
        return status

    def wait_until(self, ready: Callable[[], object]) -> None:
        """Wait until it is ready; a process that ends before is a failure."""
        eventually(lambda: ready() or not self.alive)
        assert self.alive, f"it ended with status {self.process.poll()}:\n{self.text}"

    def kill(self) -> None:
        """As a crash would."""
        self.process.kill()

    def stop(self) -> None:
        """Ask it to end. What has to be killed has failed."""
        if not self.alive:
            return
        self.process.terminate()
        status = self.process.wait(STOP_S)
        if status is None:
            self.process.kill()
        assert status in (0, -signal.SIGTERM), f"status {status} when asked to end:\n{self.text[-4000:]}"


def run(
    *arguments: str, home: Path, variables: Mapping[str, str], program: Sequence[str] = OWN_PROGRAM
) -> tuple[int, str]:
    """A command to its end: exit status and output."""
    command = Command(*arguments, home=home, variables=variables, program=program)
    try:
        return command.wait(), command.text
    finally:
        if command.alive:
            command.kill()


def tails(marks: Mapping[Path, int]) -> Sequence[tuple[str, str]]:
    """What was written to each log behind its mark: at most its last hundred lines."""
    found = []
    for path in LOGS:
        if path.exists() and (new := path.read_bytes()[marks.get(path, 0) :]):
            lines = new.decode(errors="replace").splitlines()
            found.append((f"{path.parent.name}/{path.name}", "\n".join(lines[-100:])))
    return found
