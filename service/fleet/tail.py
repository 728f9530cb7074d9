"""The ends of the routes' streams that a starting proxy folds itself, since no snapshot includes them yet.

With one live proxy, snapshots are as much as a second old: a restart would forget what the last second has taught.
Each event counts until a snapshot includes its entry. Not here: the operators' stream, which is always read
(`overlay`), and this process's own events (`outbox`).
"""

from typing import Any

from msgspec import Struct, field
from redis.asyncio import Redis

from service.ledger.events import Event, RouteEvent
from service.ledger.wire import ENTRY_FIELD, Snapshot, decode_entry, entry_order, events_key

FIRST = "0-0"
PAGE_ENTRIES = 200
TAIL_EVENTS = 5_000
"""More than that is no tail: the workers are behind, and the rest comes with their snapshots."""


class Tail(Struct):
    """Events behind a snapshot of this epoch, in order, each once, with their entries. `read_to` is the last entry."""

    epoch: int
    read_to: str
    events: list[tuple[str, Event]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)


class RouteTails:
    """The tails by stream, without the events of this replica."""

    def __init__(self, replica: str) -> None:
        self._replica = replica
        self._tails: dict[str, Tail] = {}

    async def read(self, redis: Redis, stream: str, snapshot: Snapshot | None) -> bool:
        """Read on to the stream's end; True if there are events. Raises RedisError."""
        tail = self._tails.get(stream)
        if tail is None:
            epoch, folded_to = (snapshot.epoch, snapshot.stream_id) if snapshot else (0, FIRST)
            tail = self._tails[stream] = Tail(epoch, folded_to)
        while len(tail.events) < TAIL_EVENTS:
            entries: Any = await redis.xrange(events_key(stream), f"({tail.read_to}", "+", count=PAGE_ENTRIES)
            for entry, fields in entries or ():
                tail.read_to = entry.decode()
                self._add(tail, fields.get(ENTRY_FIELD.encode(), b""))
            if len(entries or ()) < PAGE_ENTRIES:
                break
        return bool(tail.events)

    def unfolded(self, stream: str, snapshot: Snapshot | None) -> list[Event]:
        """Return the events that this snapshot does not include, and forget all others. None of another epoch: its
        stream is another one."""
        tail = self._tails.get(stream)
        if tail is None or snapshot is None:
            return [event for _, event in tail.events] if tail else []
        folded = entry_order(snapshot.stream_id)
        tail.events = [
            (entry, event)
            for entry, event in tail.events
            if snapshot.epoch == tail.epoch and entry_order(entry) > folded
        ]
        return [event for _, event in tail.events]

    def _add(self, tail: Tail, value: bytes) -> None:
        """Add an entry's events. Those without a number are the workers' own, and come with their snapshots."""
        for event in decode_entry(value):
            if not isinstance(event, RouteEvent) or not event.seq or event.replica == self._replica:
                continue
            if event.event_id not in tail.ids:
                tail.ids.add(event.event_id)
                tail.events.append((tail.read_to, event))
