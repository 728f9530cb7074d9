"""Publishes a stream's ledger as a snapshot in Redis, after the commit and never backwards.

`publish.lua` does it atomically, and only if the new (epoch, position, stream id) is greater than the published one.
Not here: what a snapshot means to routing.
"""

import time
from collections.abc import Callable
from importlib.resources import files
from threading import Event
from typing import NamedTuple

import msgspec
from redis import Redis

from service.ledger import wire
from workers.project import Projected
from workers.readers import SnapshotReaders

INTERVAL_S = 0.02
"""Minimum interval between snapshots of a stream from one worker."""
INTERVAL_PER_EVENT_S = 0.001
"""Added to the interval for each event of the previous snapshot, to spread the cost of a batch over more events under
load. 40 ms at 500 events/s; capped by LONGEST_INTERVAL_S from 900 on."""
LONGEST_INTERVAL_S = 0.2
SNAPSHOT_BYTES_PER_S = 20_000_000
"""Large snapshots (many client keys) are published less often: encoding and decoding at this rate takes a few percent
of a core in the worker and in each proxy."""
LARGEST_INTERVAL_S = 1.0
"""Proxies re-read snapshots each second anyway."""
KEPT_ENTRIES = 1_000
"""Entries before the checkpoint that stay on the stream, for the console's event list."""
NOTHING_PUBLISHED = 2
POSITION_FIELDS = ("epoch", "position", "stream_id", "run_id")


class PublishedPosition(NamedTuple):
    """Position of the newest published snapshot; `run_id` is that of the server whose stream was folded."""

    epoch: int
    position: int
    stream_id: str
    run_id: str


def read_published(exists: int, fields: list[bytes | None]) -> PublishedPosition | None:
    """Decode the replies to `EXISTS snapshot` and to HMGET of POSITION_FIELDS; None if either is missing."""
    if not exists or None in fields:
        return None
    epoch, position, stream_id, run_id = (field.decode() for field in fields if field is not None)
    return PublishedPosition(int(epoch), int(position), stream_id, run_id)


def published_of(projected: Projected) -> PublishedPosition:
    """Return the position that a publication sets."""
    return PublishedPosition(projected.epoch, projected.position, projected.stream_id, projected.run_id)


class Publisher:
    """Publishes snapshots; remembers per stream the last published position and the earliest next time."""

    def __init__(
        self,
        redis: Redis,
        stopping: Event,
        clock: Callable[[], float] = time.monotonic,
        readers: SnapshotReaders | None = None,
    ) -> None:
        self.redis = redis
        self.readers = readers or SnapshotReaders(redis, clock)
        self._script = redis.register_script(files("workers").joinpath("publish.lua").read_text(encoding="utf-8"))
        self._stopping = stopping
        self._clock = clock
        self._position: dict[str, int] = {}
        self._due_s: dict[str, float] = {}

    def wait_s(self, stream: str) -> float:
        """Return the seconds until the stream may be published again."""
        return max(0.0, self._due_s.get(stream, 0.0) - self._clock())

    def pause(self, stream: str) -> None:
        """Wait for the rest of the interval, so that entries arriving meanwhile are folded and published together."""
        self._stopping.wait(self.wait_s(stream))

    def publish(self, projected: Projected) -> bool:
        """Publish the ledger unless a snapshot at least as new is published; True if it was."""
        stream = projected.stream
        if not projected.moved and self.published_position(stream) == published_of(projected):
            return False
        change = wire.Change(stream, projected.epoch, projected.position)
        as_of_ms = time.time_ns() // 1_000_000
        encoded = wire.encode_snapshot(snapshot_of(projected, as_of_ms, self.readers.version()))
        outcome = self._script(
            keys=[wire.snapshot_key(stream), wire.route_key(stream), wire.events_key(stream)],
            args=[
                *published_of(projected),
                encoded,
                as_of_ms,
                KEPT_ENTRIES,
                wire.CHANGES_CHANNEL,
                wire.encode_change(change),
                projected.dead,
                projected.quarantined,
            ],
        )
        self._schedule_next(projected, len(encoded))
        if outcome == NOTHING_PUBLISHED:
            self.redis.sadd(wire.STREAMS_KEY, stream)  # a Redis that was emptied has lost this set too
        return bool(outcome)

    def _schedule_next(self, projected: Projected, snapshot_bytes: int) -> None:
        """Set the earliest time of the stream's next publication."""
        stream, position = projected.stream, projected.position
        events = max(0, position - self._position.get(stream, position))
        self._position[stream] = position
        for_events_s = min(INTERVAL_S + events * INTERVAL_PER_EVENT_S, LONGEST_INTERVAL_S)
        for_size_s = min(snapshot_bytes / SNAPSHOT_BYTES_PER_S, LARGEST_INTERVAL_S)
        self._due_s[stream] = self._clock() + max(for_events_s, for_size_s)

    def published_position(self, stream: str) -> PublishedPosition | None:
        """Read the stream's published position from Redis."""
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.exists(wire.snapshot_key(stream))
        pipeline.hmget(wire.route_key(stream), POSITION_FIELDS)
        return read_published(*pipeline.execute())


def snapshot_of(projected: Projected, as_of_ms: int, version: int) -> wire.Snapshot:
    """Return the ledger as a snapshot of this version."""
    return wire.Snapshot(
        version=version,
        stream=projected.stream,
        epoch=projected.epoch,
        position=projected.position,
        stream_id=projected.stream_id,
        as_of_ms=as_of_ms,
        ledger=msgspec.Raw(wire.encode_ledger(wire.as_of_version(projected.ledger, version))),
    )
