"""Closes attempts of crashed replicas, whose end no other process would record.

`lost_events` decides, and is pure. `LostAttempts` reads heartbeats and appends the events, in the ticker's thread. Not
here: replacing the estimate if the real end arrives after all (the fold does), and deduplication (event ids are derived
from attempt ids, so that several workers may append the same event).

A replica counts as crashed when its heartbeat key has been expired in two checks in a row, and this worker saw Redis up
for as long as the key takes to expire: after a Redis outage, missing heartbeats prove nothing. Younger attempts are
skipped: their replica may not have sent a heartbeat yet.
"""

import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import msgspec
from redis import Redis

from service.ledger import fold, ids, wire
from service.ledger.events import FOLD_RULES, AttemptLost, RouteEvent, TokenCounts
from service.ledger.state import OpenAttempt, RouteLedger, Usage
from service.redis_client.factory import execute_with_run_ids
from workers.append import append_events
from workers.publish import POSITION_FIELDS

HEARTBEAT_TTL_S = 30.0
"""Expiry of a heartbeat key, as the proxies set it."""
CHECK_INTERVAL_S = 5.0
REPORT_AGAIN_S = 600.0
"""An attempt still open this long after its AttemptLost gets another one: Redis may have lost the event."""
MEAN_HOURS = fold.KEPT_BESIDE_HOURS
NO_TOKENS = TokenCounts()


class Estimate(NamedTuple):
    """Estimated usage of a lost attempt; the cost is None if comparable attempts had no price."""

    tokens: TokenCounts
    cost_nusd: int | None


class SeenSnapshot(NamedTuple):
    """A stream's open attempts, as of the snapshot at this position."""

    position: tuple[bytes | None, ...]
    ledger: RouteLedger


def lost_events(
    ledger: RouteLedger, attempt_ids: Iterable[str], now_ms: int, estimates: dict[str, Estimate] | None = None
) -> list[RouteEvent]:
    """Return the events that close these open attempts. `estimates` caches one estimate per model."""
    estimates = {} if estimates is None else estimates
    events: list[RouteEvent] = []
    for attempt_id in attempt_ids:
        attempt = ledger.open[attempt_id]
        if attempt.model_sent not in estimates:
            estimates[attempt.model_sent] = mean_of(ledger, attempt.model_sent, now_ms)
        events.append(lost_event(attempt_id, attempt, estimates[attempt.model_sent], now_ms))
    return events


def lost_event(attempt_id: str, attempt: OpenAttempt, estimate: Estimate, now_ms: int) -> AttemptLost:
    """Return the event that closes an attempt. Only `messages` attempts get an estimate."""
    if attempt.endpoint != "messages":
        estimate = Estimate(NO_TOKENS, 0)
    return AttemptLost(
        event_id=ids.lost_id(attempt_id),
        at_ms=max(now_ms, attempt.at_ms),
        attempt_id=attempt_id,
        request_id=attempt.request_id,
        started_at_ms=attempt.at_ms,
        endpoint=attempt.endpoint,
        model_asked=attempt.model_asked,
        model_sent=attempt.model_sent,
        client_key=attempt.client_key,
        session_id=attempt.session_id,
        tokens=estimate.tokens,
        cost_nusd=estimate.cost_nusd,
        fold_rules=FOLD_RULES,
        estimated=estimate.tokens != NO_TOKENS,
    )


def mean_of(ledger: RouteLedger, model: str, now_ms: int) -> Estimate:
    """Estimate an attempt of this model as the mean of the route's answered ones in the last hours; zero if none.

    Earlier estimates are part of it, in tokens and in count, and so don't shift the mean. What the model used beside
    its own answers, such as for other models' as their advisor, is not. What has no price is not free: with any of it
    among them, the mean has none.
    """
    total = own_usage(ledger, model, now_ms // fold.HOUR_MS - MEAN_HOURS)
    answered = total.attempts - total.failed + total.batch_items
    if answered <= 0:
        return Estimate(NO_TOKENS, None)
    tokens = TokenCounts(
        input=total.input // answered,
        output=total.output // answered,
        cache_read=total.cache_read // answered,
        cache_write_5m=total.cache_write_5m // answered,
        cache_write_1h=total.cache_write_1h // answered,
    )
    return Estimate(tokens, None if total.unpriced > 0 else max(0, total.cost_nusd) // answered)


def own_usage(ledger: RouteLedger, model: str, oldest: int) -> Usage:
    """Return what a model's own answers have used since an hour."""
    total = Usage()
    for hour in filter(lambda hour: hour >= oldest, ledger.usage):
        by_model = ledger.usage[hour]
        cell = model if model in by_model else fold.OTHER_MODEL
        for usage in by_model.get(cell, {}).values():
            fold.add_usage(total, usage)
        if beside := ledger.beside.get(hour, {}).get(cell):
            fold.add_usage(total, fold.negative(beside))
    return total


class LostAttempts:
    """Checks the open attempts of all streams against their replicas' heartbeats, every CHECK_INTERVAL_S seconds."""

    def __init__(
        self,
        redis: Redis,
        *,
        heartbeat_ttl_s: float = HEARTBEAT_TTL_S,
        interval_s: float = CHECK_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.redis = redis
        self.heartbeat_ttl_s = heartbeat_ttl_s
        self.interval_s = interval_s
        self._clock = clock
        self.reset()

    def reset(self) -> None:
        """Discard what was seen before a (possible) Redis outage."""
        self._run_id = ""
        self._up_since_s = 0.0
        self._checked_s: float | None = None
        self._missing: set[str] = set()
        self._seen: dict[str, SeenSnapshot] = {}
        self._reported_s: dict[str, float] = {}

    def close_lost(self, streams: Iterable[str]) -> int:
        """Close lost attempts if a check is due; return how many. Raises RedisError."""
        now_s = self._clock()
        if self._checked_s is not None and now_s < self._checked_s + self.interval_s:
            return 0
        self._checked_s = now_s
        routes = [stream for stream in streams if stream != wire.CONTROL]
        now_ms = self._read_server(routes)
        missing = self._missing_replicas()
        gone, self._missing = missing & self._missing, missing
        if not gone or now_s < self._up_since_s + self.heartbeat_ttl_s:
            return 0
        return sum(self._close(stream, gone, now_ms) for stream in routes if stream in self._seen)

    def _read_server(self, routes: Sequence[str]) -> int:
        """Read the server's run id, its time and the snapshots that changed; return the time in ms."""
        seconds, micros = self.redis.time()
        pipeline = self.redis.pipeline(transaction=False)
        for stream in routes:
            pipeline.hmget(wire.route_key(stream), POSITION_FIELDS)
        keys = [wire.route_key(stream) for stream in routes] or [wire.STREAMS_KEY]
        marks, runs = execute_with_run_ids(self.redis, pipeline, keys)
        run_id = "+".join(sorted({*runs}))
        if run_id != self._run_id:
            self.reset()
            self._run_id = run_id
            self._up_since_s = self._checked_s = self._clock()
        for stream, fields in zip(routes, marks, strict=True):
            mark = tuple(fields)
            if stream not in self._seen or self._seen[stream].position != mark:
                self._seen[stream] = SeenSnapshot(mark, self._read(stream))
        return int(seconds) * 1000 + int(micros) // 1000

    def _read(self, stream: str) -> RouteLedger:
        """Return the ledger of a stream's snapshot if it has open attempts, else an empty one."""
        raw: Any = self.redis.get(wire.snapshot_key(stream))
        snapshot = wire.decode_snapshot(raw) if raw else None
        try:
            ledger = wire.decode_ledger(stream, snapshot.ledger) if snapshot else None
        except msgspec.DecodeError:
            ledger = None  # written by another version, whose workers handle it
        return ledger if isinstance(ledger, RouteLedger) and ledger.open else RouteLedger()

    def _missing_replicas(self) -> set[str]:
        """Return the replicas with open attempts but without a heartbeat."""
        replicas = sorted({attempt.replica for seen in self._seen.values() for attempt in seen.ledger.open.values()})
        if not replicas:
            return set()
        pipeline = self.redis.pipeline(transaction=False)
        for replica in replicas:
            pipeline.exists(wire.replica_key(replica))
        return {replica for replica, beats in zip(replicas, pipeline.execute(), strict=True) if not beats}

    def _close(self, stream: str, gone: Collection[str], now_ms: int) -> int:
        """Append events that close these replicas' attempts, at most once per REPORT_AGAIN_S; return how many."""
        ledger = self._seen[stream].ledger
        latest_ms, now_s = now_ms - int(self.heartbeat_ttl_s * 1000), self._clock()
        self._reported_s = {
            attempt_id: at_s for attempt_id, at_s in self._reported_s.items() if now_s < at_s + REPORT_AGAIN_S
        }
        attempts = [
            attempt_id
            for attempt_id, attempt in ledger.open.items()
            if attempt.replica in gone and attempt.at_ms <= latest_ms and attempt_id not in self._reported_s
        ]
        events = lost_events(ledger, attempts, now_ms)
        append_events(self.redis, stream, events)
        self._reported_s |= dict.fromkeys(attempts, now_s)
        return len(events)
