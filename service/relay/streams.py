"""Relays an event stream: held back until content comes, then passed on as it comes.

- Only whole events are sent. A break in the middle of one costs the client that event, never its parser.
- The last event is held back until the ledger has the attempt's end.
- What was sent is never repeated or spliced.
- A provider that sends nothing but pings and comments, or an event without an end, is silent: before content under the
  attempt's deadline, after it under the idle limit, in a thought under the limit of the first content.

Not here: what the events mean (`protocol.tap`), pings to the client (`client_stream`), ending a broken stream
(`attempt_runner`).
"""

import asyncio
from collections.abc import Awaitable, Callable

from service.fleet.clock import Clock
from service.protocol.sse import BOM, EMPTY_LINE
from service.protocol.tap import StreamTap
from service.protocol.usage_estimate import UsageEstimator
from service.protocol.usage_reader import UsageReading
from service.relay.attempt import AttemptFailed, FinalPart, UpstreamExchange
from service.relay.classifier import FailureClassifier
from service.relay.client_errors import error_event, is_in_shape, redacted
from service.routing.failure import Failure
from service.settings import Timeouts

HELD_BYTES = 1024 * 1024
"""Bytes held back before commit; a start without content is a few hundred bytes, so that this is never reached."""

Commit = Callable[[], Awaitable[bytes]]
"""Commits the request to this route; returns what the client is told before the first event."""


class StreamRelay:
    """Relays one event stream, from its first byte to its last but one event."""

    def __init__(
        self,
        exchange: UpstreamExchange,
        commit: Commit,
        *,
        classifier: FailureClassifier,
        estimator: UsageEstimator,
        clock: Clock,
        timeouts: Timeouts,
    ) -> None:
        self._exchange = exchange
        self._start_answer = commit
        self._classifier = classifier
        self._estimator = estimator
        self._clock = clock
        self._began_ms = clock.now_ms()
        self._idle_s = timeouts.idle_ms / 1000
        self._thought_s = max(timeouts.idle_ms, timeouts.first_content_ms) / 1000
        self._tap = StreamTap()
        self._held = EventBuffer()
        self._seen_events = -1
        """Events up to the last heartbeat, and when the first heartbeat after them came."""
        self._silent_since_s = 0.0

    async def relay(self) -> FinalPart:
        """Hold, commit, pass on. Raises AttemptFailed or UpstreamError for a stream without its end."""
        exchange = self._exchange
        exchange.upstream.join()
        try:
            await self._hold()
            await self._commit()
            await self._pass_on()
        finally:
            exchange.progress.usage = self._usage()
        if not self._tap.ended:
            raise bad_answer("the stream ended early")
        return self._final_part()

    def _usage(self) -> UsageReading:
        """The usage so far."""
        request = self._exchange.request
        return self._estimator.of_stream(
            self._tap,
            self._exchange.plan.model,
            request.plain,
            took_ms=self._clock.now_ms() - self._began_ms,
        )

    async def _hold(self) -> None:
        """Read until content begins, or the stream is complete."""
        tap, held, upstream = self._tap, self._held, self._exchange.upstream
        while not (tap.has_content or tap.complete or held.size > HELD_BYTES):
            chunk = await upstream.chunk()
            if not chunk:
                raise bad_answer("the stream ended before any content")
            if not held.size:
                self._exchange.progress.first_part_ms = self._clock.now_ms() - self._exchange.plan.started_ms
            held.add(chunk, tap.feed(chunk))
            self._check_start()

    async def _commit(self) -> None:
        """Begin the answer, and send what was held back."""
        exchange = self._exchange
        exchange.progress.first_content_ms = self._clock.now_ms() - exchange.plan.started_ms
        told = await self._start_answer()
        whole = self._held.release()
        if told:
            whole = told + whole.removeprefix(BOM)  # a mark counts at the start of a stream alone
        if whole:
            await exchange.response.write(whole)

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
        tap, held, upstream, response = self._tap, self._held, self._exchange.upstream, self._exchange.response
        ended, heartbeats = tap.ended, tap.heartbeats
        while not ended:
            chunk = await upstream.chunk()
            if not chunk:
                return
            free, ended = tap.feed(chunk), tap.ended
            if ended:
                held.add(chunk, 0)
            elif whole := held.through(chunk, free):
                await response.write(whole)
            if not free or tap.heartbeats != heartbeats:
                heartbeats = tap.heartbeats
                self._check_silence()

    def _check_silence(self) -> None:
        """Raise AttemptFailed if the stream lives, and yet no event has come for too long."""
        tap, now_s = self._tap, asyncio.get_running_loop().time()
        if tap.ended or tap.content_events != self._seen_events:
            self._seen_events, self._silent_since_s = tap.content_events, now_s
        elif now_s - self._silent_since_s >= (self._thought_s if tap.is_thinking else self._idle_s):
            raise AttemptFailed(
                Failure("timeout", "route", message="the provider sent nothing but pings for too long", status=200)
            )

    def _final_part(self) -> FinalPart:
        """The end of the stream, and what the stream has created."""
        exchange, tap = self._exchange, self._tap
        rest = self._held.rest()
        rest = rest[: len(rest) - tap.surplus_bytes]  # how a stream is cut must not decide what follows its end
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
