"""The laws of lost attempts: closed once when their replica is gone, at a mean, and taken back when the end comes."""

from typing import Any

import msgspec
import pytest

from service.ledger import fold, ids, wire
from service.ledger.events import (
    FOLD_RULES,
    AttemptEnded,
    AttemptStarted,
    PriceChange,
    ResourceUsed,
    TokenCounts,
    UsageLine,
    UsageRepriced,
)
from service.ledger.state import RouteLedger, Usage
from tests.support.stream_factories import NOON_MS, STREAM, append, ended, started
from tests.workers.conftest import Bench
from workers.lost import Estimate, LostAttempts, lost_events, mean_of
from workers.outage import Outage
from workers.ticker import Ticker
from workers.wake import WakeQueue

MODEL = "claude-sonnet-4-5"
HOUR = NOON_MS // fold.HOUR_MS


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def watcher_of(bench: Bench, clock: Clock) -> LostAttempts:
    """A worker that looks for lost attempts, driven by hand."""
    return LostAttempts(bench.redis, clock=clock)


def watch(lost: LostAttempts, clock: Clock, seconds: float) -> int:
    """Let time pass, with a look every second; how many attempts were closed."""
    closed = 0
    for _ in range(int(seconds)):
        clock.now_s += 1
        closed += lost.close_lost([STREAM, wire.CONTROL])
    return closed


def open_one(bench: Bench, replica: str = "dead", **fields: Any) -> AttemptStarted:
    """An attempt that has started long ago and not ended, folded and published."""
    event = msgspec.structs.replace(started(1, replica=replica), model_sent=MODEL, client_key="alice", **fields)
    append(bench.redis, [event])
    bench.new_publisher().publish(bench.project())
    return event


def beat(bench: Bench, replica: str) -> None:
    """A replica's heartbeat."""
    bench.redis.hset(wire.replica_key(replica), "pid", "1")


def cells(bench: Bench) -> list[tuple[Any, ...]]:
    """What the live cells count."""
    return bench.rows(
        "SELECT attempts, lost, input, output, cost_nusd, unpriced FROM ccproxy.usage_hourly ORDER BY hour"
    )


def test_an_attempt_is_closed_when_its_replica_is_gone(bench: Bench) -> None:
    """With the route's and model's mean, under the id that follows from the attempt's."""
    append(bench.redis, [ended(1, at_ms=now_ms(bench)), ended(2, at_ms=now_ms(bench), tokens=TokenCounts(input=30))])
    attempt = open_one(bench)
    clock = Clock()
    assert watch(watcher_of(bench, clock), clock, 60) == 1
    assert bench.project().position == 4
    rows = bench.rows("SELECT event_id::text, body::text FROM ccproxy.events WHERE type = 'attempt_lost'")
    assert [event_id for event_id, _ in rows] == [ids.lost_id(attempt.event_id)]
    event = wire.decode_event(rows[0][1].encode())
    assert msgspec.structs.asdict(event) | {"event_id": "", "at_ms": 0} == msgspec.structs.asdict(
        lost_events(fold.fold_route(RouteLedger(), [attempt]), [attempt.event_id], NOON_MS)[0]
    ) | {"event_id": "", "at_ms": 0, "tokens": TokenCounts(input=20, output=2), "cost_nusd": 1_000, "estimated": True}
    assert bench.verify().ok


def now_ms(bench: Bench) -> int:
    """Redis' time."""
    seconds, micros = bench.redis.time()
    return int(seconds) * 1000 + int(micros) // 1000


def test_a_replica_that_beats_loses_nothing(bench: Bench) -> None:
    """However long an attempt takes."""
    open_one(bench, "alive")
    beat(bench, "alive")
    clock = Clock()
    assert watch(watcher_of(bench, clock), clock, 3_600) == 0


def test_a_redis_that_was_watched_too_short_says_nothing(bench: Bench) -> None:
    """A worker that has just begun, or was cut off from Redis, waits for as long as a heartbeat takes to expire."""
    open_one(bench)
    clock = Clock()
    lost = watcher_of(bench, clock)
    assert watch(lost, clock, 29) == 0
    lost.reset()
    assert watch(lost, clock, 29) == 0
    assert watch(lost, clock, 10) == 1


def test_another_run_of_redis_is_watched_anew(bench: Bench) -> None:
    """A Redis that came back may have lost heartbeats."""
    open_one(bench)
    clock = Clock()
    lost = watcher_of(bench, clock)
    watch(lost, clock, 29)
    bench.valkey.stop()
    bench.valkey.start()
    assert watch(lost, clock, 29) == 0
    assert watch(lost, clock, 10) == 1


def test_one_look_without_a_heartbeat_proves_nothing(bench: Bench) -> None:
    """A Redis that was emptied gets its heartbeats back within a second."""
    open_one(bench, "alive")
    beat(bench, "alive")
    clock = Clock()
    lost = watcher_of(bench, clock)
    watch(lost, clock, 60)
    bench.redis.delete(wire.replica_key("alive"))
    assert watch(lost, clock, 5) == 0
    beat(bench, "alive")
    assert watch(lost, clock, 60) == 0


def test_a_young_attempt_waits(bench: Bench) -> None:
    """A replica that has just begun may not have beaten yet."""
    open_one(bench, at_ms=now_ms(bench))
    clock = Clock()
    assert watch(watcher_of(bench, clock), clock, 60) == 0


def test_an_attempt_is_told_once(bench: Bench) -> None:
    """While nobody folds, the stream does not fill with the same event; after a long while it is told again."""
    open_one(bench)
    clock = Clock()
    lost = watcher_of(bench, clock)
    assert [watch(lost, clock, 60), watch(lost, clock, 500), watch(lost, clock, 120)] == [1, 0, 1]


def test_several_workers_close_an_attempt_once(bench: Bench) -> None:
    """Each with its own time and mean; the first that is folded stands, and the others are no contradiction."""
    open_one(bench)
    clock = Clock()
    workers = [watcher_of(bench, clock) for _ in range(3)]
    assert [watch(worker, clock, 60) for worker in workers] == [1, 1, 1]
    assert bench.project().position == 2
    assert (bench.count("quarantine"), cells(bench)) == (0, [(1, 1, 0, 0, 0, 1)])


def test_a_later_end_takes_the_estimate_back(bench: Bench) -> None:
    """By way of a spool, from another replica's hands: the true tokens count, the attempt once, and verify agrees."""
    append(bench.redis, [ended(1, at_ms=now_ms(bench), replica="other")])
    attempt = open_one(bench)
    clock = Clock()
    watch(watcher_of(bench, clock), clock, 60)
    lost = bench.project()
    assert isinstance(lost.ledger, RouteLedger)
    assert list(lost.ledger.lost) == [attempt.event_id]
    assert sum(row[1] for row in cells(bench)) == 1
    append(bench.redis, [true_end(attempt)])
    assert bench.project().position == 4
    assert [sum(column) for column in zip(*cells(bench), strict=True)] == [2, 0, 17, 8, 1_009, 0]
    assert bench.verify().ok


def true_end(attempt: AttemptStarted) -> AttemptEnded:
    """The end of an attempt, which waited on disk."""
    return msgspec.structs.replace(
        ended(2, replica=attempt.replica, tokens=TokenCounts(input=7, output=3), cost_nusd=9, spooled=True),
        event_id=ids.ended_id(attempt.event_id),
        attempt_id=attempt.event_id,
    )


def test_an_end_that_was_first_leaves_no_estimate(bench: Bench) -> None:
    """A worker that looked at an old snapshot closes what has ended since: nothing is counted twice."""
    attempt = open_one(bench)
    clock = Clock()
    append(bench.redis, [true_end(attempt)])
    assert watch(watcher_of(bench, clock), clock, 60) == 1
    assert bench.project().position == 3
    assert cells(bench) == [(1, 0, 7, 3, 9, 0)]


def test_the_ticker_looks_and_forgets(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """It drives the look with its own streams, and a lost Redis makes it forget."""
    monkeypatch.setattr("workers.ticker.BLOCK_MS", 1)
    open_one(bench)
    clock = Clock()
    lost = watcher_of(bench, clock)
    ticker = Ticker(bench.redis, WakeQueue(bench.redis, bench.queue), list, Outage("redis"), lost)
    for _ in range(12):
        clock.now_s += 5
        ticker._looked_s = 0.0
        ticker.tick()
    assert bench.project().position == 2
    ticker.reset()
    clock.now_s += 5
    assert lost.close_lost([STREAM]) == 0


def usage(**counts: int) -> RouteLedger:
    """A ledger with one cell."""
    return RouteLedger(usage={HOUR: {MODEL: {"alice": Usage(**counts)}}})


@pytest.mark.parametrize(
    ("ledger", "estimate"),
    [
        pytest.param(RouteLedger(), Estimate(TokenCounts(), None), id="nothing was used"),
        pytest.param(usage(attempts=2, failed=2), Estimate(TokenCounts(), None), id="nothing was answered"),
        pytest.param(
            usage(attempts=5, failed=1, input=40, output=9, cache_read=8, cache_write_5m=5, cost_nusd=402),
            Estimate(TokenCounts(10, 2, 2, 1), 100),
            id="failures use nothing",
        ),
        pytest.param(usage(attempts=2, lost=1, input=40), Estimate(TokenCounts(20), 0), id="estimates are among them"),
        pytest.param(
            usage(attempts=1, batch_items=1, input=40), Estimate(TokenCounts(20), 0), id="as are items of batches"
        ),
        pytest.param(
            usage(attempts=2, unpriced=2, input=40), Estimate(TokenCounts(20), None), id="a model without a price"
        ),
        pytest.param(
            usage(attempts=2, unpriced=1, input=40, cost_nusd=500),
            Estimate(TokenCounts(20), None),
            id="what has no price is not free",
        ),
    ],
)
def test_the_estimate_is_the_mean_of_an_answered_attempt(ledger: RouteLedger, estimate: Estimate) -> None:
    """Per token kind, rounded down; the cost likewise."""
    assert mean_of(ledger, MODEL, NOON_MS) == estimate


def test_old_hours_and_other_models_are_no_mean() -> None:
    """A day back, this model."""
    ledger = usage(attempts=1, input=10)
    assert mean_of(ledger, "another", NOON_MS).tokens == TokenCounts()
    assert mean_of(ledger, MODEL, NOON_MS + 24 * fold.HOUR_MS).tokens == TokenCounts(input=10)
    assert mean_of(ledger, MODEL, NOON_MS + 25 * fold.HOUR_MS).tokens == TokenCounts()


def test_only_messages_use_tokens() -> None:
    """A lost count of tokens costs nothing."""
    attempt = msgspec.structs.replace(started(1), endpoint="count_tokens", model_sent=MODEL)
    ledger = fold.fold_route(usage(attempts=1, input=10), [attempt])
    (event,) = lost_events(ledger, [attempt.event_id], NOON_MS)
    assert (event.tokens, event.cost_nusd) == (TokenCounts(), 0)  # type: ignore[union-attr]


ADVISED = (
    UsageLine("claude-haiku-4-5", tokens=TokenCounts(2, 5), cost_nusd=7),
    UsageLine(MODEL, "advisor", TokenCounts(160_000, 8_000), cost_nusd=900),
)


def advised(seq: int, at_ms: int = NOON_MS, **fields: Any) -> AttemptEnded:
    """An answer of another model, to which MODEL gave advice."""
    fields = {"fold_rules": FOLD_RULES, "model_sent": "claude-haiku-4-5"} | fields
    return msgspec.structs.replace(ended(seq, at_ms=at_ms), lines=ADVISED, **fields)


def grown(seq: int) -> ResourceUsed:
    """An agents' session of MODEL."""
    return ResourceUsed(
        event_id=str(seq), at_ms=NOON_MS, resource_id="sesn_1", kind="session", model=MODEL, tokens=TokenCounts(9_000),
        rates_nusd=TokenCounts(10**6), fold_rules=FOLD_RULES,
    )  # fmt: skip


def test_advice_and_sessions_are_no_answers() -> None:
    """They say nothing about how much an answer of the model uses, whenever they are priced."""
    answered = ended(1, tokens=TokenCounts(input=30, output=2), cost_nusd=40)
    repriced = UsageRepriced(
        event_id="r", at_ms=NOON_MS, of="2", client_key="alice", fold_rules=FOLD_RULES,
        changes=(PriceChange("claude-haiku-4-5", 7, 7), PriceChange(MODEL, 900, 1_000)),
    )  # fmt: skip
    regrown = msgspec.structs.replace(
        repriced, event_id="s", of="4", changes=(PriceChange(MODEL, 9_000, 700_000),), of_growth=True
    )
    answered = msgspec.structs.replace(answered, model_sent=MODEL)
    ledger = fold.fold_route(RouteLedger(), [answered, advised(2), advised(3), grown(4), repriced, regrown])
    assert mean_of(ledger, MODEL, NOON_MS) == Estimate(TokenCounts(30, 2), 40)
    assert mean_of(fold.fold_route(RouteLedger(), [advised(1)]), MODEL, NOON_MS) == Estimate(TokenCounts(), None)
