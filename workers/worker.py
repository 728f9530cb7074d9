"""RQ's worker as we run it: within its process, quiet, and made to stop as a whole. Not here: jobs, and queues."""

from threading import Event
from types import FrameType

from rq import SimpleWorker
from rq.exceptions import StopRequested
from rq.worker import WorkerStatus


class FoldWorker(SimpleWorker):
    """RQ's worker that does not fork, made to stop as a whole process and to keep quiet about an absent Redis."""

    max_connection_wait_time = 1.0
    stopping: Event

    def subscribe(self) -> None:
        """Commands over pub/sub are not served: the process is stopped by signal, its jobs are short."""

    def _install_signal_handlers(self) -> None:
        """Take RQ's signals over; one that came just before must not be forgotten, or the worker would never end."""
        super()._install_signal_handlers()  # type: ignore[no-untyped-call]
        self._stop_requested = self._stop_requested or self.stopping.is_set()

    def request_stop(self, signum: int, frame: FrameType | None) -> None:  # noqa: ARG002 - RQ's signature
        """Stop after the job in hand. Unlike RQ's own, it does not speak to Redis from within a signal handler, and
        a second signal does no harm."""
        if self.stopping.is_set():
            return
        self.stopping.set()
        self._stop_requested = True
        if self.get_state() != WorkerStatus.BUSY:
            raise StopRequested
