"""RQ worker that runs jobs in its own process, logs little, and stops as a whole process. Not here: jobs and queues."""

from threading import Event
from types import FrameType

from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.worker import WorkerStatus


class FoldWorker(SimpleWorker):
    """RQ worker without fork; stops the whole process, and logs nothing about a Redis outage."""

    max_connection_wait_time = 1.0
    stopping: Event

    def subscribe(self) -> None:
        """Skip RQ's pub/sub commands: the process is stopped by signal, and its jobs are short."""

    def _install_signal_handlers(self) -> None:
        """Install RQ's signal handlers, and apply a signal that came just before: otherwise the worker would
        never end."""
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        self._stop_requested = self._stop_requested or self.stopping.is_set()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - RQ's signature
        """Stop after the current job. Unlike RQ's own handler, it does not call Redis from a signal handler, and a
        second signal has no effect."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested
