"""The live proxies, by their heartbeats: how many wait for snapshots, and which version of them all can read.

With one proxy, nobody waits: it folds its own events itself. With several, each routes by what the others have met.

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

from redis import Redis

from service.ledger import wire

LOOK_S = 1.0
"""A proxy sends its heartbeat each second."""
FIRST_VERSION = 1


class SnapshotReaders:
    """The proxies that read snapshots, as far as their heartbeats tell. One for all threads of a worker."""

    def __init__(self, redis: Redis, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._clock = clock
        self._names: list[str] = []
        self._reads: list[int] = []
        self._due_s = 0.0

    def version(self) -> int:
        """Return the newest version that all live proxies read, as of the last second. Raises RedisError."""
        self._refresh()
        return min([wire.SNAPSHOT_VERSION, *self._reads])

    def several(self) -> bool:
        """True if more than one proxy lives, as of the last second. Raises RedisError."""
        self._refresh()
        return len(self._reads) > 1

    def look(self) -> None:
        """Read the heartbeats now. Raises RedisError."""
        known = self._names
        names, reads = self._read_beats(known)
        if names != known:
            _, reads = self._read_beats(names)
        self._names, self._reads = names, reads
        self._due_s = self._clock() + LOOK_S

    def _refresh(self) -> None:
        if self._clock() >= self._due_s:
            self.look()

    def _read_beats(self, known: list[str]) -> tuple[list[str], list[int]]:
        """Return the names of all proxies, and what those known by name read, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.zrange(wire.REPLICAS_KEY, 0, -1)
        for name in known:
            pipeline.hmget(wire.replica_key(name), ["at_ms", wire.READS_FIELD])
        names, *beats = pipeline.execute()
        return sorted(name.decode() for name in names), [version_in(reads) for at_ms, reads in beats if at_ms]


def version_in(reads: bytes | None) -> int:
    """Return the version that a heartbeat names; the first one if it names none, or nothing that could be one."""
    return int(reads) if reads and reads.isdigit() else FIRST_VERSION
