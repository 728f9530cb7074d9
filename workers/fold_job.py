"""The fold job: fold a stream until it is read, publish, linger for more entries, then check once more.

Starting a job costs as much as folding about ten events. So a job that has read everything lingers for an interval and
continues if more arrives: a busy stream has one job in five seconds, unless other jobs wait.

With one proxy nobody waits for a snapshot, so that a job neither lingers nor checks again: the next one comes within a
second (`ticker`).

No news is missed. Say job A reads the last entry, entry X arrives, and X's job B finds the checkpoint locked by A and
returns: A checks the stream again *after* its transaction, sees X, and enqueues another job. A later entry gets a job
that finds no lock. A job that lingered checks again after it has deleted the guard, and so finds entries for which no
job was enqueued while the guard was set.

Dead letters are retried when a process first folds a stream, since this version may decode them.

A job never fails: errors are logged once per outage, and the ticker enqueues again while the stream has unread entries.
"""

import logging
import time
from collections.abc import Callable
from threading import Event

import psycopg
from redis import RedisError

from service.ledger.wire import NewerState, entry_order
from workers.consume import StreamSource
from workers.outage import Outage
from workers.project import Projected, Projector
from workers.publish import Publisher
from workers.wake import WakeQueue

log = logging.getLogger("ccproxy.worker")

BATCHES_PER_JOB = 10
"""After so many batches, a stream with a backlog yields to other streams."""
LINGER_S = 5.0
"""A job's lingering time, well below RQ's job timeout."""


class FoldJob:
    """Runs the fold jobs of a worker process."""

    def __init__(
        self,
        projector: Projector,
        publisher: Publisher,
        streams: StreamSource,
        wake: WakeQueue,
        stopping: Event,
        redis_outage: Outage,
        clock: Callable[[], float] = time.monotonic,
        postgres_outage: Outage | None = None,
    ) -> None:
        self.projector = projector
        self.publisher = publisher
        self.streams = streams
        self.wake = wake
        self.stopping = stopping
        self.redis_outage = redis_outage
        self.clock = clock
        self.postgres_outage = postgres_outage or Outage("postgres")
        self.faults: dict[str, Outage] = {}
        self._retried: set[str] = set()

    def fold(self, stream: str) -> None:
        """Fold a stream's news; never raises."""
        fault = self.faults.setdefault(stream, Outage("fold", stream=stream))
        try:
            self.publisher.pause(stream)
            self.wake.clear_guard(stream)
            if stream not in self._retried:
                self.retry_dead_letters(stream)
            self.linger(stream)
        except RedisError as error:
            self.redis_outage.mark_down(error)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self.postgres_outage.mark_down(error)
        except NewerState as error:
            fault.mark_down(error)
        except Exception as error:  # noqa: BLE001 - a fault in one stream must not stop the others; it is logged, once
            fault.mark_down(error, traceback=True)
        else:
            self.postgres_outage.mark_up()
            fault.mark_up()

    def linger(self, stream: str) -> None:
        """Fold until the stream has no more entries or the time is up; enqueue another job if there is more."""
        until_s = self.clock() + LINGER_S
        lingered = False
        folded = newest = self.catch_up(stream)
        if folded is not None and not (folded.full or self.publisher.readers.several()):
            return  # the ticker looks at all streams once a second
        while newest is not None and self.may_linger(newest, until_s):
            lingered = True
            self.wake.extend_guard(stream)
            self.publisher.pause(stream)
            if self.streams.last_id(stream) == newest.stream_id:
                break
            newest = self.catch_up(stream)
            folded = newest or folded
        if folded is None:
            return  # the worker that holds the stream checks it again when done
        if lingered:
            self.wake.clear_guard(stream)
        self.recheck(folded)

    def may_linger(self, folded: Projected, until_s: float) -> bool:
        """True if the job may wait for more: no other job waits, and its time is not up."""
        return not (folded.full or self.stopping.is_set() or self.clock() >= until_s or self.wake.has_waiting_jobs())

    def catch_up(self, stream: str) -> Projected | None:
        """Fold and publish batches until the stream is read or BATCHES_PER_JOB is reached; None if another worker holds
        it."""
        for turns_left in reversed(range(BATCHES_PER_JOB)):
            started_s = self.clock()
            projected = self.projector.project(stream)
            if projected is None:
                return None
            log_batch(projected, self.clock() - started_s)
            last = not (projected.full and turns_left) or self.stopping.is_set()
            if last or not self.publisher.wait_s(stream):
                self.publisher.publish(projected)
            if last:
                return projected
        return None

    def retry_dead_letters(self, stream: str) -> None:
        """Retry dead letters once per process: this version may decode what an older one could not."""
        while (revived := self.projector.retry_dead_letters(stream)) is not None:
            if revived.moved:
                self.publisher.publish(revived)
            if not revived.full:
                self._retried.add(stream)
                return

    def recheck(self, projected: Projected) -> None:
        """Enqueue another job if the stream has more than was folded."""
        if self.streams.last_id(projected.stream) != projected.stream_id:
            self.wake.enqueue(projected.stream)


def log_batch(projected: Projected, took_s: float) -> None:
    """Log a batch. Its lag is the age of the last entry that it has read."""
    if not (projected.moved and log.isEnabledFor(logging.DEBUG)):
        return
    read_ms = entry_order(projected.stream_id)[0]
    log.debug(
        "stream.folded",
        extra={
            "stream": projected.stream,
            "epoch": projected.epoch,
            "position": projected.position,
            "folded": projected.folded,
            "lag_ms": max(0, int(time.time() * 1000) - read_ms),
            "ms": round(took_s * 1000),
            "full": projected.full,
        },
    )
