"""Waits for news on the streams and calls for workers. Each worker process has one, in a thread of its own.

Not here: folding, or knowing how far anything is folded. What Redis shows suffices: a stream is settled when its newest
snapshot was made of this run of the server and stands at its last entry. Between news there is one blocking read and
one look a second.

- News: a blocking read over all streams; whatever comes calls for a job at once. A stream that a job stays with, or
  that one is on its way to, is left out for a while; for as long as it stays, when it is one of this process.
- The look: once a second, every stream that is not settled calls for a job: one whose job failed or whose worker was
  killed, one that is new, one whose snapshot is gone.
- Attempts whose replica is gone are closed (`lost`), every few seconds.
- At start, and whenever Redis was away, every stream is called for once, also those that only Postgres knows.
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
from workers.publish import INTERVAL_S, MARK_FIELDS, read_published
from workers.wake import Wake

BLOCK_MS = 1_000
"""Well below redis-py's socket time-out, which would send the read again; a stop is heeded within this time."""
POLL_S = 0.05
"""Between two looks at a Cluster's streams: some twenty small commands a second where nothing goes on."""
LEFT_OUT_S = 0.1
LOOK_S = 1.0
RETRY_S = 0.5


class Ticker:
    """Wakes the queue. `recall` names the streams that Postgres knows, and may fail while it is away."""

    def __init__(
        self,
        redis: Redis,
        wake: Wake,
        recall: Callable[[], Iterable[str]],
        outage: Outage,
        lost: LostAttempts | None = None,
    ) -> None:
        self.redis = redis
        self.wake = wake
        self.recall = recall
        self.outage = outage
        self.lost = lost or LostAttempts(redis)
        self.seen: dict[str, str] = {}
        self._left_out: dict[str, float] = {}
        self._recalled = False
        self._looked_s = 0.0
        self._stopping = Event()
        self._thread = Thread(target=self._run, name="ticker", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop watching; returns when the thread has ended or the time is over."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.forget()
                while not self._stopping.is_set():
                    self.tick()
            except Exception as error:  # noqa: BLE001 - without a ticker nothing is folded; whatever it is, it is said
                self.outage.mark_down(error, traceback=not isinstance(error, RedisError))
                self._stopping.wait(RETRY_S)

    def forget(self) -> None:
        """Begin anew: all streams are to be called for."""
        self.seen = {}
        self._left_out = {}
        self._recalled = False
        self._looked_s = 0.0
        self.lost.forget()

    def tick(self) -> None:
        """Wait for news for up to BLOCK_MS and call for what has some; look around when a second has passed."""
        if time.monotonic() >= self._looked_s + LOOK_S:
            self._looked_s = time.monotonic()
            self.look()
            self.lost.look(self.seen)
            self.outage.mark_up()
        news = self.wait()
        if news:
            self.note(news)
            self._stopping.wait(INTERVAL_S)  # what comes meanwhile goes into the same batch

    def look(self) -> None:
        """Take up new streams, and call for every stream that is not settled."""
        named = {wire.CONTROL} | {name.decode() for name in self.members()} | set(self.recalled())
        fresh = named - self.seen.keys()
        self.seen |= dict.fromkeys(fresh, NO_ENTRY)
        for stream, settled in self.settled(sorted(self.seen)).items():
            if stream in fresh or not settled:
                self.wake.enqueue(stream)

    def members(self) -> set[bytes]:
        """The streams that Redis knows."""
        return self.redis.smembers(wire.STREAMS_KEY)  # type: ignore[return-value]

    def recalled(self) -> Iterable[str]:
        """The streams that Postgres knows, asked once; a Redis that came back empty has forgotten them."""
        if self._recalled:
            return ()
        try:
            streams = list(self.recall())
        except psycopg.Error:
            return ()  # asked again at the next look; that Postgres is away is said by the jobs
        self._recalled = True
        return streams

    def settled(self, streams: list[str]) -> dict[str, bool]:
        """Whether each stream's snapshot is this run's and stands at the last entry. Sets `seen` to last entries."""
        pipeline = self.redis.pipeline(transaction=False)
        for stream in streams:
            pipeline.xrevrange(wire.events_key(stream), count=1)
            pipeline.exists(wire.snapshot_key(stream))
            pipeline.hmget(wire.route_key(stream), MARK_FIELDS)
        replies, runs = execute_with_run_ids(self.redis, pipeline, [wire.events_key(stream) for stream in streams])
        verdicts = {}
        for stream, run_id, last, exists, fields in zip(
            streams, runs, replies[::3], replies[1::3], replies[2::3], strict=True
        ):
            self.seen[stream] = last[0][0].decode() if last else NO_ENTRY
            mark = read_published(exists, fields)
            verdicts[stream] = mark is not None and mark[2:] == (self.seen[stream], run_id)
        return verdicts

    def wait(self) -> list[str]:
        """The streams that have entries behind those seen; returns empty-handed after BLOCK_MS, or sooner when a
        stream is left out, and is to be asked for again."""
        now_s = time.monotonic()
        self._left_out = {stream: until_s for stream, until_s in self._left_out.items() if until_s > now_s}
        left_out = self._left_out.keys() | self.wake.attended
        block_ms = int(LEFT_OUT_S * 1000) if left_out else BLOCK_MS
        keys = {wire.events_key(stream): stream for stream in self.seen if stream not in left_out}
        positions: dict[Any, Any] = {key: self.seen[stream] for key, stream in keys.items()}
        if not positions:
            self._stopping.wait(block_ms / 1000)
            return []
        if is_cluster(self.redis):
            reply = self._poll(positions, block_ms)
        else:
            reply = self.redis.xread(positions, count=1, block=block_ms) or {}  # type: ignore[assignment]
        return [keys[key.decode()] for key in reply]

    def _poll(self, positions: dict[Any, Any], block_ms: int) -> dict[bytes, Any]:
        """The same on a Cluster, where one read can't wait for several slots."""
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

    def note(self, news: list[str]) -> None:
        """Call for these streams. What is seen is read before the call: the job that it calls for reads no less."""
        for stream, settled in self.settled(news).items():
            if not settled and not self.wake.enqueue(stream):
                self._left_out[stream] = time.monotonic() + LEFT_OUT_S
