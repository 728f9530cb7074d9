"""The response to a client that waits for an event stream: its head, early if content is late, and pings in silence.

- The head commits the status, content commits the route. Without content for `API_HEAD_AFTER_MS`, status 200 and a ping
  go out, because what stands between cuts a silent connection, mostly after 60 s. Attempts go on behind them, unseen.
- A ping follows each 15 s of silence, always between events.
- A client that reads nothing for the idle limit (it was suspended, say) counts as gone: its request is cancelled.
- One timer serves a whole request. It finds out what is due when it fires, and does not move while bytes pass.

Not here: what passes (`streams`), what a failure becomes behind the head (`verdict_response`).
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from service.relay.client import ClientResponse
from service.settings import Timeouts

PING: Final = b'event: ping\ndata: {"type": "ping"}\n\n'
EARLY_HEAD: Final = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
)
LEAST_WAIT_S = 0.01
NEVER = float("inf")


class ClientStream:
    """The response to a client that waits for a stream. A `ResponseWriter`, to be stopped when the request is over."""

    def __init__(self, response: ClientResponse, timeouts: Timeouts) -> None:
        self._response = response
        self._loop = loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._ping_s = timeouts.ping_ms / 1000
        self._idle_s = timeouts.idle_ms / 1000
        self._last_s = now_s = loop.time()
        """When something was sent last; before the head, when the client began to wait."""
        self._writing = False
        self._sending: asyncio.Task[None] | None = None
        """A ping on its way, with the head before it if that is early."""
        self._head_at_s = now_s + timeouts.head_after_ms / 1000 if timeouts.head_after_ms else NEVER
        self._timer = loop.call_at(min(self._head_at_s, now_s + self._ping_s), self._on_timer)

    @property
    def early(self) -> bool:
        """Whether the head went before there was content."""
        return self._response.early

    @property
    def committed(self) -> bool:
        """Whether a route's answer has begun."""
        return self._response.committed

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        """Begin an answer: send its head, unless that has gone early."""
        if self._sending:
            await self._sent()
        self._writing = True
        await self._response.start(status, headers)
        self._writing = False
        self._last_s = self._loop.time()

    async def write(self, data: bytes) -> None:
        """Send whole events; no ping comes into them."""
        if self._sending:
            await self._sent()
        self._writing = True
        await self._response.write(data)
        self._writing = False
        self._last_s = self._loop.time()

    async def end(self, data: bytes = b"") -> None:
        """Send the last events, and complete the response."""
        self.stop()
        await self._response.end(data)

    def stop(self) -> None:
        """Send no more pings."""
        self._timer.cancel()
        if self._sending:
            self._sending.cancel()

    async def _sent(self) -> None:
        """Wait for the ping that is on its way."""
        if self._sending:
            await self._sending
            self._sending = None

    async def _send_ping(self) -> None:
        """Send a ping, with the head before it if that has not gone."""
        if not self._response.started:
            await self._response.start_early(EARLY_HEAD)
        await self._response.write(PING)

    def _on_timer(self) -> None:
        """Send a ping if one is due; give up a client that reads nothing."""
        now_s = self._loop.time()
        is_writing = self._writing or (self._sending is not None and not self._sending.done())
        if is_writing and self._task and now_s - self._last_s >= self._idle_s:
            self._task.cancel()
            return
        next_s = now_s + self._ping_s
        if not is_writing and now_s >= self._ping_at_s():
            self._sending = self._loop.create_task(self._send_ping())
            self._last_s = now_s
        elif not is_writing:
            next_s = min(next_s, max(self._ping_at_s(), now_s + LEAST_WAIT_S))
        self._timer = self._loop.call_at(next_s, self._on_timer)

    def _ping_at_s(self) -> float:
        """When a ping is due, if nothing else is sent: the first one with the head, the others after silence."""
        return self._last_s + self._ping_s if self._response.started else self._head_at_s
