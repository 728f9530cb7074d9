"""Enqueues fold jobs: at most one waiting job per stream, by a guard key.

The guard is an expiring key, set when a job is enqueued and deleted as the job's first act. While it is set, a job has
yet to start, and will read everything appended until then; if that job died, the key expires after WAKE_MS. A lingering
job sets it again, and checks the stream once more after deleting it. RQ's job ids don't serve as guard: the job of a
killed worker keeps its id for minutes.
"""

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue
from rq.serializers import JSONSerializer

from service.ledger import wire
from service.redis_client.factory import open_sync

FOLD_JOB = "workers.jobs.fold"
WAKE_MS = 3_000
"""A worker that dies before it started a job is replaced after this time at the latest."""
LINGER_MS = 1_000
"""A worker that dies while lingering is replaced after this time; longer than most batches take."""
JOB_TTL_S = 60
"""Jobs that waited longer than this are stale: newer ones are in the queue."""


def open_queue(url: str) -> Queue:
    """Open the queue of fold jobs on a plain Redis (RQ does not support Cluster). JSON, never pickle."""
    redis = open_sync(url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 1))
    return Queue(wire.FOLD_QUEUE, connection=redis, serializer=JSONSerializer)


class WakeQueue:
    """Enqueues fold jobs and keeps their guards."""

    def __init__(self, redis: Redis, queue: Queue) -> None:
        self.redis = redis
        self.queue = queue
        self.lingering: set[str] = set()
        """Streams on which a job of this process lingers."""

    def enqueue(self, stream: str) -> bool:
        """Enqueue a job for the stream unless one is waiting; True if it was enqueued."""
        if not self.redis.set(wire.wake_key(stream), b"1", nx=True, px=WAKE_MS):
            return False
        self.queue.enqueue_call(
            FOLD_JOB, args=(stream,), timeout=JOB_TTL_S, ttl=JOB_TTL_S, result_ttl=0, failure_ttl=JOB_TTL_S
        )
        return True

    def clear_guard(self, stream: str) -> None:
        """Delete the guard: the job has started, or stops lingering, and later entries need another one."""
        self.lingering.discard(stream)
        self.redis.delete(wire.wake_key(stream))

    def extend_guard(self, stream: str) -> None:
        """Set the guard again: the job lingers, and entries need no other job for now."""
        self.redis.set(wire.wake_key(stream), b"1", px=LINGER_MS)
        self.lingering.add(stream)

    def has_waiting_jobs(self) -> bool:
        """True if a job waits for a worker."""
        return not self.queue.is_empty()
