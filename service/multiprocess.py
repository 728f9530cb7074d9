"""Several proxy processes on one address: `ccproxy serve` with PROXY_WORKERS above one.

One process can use one core. This parent listens without serving: its children accept connections from the shared
socket, each with its own replica name and spool folder. A child that ends is restarted; connections wait for the
others, or in the socket's queue. A stop signal shuts all of them down gracefully.
"""

import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead

from service.embedded.managed_process import ManagedProcess, RestartableProcess
from service.embedded.program import own_command
from service.embedded.signals import Signals
from service.embedded.supervisor import Child, Supervisor
from service.errors import ProxyError
from service.private_files import make_closed_folder
from service.proxy import BACKLOG, listen
from service.settings import Settings
from service.telemetry.log import set_up

log = logging.getLogger("ccproxy.siblings")

START_S = 60.0
HASTY_STOP_S = 10.0
"""A second signal cancels requests in progress; saving their usage may take a few seconds more."""
COUNTS = "PROMETHEUS_MULTIPROC_DIR"
"""Folder in which the processes count, so that any of them reports the metrics of all (`console.metrics`)."""
STARTED = b"1"
"""Written by a child into its pipe once it serves."""


class Sibling(RestartableProcess):
    """One of the processes; see `supervisor.Child` for the methods."""

    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    once = False
    start_timeout_s = START_S
    hasty_stop_timeout_s = HASTY_STOP_S
    log: Path | None = None

    def __init__(
        self, number: int, listener: socket.socket, settings: Settings, config: Path | None, counts: Path
    ) -> None:
        self.name = f"proxy process {number}"
        self.title = self.name
        self.stop_timeout_s = settings.drain.longest_s
        self._listener = listener
        self._counts = counts
        self._options = ["--config", str(config.absolute())] if config else []
        self._started: int | None = None

    def spawn(self) -> None:
        """Start it; it inherits the socket, and the end of a pipe on which it reports that it serves."""
        self._close_pipe()
        if self._process is not None:
            mark_process_dead(self._process.pid, str(self._counts))  # type: ignore[no-untyped-call]
        self._started, started_fd = os.pipe()
        os.set_blocking(self._started, False)
        try:
            descriptors = ["--listener", str(self._listener.fileno()), "--started", str(started_fd)]
            self._process = ManagedProcess(
                own_command("serve", *self._options, *descriptors),
                environ={**os.environ, COUNTS: str(self._counts)},
                inherit=(self._listener.fileno(), started_fd),
            )
        finally:
            os.close(started_fd)
        log.info("process.started", extra={"child": self.name, "pid": self._process.pid})

    def is_ready(self) -> bool:
        """True if it has reported that it serves."""
        with suppress(BlockingIOError):
            return self._started is not None and os.read(self._started, 1) == STARTED
        return False

    def _close_pipe(self) -> None:
        if self._started is not None:
            os.close(self._started)
            self._started = None


class Log:
    """Logs the processes' state changes."""

    def ready(self, child: Child, took_ms: int, *, again: bool) -> None:  # noqa: ARG002 - the supervisor's signature
        """It serves."""
        log.info("process.ready", extra={"child": child.name, "took_ms": took_ms})

    def ended(self, child: Child, how: str, wait_ms: int) -> None:
        """It ended, and is restarted."""
        log.error("process.ended", extra={"child": child.name, "how": how, "wait_ms": wait_ms})

    def given_up(self, child: Child, how: str, starts: int) -> None:
        """It could not be started."""
        log.error("process.given_up", extra={"child": child.name, "how": how, "starts": starts})


@contextmanager
def shared_counts(settings: Settings) -> Iterator[Path]:
    """Create a folder for metrics, unique on this host by our port."""
    folder = settings.home / f"metrics-{socket.gethostname()[:40]}-{settings.port}"
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed run
    make_closed_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def serve_together(settings: Settings, config: Path | None) -> int:
    """Run the processes until SIGINT or SIGTERM. Returns the exit status: 1 if one could not be started."""
    set_up(settings.log_level, settings.log_format)
    for notice in settings.notices:
        log.warning(notice)
    try:
        listener = listen(settings)
    except ProxyError as error:
        log.error(error.message)  # noqa: TRY400 - the message is sufficient
        return 1
    with listener, Signals() as signals, shared_counts(settings) as counts:
        listener.listen(BACKLOG)
        siblings = [Sibling(number + 1, listener, settings, config, counts) for number in range(settings.processes)]
        supervisor = Supervisor(siblings, Log())
        try:
            while not signals.count and not supervisor.has_given_up:
                supervisor.step()
                signals.wait(supervisor.pause_s())
        finally:
            listener.close()  # once the children have closed it too, connections are refused instead of left waiting
            supervisor.stop(in_haste=lambda: signals.count > 1, together=True)
    return int(supervisor.has_given_up)
