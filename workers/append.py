"""Appends the workers' own events to a stream in Redis. Not here: which events (`lost`, `reprice`)."""

from collections.abc import Sequence
from typing import Any

from redis import Redis

from service.ledger import wire
from service.ledger.events import RouteEvent

ENTRY_EVENTS = 256


def append_events(redis: Redis, stream: str, events: Sequence[RouteEvent]) -> None:
    """Append events to their stream. Raises RedisError."""
    pipeline = redis.pipeline(transaction=False)
    for at in range(0, len(events), ENTRY_EVENTS):
        entry: dict[Any, Any] = {wire.ENTRY_FIELD: wire.encode_entry(events[at : at + ENTRY_EVENTS])}
        pipeline.xadd(wire.events_key(stream), entry)
    pipeline.execute()
