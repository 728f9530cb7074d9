"""What a wake-up sets going: fold until the stream is read, publish, stay while there is more, look again.

A job costs as much as a batch of some ten events. So one that has read all stays with its stream for an interval, and
goes on if more has come: a busy stream has one job in five seconds, unless other jobs wait.

No wake-up is lost. Say job A reads the last entry, entry X arrives, and X's job B finds the checkpoint locked by A and
returns: A looks at the stream once more *after* its transaction, sees X, and calls for another job. An entry that comes
after that look has a job which finds no lock. A job that stayed looks once more after it has given up the guard: an
entry for which nobody was called, since the guard was set, lies there by then.

What older versions could not read is tried again when a process first has the stream.

A job never fails: what went wrong is said once, and the ticker calls again while the stream has unread entries.
"""

import time
from collections.abc import Callable
from threading import Event

import psycopg
from redis import RedisError

from workers.consume import StreamSource
from workers.outage import Outage
from workers.project import Projected, Projector
from workers.publish import Publisher
from workers.wake import Wake

BATCHES_PER_JOB = 10
"""A stream that has to catch up lets the others have their turn after these."""
STAY_S = 5.0
"""A job stays with its stream for this long, well below what RQ lets it have."""


class FoldJob:
    """All that a worker process needs to do its jobs."""

    def __init__(
        self,
        projector: Projector,
        publisher: Publisher,
        streams: StreamSource,
        wake: Wake,
        stopping: Event,
        redis_outage: Outage,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.projector = projector
        self.publisher = publisher
        self.streams = streams
        self.wake = wake
        self.stopping = stopping
        self.redis_outage = redis_outage
        self.clock = clock
        self.postgres_outage = Outage("postgres")
        self.faults: dict[str, Outage] = {}
        self._revived: set[str] = set()

    def fold(self, stream: str) -> None:
        """Answer a wake-up, whatever comes."""
        fault = self.faults.setdefault(stream, Outage(f"fold[{stream}]"))
        try:
            self.publisher.pause(stream)
            self.wake.clear_guard(stream)
            if stream not in self._revived:
                self.retry_dead_letters(stream)
            self.linger(stream)
        except RedisError as error:
            self.redis_outage.mark_down(error)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            self.postgres_outage.mark_down(error)
        except Exception as error:  # noqa: BLE001 - a fault in one stream must not stop the others; it is logged, once
            fault.mark_down(error, traceback=True)
        else:
            self.postgres_outage.mark_up()
            fault.mark_up()

    def linger(self, stream: str) -> None:
        """Catch up with the stream until it has no news, or its turn is over; call again if there is more."""
        until_s = self.clock() + STAY_S
        attended = False
        folded = newest = self.catch_up(stream)
        while newest is not None and self.may_linger(newest, until_s):
            attended = True
            self.wake.extend_guard(stream)
            self.publisher.pause(stream)
            if self.streams.last_id(stream) == newest.stream_id:
                break
            newest = self.catch_up(stream)
            folded = newest or folded
        if folded is None:
            return  # whoever has the stream looks at it again when done
        if attended:
            self.wake.clear_guard(stream)
        self.recheck(folded)

    def may_linger(self, folded: Projected, until_s: float) -> bool:
        """Whether the job may wait for more: nobody else needs this worker, and its time is not over."""
        return not (folded.full or self.stopping.is_set() or self.clock() >= until_s or self.wake.others_wait())

    def catch_up(self, stream: str) -> Projected | None:
        """Fold batches until the stream is read, or its turn is over, and publish; None when another worker has it."""
        for turns_left in reversed(range(BATCHES_PER_JOB)):
            projected = self.projector.project(stream)
            if projected is None:
                return None
            last = not (projected.full and turns_left) or self.stopping.is_set()
            if last or not self.publisher.wait_s(stream):
                self.publisher.publish(projected)
            if last:
                return projected
        return None

    def retry_dead_letters(self, stream: str) -> None:
        """Once in a process's life: this version may read what an older one could not."""
        while (revived := self.projector.retry_dead_letters(stream)) is not None:
            if revived.moved:
                self.publisher.publish(revived)
            if not revived.full:
                self._revived.add(stream)
                return

    def recheck(self, projected: Projected) -> None:
        """Call for another job if the stream has more than was folded."""
        if self.streams.last_id(projected.stream) != projected.stream_id:
            self.wake.enqueue(projected.stream)
