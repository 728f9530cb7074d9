"""The ends of the routes' streams that a starting proxy folds itself, since no snapshot includes them yet.

With one live proxy, snapshots are as much as a second old: a restart would forget what the last second has taught.
Each event counts until a snapshot includes its entry. Not here: the operators' stream, which is always read
(`overlay`), and this process's own events (`outbox`).
"""

from typing import Any

from msgspec import Struct, field
from redis.asyncio import Redis

from service.ledger.events import Event, RouteEvent
from service.ledger.wire import ENTRY_FIELD, Decoded, Snapshot, decode_entry, entry_order, events_key

FIRST = "0-0"
PAGE_ENTRIES = 200
TAIL_EVENTS = 5_000
"""More than that is no tail: the workers are behind, and what is older comes with their snapshots."""


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
        """Read on to the stream's end; True if there are events. Of a long rest the newest are read, which tell of open
        circuits and spent quotas. Raises RedisError."""
        tail = self._tails.get(stream)
        if tail is None:
            epoch, folded_to = (snapshot.epoch, snapshot.stream_id) if snapshot else (0, FIRST)
            tail = self._tails[stream] = Tail(epoch, folded_to)
        for entry, events in reversed(await newest_entries(redis, stream, tail.read_to)):
            tail.read_to = entry
            self._add(tail, events)
        return bool(tail.events)

    def unfolded(self, stream: str, snapshot: Snapshot | None) -> list[Event]:
        """Return the events that this snapshot does not include."""
        return [event for _, event in self._behind(stream, snapshot)]

    def forget_folded(self, stream: str, snapshot: Snapshot) -> None:
        """Forget the events that this snapshot includes."""
        tail = self._tails.get(stream)
        if tail is not None:
            tail.events = self._behind(stream, snapshot)

    def _behind(self, stream: str, snapshot: Snapshot | None) -> list[tuple[str, Event]]:
        """Return what is behind a snapshot; nothing is behind one of another epoch, whose stream is another one."""
        tail = self._tails.get(stream)
        if tail is None or not tail.events or snapshot is None:
            return tail.events if tail else []
        if snapshot.epoch != tail.epoch:
            return []
        folded = entry_order(snapshot.stream_id)
        return [(entry, event) for entry, event in tail.events if entry_order(entry) > folded]

    def _add(self, tail: Tail, events: list[Decoded]) -> None:
        """Add an entry's events. Those without a number are the workers' own, and come with their snapshots."""
        for event in events:
            if not isinstance(event, RouteEvent) or not event.seq or event.replica == self._replica:
                continue
            if event.event_id not in tail.ids:
                tail.ids.add(event.event_id)
                tail.events.append((tail.read_to, event))


async def newest_entries(redis: Redis, stream: str, after: str) -> list[tuple[str, list[Decoded]]]:
    """Return a stream's entries after this one with their events, the newest first; of more than TAIL_EVENTS these."""
    found: list[tuple[str, list[Decoded]]] = []
    read, end = 0, "+"
    while read < TAIL_EVENTS:
        page: Any = await redis.xrevrange(events_key(stream), end, f"({after}", count=PAGE_ENTRIES) or ()
        for entry, fields in page:
            events = decode_entry(fields.get(ENTRY_FIELD.encode(), b""))
            found.append((entry.decode(), events))
            read += max(1, len(events))  # what holds none takes time, too
        if len(page) < PAGE_ENTRIES:
            break
        end = f"({found[-1][0]}"
    return found
