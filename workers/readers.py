"""Which version of snapshots the live proxies read, so that workers publish the older one while an older proxy lives.

The rule for a fleet of several versions, of which this is the workers' part:

- Fields are added, to events, snapshots and heartbeats, and readers ignore those that they don't know. What an older
  reader has of an event counts right: totals stay in the fields that it knows (`AttemptEnded`).
- An event that a worker does not know is a dead letter until a newer worker starts, and is folded then.
- A version rises only when a field changes its meaning (`wire.SNAPSHOT_VERSION`), and brings what makes the older shape
  of the newer one (`wire.OLDER_SHAPES`). Heartbeats say which version a proxy reads; those that say nothing read the
  first.

Not here: the shapes (`service.ledger.wire`).
"""

import time
from collections.abc import Callable
from typing import Any

from redis import Redis

from service.ledger import wire

LOOK_S = 1.0
"""A proxy sends its heartbeat each second."""
FIRST_VERSION = 1


class SnapshotReaders:
    """The proxies that read snapshots, as far as their heartbeats tell."""

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._version = wire.SNAPSHOT_VERSION
        self._due_s = 0.0

    def version(self) -> int:
        """Return the newest version that all live proxies read, as of the last second. Raises RedisError."""
        if self._clock() >= self._due_s:
            self._version = self._read()
            self._due_s = self._clock() + LOOK_S
        return self._version

    def _read(self) -> int:
        names: Any = self._redis.zrange(wire.REPLICAS_KEY, 0, -1)
        pipeline = self._redis.pipeline(transaction=False)
        for name in names:
            pipeline.hmget(wire.replica_key(name.decode()), ["at_ms", wire.READS_FIELD])
        beats = pipeline.execute() if names else []
        return min([wire.SNAPSHOT_VERSION, *(int(reads or FIRST_VERSION) for at_ms, reads in beats if at_ms)])
