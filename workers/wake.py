"""Wake-ups: an RQ job that says "this stream has news", at most one waiting per stream.

The guard is a key that expires: set when the job is enqueued, deleted as the job's first act. Whoever finds it set
knows that a job has yet to begin, which will read what is there by then; if that job has died, the key is gone in
WAKE_MS. A job that stays with its stream sets it again, and looks at the stream once more after it has deleted it.
Uniqueness by RQ's job ids is not used: the job of a worker that was killed keeps its id for minutes.
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
"""A worker that died with a wake-up in hand is replaced after this time at the latest."""
STAY_MS = 1_000
"""A worker that died while it stayed with a stream is replaced after this time; longer than most batches take."""
JOB_TTL_S = 60
"""Wake-ups that waited for longer than this are stale: younger ones stand behind them."""


def open_queue(url: str) -> Queue:
    """The queue of wake-ups on a plain Redis (RQ knows no cluster). JSON, never pickle."""
    redis = open_sync(url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 1))
    return Queue(wire.FOLD_QUEUE, connection=redis, serializer=JSONSerializer)


class Wake:
    """Calls workers to a stream."""

    def __init__(self, redis: Redis, queue: Queue) -> None:
        self.redis = redis
        self.queue = queue
        self.attended: set[str] = set()
        """Streams with which a job of this process stays."""

    def enqueue(self, stream: str) -> bool:
        """Enqueue a job for the stream unless one is waiting; whether one was enqueued."""
        if not self.redis.set(wire.wake_key(stream), b"1", nx=True, px=WAKE_MS):
            return False
        self.queue.enqueue_call(
            FOLD_JOB, args=(stream,), timeout=JOB_TTL_S, ttl=JOB_TTL_S, result_ttl=0, failure_ttl=JOB_TTL_S
        )
        return True

    def clear_guard(self, stream: str) -> None:
        """The job has begun, or leaves the stream: from now on news need another."""
        self.attended.discard(stream)
        self.redis.delete(wire.wake_key(stream))

    def extend_guard(self, stream: str) -> None:
        """The job stays with the stream: for now, news need no other."""
        self.redis.set(wire.wake_key(stream), b"1", px=STAY_MS)
        self.attended.add(stream)

    def others_wait(self) -> bool:
        """Whether a job waits for a worker."""
        return not self.queue.is_empty()
