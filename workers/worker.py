"""RQ worker that runs jobs in its own process, logs little, and stops as a whole process. Not here: jobs and queues.

A fold job is short, and RQ's bookkeeping around it takes 22 round trips to Redis, more than the fold itself. Most of it
serves what fold jobs don't have: results, dependents, a state that somebody watches. `FoldWorker` leaves that out.
"""

import time
from threading import Event
from types import FrameType

from redis.client import Pipeline
from rq import Queue, SimpleWorker
from rq.exceptions import StopRequested
from rq.executions import Execution
from rq.job import Job
from rq.registry import StartedJobRegistry
from rq.utils import now
from rq.worker import WorkerStatus

BEAT_S = 4.0
"""Heartbeats, and looks for a suspension, are this far apart: RQ's own wait for a job is 5 s."""


class FoldWorker(SimpleWorker):
    """RQ worker without fork; stops the whole process, and logs nothing about a Redis outage."""

    max_connection_wait_time = 1.0
    stopping: Event
    beat_due_s = 0.0
    look_due_s = 0.0

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

    def heartbeat(self, timeout: int | None = None, pipeline: Pipeline | None = None) -> None:
        """Send a heartbeat in one round trip if one is due; RQ sends four for each job, in three round trips each."""
        if pipeline is not None:
            super().heartbeat(timeout, pipeline)
        elif time.monotonic() >= self.beat_due_s:
            self.beat_due_s = time.monotonic() + BEAT_S
            with self.connection.pipeline(transaction=False) as pipe:
                super().heartbeat(timeout, pipe)
                pipe.execute()

    def check_for_suspension(self, burst: bool) -> None:  # noqa: FBT001 - RQ's signature
        """Look for `rq suspend` every few seconds, not before each job."""
        if time.monotonic() >= self.look_due_s:
            self.look_due_s = time.monotonic() + BEAT_S
            super().check_for_suspension(burst)

    def set_state(self, state: str, pipeline: Pipeline | None = None) -> None:
        """Store a state that is new."""
        if state != self.get_state():
            super().set_state(state, pipeline)

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:  # noqa: ARG002 - RQ's signature
        """Note the end of a job. What is left of it is deleted, or stored with a time to live of its own."""
        job.ended_at = now()

    def handle_job_success(
        self, job: Job, queue: Queue, started_job_registry: StartedJobRegistry, execution: Execution
    ) -> None:
        """Delete a job without a result in one round trip. Fold jobs have no dependents, repeats or rate limits."""
        if job.get_result_ttl(self.default_result_ttl):
            super().handle_job_success(job, queue, started_job_registry, execution)
            return
        with self.connection.pipeline() as pipe:
            self.increment_successful_job_count(pipe)
            self.cleanup_execution(job, pipe, execution)
            pipe.delete(job.key, job.dependents_key, job.dependencies_key)
            pipe.execute()
