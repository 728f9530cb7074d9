"""Reads the newest events from the ends of the streams: pages, news, and events of one request.

Workers keep a bounded tail on each stream for this; older events come from them (`reports`). Not here: descriptions.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import Redis

from service.console.api_types import EventView
from service.console.event_text import view_of
from service.ledger.ids import time_of_request_id_ms
from service.ledger.wire import CONTROL, ENTRY_FIELD, STREAMS_KEY, decode_entry, entry_order, events_key, snapshot_key

SCANNED_ENTRIES = 5_000
"""Maximum entries of a stream read for one page."""
STEP_ENTRIES = 250
NEW_ENTRIES = 500
REQUEST_MS = 3_600_000
"""Maximum time between a request's arrival and its last event."""
REQUEST_ENTRIES = 5_000

Wanted = Callable[[EventView], bool]


class StreamPage(NamedTuple):
    """Events, newest first, and the entry id at which the next page starts, "" at the streams' start."""

    events: list[EventView]
    next: str


class StreamReader:
    """Reads streams from their ends."""

    def __init__(self, redis: Redis, streams: Iterable[str]) -> None:
        self._redis = redis
        self._known = {*streams, CONTROL}

    async def streams(self) -> list[str]:
        """Return all streams. Raises RedisError or OSError."""
        named: Any = await self._redis.smembers(STREAMS_KEY)
        return sorted(self._known | {name.decode() for name in named})

    async def page(self, streams: Sequence[str], before: str, limit: int, wanted: Wanted) -> StreamPage:
        """Return the newest matching events before an entry; a page consists of whole entries, and so may be slightly
        longer."""
        found: list[EventView] = []
        end = f"({before}" if before else "+"
        for _ in range(SCANNED_ENTRIES // STEP_ENTRIES):
            entries = await self._step(streams, end)
            if not entries:
                return StreamPage(found, "")
            for number, (entry, views) in enumerate(entries):
                found += [view for view in views if wanted(view)]
                last = number + 1 == len(entries) or entries[number + 1][0] != entry
                if len(found) >= limit and last:
                    return StreamPage(found, entry)
            end = f"({entries[-1][0]}"
        return StreamPage(found, end.removeprefix("("))

    async def _step(self, streams: Sequence[str], end: str) -> list[tuple[str, list[EventView]]]:
        """Return the next entries of all streams together, newest first, as far as they are complete."""
        pipe = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipe.xrevrange(events_key(stream), max=end, min="-", count=STEP_ENTRIES)
        replies: list[Any] = await pipe.execute()
        # A stream that was read in part continues below its last entry: only what is above the highest of these is
        # complete.
        floors = [entry_order(reply[-1][0].decode()) for reply in replies if len(reply or ()) == STEP_ENTRIES]
        floor = max(floors, default=(0, 0))
        merged = [
            (entry.decode(), views_of(stream, entry.decode(), fields))
            for stream, reply in zip(streams, replies, strict=True)
            for entry, fields in reply or ()
            if entry_order(entry.decode()) >= floor
        ]
        merged.sort(key=lambda item: entry_order(item[0]), reverse=True)
        return merged

    async def ends(self, streams: Sequence[str]) -> dict[str, str]:
        """Return the last entry of each stream."""
        pipe = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipe.xrevrange(events_key(stream), count=1)
        replies: list[Any] = await pipe.execute()
        return {
            stream: reply[0][0].decode() if reply else "0-0" for stream, reply in zip(streams, replies, strict=True)
        }

    async def complete_from_ms(self, streams: Sequence[str]) -> int:
        """Return the time from which on all streams have all events; now, if one has none. Raises RedisError or
        OSError."""
        pipe = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipe.xrange(events_key(stream), count=1)
        replies: list[Any] = await pipe.execute()
        now_ms = int(time.time() * 1000)
        return max((entry_order(reply[0][0].decode())[0] if reply else now_ms for reply in replies), default=now_ms)

    async def has_history(self, streams: Sequence[str]) -> bool:
        """True if workers have folded events, which then may be on no stream any more. Raises RedisError or
        OSError."""
        pipe = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipe.exists(snapshot_key(stream))
        return any(await pipe.execute())

    async def news(self, after: dict[str, str]) -> list[EventView]:
        """Return events after these entries, oldest first; advances `after`."""
        pipe = self._redis.pipeline(transaction=False)
        for stream, entry in after.items():
            pipe.xrange(events_key(stream), min=f"({entry}", max="+", count=NEW_ENTRIES)
        replies: list[Any] = await pipe.execute()
        found: list[EventView] = []
        for stream, reply in zip(list(after), replies, strict=True):
            for entry, fields in reply or ():
                after[stream] = entry.decode()
                found += views_of(stream, entry.decode(), fields)
        found.sort(key=lambda view: entry_order(view.entry))
        return found

    async def of_request(self, request_id: str, streams: Sequence[str]) -> list[EventView]:
        """Return a request's events that are still on the streams, oldest first."""
        try:
            from_ms = time_of_request_id_ms(request_id)
        except ValueError:
            return []
        pipe = self._redis.pipeline(transaction=False)
        for stream in streams:
            pipe.xrange(
                events_key(stream), min=max(0, from_ms - 60_000), max=from_ms + REQUEST_MS, count=REQUEST_ENTRIES
            )
        replies: list[Any] = await pipe.execute()
        wanted = request_id.encode()
        found: list[EventView] = []
        for stream, reply in zip(streams, replies, strict=True):
            for entry, fields in reply or ():
                if wanted in fields.get(ENTRY_FIELD.encode(), b""):
                    views = views_of(stream, entry.decode(), fields)
                    found += [view for view in views if view.request_id == request_id]
        return found


def views_of(stream: str, entry: str, fields: dict[bytes, bytes]) -> list[EventView]:
    """Convert an entry's events for display, newest first."""
    decoded = decode_entry(fields.get(ENTRY_FIELD.encode(), b""))
    views = [view_of(stream, event, entry=entry) for event in decoded]
    return [view for view in reversed(views) if view]
