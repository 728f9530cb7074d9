"""Closes attempts whose replica is gone: nobody else will tell their end, and their usage would never be counted.

`lost_events` decides, and is pure. `LostAttempts` looks at heartbeats and appends; the ticker's thread drives it. Not
here: taking an estimate back when the true end comes after all (the ledger's fold does), and counting twice (the ids of
these events follow from the attempts', so that any number of workers may write the same).

A replica is gone when its heartbeat's key has expired, at two looks in a row, and this worker saw Redis up all the time
that the key takes to expire: a Redis that was away, or came back empty, says nothing about proxies. An attempt younger
than that waits: its replica may not have beaten yet.
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
from workers.publish import MARK_FIELDS

AWAY_S = 30.0
"""What a heartbeat takes to expire (the proxies set it so)."""
LOOK_S = 5.0
TELL_AGAIN_S = 600.0
"""An attempt that is still open so long after it was given up is told again: Redis may have lost the event."""
MEAN_HOURS = 24
ENTRY_EVENTS = 256
NO_TOKENS = TokenCounts()


class Estimate(NamedTuple):
    """What an attempt may have used; the cost is None when nothing like it had a price."""

    tokens: TokenCounts
    cost_nusd: int | None


class Seen(NamedTuple):
    """A stream's attempts without an end, as of the snapshot with this mark."""

    mark: tuple[bytes | None, ...]
    ledger: RouteLedger


def lost_events(
    ledger: RouteLedger, attempt_ids: Iterable[str], now_ms: int, estimates: dict[str, Estimate] | None = None
) -> list[RouteEvent]:
    """The events that close these open attempts. `estimates` by model are made as needed."""
    estimates = {} if estimates is None else estimates
    events: list[RouteEvent] = []
    for attempt_id in attempt_ids:
        attempt = ledger.open[attempt_id]
        if attempt.model_sent not in estimates:
            estimates[attempt.model_sent] = mean_of(ledger, attempt.model_sent, now_ms)
        events.append(lost_event(attempt_id, attempt, estimates[attempt.model_sent], now_ms))
    return events


def lost_event(attempt_id: str, attempt: OpenAttempt, estimate: Estimate, now_ms: int) -> AttemptLost:
    """The event that closes an attempt. Only `messages` use tokens."""
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
    )


def mean_of(ledger: RouteLedger, model: str, now_ms: int) -> Estimate:
    """What an answered attempt of this model used on this route, on the mean of the last hours; nothing when none was.

    Estimates of other lost attempts are among them, tokens and count, and so don't move the mean.
    """
    oldest = now_ms // fold.HOUR_MS - MEAN_HOURS
    total = Usage()
    for hour, by_model in ledger.usage.items():
        if hour >= oldest:
            for usage in by_model.get(model, by_model.get(fold.OTHER_MODEL, {})).values():
                fold.add_usage(total, usage)
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
    priced = total.unpriced < total.attempts + total.batch_items
    return Estimate(tokens, total.cost_nusd // answered if priced else None)


class LostAttempts:
    """Looks every LOOK_S at the open attempts of all streams and at the heartbeats of their replicas."""

    def __init__(
        self,
        redis: Redis,
        *,
        away_s: float = AWAY_S,
        look_s: float = LOOK_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.redis = redis
        self.away_s = away_s
        self.look_s = look_s
        self._clock = clock
        self.forget()

    def forget(self) -> None:
        """Redis was away, or may have been: what was seen of it counts no more."""
        self._run_id = ""
        self._up_since_s = 0.0
        self._looked_s: float | None = None
        self._silent: set[str] = set()
        self._seen: dict[str, Seen] = {}
        self._told_s: dict[str, float] = {}

    def look(self, streams: Iterable[str]) -> int:
        """Close what is lost, if a look is due; how many attempts were closed. Raises RedisError."""
        now_s = self._clock()
        if self._looked_s is not None and now_s < self._looked_s + self.look_s:
            return 0
        self._looked_s = now_s
        routes = [stream for stream in streams if stream != wire.CONTROL]
        now_ms = self._ask(routes)
        silent = self._silent_replicas()
        gone, self._silent = silent & self._silent, silent
        if not gone or now_s < self._up_since_s + self.away_s:
            return 0
        return sum(self._close(stream, gone, now_ms) for stream in routes if stream in self._seen)

    def _ask(self, routes: Sequence[str]) -> int:
        """Ask Redis who it is, for the time, and for snapshots that moved; the time in ms."""
        seconds, micros = self.redis.time()
        pipeline = self.redis.pipeline(transaction=False)
        for stream in routes:
            pipeline.hmget(wire.route_key(stream), MARK_FIELDS)
        keys = [wire.route_key(stream) for stream in routes] or [wire.STREAMS_KEY]
        marks, runs = execute_with_run_ids(self.redis, pipeline, keys)
        run_id = "+".join(sorted({*runs}))
        if run_id != self._run_id:
            self.forget()
            self._run_id = run_id
            self._up_since_s = self._looked_s = self._clock()
        for stream, fields in zip(routes, marks, strict=True):
            mark = tuple(fields)
            if stream not in self._seen or self._seen[stream].mark != mark:
                self._seen[stream] = Seen(mark, self._read(stream))
        return int(seconds) * 1000 + int(micros) // 1000

    def _read(self, stream: str) -> RouteLedger:
        """The ledger of a stream's snapshot if it has open attempts, else an empty one, which is all that is needed."""
        raw: Any = self.redis.get(wire.snapshot_key(stream))
        snapshot = wire.decode_snapshot(raw) if raw else None
        try:
            ledger = wire.decode_ledger(stream, snapshot.ledger) if snapshot else None
        except msgspec.DecodeError:
            ledger = None  # of another version, whose workers will see to it
        return ledger if isinstance(ledger, RouteLedger) and ledger.open else RouteLedger()

    def _silent_replicas(self) -> set[str]:
        """The replicas with open attempts whose heartbeat is not there."""
        replicas = sorted({attempt.replica for seen in self._seen.values() for attempt in seen.ledger.open.values()})
        if not replicas:
            return set()
        pipeline = self.redis.pipeline(transaction=False)
        for replica in replicas:
            pipeline.exists(wire.replica_key(replica))
        return {replica for replica, beats in zip(replicas, pipeline.execute(), strict=True) if not beats}

    def _close(self, stream: str, gone: Collection[str], now_ms: int) -> int:
        """Append what closes the attempts of these replicas, each once in a while; how many there were."""
        ledger = self._seen[stream].ledger
        latest_ms, now_s = now_ms - int(self.away_s * 1000), self._clock()
        self._told_s = {told: at_s for told, at_s in self._told_s.items() if now_s < at_s + TELL_AGAIN_S}
        attempts = [
            attempt_id
            for attempt_id, attempt in ledger.open.items()
            if attempt.replica in gone and attempt.at_ms <= latest_ms and attempt_id not in self._told_s
        ]
        events = lost_events(ledger, attempts, now_ms)
        pipeline = self.redis.pipeline(transaction=False)
        for at in range(0, len(events), ENTRY_EVENTS):
            entry: dict[Any, Any] = {wire.ENTRY_FIELD: wire.encode_entry(events[at : at + ENTRY_EVENTS])}
            pipeline.xadd(wire.events_key(stream), entry)
        pipeline.execute()
        self._told_s |= dict.fromkeys(attempts, now_s)
        return len(events)
