"""Relays an event stream: held back until content comes, then passed on as it comes.

- Only whole events are sent. A break in the middle of one costs the client that event, never its parser.
- The last event is held back until the ledger has the attempt's end.
- What was sent is never repeated or spliced.

Not here: what the events mean (`protocol.tap`), ending a broken stream (`attempt_runner`).
"""

import asyncio
from collections.abc import Awaitable, Callable

from service.fleet.clock import Clock
from service.protocol.sse import EMPTY_LINE
from service.protocol.tap import StreamTap
from service.protocol.usage_estimate import stream_usage
from service.relay.attempt import AttemptFailed, FinalPart, UpstreamExchange
from service.relay.classifier import FailureClassifier
from service.relay.client import ResponseWriter
from service.relay.client_errors import error_event, is_in_shape, redacted
from service.routing.failure import Failure
from service.settings import Timeouts

HELD_BYTES = 1024 * 1024
"""Bytes held back before commit; a start without content is a few hundred bytes, so that this is never reached."""
PING = b'event: ping\ndata: {"type": "ping"}\n\n'

Start = Callable[[], Awaitable[None]]
"""Sends the head of the response: from then on the request is committed to this route."""


class StreamRelay:
    """Relays one event stream, from its first byte to its last but one event."""

    def __init__(
        self,
        exchange: UpstreamExchange,
        start: Start,
        *,
        classifier: FailureClassifier,
        clock: Clock,
        timeouts: Timeouts,
    ) -> None:
        self._exchange = exchange
        self._start = start
        self._classifier = classifier
        self._clock = clock
        self._timeouts = timeouts
        self._tap = StreamTap()
        self._held = EventBuffer()
        self._pinger = Pinger(exchange.response, timeouts.ping_ms / 1000, timeouts.idle_ms / 1000)
        self._late_commit: asyncio.Task[None] | None = None
        """The commit of a stream that was held for long enough, while its next chunk is waited for."""

    async def relay(self) -> FinalPart:
        """Hold, commit, pass on. Raises AttemptFailed or UpstreamError for a stream without its end."""
        exchange = self._exchange
        timer = asyncio.get_running_loop().call_later(self._timeouts.hold_ms / 1000, self._commit_late)
        exchange.upstream.join()
        try:
            await self._hold()
            timer.cancel()
            await (self._late_commit or self._commit())
            await self._pass_on()
        except Exception:
            if self._late_commit:
                await self._late_commit  # the head is sent before anything that follows from the failure
            raise
        finally:
            timer.cancel()
            if self._late_commit:
                self._late_commit.cancel()
            self._pinger.stop()
            exchange.progress.usage = stream_usage(self._tap, len(exchange.request.plain))
        if not self._tap.ended:
            raise bad_answer("the stream ended early")
        return self._final_part()

    async def _commit(self) -> None:
        """Send the head, and what was held back."""
        exchange = self._exchange
        exchange.progress.first_content_ms = self._clock.now_ms() - exchange.plan.started_ms
        await self._start()
        self._pinger.start()
        await self._release()

    def _commit_late(self) -> None:
        self._late_commit = asyncio.get_running_loop().create_task(self._commit())

    async def _hold(self) -> None:
        """Read until content begins, the stream is complete, or it was held for long enough."""
        tap, held, upstream = self._tap, self._held, self._exchange.upstream
        while not (tap.has_content or tap.complete or held.size > HELD_BYTES):
            chunk = await upstream.chunk()
            if not chunk and not self._late_commit:
                raise bad_answer("the stream ended before any content")
            held.add(chunk, tap.feed(chunk))
            if self._late_commit:
                return
            self._check_start()

    def _check_start(self) -> None:
        """Raise AttemptFailed for an error before content, and for what is no event stream.

        An error behind content fails the request even if both came at once: how a stream is cut into chunks must not
        decide how the request ends.
        """
        if self._tap.garbage:
            raise bad_answer("the response is not an event stream")
        if self._tap.error and not self._tap.has_content:
            failure = self._classifier.classify_stream_error(self._exchange, self._tap.error)
            raise AttemptFailed(failure, self._tap.error.data)

    async def _pass_on(self) -> None:
        """Send whole events, unchanged, up to the chunk with the end, which is held back."""
        tap, held, upstream = self._tap, self._held, self._exchange.upstream
        await self._release()
        ended = tap.ended
        while not ended:
            chunk = await upstream.chunk()
            if not chunk:
                return
            free, ended = tap.feed(chunk), tap.ended
            if ended:
                held.add(chunk, 0)
            elif whole := held.through(chunk, free):
                await self._pinger.write(whole)

    async def _release(self) -> None:
        """Send the whole events that are held."""
        if whole := self._held.release():
            await self._pinger.write(whole)

    def _final_part(self) -> FinalPart:
        """The end of the stream, and what the stream has created."""
        exchange, tap = self._exchange, self._tap
        rest = self._held.rest()
        failure = None
        if tap.error:
            failure = self._classifier.classify_stream_error(exchange, tap.error)
            if not is_in_shape(tap.error.data):
                rest = before_event(rest, tap.error.data) + error_event(exchange.request, exchange.plan.route, failure)
            rest = redacted(rest, exchange.credential)
        threads = (tap.message_id,) if exchange.request.threaded else ()
        created = tuple(filter(None, (*threads, tap.container_id, *tap.file_ids)))
        return FinalPart(rest, failure=failure, resource_ids=created)


def before_event(events: bytes, data: bytes) -> bytes:
    """The whole events before the one with this data; none if it can't be found."""
    ends = [match.end() for match in EMPTY_LINE.finditer(events, 0, max(0, events.rfind(data)))]
    return events[: ends[-1]] if ends else b""


def bad_answer(message: str) -> AttemptFailed:
    """A response with status 200 that is none; another route may do better."""
    return AttemptFailed(Failure("bad_answer", "route", message=message, status=200))


class EventBuffer:
    """Bytes of a stream that were read and not yet sent."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []
        self._free = 0

    def add(self, chunk: bytes, free: int) -> None:
        """Hold a chunk; with its first `free` bytes, all that is held up to there may be sent."""
        self._parts.append(chunk)
        if free:
            self._free = self.size + free
        self.size += len(chunk)

    def through(self, chunk: bytes, free: int) -> bytes:
        """Return the bytes to send after this chunk: mostly the chunk itself."""
        if free == len(chunk) and not self._parts:
            return chunk
        self.add(chunk, free)
        return self.release()

    def release(self) -> bytes:
        """Return the bytes that may be sent now."""
        free, self._free = self._free, 0
        if not free:
            return b""
        held = self.rest()
        if free < len(held):
            self.add(held[free:], 0)
            held = held[:free]
        return held

    def rest(self) -> bytes:
        """All that is held."""
        held = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts, self.size = [], 0
        return held


class Pinger:
    """Sends a ping after 15 s of silence, always between events.

    A client that reads nothing for the idle limit (it was suspended, say) counts as gone: its stream is cancelled.
    """

    def __init__(self, response: ResponseWriter, interval_s: float, idle_s: float) -> None:
        self._response = response
        self._interval_s = interval_s
        self._idle_s = idle_s
        self._stream = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._last_s = 0.0
        self._writing = False
        self._ping: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """From now on the client waits for events."""
        self._last_s = self._loop.time()
        self._timer = self._loop.call_later(self._interval_s, self._tick)

    async def write(self, data: bytes) -> None:
        """Send whole events; no ping comes into them."""
        if self._ping and not self._ping.done():
            await self._ping
        self._writing = True
        await self._response.write(data)
        self._writing = False
        self._last_s = self._loop.time()

    def stop(self) -> None:
        """Send no more pings."""
        if self._timer:
            self._timer.cancel()
        if self._ping:
            self._ping.cancel()

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._last_s
        is_writing = self._writing or (self._ping is not None and not self._ping.done())
        if is_writing and silent_s >= self._idle_s and self._stream:
            self._stream.cancel()
            return
        if silent_s >= self._interval_s and not is_writing:
            self._ping = self._loop.create_task(self._response.write(PING))
            self._last_s = self._loop.time()
        wait_s = self._interval_s if is_writing else self._interval_s + self._last_s - self._loop.time()
        self._timer = self._loop.call_later(max(0.01, wait_s), self._tick)
