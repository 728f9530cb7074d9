"""Watches the streams and enqueues fold jobs, in one thread per worker process.

It does not fold, and does not read Postgres. Redis suffices: a stream is settled when its newest snapshot was made from
this run of the server and stands at its last entry. Without news, it costs one blocking read and one check a second.

- News: a blocking read over all streams; any entry enqueues a job at once. A stream with a pending or lingering job is
  left out for a while, or as long as the job lingers if it is one of this process.
- The check: once a second, a job is enqueued for every stream that is not settled: its job failed, its worker was
  killed, it is new, or its snapshot is gone.
- Attempts of crashed replicas are closed (`lost`), every few seconds.
- At start and after each Redis outage, a job is enqueued for every stream, including those that only Postgres knows.
"""

import time
from collections.abc import Callable, Iterable
from threading import Event, Thread
from typing import Any

import psycopg
from redis import Redis, RedisError

from service.ledger import wire
from service.redis_client.factory import execute_with_run_ids, is_cluster
from workers.consume import NO_ENTRY
from workers.lost import LostAttempts
from workers.outage import Outage
from workers.publish import INTERVAL_S, POSITION_FIELDS, read_published
from workers.wake import WakeQueue

BLOCK_MS = 1_000
"""Well below redis-py's socket timeout, which would repeat the read; also the longest delay of a stop."""
POLL_S = 0.05
"""Interval between polls of a Cluster's streams: about twenty small commands a second when idle."""
EXCLUDED_S = 0.1
CHECK_INTERVAL_S = 1.0
RETRY_S = 0.5


class Ticker:
    """Enqueues fold jobs. `recall` returns the streams that Postgres knows, and may fail while it is away."""

    def __init__(
        self,
        redis: Redis,
        wake: WakeQueue,
        list_stored_streams: Callable[[], Iterable[str]],
        outage: Outage,
        lost: LostAttempts | None = None,
    ) -> None:
        self.redis = redis
        self.wake = wake
        self.list_stored_streams = list_stored_streams
        self.outage = outage
        self.lost = lost or LostAttempts(redis)
        self.seen: dict[str, str] = {}
        self._excluded_until_s: dict[str, float] = {}
        self._stored_read = False
        self._looked_s = 0.0
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
        self._stored_read = False
        self._looked_s = 0.0
        self.lost.reset()

    def tick(self) -> None:
        """Wait up to BLOCK_MS for entries and enqueue jobs for them; run the check once a second."""
        if time.monotonic() >= self._looked_s + CHECK_INTERVAL_S:
            self._looked_s = time.monotonic()
            self.check()
            self.lost.close_lost(self.seen)
            self.outage.mark_up()
        news = self.wait()
        if news:
            self.enqueue_unsettled(news)
            self._stopping.wait(INTERVAL_S)  # entries arriving meanwhile join the same batch

    def check(self) -> None:
        """Add new streams, and enqueue a job for every stream that is not settled."""
        named = {wire.CONTROL} | {name.decode() for name in self.redis_streams()} | set(self.stored_streams())
        fresh = named - self.seen.keys()
        self.seen |= dict.fromkeys(fresh, NO_ENTRY)
        for stream, settled in self.settled(sorted(self.seen)).items():
            if stream in fresh or not settled:
                self.wake.enqueue(stream)

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
        pipeline = self.redis.pipeline(transaction=False)
        for stream in streams:
            pipeline.xrevrange(wire.events_key(stream), count=1)
            pipeline.exists(wire.snapshot_key(stream))
            pipeline.hmget(wire.route_key(stream), POSITION_FIELDS)
        replies, runs = execute_with_run_ids(self.redis, pipeline, [wire.events_key(stream) for stream in streams])
        settled = {}
        for stream, run_id, last, exists, fields in zip(
            streams, runs, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            self.seen[stream] = last[0][0].decode() if last else NO_ENTRY
            published = read_published(exists, fields)
            settled[stream] = published is not None and published[2:] == (self.seen[stream], run_id)
        return settled

    def wait(self) -> list[str]:
        """Return the streams with entries after those seen; empty after BLOCK_MS, or earlier if a stream that was left
        out has to be included again."""
        now_s = time.monotonic()
        self._excluded_until_s = {
            stream: until_s for stream, until_s in self._excluded_until_s.items() if until_s > now_s
        }
        excluded = self._excluded_until_s.keys() | self.wake.lingering
        block_ms = int(EXCLUDED_S * 1000) if excluded else BLOCK_MS
        keys = {wire.events_key(stream): stream for stream in self.seen if stream not in excluded}
        positions: dict[Any, Any] = {key: self.seen[stream] for key, stream in keys.items()}
        if not positions:
            self._stopping.wait(block_ms / 1000)
            return []
        return [keys[key.decode()] for key in self._read(positions, block_ms)]

    def _read(self, positions: dict[Any, Any], block_ms: int) -> dict[bytes, Any]:
        """Return the first entry after each position, by key; empty if none is added within `block_ms`."""
        if is_cluster(self.redis):
            return self._poll(positions, block_ms)
        return self.redis.xread(positions, count=1, block=block_ms) or {}  # type: ignore[return-value]

    def _poll(self, positions: dict[Any, Any], block_ms: int) -> dict[bytes, Any]:
        """Poll instead of blocking, since one read can't wait on several slots of a Cluster."""
        give_up_s = time.monotonic() + block_ms / 1000
        while not self._stopping.is_set() and time.monotonic() < give_up_s:
            pipeline = self.redis.pipeline(transaction=False)
            for key, position in positions.items():
                pipeline.xread({key: position}, count=1)
            reply: dict[bytes, Any] = {}
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
                self._excluded_until_s[stream] = time.monotonic() + EXCLUDED_S
