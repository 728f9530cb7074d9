"""Tells the proxies: a stream's ledger as a snapshot in Redis, after the commit and only forward.

Not here: what a snapshot means to routing. `publish.lua` does it in one step and is the fence: it acts only if its
(epoch, position, stream id) is greater than what stands there, or nothing does.
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

INTERVAL_S = 0.02
"""At most one snapshot of a stream within this time from one worker."""
INTERVAL_PER_EVENT_S = 0.001
"""How much longer for each event of the snapshot before: what a batch costs is shared by more events when many come.
At 500 events/s it comes to 40 ms; from 900 on, LONGEST_INTERVAL_S holds."""
LONGEST_INTERVAL_S = 0.2
SNAPSHOT_BYTES_PER_S = 20_000_000
"""A large snapshot (many client keys) comes seldomer: to encode it here and decode it in every proxy takes a few
percent of a core at this rate."""
LARGEST_INTERVAL_S = 1.0
"""Proxies look again each second anyway."""
KEPT_ENTRIES = 1_000
"""Entries behind the checkpoint that stay on the stream, for the console's tail."""
NOTHING_STOOD = 2
MARK_FIELDS = ("epoch", "position", "stream_id", "run_id")


class PublishedPosition(NamedTuple):
    """What stands in Redis as a stream's newest snapshot; `run_id` is the run of the server that it was folded from."""

    epoch: int
    position: int
    stream_id: str
    run_id: str


def read_published(exists: int, fields: list[bytes | None]) -> PublishedPosition | None:
    """The mark from `EXISTS snapshot` and MARK_FIELDS of the route's hash; None when either is missing."""
    if not exists or None in fields:
        return None
    epoch, position, stream_id, run_id = (field.decode() for field in fields if field is not None)
    return PublishedPosition(int(epoch), int(position), stream_id, run_id)


def published_of(projected: Projected) -> PublishedPosition:
    """The mark that a publication leaves."""
    return PublishedPosition(projected.epoch, projected.position, projected.stream_id, projected.run_id)


class Publisher:
    """Publishes snapshots; remembers, stream by stream, what it published last and when it may again."""

    def __init__(self, redis: Redis, stopping: Event, clock: Callable[[], float] = time.monotonic) -> None:
        self.redis = redis
        self._script = redis.register_script(files("workers").joinpath("publish.lua").read_text(encoding="utf-8"))
        self._stopping = stopping
        self._clock = clock
        self._position: dict[str, int] = {}
        self._due_s: dict[str, float] = {}

    def wait_s(self, stream: str) -> float:
        """How long until the stream may be published again."""
        return max(0.0, self._due_s.get(stream, 0.0) - self._clock())

    def pause(self, stream: str) -> None:
        """Let the rest of the interval pass, so that what comes meanwhile is folded and published together."""
        self._stopping.wait(self.wait_s(stream))

    def publish(self, projected: Projected) -> bool:
        """Publish the ledger unless something as new stands there; whether it was published."""
        stream = projected.stream
        if not projected.moved and self.mark(stream) == published_of(projected):
            return False
        change = wire.Change(stream, projected.epoch, projected.position)
        as_of_ms = time.time_ns() // 1_000_000
        encoded = wire.encode_snapshot(snapshot_of(projected, as_of_ms))
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
        self._note(projected, len(encoded))
        if outcome == NOTHING_STOOD:
            self.redis.sadd(wire.STREAMS_KEY, stream)  # on a Redis that came back empty, the set is gone as well
        return bool(outcome)

    def _note(self, projected: Projected, snapshot_bytes: int) -> None:
        """Remember when the stream may be published again."""
        stream, position = projected.stream, projected.position
        events = max(0, position - self._position.get(stream, position))
        self._position[stream] = position
        for_events_s = min(INTERVAL_S + events * INTERVAL_PER_EVENT_S, LONGEST_INTERVAL_S)
        for_size_s = min(snapshot_bytes / SNAPSHOT_BYTES_PER_S, LARGEST_INTERVAL_S)
        self._due_s[stream] = self._clock() + max(for_events_s, for_size_s)

    def mark(self, stream: str) -> PublishedPosition | None:
        """What stands in Redis for the stream."""
        pipeline = self.redis.pipeline(transaction=False)
        pipeline.exists(wire.snapshot_key(stream))
        pipeline.hmget(wire.route_key(stream), MARK_FIELDS)
        return read_published(*pipeline.execute())


def snapshot_of(projected: Projected, as_of_ms: int) -> wire.Snapshot:
    """The ledger in its envelope."""
    return wire.Snapshot(
        version=wire.SNAPSHOT_VERSION,
        stream=projected.stream,
        epoch=projected.epoch,
        position=projected.position,
        stream_id=projected.stream_id,
        as_of_ms=as_of_ms,
        ledger=msgspec.Raw(wire.encode_ledger(projected.ledger)),
    )
