"""Watches the streams and enqueues fold jobs, in one thread per worker process.

It does not fold, and does not read Postgres. Redis suffices: a stream is settled when its newest snapshot was made from
this run of the server and stands at its last entry. Without news, it costs one blocking read and one check a second.

A stream is folded as soon as somebody waits for it. A started attempt changes nothing that others decide by, and with
one live proxy nobody waits for what it has met: operators and restarts are served by a snapshot each second.

- News: a blocking read, over all streams if several proxies live, else over `control` alone. Any entry but started
  attempts enqueues a job at once. A stream with a pending or lingering job is left out for a while, or as long as the
  job lingers if it is one of this process.
- The check: once a second, and at news of `control` (an operator's command, a proxy that has started), a job is
  enqueued for every stream that is not settled: with one proxy that is all that folds it, and otherwise its job failed,
  its worker was killed, it is new, or its snapshot is gone. Started attempts alone wait for STARTS_WAIT_S.
- Attempts of crashed replicas are closed (`lost`), every few seconds.
- At start and after each Redis outage, a job is enqueued for every stream, including those that only Postgres knows.
"""

import time
from collections.abc import Callable, Iterable
from threading import Event, Thread
from typing import Any, NamedTuple, TypeAlias

import msgspec
import psycopg
from redis import Redis, RedisError

from service.ledger import wire
from service.ledger.events import AttemptStarted
from service.redis_client.factory import execute_with_run_ids, is_cluster
from workers.consume import NO_ENTRY
from workers.lost import LostAttempts
from workers.outage import Outage
from workers.publish import INTERVAL_S, POSITION_FIELDS, PublishedPosition, read_published
from workers.readers import SnapshotReaders
from workers.wake import WakeQueue

BLOCK_MS = 1_000
"""Well below redis-py's socket timeout, which would repeat the read; also the longest delay of a stop."""
POLL_S = 0.05
"""Interval between polls of a Cluster's streams: about twenty small commands a second when idle."""
EXCLUDED_S = 0.1
CHECK_INTERVAL_S = 1.0
RETRY_S = 0.5
NEWS_ENTRIES = 100
"""Entries that are looked at for others than started attempts; of more, some will be others."""
STARTS_WAIT_S = 10.0
"""Started attempts alone are folded after this time, well before their replica could count as crashed (`lost`)."""


class EventKind(msgspec.Struct):
    """What an event is."""

    type: str = ""


_kinds_decoder = msgspec.json.Decoder(list[EventKind])
START_KIND = str(AttemptStarted.__struct_config__.tag)


Entries: TypeAlias = list[tuple[bytes, dict[bytes, bytes]]]
"""Entries as redis-py returns them."""


class StreamState(NamedTuple):
    """What Redis shows of a stream: if its snapshot is of this run and at the last entry, and the entry at which it
    stands if it is of this run."""

    settled: bool
    folded_to: str | None


class Ticker:
    """Enqueues fold jobs. `recall` returns the streams that Postgres knows, and may fail while it is away."""

    def __init__(
        self,
        redis: Redis,
        wake: WakeQueue,
        list_stored_streams: Callable[[], Iterable[str]],
        outage: Outage,
        lost: LostAttempts | None = None,
        readers: SnapshotReaders | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.redis = redis
        self.readers = readers or SnapshotReaders(redis, clock)
        self.clock = clock
        self.wake = wake
        self.list_stored_streams = list_stored_streams
        self.outage = outage
        self.lost = lost or LostAttempts(redis)
        self.seen: dict[str, str] = {}
        self._excluded_until_s: dict[str, float] = {}
        self._started_s: dict[str, float] = {}
        self._strange: dict[str, Outage] = {}
        self._stored_read = False
        self._looked_s = -CHECK_INTERVAL_S
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop the thread; returns when it has ended or after `timeout_s`."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.reset()
                while not self._stopping.is_set():
                    self.tick()
            except Exception as error:  # noqa: BLE001 - without a ticker nothing is folded, so it has to survive any error
                self.outage.mark_down(error, traceback=not isinstance(error, RedisError))
                self._stopping.wait(RETRY_S)

    def reset(self) -> None:
        """Start over: a job is due for all streams."""
        self.seen = {}
        self._excluded_until_s = {}
        self._started_s = {}
        self._stored_read = False
        self._looked_s = -CHECK_INTERVAL_S
        self.lost.reset()

    def tick(self) -> None:
        """Wait up to BLOCK_MS for entries and enqueue jobs for them; run the check once a second."""
        if self.clock() >= self._looked_s + CHECK_INTERVAL_S:
            self._looked_s = self.clock()
            self.check()
            self.lost.close_lost(self.seen)
            self.outage.mark_up()
        news = self.wait()
        if news:
            self.enqueue_unsettled(news)
            self._stopping.wait(INTERVAL_S)  # entries arriving meanwhile join the same batch
        if wire.CONTROL in news:
            self._looked_s = -CHECK_INTERVAL_S  # for it, all snapshots are published

    def check(self) -> None:
        """Add new streams, and enqueue a job for every stream that is not settled."""
        self.readers.look()
        named = {wire.CONTROL} | {name.decode() for name in self.redis_streams()} | set(self.stored_streams())
        fresh = {stream for stream in named - self.seen.keys() if self.is_stream(stream)}
        self.seen |= dict.fromkeys(fresh, NO_ENTRY)
        for stream, state in self.read_states(sorted(self.seen)).items():
            if stream in fresh or not (state.settled or self.can_wait(stream, state.folded_to)):
                self.wake.enqueue(stream)

    def is_stream(self, stream: str) -> bool:
        """True unless the key of a stream holds something else, which must not keep others from being folded; logged
        once."""
        kind: Any = self.redis.type(wire.events_key(stream))
        outage = self._strange.setdefault(stream, Outage("fold", stream=stream))
        if kind not in (b"stream", b"none"):
            outage.mark_down(ValueError(f"{wire.events_key(stream)} is no stream but a {kind.decode()}; delete it"))
        else:
            outage.mark_up()
        return not outage.is_down

    def can_wait(self, stream: str, folded_to: str | None) -> bool:
        """True if nothing but started attempts came since this entry, and not long ago."""
        unread: Any = folded_to and self.redis.xrange(wire.events_key(stream), f"({folded_to}", "+", NEWS_ENTRIES)
        if not unread or has_news(unread):
            self._started_s.pop(stream, None)
            return False
        since_s = self._started_s.setdefault(stream, self.clock())
        return self.clock() < since_s + STARTS_WAIT_S

    def redis_streams(self) -> set[bytes]:
        """Return the streams that Redis knows."""
        return self.redis.smembers(wire.STREAMS_KEY)  # type: ignore[return-value]

    def stored_streams(self) -> Iterable[str]:
        """Return the streams that Postgres knows, once after each start or outage: an emptied Redis has
        forgotten them."""
        if self._stored_read:
            return ()
        try:
            streams = list(self.list_stored_streams())
        except psycopg.Error:
            return ()  # retried at the next check; the jobs report that Postgres is away
        self._stored_read = True
        return streams

    def settled(self, streams: list[str]) -> dict[str, bool]:
        """Return per stream if its snapshot is of this run and at the last entry. Sets `seen` to the last entries."""
        return {stream: state.settled for stream, state in self.read_states(streams).items()}

    def read_states(self, streams: list[str]) -> dict[str, StreamState]:
        """Return what Redis shows of these streams. Sets `seen` to the last entries."""
        pipeline = self.redis.pipeline(transaction=False)
        for stream in streams:
            pipeline.xrevrange(wire.events_key(stream), count=1)
            pipeline.exists(wire.snapshot_key(stream))
            pipeline.hmget(wire.route_key(stream), POSITION_FIELDS)
        replies, runs = execute_with_run_ids(self.redis, pipeline, [wire.events_key(stream) for stream in streams])
        states = {}
        for stream, run_id, last, exists, fields in zip(
            streams, runs, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            self.seen[stream] = last[0][0].decode() if last else NO_ENTRY
            states[stream] = state_of(read_published(exists, fields), self.seen[stream], run_id)
            if states[stream].settled:
                self._started_s.pop(stream, None)
        return states

    def wait(self) -> list[str]:
        """Return the streams with news after the entries seen; empty after BLOCK_MS, or earlier if a stream that was
        left out has to be included again, or only attempts were started."""
        excluded = self.excluded()
        block_ms = int(EXCLUDED_S * 1000) if excluded else BLOCK_MS
        if not (streams := self.watched() - excluded):
            self._stopping.wait(block_ms / 1000)
            return []
        read = self._read(streams, block_ms)
        self.seen |= {stream: entries[-1][0].decode() for stream, entries in read.items()}
        return [stream for stream, entries in read.items() if stream == wire.CONTROL or has_news(entries)]

    def watched(self) -> set[str]:
        """Return the streams on whose news others wait."""
        return {*self.seen} if self.readers.several() else self.seen.keys() & {wire.CONTROL}

    def excluded(self) -> set[str]:
        """Return the streams that are left out for now, since their jobs are pending or linger."""
        now_s = self.clock()
        self._excluded_until_s = {
            stream: until_s for stream, until_s in self._excluded_until_s.items() if until_s > now_s
        }
        return self._excluded_until_s.keys() | self.wake.lingering

    def _read(self, streams: Iterable[str], block_ms: int) -> dict[str, Entries]:
        """Return the entries after those seen, by stream; empty if none is added within `block_ms`."""
        keys = {wire.events_key(stream): stream for stream in streams}
        positions: dict[Any, Any] = {key: self.seen[stream] for key, stream in keys.items()}
        if is_cluster(self.redis):
            found = self._poll(positions, block_ms)
        else:
            found = self.redis.xread(positions, count=NEWS_ENTRIES, block=block_ms) or {}  # type: ignore[assignment]
        return {keys[key.decode()]: entries for key, entries in found.items()}

    def _poll(self, positions: dict[Any, Any], block_ms: int) -> dict[bytes, Entries]:
        """Poll instead of blocking, since one read can't wait on several slots of a Cluster."""
        give_up_s = self.clock() + block_ms / 1000
        while not self._stopping.is_set() and self.clock() < give_up_s:
            pipeline = self.redis.pipeline(transaction=False)
            for key, position in positions.items():
                pipeline.xread({key: position}, count=NEWS_ENTRIES)
            reply: dict[bytes, Entries] = {}
            for each in pipeline.execute():
                reply |= each or {}
            if reply:
                return reply
            self._stopping.wait(POLL_S)
        return {}

    def enqueue_unsettled(self, news: list[str]) -> None:
        """Enqueue jobs for these streams. `seen` is read before, so that the job reads at least as far."""
        for stream, settled in self.settled(news).items():
            if not settled and not self.wake.enqueue(stream):
                self._excluded_until_s[stream] = self.clock() + EXCLUDED_S


def state_of(published: PublishedPosition | None, last_id: str, run_id: str) -> StreamState:
    """Return what a stream's published position says of it, beside its last entry and its server's run."""
    if published is None or published.run_id != run_id:
        return StreamState(settled=False, folded_to=None)
    return StreamState(published.stream_id == last_id, published.stream_id)


def has_news(entries: Entries) -> bool:
    """True if these entries, the next NEWS_ENTRIES of a stream, have or may have others than started attempts."""
    return len(entries) >= NEWS_ENTRIES or any(map(is_news, entries))


def is_news(entry: tuple[bytes, dict[bytes, bytes]]) -> bool:
    """True if an entry holds another event than a started attempt, or what can't be decoded."""
    try:
        kinds = _kinds_decoder.decode(entry[1].get(wire.ENTRY_FIELD.encode(), b""))
    except wire.UNREADABLE:
        return True
    return any(kind.type != START_KIND for kind in kinds)
