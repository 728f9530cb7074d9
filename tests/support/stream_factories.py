"""Events and stream entries for the tests of the workers. Ids count up, so that a failing run can be replayed."""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import Any

import msgspec
from redis import Redis

from service.ledger import ids, wire
from service.ledger.events import AttemptEnded, AttemptStarted, Event, TokenCounts

NOON_MS = 1_789_000_000_000
"""A noon in September 2026; nothing in the fold looks at a clock, so any will do."""
STREAM = "anthropic"

numbers = count(1)


def new_id(at_ms: int = NOON_MS) -> str:
    """The next id: a UUIDv7 whose random bits count up."""
    return ids.uuid7(at_ms, next(numbers))


def started(seq: int = 1, *, at_ms: int = NOON_MS, replica: str = "r1") -> AttemptStarted:
    """An attempt begins."""
    event_id = new_id(at_ms)
    return AttemptStarted(event_id=event_id, at_ms=at_ms, replica=replica, seq=seq, request_id=f"q-{event_id}")


def ended(seq: int = 1, *, at_ms: int = NOON_MS, replica: str = "r1", **fields: Any) -> AttemptEnded:
    """An attempt that had 10 tokens in and 5 out has ended well, unless `fields` say otherwise."""
    attempt_id = new_id(at_ms)
    values: dict[str, Any] = {
        "outcome": "ok",
        "status": 200,
        "model_sent": "claude-sonnet-4-5",
        "client_key": "alice",
        "tokens": TokenCounts(input=10, output=5),
        "cost_nusd": 1_000,
    }
    return AttemptEnded(
        event_id=ids.ended_id(attempt_id),
        at_ms=at_ms,
        replica=replica,
        seq=seq,
        attempt_id=attempt_id,
        request_id=f"q-{attempt_id}",
        started_at_ms=at_ms,
        **(values | fields),
    )


def many(number: int, replica: str = "r1") -> list[Event]:
    """So many attempts that ended well, one second apart."""
    return [ended(seq, at_ms=NOON_MS + seq * 1_000, replica=replica) for seq in range(1, number + 1)]


def spooled(event: AttemptEnded) -> AttemptEnded:
    """The same event, come by way of a disk."""
    return msgspec.structs.replace(event, spooled=True)


def append(redis: Redis, events: Sequence[Event], stream: str = STREAM) -> str:
    """Append one entry, as a proxy does; its id."""
    return append_raw(redis, wire.encode_entry(events), stream)


def append_each(redis: Redis, events: Iterable[Event], stream: str = STREAM) -> None:
    """Append each event in an entry of its own."""
    pipeline = redis.pipeline(transaction=False)
    pipeline.sadd(wire.STREAMS_KEY, stream)
    for event in events:
        pipeline.xadd(wire.events_key(stream), {wire.ENTRY_FIELD: wire.encode_entry([event])})
    pipeline.execute()


def append_raw(redis: Redis, value: bytes, stream: str = STREAM) -> str:
    """Append an entry with these bytes; its id."""
    redis.sadd(wire.STREAMS_KEY, stream)
    entry_id: bytes = redis.xadd(wire.events_key(stream), {wire.ENTRY_FIELD: value})  # type: ignore[assignment]
    return entry_id.decode()
