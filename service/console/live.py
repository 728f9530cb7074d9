"""The live feed: one reader of Redis for all watchers, with a bounded queue per watcher.

Redis is only read while there are watchers. A watcher that reads too slowly is disconnected; when it reconnects, it
first gets the newest events, so that it misses little. Not here: shapes (`api_types`) and the overview's content.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
from redis.exceptions import RedisError

from service.console.api_types import EventView, Overview
from service.console.stream_reader import StreamReader
from service.drain import Drain
from service.errors import NoRoute
from service.tasks import cancel_and_wait
from service.telemetry.safe_text import visible_json

MOST_WATCHERS = 32
QUEUED = 1_000
"""Maximum queued messages per watcher; a burst of a busy minute."""
TURN_S = 0.4
OVERVIEW_S = 1.0
PING_S = 15.0
FIRST_EVENTS = 50
OVER: bytes = b""


class TooManyWatchers(NoRoute):
    """The process's limit of watchers is reached."""


class Feed:
    """Reads new events while there are watchers, and distributes them."""

    def __init__(self, tail: StreamReader | None, overview: Callable[[], Awaitable[Overview]], drain: Drain) -> None:
        self._tail = tail
        self._overview = overview
        self._drain = drain
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._task: asyncio.Task[None] | None = None
        self._shown: Overview | None = None

    async def watch(self) -> AsyncIterator[bytes]:
        """Yield the feed for one watcher until it disconnects or this process drains. Raises TooManyWatchers."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise TooManyWatchers(f"{MOST_WATCHERS} watchers are connected already; close a page", retry_after_s=30)
        queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUED)
        self._watchers.add(queue)
        return self._read(queue)

    async def _read(self, queue: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
        try:
            for message in await self._initial_messages():
                yield message
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run(), name="live")
            silent_s = 0.0
            while not self._drain.begun and queue in self._watchers:
                try:
                    message = await asyncio.wait_for(queue.get(), 1.0)
                except TimeoutError:
                    silent_s += 1.0
                    if silent_s >= PING_S:
                        silent_s = 0.0
                        yield b": ping\n\n"
                    continue
                if message == OVER:
                    return
                yield message
        finally:
            self._watchers.discard(queue)

    async def _initial_messages(self) -> list[bytes]:
        """Return the first messages of a new watcher."""
        messages = [sse("overview", await self._overview())]
        if self._tail:
            with contextlib.suppress(RedisError, OSError):
                page = await self._tail.page(await self._tail.streams(), "", FIRST_EVENTS, lambda _: True)
                messages += [sse("event", view) for view in reversed(page.events[:FIRST_EVENTS])]
        return messages

    async def _run(self) -> None:
        """Distribute news while there are watchers."""
        after: dict[str, str] = {}
        shown_s = time.monotonic()
        while self._watchers and not self._drain.begun:
            if self._tail:
                with contextlib.suppress(RedisError, OSError):
                    for view in await self._news(self._tail, after):
                        self._tell(sse("event", view))
            if time.monotonic() - shown_s >= OVERVIEW_S:
                shown_s = time.monotonic()
                await self._send_overview()
            await asyncio.sleep(TURN_S)
        for queue in list(self._watchers):
            self._cut(queue)

    async def _news(self, tail: StreamReader, after: dict[str, str]) -> list[EventView]:
        """Return events since the last read; new streams are read from their first entry."""
        streams = await tail.streams()
        if not after:
            after.update(await tail.ends(streams))
            return []
        for stream in streams:
            after.setdefault(stream, "0-0")
        return await tail.news(after)

    async def _send_overview(self) -> None:
        """Send the overview if anything but its time has changed."""
        made = await self._overview()
        same = self._shown and msgspec.structs.replace(self._shown, at_ms=made.at_ms) == made
        self._shown = made
        if not same:
            self._tell(sse("overview", made))

    def _tell(self, message: bytes) -> None:
        for queue in list(self._watchers):
            try:
                queue.put_nowait(message)
            except asyncio.QueueFull:
                self._cut(queue)

    def _cut(self, queue: asyncio.Queue[bytes]) -> None:
        """End a watcher's feed; its queue is emptied, so that it notices at once."""
        self._watchers.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(OVER)

    async def stop(self) -> None:
        """Disconnect all watchers."""
        self._watchers.clear()
        if self._task:
            await cancel_and_wait({self._task})


def sse(name: str, data: object) -> bytes:
    """Encode a server-sent event."""
    return f"event: {name}\ndata: {visible_json(msgspec.json.encode(data).decode())}\n\n".encode()
