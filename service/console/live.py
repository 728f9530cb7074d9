"""The live feed: one reader of Redis for all who watch, and a bounded queue for each of them.

Nothing is read while nobody watches. Who reads too slowly is cut off and comes again; a new one begins with the newest
events, so that nothing of interest is lost by it. Not here: the shapes (`api_types`), what an overview says.
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
"""Messages that wait for one watcher; a burst of a busy minute."""
TURN_S = 0.4
OVERVIEW_S = 1.0
PING_S = 15.0
FIRST_EVENTS = 50
OVER: bytes = b""


class TooManyWatchers(NoRoute):
    """As many watch already as one process serves."""


class Feed:
    """Reads what is new while somebody watches, and hands it out."""

    def __init__(self, tail: StreamReader | None, overview: Callable[[], Awaitable[Overview]], drain: Drain) -> None:
        self._tail = tail
        self._overview = overview
        self._drain = drain
        self._watchers: set[asyncio.Queue[bytes]] = set()
        self._task: asyncio.Task[None] | None = None
        self._shown: Overview | None = None

    async def watch(self) -> AsyncIterator[bytes]:
        """The feed for one watcher, until it goes or this process drains. Raises TooManyWatch."""
        if len(self._watchers) >= MOST_WATCHERS:
            raise TooManyWatchers(f"{MOST_WATCHERS} watchers are connected already; close a page", retry_after_s=30)
        queue: asyncio.Queue[bytes] = asyncio.Queue(QUEUED)
        self._watchers.add(queue)
        return self._read(queue)

    async def _read(self, queue: asyncio.Queue[bytes]) -> AsyncIterator[bytes]:
        try:
            for message in await self._first():
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

    async def _first(self) -> list[bytes]:
        """What a new watcher gets at once."""
        messages = [sse("overview", await self._overview())]
        if self._tail:
            with contextlib.suppress(RedisError, OSError):
                page = await self._tail.page(await self._tail.streams(), "", FIRST_EVENTS, lambda _: True)
                messages += [sse("event", view) for view in reversed(page.events[:FIRST_EVENTS])]
        return messages

    async def _run(self) -> None:
        """Hand out what is new, for as long as somebody watches."""
        after: dict[str, str] = {}
        shown_s = time.monotonic()
        while self._watchers and not self._drain.begun:
            if self._tail:
                with contextlib.suppress(RedisError, OSError):
                    for view in await self._news(self._tail, after):
                        self._tell(sse("event", view))
            if time.monotonic() - shown_s >= OVERVIEW_S:
                shown_s = time.monotonic()
                await self._tell_overview()
            await asyncio.sleep(TURN_S)
        for queue in list(self._watchers):
            self._cut(queue)

    async def _news(self, tail: StreamReader, after: dict[str, str]) -> list[EventView]:
        """What came since the last look; streams that are new are read from their first entry."""
        streams = await tail.streams()
        if not after:
            after.update(await tail.ends(streams))
            return []
        for stream in streams:
            after.setdefault(stream, "0-0")
        return await tail.news(after)

    async def _tell_overview(self) -> None:
        """Tell of the overview when more of it has changed than the time."""
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
        """End one watcher's feed; its queue is emptied, so that it hears of it at once."""
        self._watchers.discard(queue)
        while not queue.empty():
            queue.get_nowait()
        queue.put_nowait(OVER)

    async def stop(self) -> None:
        """Nobody watches any more."""
        self._watchers.clear()
        if self._task:
            await cancel_and_wait({self._task})


def sse(name: str, data: object) -> bytes:
    """A server-sent event."""
    return f"event: {name}\ndata: {visible_json(msgspec.json.encode(data).decode())}\n\n".encode()
