"""Outbox of events for the streams: numbers them, keeps them until a snapshot includes them, spools them during
outages.

Laws
- `append` returns when the event is on its stream, or on disk if Redis has not acknowledged it within 100 ms.
- One append is in flight at a time, in `seq` order within each stream; events that arrive meanwhile go with the next.
  After an uncertain result it resumes at the oldest unacknowledged event; the ledger folds each event once.
- An event is kept until a snapshot includes it. When Redis was replaced (its run id changed), all kept events are
  appended again. Events that no longer fit in memory are on disk; so are, during an outage, those acknowledged last,
  since Redis may restart without them and this process may die too.

Not here: what the events mean (`service.ledger`), and reading snapshots (`service.fleet.snapshots`).
"""

import asyncio
import contextlib
import logging
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, repeat, takewhile
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct, field
from redis.exceptions import RedisError

from service.fleet.clock import Clock
from service.fleet.spool import Orphan, Spool, SpoolRecord, adopt, read_segment
from service.ledger.events import Event
from service.ledger.state import Heard
from service.ledger.wire import (
    encode_entry,
)
from service.problems import WRITING, Problems
from service.tasks import cancel_and_wait, keep_running

log = logging.getLogger("ccproxy.outbox")

ACKNOWLEDGE_S = 0.1
"""A response's wait for Redis before its event is spooled."""
BATCH_EVENTS = 256
"""Maximum events of one stream per entry: about 150 KB, which Redis handles without a pause."""
KEPT_EVENTS = 50_000
"""Maximum events of one stream in memory, about 50 MB; older ones are on disk."""
STEP_EVENTS = 500
"""Events discarded without a pause: a quarter of a millisecond. A second of much load leaves thousands."""
DISK_EVENTS = 2_000
"""Events written to disk at once: two milliseconds. All that was kept is as much as 50,000."""
FRESH_MS = 5_000
"""Entries older than this are on Redis's disk: it fsyncs each second, and delays writes after two."""
RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)
"""Delays between retries while Redis is unavailable; the last one repeats."""
RESENT_REASONS = ("redis_replaced", "stream_lost")

DISK_LIMIT_S = 10.0
"""A stop's wait for the disk."""


class StreamPort(Protocol):
    """Appends entries to Redis for the outbox."""

    async def append(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Append one entry to each of these streams; raises RedisError or OSError."""


class QueuedEvent(Struct):
    """An event in memory. `done` resolves when it is durable: on the stream or on disk.

    `to_disk`: handed to the spool; `on_disk`: written. `round` is the number of the lateness check before which it
    came.
    """

    event: Event
    done: asyncio.Future[None] | None = None
    to_disk: bool = False
    on_disk: bool = False
    round: int = 0


class StreamQueue(Struct):
    """Events of one stream: `pending` are not on the stream yet; `sent` are, but not in a snapshot."""

    seq: int = 0
    pending: deque[QueuedEvent] = field(default_factory=deque)
    sent: deque[QueuedEvent] = field(default_factory=deque)


class Outbox:
    """Appends events for this process. The composition root adds `listeners`, which are called with each event
    as soon as it is numbered."""

    def __init__(
        self,
        port: StreamPort | None,
        *,
        replica: str,
        clock: Clock,
        spool_root: Path,
        problems: Problems | None = None,
        describe: Callable[[Exception], str] = str,
    ) -> None:
        """`describe` says why Redis can't be used."""
        self.replica = replica
        self.problems = problems or Problems(clock.now_ms)
        self.listeners: list[Callable[[str, Event], None]] = []
        self.queues: dict[str, StreamQueue] = {}
        self.away = False
        self.resent = dict.fromkeys(RESENT_REASONS, 0)
        """How many events were appended again, by reason."""
        self._port = port
        self._clock = clock
        self._describe = describe
        self._spool_root = spool_root
        self._spool = Spool(spool_root / replica)
        self._orphans: list[Orphan] = []
        self._has_work = asyncio.Event()
        self._to_disk: list[tuple[str, QueuedEvent]] = []
        self._has_disk_work = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._round = 0
        self._read_back = False
        self._stopping = False

    async def start(self) -> None:
        """Start appending; adopts spools of dead processes."""
        if self._port is None:
            return
        self._orphans = await asyncio.to_thread(adopt, self._spool_root, self._spool.folder)
        self._tasks = [
            asyncio.create_task(keep_running(run, name, self.problems), name=name)
            for name, run in (("outbox.append", self._append_forever), ("outbox.spool", self._spool_forever))
        ]
        self._has_work.set()

    async def stop(self, limit_s: float = 3.0) -> None:
        """Send pending events within the limit; the rest stays on disk for the next process."""
        if not self._tasks:
            return
        self._has_work.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self.pending and not self.away:  # noqa: ASYNC110 - bounded by the limit above
                    await asyncio.sleep(0.01)
        if self._timer:
            self._timer.cancel()
        appending, spooling = self._tasks
        await cancel_and_wait({appending})
        self._spool_pending()
        self._stopping = True
        self._has_disk_work.set()
        await asyncio.wait({spooling}, timeout=DISK_LIMIT_S)
        if not spooling.cancel():  # the disk hangs; the lock is released with the process
            await asyncio.to_thread(self._spool.close)
        for lane in self.queues.values():
            for kept in lane.pending:
                acknowledge(kept)
        orphans, self._orphans = self._orphans, []
        for orphan in orphans:
            orphan.release()

    @property
    def pending(self) -> int:
        """The number of events not on their stream yet."""
        return sum(len(lane.pending) for lane in self.queues.values())

    @property
    def spooled(self) -> int:
        """The number of events in memory that are also on disk, because Redis did not acknowledge them in time."""
        return sum(kept.on_disk for lane in self.queues.values() for kept in (*lane.pending, *lane.sent))

    @property
    def streams(self) -> set[str]:
        """The streams with own or adopted events that no snapshot includes, also of routes no longer configured."""
        return {*self.queues}.union(*(orphan.streams for orphan in self._orphans))

    @property
    def unacknowledged_count(self) -> int:
        """The number of events in memory that no snapshot includes."""
        return sum(len(lane.sent) + len(lane.pending) for lane in self.queues.values())

    @property
    def oldest_unacknowledged_ms(self) -> int | None:
        """Time of the oldest of them; None if there is none."""
        firsts = (kept[0].event.at_ms for lane in self.queues.values() for kept in (lane.sent, lane.pending) if kept)
        return min(firsts, default=None)

    async def append(self, stream: str, event: Event) -> int:
        """Number the event, and return its number once it is on its stream or on disk."""
        lane = self.queues.get(stream)
        if lane is None:
            lane = self.queues[stream] = StreamQueue()
        lane.seq += 1
        event = msgspec.structs.replace(event, replica=self.replica, seq=lane.seq, spooled=self.away)
        for listener in self.listeners:
            listener(stream, event)
        if self._port is None:
            return event.seq
        done = asyncio.get_running_loop().create_future()
        kept = QueuedEvent(event, done, round=self._round)
        lane.pending.append(kept)
        if self.away:
            self._write_to_disk(stream, (kept,))
            self._drop_oldest()
        else:
            self._has_work.set()
            self._watch_pending()
        await done
        return event.seq

    def _watch_pending(self) -> None:
        """Schedule a check of the pending events; one timer serves all."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(ACKNOWLEDGE_S / 2, self._spool_late)

    def _spool_late(self) -> None:
        """Spool events already pending at the previous check; there are two checks within the limit."""
        self._timer = None
        late, self._round = self._round, self._round + 1
        for stream, lane in self.queues.items():
            self._write_to_disk(stream, takewhile(lambda kept: kept.round < late, lane.pending))
        if self.pending:
            self._watch_pending()

    def unacknowledged(self, stream: str, after_seq: int = 0) -> list[Event]:
        """Return this process's events on a stream that no snapshot includes, by number, from the one after
        `after_seq` on."""
        lane = self.queues.get(stream)
        if lane is None:
            return []
        kept = [*lane.sent, *lane.pending]
        return [one.event for one in kept[bisect_right(kept, after_seq, key=lambda one: one.event.seq) :]]

    async def discard_acknowledged(self, heard: Mapping[str, Mapping[str, Heard]]) -> None:
        """Discard events that snapshots include; `heard` is stream -> replica -> acknowledged numbers."""
        for stream, lane in list(self.queues.items()):
            account = heard.get(stream, {}).get(self.replica)
            for _ in discard_in_steps(lane, account) if account else ():
                await asyncio.sleep(0)

    async def discard_delivered(self, heard: dict[str, dict[str, Heard]]) -> None:
        """Discard events that snapshots include, in memory (re-appended ones too) and on disk."""
        await self.discard_acknowledged(heard)
        await asyncio.to_thread(self._spool.drop_acknowledged, heard)
        for orphan in [orphan for orphan in self._orphans if orphan.is_acknowledged(heard)]:
            self._orphans.remove(orphan)
            await asyncio.to_thread(orphan.remove)

    def redis_changed(self, *, is_first: bool = False) -> None:
        """Append all kept events again, since Redis was replaced; `is_first`: or may have been, before the first
        look at it."""
        for stream in self.queues:
            again = self._resend(stream)
            if not is_first:
                self.resent["redis_replaced"] += again
        self._read_back = True
        self._has_work.set()

    def stream_lost(self, stream: str) -> int:
        """Append the kept events of a stream again, since Redis has lost them, in memory and on disk; return how many
        are in memory."""
        again = self._resend(stream)
        self.resent["stream_lost"] += again
        self._read_back = True
        self._has_work.set()
        return again

    def _resend(self, stream: str) -> int:
        """Move the events of a stream that were sent back to those that are pending; return how many."""
        lane = self.queues[stream]
        again = len(lane.sent)
        lane.pending.extendleft(reversed(lane.sent))
        lane.sent.clear()
        return again

    def has_kept(self, stream: str, until_seq: int) -> bool:
        """True if an event up to this number is in memory: no snapshot includes it yet."""
        lane = self.queues.get(stream)
        firsts = (kept[0].event.seq for kept in (lane.sent, lane.pending) if kept) if lane else ()
        return min(firsts, default=until_seq + 1) <= until_seq

    async def _append_forever(self) -> None:
        tries = 0
        self._read_back = self._read_back or bool(self._orphans)
        self._has_work.set()  # a run before may have ended in the middle of it
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            try:
                while batch := self._gather():
                    await self._send(batch)
                if self._read_back:
                    await self._append_from_disk()
                    self._has_work.set()  # for events that arrived meanwhile
                tries = 0
                self._mark_up()
            except (RedisError, OSError) as error:
                self._mark_down(error)
                await asyncio.sleep(RETRY_S[min(tries, len(RETRY_S) - 1)])
                tries += 1
                self._has_work.set()

    def _gather(self) -> dict[str, list[QueuedEvent]]:
        """Return the oldest pending events of each stream."""
        return {name: list(islice(lane.pending, BATCH_EVENTS)) for name, lane in self.queues.items() if lane.pending}

    async def _send(self, batch: dict[str, list[QueuedEvent]]) -> None:
        """Append one entry per stream; moves acknowledged events to `sent`."""
        assert self._port is not None  # noqa: S101 - without a port no task runs
        await self._port.append([(name, encode_entry([kept.event for kept in part])) for name, part in batch.items()])
        for name, part in batch.items():
            lane = self.queues[name]
            for kept in part:
                # Meanwhile others may have come before it (Redis was replaced), or it was discarded (it is on disk).
                if lane.pending and lane.pending[0] is kept:
                    lane.pending.popleft()
                    lane.sent.append(kept)
                acknowledge(kept)
        self._drop_oldest()

    def _drop_oldest(self) -> None:
        """Spool the oldest events that no snapshot includes, then drop them from memory, which is bounded."""
        for stream, lane in self.queues.items():
            if len(lane.sent) > KEPT_EVENTS or len(lane.pending) > KEPT_EVENTS:
                self._drop_oldest_of(stream, lane)

    def _drop_oldest_of(self, stream: str, lane: StreamQueue) -> None:
        excess = min(BATCH_EVENTS, max(0, len(lane.sent) - KEPT_EVENTS))
        self._write_to_disk(stream, islice(lane.sent, excess))
        while len(lane.sent) > KEPT_EVENTS and lane.sent[0].on_disk:
            lane.sent.popleft()
        while len(lane.pending) > KEPT_EVENTS and lane.pending[0].on_disk:
            lane.pending.popleft()
            self._read_back = True

    async def _append_from_disk(self) -> None:
        """Append events from disk: adopted spools, and own events dropped from memory."""
        self._read_back = False
        segments = [segment for orphan in self._orphans for segment in orphan.segments] + self._spool.segments
        try:
            for segment in segments:
                records = await asyncio.to_thread(list, read_segment(segment.path))
                for at in range(0, len(records), BATCH_EVENTS):
                    await self._append_records(records[at : at + BATCH_EVENTS])
                log.info("spool.read_back", extra={"events": len(records)})
        except BaseException:
            self._read_back = True
            raise

    async def _append_records(self, records: Sequence[SpoolRecord]) -> None:
        """Append records unchanged, one entry per replica, because an entry holds events of one replica."""
        assert self._port is not None  # noqa: S101 - without a port no task runs
        groups: dict[tuple[str, str], list[Event]] = {}
        for record in records:
            event = msgspec.structs.replace(record.event, spooled=True)
            groups.setdefault((record.stream, event.replica), []).append(event)
        await self._port.append([(stream, encode_entry(events)) for (stream, _), events in groups.items()])

    def _mark_up(self) -> None:
        if self.away:
            self.away = False
            self.problems.end("redis", source=WRITING)

    def _mark_down(self, error: Exception) -> None:
        if not self.away:
            self.away = True
            self.problems.begin("redis", self._describe(error) or type(error).__name__, source=WRITING)
            self._spool_fresh()
        self._spool_pending()

    def _spool_fresh(self) -> None:
        """Spool the events sent last: Redis may restart without them, and this process may die before it notices."""
        oldest_ms = self._clock.now_ms() - FRESH_MS
        for stream, lane in self.queues.items():
            self._write_to_disk(stream, (kept for kept in lane.sent if kept.event.at_ms >= oldest_ms))

    def _spool_pending(self) -> None:
        """Spool all events that are not on the stream."""
        for stream, lane in self.queues.items():
            self._write_to_disk(stream, lane.pending)

    def _write_to_disk(self, stream: str, events: Iterable[QueuedEvent]) -> None:
        """Hand events to the spool, each once."""
        news = [kept for kept in events if not kept.to_disk]
        for kept in news:
            kept.to_disk = True
        self._to_disk.extend(zip(repeat(stream), news))
        if news:
            self._has_disk_work.set()

    async def _spool_forever(self) -> None:
        """Write queued events, with one fsync for as many as do not hold up requests."""
        while self._to_disk or not self._stopping:
            await self._has_disk_work.wait()
            batch = self._to_disk[:DISK_EVENTS]
            del self._to_disk[:DISK_EVENTS]
            if not self._to_disk:
                self._has_disk_work.clear()
            if not batch:
                continue
            records = [SpoolRecord(stream, msgspec.structs.replace(kept.event, spooled=True)) for stream, kept in batch]
            try:
                await asyncio.to_thread(self._spool.append, records)
                written = True
                self.problems.end("spool")
            except Exception as error:  # noqa: BLE001 - nobody may wait for these events for ever, whatever it is
                written = False
                # The response must not wait for a broken disk; the events stay in memory until Redis accepts them.
                unknown = None if isinstance(error, OSError) else error
                self.problems.begin("spool", spool_failure(self._spool_root, error), traceback=unknown)
            for _, kept in batch:
                kept.to_disk = kept.on_disk = written
                acknowledge(kept)
            if written:
                self._drop_oldest()


def spool_failure(root: Path, error: Exception) -> str:
    """Describe why nothing could be written to disk, with its mend."""
    if isinstance(error, OSError):
        return f"{root}: {error.strerror or error}; free disk space, or make it writable"
    return f"{root}: unexpected {type(error).__name__}; please report it"


def discard_in_steps(lane: StreamQueue, account: Heard) -> Iterator[None]:
    """Discard the events that a snapshot includes, and yield after each STEP_EVENTS."""
    discarded = 0
    while lane.sent and account.has(lane.sent[0].event.seq):
        lane.sent.popleft()
        discarded += 1
        if not discarded % STEP_EVENTS:
            yield


def acknowledge(queued: QueuedEvent) -> None:
    """Mark the event as durably acknowledged."""
    if queued.done and not queued.done.done():
        queued.done.set_result(None)
