"""A stream of events on its way to the client: held back until content comes, then passed on as it comes.

- Only whole events leave. A break in the middle of one costs the client that event, never its parser.
- The last event waits until the ledger has the attempt's end.
- After commit a break ends with a well-formed `event: error`; what was sent before it is never repeated or spliced.

Not here: what the events mean (`protocol.tap`).
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from service.fleet.clock import Clock
from service.http1.upstream import UpstreamError, UpstreamResponse
from service.ledger.events import TokenCounts
from service.protocol.tap import StreamTap
from service.protocol.usage_estimate import stream_tokens
from service.relay.attempt import AttemptFailed, AttemptState, ClientRequest, ResponseWriter
from service.relay.classifier import FailureClassifier
from service.relay.client_errors import redacted
from service.relay.recorder import AttemptRecorder
from service.routing.failure import Failure
from service.settings import Timeouts

HELD_BYTES = 1024 * 1024
"""What is held back before commit; a start without content is a few hundred bytes, so that this is never reached."""
DRAIN_S = 0.25
"""After `message_stop` the end of the body follows at once; a connection that dawdles is not worth keeping."""
PING = b'event: ping\ndata: {"type": "ping"}\n\n'

Start = Callable[[], Awaitable[None]]
"""Sends the head of the answer: from then on the request is committed."""


class StreamRelay:
    """One stream of events, from its first byte to its last."""

    def __init__(
        self,
        call: ClientRequest,
        one: AttemptState,
        reply: ResponseWriter,
        *,
        book: AttemptRecorder,
        judge: FailureClassifier,
        clock: Clock,
        timeouts: Timeouts,
    ) -> None:
        self._call = call
        self._one = one
        self._reply = reply
        self._book = book
        self._judge = judge
        self._clock = clock
        self._timeouts = timeouts
        self._tap = StreamTap()
        self._held = EventBuffer()
        self._late: asyncio.Task[None] | None = None
        """The commit of a stream that was held for long enough, while its next chunk is waited for."""

    async def relay(self, upstream: UpstreamResponse, start: Start) -> None:
        """Hold, commit, pass on. Raises Fault or UpstreamError for a stream without its end."""
        pinger = Pinger(self._reply, self._timeouts.ping_ms / 1000, self._timeouts.idle_ms / 1000)
        loop = asyncio.get_running_loop()

        async def commit() -> None:
            self._one.first_content_ms = self._clock.now_ms() - self._one.started_ms
            await start()
            pinger.begin()
            await self._release(pinger)

        def commit_late() -> None:
            self._late = loop.create_task(commit())

        timer = loop.call_later(self._timeouts.hold_ms / 1000, commit_late)
        upstream.join()
        try:
            await self._hold(upstream)
            timer.cancel()
            await (self._late or commit())
            await self._pass_on(upstream, pinger)
        except Exception:
            if self._late:
                await self._late  # the head goes before what is said of the failure
            raise
        finally:
            timer.cancel()
            if self._late:
                self._late.cancel()
            pinger.stop()
            if not self._one.accounted:
                self._one.tokens = self._tokens()
        if not self._tap.ended:
            raise AttemptFailed(Failure("bad_answer", "route", message="the stream ended before its end", status=200))

    async def _hold(self, upstream: UpstreamResponse) -> None:
        """Read until content begins, the stream is complete, or it was held for long enough."""
        while not (self._tap.has_content or self._tap.complete or self._held.size > HELD_BYTES):
            chunk = await upstream.chunk()
            if not chunk and not self._late:
                raise AttemptFailed(
                    Failure("bad_answer", "route", message="the stream ended before any content", status=200)
                )
            self._held.add(chunk, self._tap.feed(chunk))
            if self._late:
                return
            self._check_start()

    def _check_start(self) -> None:
        """An error before content, and what is no stream at all, can still be made good. One behind content can't,
        even if both came at once: how a stream is cut must not decide what becomes of it."""
        if self._tap.garbage:
            raise AttemptFailed(Failure("bad_answer", "route", message="the answer is no stream of events", status=200))
        if self._tap.error and not self._tap.has_content:
            self._one.body = self._tap.error.data
            raise AttemptFailed(self._judge.classify_stream_error(self._one, self._tap.error))

    async def _pass_on(self, upstream: UpstreamResponse, pinger: "Pinger") -> None:
        """Whole events to the client, unchanged; what comes together with the end goes with it, in one piece."""
        tap, held = self._tap, self._held
        await self._release(pinger)
        ended = tap.ended
        while not ended:
            chunk = await upstream.chunk()
            if not chunk:
                return
            free, ended = tap.feed(chunk), tap.ended
            if ended:
                held.add(chunk, 0)
            elif whole := held.through(chunk, free):
                await pinger.write(whole)
        pinger.stop()
        await self._finish()
        if not upstream.at_end:
            await drain_upstream(upstream)

    async def _release(self, pinger: "Pinger") -> None:
        """Pass on what may leave."""
        if whole := self._held.release():
            await pinger.write(whole)

    def _tokens(self) -> TokenCounts:
        """What the stream has used so far."""
        return stream_tokens(self._tap, len(self._call.plain))

    async def _finish(self) -> None:
        """The end of a stream: on the ledger first, then to the client."""
        one, tap = self._one, self._tap
        one.tokens = self._tokens()
        if tap.error:
            one.failure = self._judge.classify_stream_error(one, tap.error)
        else:
            one.outcome = "ok"
        await self._book.record_stream_resources(self._call, one, tap)
        await self._book.record_end(self._call, one, final=True)
        rest = self._held.rest()
        await self._reply.end(redacted(rest, one.credential) if tap.error else rest)


class EventBuffer:
    """What was read and not yet passed on."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes] = []
        self._free = 0

    def add(self, chunk: bytes, free: int) -> None:
        """Hold a chunk; with its first `free` bytes, all that is held up to there may leave."""
        self._parts.append(chunk)
        if free:
            self._free = self.size + free
        self.size += len(chunk)

    def through(self, chunk: bytes, free: int) -> bytes:
        """What may leave once this chunk has come: mostly just that."""
        if free == len(chunk) and not self._parts:
            return chunk
        self.add(chunk, free)
        return self.release()

    def release(self) -> bytes:
        """What may leave now."""
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
    """Keeps a silent stream alive: after 15 s of silence the client gets a ping, which always stands between events.

    A client that reads nothing for the idle limit (it was suspended, say) counts as gone: its stream is cancelled.
    """

    def __init__(self, reply: ResponseWriter, every_s: float, idle_s: float) -> None:
        self._reply = reply
        self._every_s = every_s
        self._idle_s = idle_s
        self._stream = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        self._last_s = 0.0
        self._writing = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        """From now on the client waits for events."""
        self._last_s = self._loop.time()
        self._timer = self._loop.call_later(self._every_s, self._look)

    async def write(self, data: bytes) -> None:
        """Pass whole events on; a ping never comes into them."""
        if self._task and not self._task.done():
            await self._task
        self._writing = True
        await self._reply.write(data)
        self._writing = False
        self._last_s = self._loop.time()

    def stop(self) -> None:
        """No more pings."""
        if self._timer:
            self._timer.cancel()
        if self._task:
            self._task.cancel()

    def _look(self) -> None:
        silent_s = self._loop.time() - self._last_s
        is_writing = self._writing or (self._task is not None and not self._task.done())
        if is_writing and silent_s >= self._idle_s and self._stream:
            self._stream.cancel()
            return
        if silent_s >= self._every_s and not is_writing:
            self._task = self._loop.create_task(self._reply.write(PING))
            self._last_s = self._loop.time()
        wait_s = self._every_s if is_writing else self._every_s + self._last_s - self._loop.time()
        self._timer = self._loop.call_later(max(0.01, wait_s), self._look)


async def drain_upstream(upstream: UpstreamResponse) -> None:
    """Read the end of the body, so that the connection can serve again; one that dawdles is dropped."""
    with contextlib.suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(DRAIN_S):
            while await upstream.chunk():
                pass
