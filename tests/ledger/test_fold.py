"""(ledger, events) -> ledger: what follows from what happened, whatever the cut, and what never does."""

import itertools
from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ledger import fold, ids, wire
from service.ledger.events import (
    FOLD_RULES,
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    BatchItemUsed,
    PriceChange,
    RouteEvent,
    TokenCounts,
    UsageLine,
    UsageRepriced,
    Window,
)
from service.ledger.fold import (
    BUCKET_MS,
    HOUR_MS,
    KEPT_BUCKETS,
    KEPT_HOURS,
    KEPT_MISSING_MODELS,
    KEPT_MODELS,
    KEPT_REPLICAS,
    MODEL_BYTES,
    OTHER_MODEL,
)
from service.ledger.state import Charge, ControlLedger, RouteLedger, Usage, Wait, WindowTold
from tests.support.event_factories import (
    MODEL,
    NOW_MS,
    SECOND_MS,
    Log,
    after,
    batch_item,
    distinct,
    ended,
    failed,
    id_of,
    logs,
    lost,
    plain,
    started,
)

FEW = settings(max_examples=60, deadline=None)
HOUR = NOW_MS // HOUR_MS


def cell(ledger: RouteLedger, key: str = "alice", hour: int = HOUR) -> Usage:
    """The usage of the model and a key in an hour."""
    return ledger.usage[hour][MODEL][key]


# -- the fold as a whole


@FEW
@given(logs(), st.data())
def test_cutting_a_log_into_batches_changes_nothing(log: Log, data: st.DataObject) -> None:
    """Batches, and ledgers that were written down and read again between them, come to what one fold comes to."""
    log = distinct(log)
    ledger, rest = RouteLedger(), log
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        ledger = fold.fold_route(ledger, rest[:size])
        rest = rest[size:]
        if data.draw(st.booleans()):
            read = wire.decode_ledger("anthropic", wire.encode_ledger(ledger))
            assert isinstance(read, RouteLedger)
            ledger = read
    assert plain(ledger) == plain(after(*log))


@FEW
@given(logs())
def test_folding_again_comes_to_the_same_bytes(log: Log) -> None:
    """A replay of the same events is the same ledger, to the byte."""
    assert wire.encode_ledger(after(*log)) == wire.encode_ledger(after(*log))


@FEW
@given(logs(), st.integers(0, 20))
def test_fold_leaves_its_argument_alone(log: Log, cut: int) -> None:
    """The ledger that was given is what it was before, however deep the change."""
    ledger = after(*log[:cut])
    before = wire.encode_ledger(ledger)
    fold.fold_route(ledger, log[cut:])
    assert wire.encode_ledger(ledger) == before


@FEW
@given(logs())
def test_what_was_heard_can_be_left_out(log: Log) -> None:
    """A caller that asks `Heard.has` before each event folds each event once, whatever comes again."""
    ledger = RouteLedger()
    for event in log:
        account = ledger.heard.get(event.replica)
        if not event.replica or account is None or not account.has(event.seq):
            fold.advance_route(ledger, event)
    assert plain(ledger) == plain(after(*distinct([event for event in log if event.replica])))


@FEW
@given(logs())
def test_advance_is_fold_in_place(log: Log) -> None:
    """One event after another in place, and all of them at once, are the same."""
    ledger = RouteLedger()
    for event in log:
        fold.advance(ledger, event)
    assert plain(ledger) == plain(after(*log))


def test_an_event_of_another_kind_of_stream_is_no_part() -> None:
    """Control events leave a route's ledger alone, and a route's events the control ledger."""
    control = ControlLedger()
    fold.advance(control, ended())
    assert control == ControlLedger()


# -- usage


@FEW
@given(logs())
def test_cells_add_up_to_their_hour(log: Log) -> None:
    """The sum of all models and keys of an hour is the hour's own sum, field by field."""
    ledger = after(*log)
    assert ledger.usage.keys() == ledger.hours.keys()
    for hour, by_model in ledger.usage.items():
        cells = [usage for by_key in by_model.values() for usage in by_key.values()]
        for name in Usage.__struct_fields__:
            assert sum(getattr(usage, name) for usage in cells) == getattr(ledger.hours[hour], name)


def told_last(log: Log) -> list[AttemptEnded | AttemptLost | BatchItemUsed]:
    """What each attempt used: as its end says, else as it was estimated when it was given up while it was open."""
    begun: set[str] = set()
    told: dict[str, AttemptEnded | AttemptLost | BatchItemUsed] = {}
    for event in log:
        match event:
            case AttemptStarted():
                begun.add(event.event_id)
            case AttemptLost() if event.attempt_id in begun:
                told.setdefault(event.attempt_id, event)
            case AttemptEnded():
                told[event.attempt_id] = event
            case BatchItemUsed():
                told[event.event_id] = event
    return list(told.values())


@FEW
@given(logs())
def test_every_attempt_counts_once_by_its_true_end(log: Log) -> None:
    """Whatever the order of start, estimate and end, an end counts and its estimate does not; only age drops any."""
    log = distinct(log)
    ledger = after(*log)
    oldest = max((event.at_ms for event in log), default=0) // HOUR_MS - KEPT_HOURS
    kept = [event for event in told_last(log) if event.at_ms // HOUR_MS >= oldest]
    attempts = [event for event in kept if not isinstance(event, BatchItemUsed)]
    assert sum(usage.attempts for usage in ledger.hours.values()) == len(attempts)
    assert sum(usage.batch_items for usage in ledger.hours.values()) == len(kept) - len(attempts)
    assert sum(usage.lost for usage in ledger.hours.values()) == sum(isinstance(e, AttemptLost) for e in kept)
    for name in TokenCounts.__struct_fields__:
        counted = sum(getattr(usage, name) for usage in ledger.hours.values())
        assert counted == sum(getattr(event.tokens, name) for event in kept)


@FEW
@given(logs())
def test_charges_are_what_changes_in_the_cells(log: Log) -> None:
    """Workers write down what `advance` tells of each event: all of it together is what the ledger holds."""
    ledger = RouteLedger()
    written: fold.CellSums = {}
    for event in log:
        for charge in fold.advance(ledger, event):
            fold.add_usage(fold.sum_of(written, charge), charge.usage)
    assert cells_of(ledger) == {cell: usage for cell, usage in written.items() if cell[0] in ledger.usage}


def cells_of(ledger: RouteLedger) -> fold.CellSums:
    """The usage cells of a ledger by hour, model and client key."""
    return {
        (hour, model, key): usage
        for hour, by_model in ledger.usage.items()
        for model, by_key in by_model.items()
        for key, usage in by_key.items()
    }


@FEW
@given(logs(), st.lists(st.integers(min_value=1, max_value=40), min_size=1))
def test_events_are_folded_in_batches_as_one_by_one(log: Log, sizes: list[int]) -> None:
    """However a log is cut into batches: the same ledger, and the same changes to usage cells in all."""
    ledger, by_batch = RouteLedger(), RouteLedger()
    charged: fold.CellSums = {}
    for event in log:
        for charge in fold.advance(ledger, event):
            fold.add_usage(fold.sum_of(charged, charge), charge.usage)
    summed: fold.CellSums = {}
    rest = list(log)
    for size in itertools.cycle(sizes):
        batch, rest = rest[:size], rest[size:]
        for (hour, model, key), usage in fold.advance_all(by_batch, batch).items():
            fold.add_usage(fold.sum_of(summed, Charge(hour, model, key, usage)), usage)
        if not rest:
            break
    assert plain(by_batch) == plain(ledger)
    assert summed == charged


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        pytest.param(
            ended(tokens=TokenCounts(1, 2, 3, 4, 5)),
            Usage(attempts=1, input=1, output=2, cache_read=3, cache_write_5m=4, cache_write_1h=5, cost_nusd=1_000),
            id="token kinds stay apart",
        ),
        pytest.param(failed(), Usage(attempts=1, failed=1, cost_nusd=1_000), id="a failure"),
        pytest.param(
            ended(tokens=TokenCounts(1, 2, 3, 4, 5), outcome="aborted", estimated=True),
            Usage(
                attempts=1,
                aborted=1,
                input=1,
                output=2,
                cache_read=3,
                cache_write_5m=4,
                cache_write_1h=5,
                cost_nusd=1_000,
                estimated=1,
                estimated_tokens=15,
            ),
            id="an estimate is told apart",
        ),
        pytest.param(
            ended(outcome="aborted"),
            Usage(attempts=1, aborted=1, input=10, output=5, cost_nusd=1_000),
            id="a client that went keeps what it consumed",
        ),
        pytest.param(
            ended(cost_nusd=None), Usage(attempts=1, input=10, output=5, unpriced=1), id="a model without a price"
        ),
        pytest.param(batch_item(), Usage(batch_items=1, input=10, unpriced=1), id="an item of a batch is no attempt"),
        pytest.param(
            ended(spooled=True), Usage(attempts=1, input=10, output=5, cost_nusd=1_000), id="what waited on disk"
        ),
        pytest.param(
            ended(endpoint="count_tokens"), Usage(attempts=1, input=10, output=5, cost_nusd=1_000), id="any endpoint"
        ),
    ],
)
def test_usage_counts_whatever_became_of_the_attempt(event: RouteEvent, expected: Usage) -> None:
    """Each attempt is one, with its tokens by kind, its outcome and its cost."""
    assert cell(after(event)) == expected


def test_usage_is_apart_by_hour_model_and_key() -> None:
    """The hour is the one of the event's end; the model is the one that was sent."""
    ledger = after(
        ended(1, model_asked="opus", model_sent="a", client_key=""),
        ended(2, model_sent="a", client_key="bob"),
        ended(3, model_sent="b", client_key="bob"),
        ended(4, NOW_MS + HOUR_MS, model_sent="b", client_key="bob"),
    )
    cells = [
        (hour, model, key) for hour in ledger.usage for model in ledger.usage[hour] for key in ledger.usage[hour][model]
    ]
    assert cells == [(HOUR, "a", ""), (HOUR, "a", "bob"), (HOUR, "b", "bob"), (HOUR + 1, "b", "bob")]


def test_hours_go_by_the_newest_event_alone() -> None:
    """An hour lasts until an event is `KEPT_HOURS` younger; one that comes later still is dropped as well."""
    last = NOW_MS + KEPT_HOURS * HOUR_MS
    assert list(after(ended(1), ended(2, last)).hours) == [HOUR, HOUR + KEPT_HOURS]
    assert list(after(ended(1), ended(2, last + HOUR_MS)).hours) == [HOUR + KEPT_HOURS + 1]
    assert list(after(ended(2, last + HOUR_MS), ended(1)).usage) == [HOUR + KEPT_HOURS + 1]
    at_the_edge = after(ended(1, NOW_MS - HOUR_MS), ended(2), ended(3, last))
    assert list(at_the_edge.hours) == list(at_the_edge.usage) == [HOUR, HOUR + KEPT_HOURS]
    late = after(ended(2, last), ended(1))
    assert {hour: usage.attempts for hour, usage in late.hours.items()} == {HOUR: 1, HOUR + KEPT_HOURS: 1}


# -- open attempts


@pytest.mark.parametrize("close", [ended(), failed(), lost()], ids=["ended", "failed", "lost"])
def test_an_attempt_is_open_until_its_end(close: RouteEvent) -> None:
    """A start opens the attempt under its own id, with all that a lost one is charged by; any end closes it."""
    begun = started(session_id="s", client_key="alice", estimated_tokens=77)
    ledger = after(begun)
    attempt = ledger.open[begun.event_id]
    assert (attempt.session_id, attempt.client_key, attempt.estimated_tokens) == ("s", "alice", 77)
    assert after(begun, close).open == {}


def test_an_estimate_counts_until_the_true_end() -> None:
    """An attempt that was given up counts as estimated; when its end comes after all, as it was, in that hour."""
    given_up = after(started(), lost(estimated=True))
    assert cell(given_up) == Usage(attempts=1, lost=1, input=10, unpriced=1, estimated=1, estimated_tokens=10)
    late = msgspec.structs.replace(ended(), at_ms=NOW_MS + HOUR_MS)
    ledger = fold.fold_route(given_up, [late])
    assert (cell(ledger), cell(ledger, hour=HOUR + 1).input, ledger.lost) == (Usage(), 10, {})


@pytest.mark.parametrize(
    "log",
    [[lost()], [started(), ended(), lost()], [ended(), started(), lost()]],
    ids=["no start", "ended", "early end"],
)
def test_an_estimate_of_what_is_not_open_is_nothing(log: Log) -> None:
    """A loss that is told too late, or of an attempt that nobody knows, charges nobody."""
    assert after(*log).hours == after(*(event for event in log if not isinstance(event, AttemptLost))).hours


def test_a_start_after_its_end_opens_nothing() -> None:
    """By way of a spool the end can come first; the attempt is over all the same, and forgotten."""
    ledger = after(ended(), started())
    assert (ledger.open, ledger.ended_early) == ({}, {})


def test_memories_of_strays_are_bounded() -> None:
    """Estimates and early ends are remembered for a while, the oldest go first."""
    ledger = after(*(ended(n) for n in range(1, fold.KEPT_ENDED_EARLY + 2)))
    assert len(ledger.ended_early) == fold.KEPT_ENDED_EARLY
    assert id_of(1) not in ledger.ended_early
    for number in range(1, fold.KEPT_LOST + 2):
        fold.advance_route(ledger, started(number + 10_000))
        fold.advance_route(ledger, lost(number + 10_000))
    assert len(ledger.lost) == fold.KEPT_LOST
    assert id_of(10_001) not in ledger.lost


def test_an_end_without_a_start_counts_all_the_same() -> None:
    """The ledger does not rely on both being there."""
    assert cell(after(ended())).attempts == 1


# -- health


@pytest.mark.parametrize(
    "scope", ["request", "model", "credential", "quota", "throttle", ""], ids=lambda scope: scope or "none"
)
def test_only_faults_of_the_route_or_its_provider_move_health(scope: str) -> None:
    """Client faults, missing models, bad credentials, quotas and throttles never count towards a circuit."""
    assert after(failed(scope=scope)).health == {}


@pytest.mark.parametrize("scope", ["route", "provider"])
def test_faults_of_route_and_provider_count(scope: str) -> None:
    """They count for the replica that met them, by bucket and in a row, with the last one's id and kind."""
    event = failed(scope=scope, kind="overloaded", retry_at_ms=NOW_MS + 5)
    health = after(event).health["r1"]
    assert (health.failures_in_row, health.last_failure_ms, health.retry_at_ms) == (1, NOW_MS, NOW_MS + 5)
    assert (health.last_failure_id, health.last_failure_kind) == (event.event_id, "overloaded")
    assert health.buckets[NOW_MS // BUCKET_MS].failed == 1


@pytest.mark.parametrize("fields", [{}, {"outcome": "failed", "scope": "route"}], ids=["answers", "failures"])
@pytest.mark.parametrize("endpoint", ["count_tokens", "models", "batches", "files", "other"])
def test_health_counts_messages_alone(endpoint: str, fields: dict[str, Any]) -> None:
    """What becomes of any other endpoint says nothing about the route."""
    assert after(ended(endpoint=endpoint, **fields)).health == {}


@pytest.mark.parametrize("event", [ended(spooled=True), failed(spooled=True)], ids=["an answer", "a failure"])
def test_what_waited_on_disk_moves_no_health_and_no_wait(event: AttemptEnded) -> None:
    """An event that comes late counts for usage alone."""
    before = after(failed(2, scope="throttle", kind="throttle"), failed(3))
    ledger = fold.fold_route(before, [event])
    assert (ledger.health, ledger.waits) == (before.health, before.waits)


def test_an_aborted_attempt_says_nothing_about_the_route() -> None:
    """The client went: neither a success nor a failure."""
    before = after(failed(1))
    assert fold.fold_route(before, [ended(2, outcome="aborted")]).health == before.health


def test_a_success_ends_the_row_of_its_own_replica() -> None:
    """Failures in a row and the wait that came with them are over for this replica and no other."""
    ledger = after(
        failed(1, retry_at_ms=NOW_MS + 5), failed(2), failed(3, replica="r2"), ended(4, NOW_MS + SECOND_MS, seq=3)
    )
    health = ledger.health["r1"]
    assert (health.failures_in_row, health.retry_at_ms, health.last_success_ms) == (0, 0, NOW_MS + SECOND_MS)
    assert ledger.health["r2"].failures_in_row == 1


def test_a_stream_from_before_a_trip_does_not_undo_it() -> None:
    """A late success ends the failures in a row; only one that began after the last failure ends what they led to."""
    late = ended(9, NOW_MS + 60 * SECOND_MS, started_at_ms=NOW_MS - SECOND_MS)
    fresh = ended(10, NOW_MS + 60 * SECOND_MS, started_at_ms=NOW_MS + 50 * SECOND_MS)
    before = fold.fold_route(RouteLedger(), [failed(number) for number in range(1, 6)])
    [health] = fold.fold_route(before, [late]).health.values()
    assert (health.failures_in_row, health.worst_row) == (0, 5)
    [health] = fold.fold_route(before, [late, fresh]).health.values()
    assert (health.failures_in_row, health.worst_row) == (0, 0)


@pytest.mark.parametrize(("started_at_ms", "worst_row"), [(NOW_MS - 1, 2), (NOW_MS, 0)], ids=["before", "with"])
def test_a_success_that_began_with_the_last_failure_ends_what_it_led_to(started_at_ms: int, worst_row: int) -> None:
    """One that began before it does not."""
    log = [failed(1), failed(2), ended(3, NOW_MS + 9, started_at_ms=started_at_ms)]
    assert after(*log).health["r1"].worst_row == worst_row


@pytest.mark.parametrize(("started_at_ms", "opened_ms"), [(NOW_MS - 1, NOW_MS), (NOW_MS, NOW_MS + 9)])
def test_a_failure_that_began_with_the_one_before_opens_anew(started_at_ms: int, opened_ms: int) -> None:
    """One that began before it was side by side with it."""
    log = [failed(1), failed(2, NOW_MS + 9, started_at_ms=started_at_ms)]
    assert after(*log).health["r1"].opened_ms == opened_ms


def test_failures_side_by_side_open_once() -> None:
    """What began before the last failure and fails after it does not prolong the open time."""
    first, beside = failed(1), failed(2, NOW_MS + 30 * SECOND_MS, started_at_ms=NOW_MS - SECOND_MS)
    after = failed(3, NOW_MS + 40 * SECOND_MS, started_at_ms=NOW_MS + 35 * SECOND_MS)
    assert fold.fold_route(RouteLedger(), [first, beside]).health["r1"].opened_ms == NOW_MS
    assert fold.fold_route(RouteLedger(), [first, beside, after]).health["r1"].opened_ms == after.at_ms


def test_probes_are_counted_until_one_succeeds() -> None:
    """Failed ones prolong the open time, a good one says when the route was back."""
    failures = [failed(number, probe=True) for number in (1, 2)]
    good = ended(3, NOW_MS + 9 * SECOND_MS, probe=True)
    assert fold.fold_route(RouteLedger(), failures).health["r1"].failed_probes == 2
    health = fold.fold_route(RouteLedger(), [*failures, good]).health["r1"]
    assert (health.failed_probes, health.recovered_ms) == (0, good.at_ms)


def test_a_slow_success_is_noted_and_heals_nothing() -> None:
    """It counts against the route, though it was an answer."""
    slow = ended(9, NOW_MS + 9 * SECOND_MS, slow=True, started_at_ms=NOW_MS + SECOND_MS)
    health = fold.fold_route(RouteLedger(), [failed(1), slow]).health["r1"]
    assert (health.worst_row, health.last_slow_ms) == (1, slow.at_ms)


def test_health_takes_the_latest_whatever_the_order() -> None:
    """Times of the last failure and success, and the longest wait that a failure asked for, never go back."""
    log = [failed(1, retry_at_ms=NOW_MS + 9), failed(2, NOW_MS - 5, retry_at_ms=NOW_MS + 3)]
    health = after(ended(3, NOW_MS + 7), ended(4, NOW_MS), *log).health["r1"]
    assert (health.last_failure_ms, health.last_success_ms, health.retry_at_ms) == (NOW_MS, NOW_MS + 7, NOW_MS + 9)


def test_no_attempt_is_bad_twice() -> None:
    """A slow answer is noted among the good ones; a failure that was slow is one failure."""
    [bucket] = after(ended(1, slow=True), failed(2, slow=True), ended(3)).health["r1"].buckets.values()
    assert (bucket.ok, bucket.failed, bucket.slow) == (2, 1, 1)


def test_buckets_are_few_and_the_newest() -> None:
    """Ten seconds each, as many as readings need, by the events' own time."""
    log = [failed(number, NOW_MS + number * BUCKET_MS) for number in range(1, 40)]
    buckets = after(*log, failed(40, NOW_MS)).health["r1"].buckets
    assert sorted(buckets) == [NOW_MS // BUCKET_MS + number for number in range(40 - KEPT_BUCKETS, 40)]


def test_replicas_are_bounded_and_the_silent_go_first() -> None:
    """A fleet that starts anew all day does not grow the ledger without end."""
    log = [failed(n, NOW_MS + n, replica=f"r{n}", seq=1) for n in range(1, KEPT_REPLICAS + 1)]
    ledger = after(*log, failed(1, NOW_MS + 1_000, replica="r1", seq=2), failed(999, NOW_MS + 1_001, replica="new"))
    assert len(ledger.health) == len(ledger.heard) == KEPT_REPLICAS
    assert {"r1", "new"} <= ledger.health.keys()
    assert not {"r2"} & (ledger.health.keys() | ledger.heard.keys())


# -- waits


def waited(number: int, at_ms: int, until_ms: int = 0, scope: str = "throttle", **fields: Any) -> AttemptEnded:
    """An attempt that the provider answered with a wait; 0: it named no end."""
    values = {"kind": scope, "scope": scope, "status": 429, "retry_at_ms": until_ms, "message": f"wait {number}"}
    return failed(number, at_ms, **(values | fields))


@given(st.lists(st.tuples(st.integers(0, 100), st.integers(1, 200)), min_size=1, max_size=8))
def test_a_wait_is_never_shortened(waits: list[tuple[int, int]]) -> None:
    """However the ends come in, the one that holds is the latest."""
    log = [waited(n, NOW_MS + at, NOW_MS + at + length) for n, (at, length) in enumerate(waits, start=1)]
    assert after(*log).waits["throttle"].until_ms == max(event.retry_at_ms for event in log)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([waited(1, NOW_MS, NOW_MS + 50), waited(2, NOW_MS + 10, NOW_MS + 20)], 1, id="a lesser one"),
        pytest.param([waited(1, NOW_MS, NOW_MS + 50), waited(2, NOW_MS + 10, NOW_MS + 60)], 2, id="a longer one"),
        pytest.param([waited(1, NOW_MS, NOW_MS + 50), waited(2, NOW_MS + 10)], 1, id="one without an end, within it"),
        pytest.param([waited(1, NOW_MS, NOW_MS + 50), waited(2, NOW_MS + 60)], 2, id="one without an end, after it"),
        pytest.param(
            [waited(1, NOW_MS, NOW_MS + 50), waited(2, NOW_MS + 10, NOW_MS + 50)], 2, id="one to the same end"
        ),
        pytest.param([waited(1, NOW_MS, NOW_MS + 50), waited(2, NOW_MS + 49)], 1, id="one without an end, just before"),
        pytest.param([waited(1, NOW_MS, NOW_MS + 50), waited(2, NOW_MS + 50)], 2, id="one without an end, at its end"),
        pytest.param([waited(1, NOW_MS), waited(2, NOW_MS)], 2, id="both without an end, at once"),
        pytest.param([waited(1, NOW_MS), waited(2, NOW_MS + 10)], 2, id="both without an end"),
        pytest.param([waited(2, NOW_MS + 10), waited(1, NOW_MS)], 2, id="both without an end, out of order"),
        pytest.param([waited(1, NOW_MS), waited(2, NOW_MS + 10, NOW_MS + 20)], 2, id="the provider's word over none"),
    ],
)
def test_the_wait_that_ends_last_holds(events: list[AttemptEnded], expected: int) -> None:
    """Of two waits of one scope the later end holds; where none is named, the newer one, once the other is over."""
    assert after(*events).waits["throttle"].message == f"wait {expected}"


@pytest.mark.parametrize(
    ("started_at_ms", "waits"),
    [(NOW_MS - 1, ["quota"]), (NOW_MS, []), (NOW_MS + 1, [])],
    ids=["began before it", "began with it", "began after it"],
)
def test_a_success_that_began_later_ends_a_wait(started_at_ms: int, waits: list[str]) -> None:
    """An answer to a request from before the wait tells nothing about it; one from after does."""
    success = ended(2, NOW_MS + 9, started_at_ms=started_at_ms)
    assert list(after(waited(1, NOW_MS, NOW_MS + HOUR_MS, "quota"), success).waits) == waits


@pytest.mark.parametrize(
    "event",
    [
        failed(2, NOW_MS + 9, started_at_ms=NOW_MS + 1),
        ended(2, NOW_MS + 9, started_at_ms=NOW_MS + 1, outcome="aborted"),
    ],
    ids=["a failure", "a client that went"],
)
def test_only_an_answer_ends_a_wait(event: AttemptEnded) -> None:
    """What ended any other way tells nothing about it."""
    assert list(after(waited(1, NOW_MS, NOW_MS + HOUR_MS, "quota"), event).waits) == ["quota"]


def test_each_scope_waits_for_itself() -> None:
    """A throttle, a quota and a bad credential are kept apart, with the reason that will be shown."""
    ledger = after(*(waited(n, NOW_MS, NOW_MS + n, scope) for n, scope in enumerate(sorted(fold.WAIT_SCOPES), start=1)))
    assert ledger.waits == {
        scope: Wait(at_ms=NOW_MS, until_ms=NOW_MS + n, kind=scope, status=429, message=f"wait {n}")  # type: ignore[arg-type]
        for n, scope in enumerate(("credential", "quota", "throttle"), start=1)
    }


def test_a_quota_of_some_models_is_kept_apart() -> None:
    """Under a name of its own, beside that of all."""
    log = [waited(1, NOW_MS, scope="quota", holds="opus"), waited(2, NOW_MS, scope="quota")]
    waits = after(*log).waits
    assert {name: wait.holds for name, wait in waits.items()} == {"quota:opus": "opus", "quota": ""}


@pytest.mark.parametrize(
    ("model", "left"),
    [("claude-opus-4-8", []), ("claude-haiku-4-6", ["quota:opus"])],
)
def test_a_success_ends_the_waits_of_its_model(model: str, left: list[str]) -> None:
    """An answer of one model says nothing about the quota of others."""
    log = [waited(1, NOW_MS, scope="quota", holds="opus"), waited(2, NOW_MS)]
    success = ended(3, NOW_MS + 9, started_at_ms=NOW_MS + 1, model_sent=model)
    assert list(after(*log, success).waits) == left


@pytest.mark.parametrize("endpoint", ["count_tokens", "models", "batches", "files", "other"])
def test_other_endpoints_hold_no_messages(endpoint: str) -> None:
    """They have limits of their own, and rights: what they answer ends no wait but that for a 401, which is for all."""
    success = ended(2, NOW_MS + 9, started_at_ms=NOW_MS + 1, endpoint=endpoint)
    for scope in fold.WAIT_SCOPES:
        assert after(waited(1, NOW_MS, NOW_MS + 9, scope, endpoint=endpoint)).waits == {}
        assert list(after(waited(1, NOW_MS, NOW_MS + HOUR_MS, scope), success).waits) == [scope]
    refused = waited(1, NOW_MS, scope="credential", status=401, endpoint=endpoint)
    assert list(after(refused).waits) == ["credential"]
    assert after(refused, success).waits == {}


@pytest.mark.parametrize("scope", ["request", "model", "route", "provider"])
def test_no_other_failure_waits(scope: str) -> None:
    """A retry-after of a 503 is the circuit's floor, not a wait."""
    assert after(failed(scope=scope, retry_at_ms=NOW_MS + 9)).waits == {}


# -- what providers say


def test_windows_are_kept_as_the_provider_gave_them() -> None:
    """The newest word on each window stands; an answer that names some leaves the others."""
    first = {"5h": Window(used_ratio=0.1, status="allowed"), "7d": Window(used_ratio=0.2)}
    refused = failed(2, NOW_MS + 9, status=429, windows={"5h": Window(1.0, NOW_MS + HOUR_MS, "rejected")})
    assert after(ended(1, status=200, windows=first), refused).windows == {
        "5h": WindowTold(1.0, NOW_MS + HOUR_MS, "rejected", at_ms=NOW_MS + 9),
        "7d": WindowTold(0.2, at_ms=NOW_MS, answered=True),
    }


def said(number: int, ratio: float, at_ms: int, **fields: Any) -> AttemptEnded:
    """An answer that tells of a window."""
    return ended(number, at_ms, windows={"5h": Window(used_ratio=ratio)}, **fields)


@pytest.mark.parametrize(
    ("events", "ratio"),
    [
        pytest.param([said(1, 0.1, NOW_MS), said(2, 0.2, NOW_MS + 1)], 0.2, id="in order"),
        pytest.param([said(1, 0.2, NOW_MS + 1), said(2, 0.1, NOW_MS, spooled=True)], 0.2, id="a spool tells it late"),
        pytest.param([said(1, 0.1, NOW_MS), said(2, 0.2, NOW_MS + 1, spooled=True)], 0.2, id="a spool's is newer"),
        pytest.param(
            [said(1, 0.2, NOW_MS + 5), said(2, 0.1, NOW_MS + 9, started_at_ms=NOW_MS, first_byte_ms=3)],
            0.2,
            id="a stream's head came before its end",
        ),
    ],
)
def test_newer_word_on_a_window_stands(events: list[AttemptEnded], ratio: float) -> None:
    """It is as old as the head of the answer, however late its event comes."""
    assert after(*events).windows["5h"].used_ratio == ratio


@pytest.mark.parametrize(
    ("status", "answered"), [(0, False), (199, False), (200, True), (299, True), (300, False), (429, False)]
)
def test_a_window_comes_with_an_answer_or_an_error(status: int, answered: bool) -> None:  # noqa: FBT001 - a case
    """By the status alone."""
    assert after(said(1, 0.1, NOW_MS, status=status)).windows["5h"].answered is answered


@pytest.mark.parametrize(
    ("first_byte_ms", "told_ms"),
    [(None, NOW_MS), (0, NOW_MS - 100), (40, NOW_MS - 60), (100, NOW_MS), (101, NOW_MS)],
    ids=["unknown", "at once", "in between", "with its end", "after its end"],
)
def test_a_window_is_as_old_as_the_head_of_its_answer(first_byte_ms: int | None, told_ms: int) -> None:
    """Which is never later than the end."""
    event = said(1, 0.1, NOW_MS, started_at_ms=NOW_MS - 100, first_byte_ms=first_byte_ms)
    assert after(event).windows["5h"].at_ms == told_ms


def test_of_two_words_of_one_moment_the_later_event_stands() -> None:
    assert after(said(1, 0.1, NOW_MS), said(2, 0.2, NOW_MS)).windows["5h"].used_ratio == 0.2


@pytest.mark.parametrize("status", [200, 429])
def test_other_endpoints_tell_of_other_windows(status: int) -> None:
    """Their limits are not those of messages, and that they are answered does not mean that messages would be."""
    refused = failed(1, status=429, windows={"5h": Window(1.0, status="rejected")})
    counted = said(2, 0.1, NOW_MS + 9, status=status, endpoint="count_tokens")
    assert after(refused, counted).windows == after(refused).windows


def test_windows_and_waits_are_bounded() -> None:
    """Their names are the provider's, and those of models."""
    windows = [ended(n, windows={f"w{n}": Window()}) for n in range(fold.KEPT_WINDOWS + 5)]
    waits = [waited(n, NOW_MS, scope="quota", holds=f"m{n}") for n in range(fold.KEPT_WAITS + 5)]
    assert len(after(*windows).windows) == fold.KEPT_WINDOWS
    assert len(after(*waits).waits) == fold.KEPT_WAITS


def denied(number: int, model: str, **fields: Any) -> AttemptEnded:
    """The provider does not know a model."""
    return failed(number, NOW_MS + number, kind="model_missing", scope="model", model_sent=model, **fields)


def test_a_denied_model_is_remembered() -> None:
    """With the time of the last denial, under the name that was sent."""
    ledger = after(denied(1, "m", model_asked="alias"), denied(2, "n"), denied(3, "m"))
    assert ledger.missing_models == {"m": NOW_MS + 3, "n": NOW_MS + 2}


def test_an_older_denial_does_not_stand_over_a_newer_one() -> None:
    """As a spool may tell it."""
    late = msgspec.structs.replace(denied(2, "m"), at_ms=NOW_MS - 5, spooled=True)
    assert after(denied(1, "m"), late).missing_models == {"m": NOW_MS + 1}


def test_count_tokens_hides_no_model() -> None:
    """A provider that does not count has the model all the same."""
    assert after(denied(1, "m", endpoint="count_tokens")).missing_models == {}


def test_denied_models_are_bounded() -> None:
    """Names are the client's to invent: the one denied longest ago goes."""
    log = [denied(n, f"m{n}") for n in range(KEPT_MISSING_MODELS)]
    ledger = after(*log, denied(100, "m0"), denied(101, "new"))
    assert len(ledger.missing_models) == KEPT_MISSING_MODELS
    assert "m1" not in ledger.missing_models
    assert {"m0", "m2", "new"} <= ledger.missing_models.keys()


def invented(numbers: Iterable[int], length: int = 0, **fields: Any) -> list[AttemptEnded]:
    """Attempts with a model each of the client's invention, under today's rules."""
    return [
        ended(number, model_sent=f"model-{number}".ljust(length, "x"), **({"fold_rules": FOLD_RULES} | fields))
        for number in numbers
    ]


def test_of_an_hour_the_first_models_have_cells() -> None:
    """The rest is one cell, which counts for all sums; the next hour has room again."""
    later = invented(range(4_000, 4_003), at_ms=NOW_MS + HOUR_MS)
    ledger = after(*invented(range(3_000)), *later)
    hour = NOW_MS // HOUR_MS
    assert list(ledger.usage[hour]) == [f"model-{number}" for number in range(KEPT_MODELS)] + [OTHER_MODEL]
    other = ledger.usage[hour][OTHER_MODEL]["alice"]
    assert other.attempts == 3_000 - KEPT_MODELS
    assert (ledger.hours[hour].attempts, ledger.hours[hour].input) == (3_000, 3_000 * ended(1).tokens.input)
    assert len(ledger.usage[hour + 1]) == 3


def test_the_cell_of_the_rest_takes_nobodys_place() -> None:
    """A name that is too long opens it before the others have come."""
    ledger = after(*invented([999], MODEL_BYTES + 1), *invented(range(KEPT_MODELS + 1)))
    names = [OTHER_MODEL, *(f"model-{number}" for number in range(KEPT_MODELS))]
    assert list(ledger.usage[HOUR]) == names


def test_a_known_model_keeps_its_cell() -> None:
    """However many names come after it, and in whatever order."""
    ledger = after(*invented(range(100)), *invented(range(1, 2)), *invented(range(99, 100)))
    hour = ledger.usage[HOUR]
    assert hour["model-1"]["alice"].attempts == 2
    assert hour[OTHER_MODEL]["alice"].attempts == 100 - KEPT_MODELS + 1


def test_long_names_have_no_cells() -> None:
    """By their bytes, since characters may have four; nor are they remembered as missing."""
    denied = {"outcome": "failed", "kind": "model_missing", "scope": "model", "status": 404}
    ledger = after(*invented([1], MODEL_BYTES), *invented([2], MODEL_BYTES + 1, **denied))
    ledger = fold.fold_route(ledger, [ended(3, model_sent="é" * 33, fold_rules=FOLD_RULES)])
    assert list(ledger.usage[HOUR]) == ["model-1".ljust(64, "x"), OTHER_MODEL]
    assert ledger.missing_models == {}


def test_an_estimate_is_taken_back_where_it_was_put() -> None:
    """Also when its model has no cell of its own."""
    full = invented(range(KEPT_MODELS))
    opened = started(900, model_sent="new")
    given_up = lost(900, model_sent="new", fold_rules=FOLD_RULES)
    truth = ended(900, model_sent="new", fold_rules=FOLD_RULES)
    ledger = after(*full, opened, given_up, truth)
    other = ledger.usage[HOUR][OTHER_MODEL]["alice"]
    assert (other.attempts, other.lost, other.input) == (1, 0, truth.tokens.input)


def test_events_of_earlier_rules_are_folded_by_them() -> None:
    """What was folded before names were bounded comes out as it did; names that came then count as known."""
    old = invented(range(200), 100, fold_rules=0)
    ledger = after(*old, *invented(range(1), 100), *invented([500]))
    hour = ledger.usage[HOUR]
    assert len(hour) == 201
    assert hour["model-0".ljust(100, "x")]["alice"].attempts == 2
    assert hour[OTHER_MODEL]["alice"].attempts == 1


@pytest.mark.parametrize(
    ("rules", "cells"), [(0, KEPT_MODELS + 2), (1, KEPT_MODELS + 1), (FOLD_RULES, KEPT_MODELS + 1)]
)
def test_names_are_bounded_since_the_first_rules(rules: int, cells: int) -> None:
    """Two more than have cells of their own share one."""
    assert len(after(*invented(range(KEPT_MODELS + 2), fold_rules=rules)).usage[HOUR]) == cells


@pytest.mark.parametrize(("rules", "size", "remembered"), [(0, 64, True), (0, 65, True), (1, 64, True), (1, 65, False)])
def test_a_denied_model_is_remembered_where_its_name_fits(rules: int, size: int, remembered: bool) -> None:  # noqa: FBT001
    """By the rules of its time: names had no bound before the first."""
    event = denied(1, "m" * size, fold_rules=rules)
    assert bool(after(event).missing_models) is remembered


def test_a_snapshot_stays_small_however_many_names_are_invented() -> None:
    """3,000 names as long as any, the half of which the provider denies: less than 50 KB."""
    denied = {"outcome": "failed", "kind": "model_missing", "scope": "model", "status": 404}
    names = [
        *invented(range(1_000), 64),
        *invented(range(1_000, 2_000), 250),
        *invented(range(2_000, 3_000), 64, **denied),
    ]
    ledger = RouteLedger()
    for number, event in enumerate(names):
        fold.advance_route(ledger, started(number, model_sent=event.model_sent))
        fold.advance_route(ledger, event)
    assert len(wire.encode_ledger(ledger)) < 50_000


def test_a_success_ends_waits_of_its_own_class_and_account_alone() -> None:
    """What counting tokens or another account may do says nothing about messages of this one."""
    limit = {"kind": "quota", "scope": "quota", "status": 429, "fold_rules": FOLD_RULES, "account": "a1"}
    held = after(failed(1, NOW_MS, **limit))
    assert set(held.waits) == {"messages/a1/quota"}
    for fields in ({"endpoint": "count_tokens", "account": "a1"}, {"account": "a2"}):
        answer = ended(2, NOW_MS + 9_000, started_at_ms=NOW_MS + 1, fold_rules=FOLD_RULES, **fields)
        assert set(fold.fold_route(held, [answer]).waits) == {"messages/a1/quota"}
    answer = ended(2, NOW_MS + 9_000, started_at_ms=NOW_MS + 1, fold_rules=FOLD_RULES, account="a1")
    assert not fold.fold_route(held, [answer]).waits


@pytest.mark.parametrize("rules", [2, FOLD_RULES])
def test_waits_of_an_unknown_account_are_named_by_their_class(rules: int) -> None:
    """Messages' by the scope alone, as ever; any class that waits is held by any failure that waits."""
    limit = {"kind": "quota", "scope": "quota", "status": 429, "fold_rules": rules, "account": ""}
    counted = failed(2, NOW_MS, **limit, endpoint="count_tokens")
    assert set(after(failed(1, NOW_MS, **limit), counted).waits) == {"quota", "count_tokens//quota"}
    assert not after(failed(1, NOW_MS, **limit, endpoint="models")).waits


def test_an_answer_that_began_with_the_wait_ends_it() -> None:
    """At the very millisecond, and with or without an account."""
    for fields in ({"fold_rules": 1}, {"fold_rules": FOLD_RULES, "account": "a1"}):
        held = failed(1, NOW_MS, kind="quota", scope="quota", status=429, **fields)
        answer = ended(2, NOW_MS + 9_000, started_at_ms=NOW_MS, **fields)
        assert after(held).waits
        assert not after(held, answer).waits


def test_who_sends_messages_is_a_user_of_the_route() -> None:
    """Who counts tokens is none: that says nothing about how messages fare."""
    for endpoint, seen in (("messages", ["alice"]), ("count_tokens", [])):
        assert list(after(ended(1, endpoint=endpoint, fold_rules=FOLD_RULES)).clients) == seen


# -- prices that follow others


def repriced(of: AttemptEnded | AttemptLost, *changes: PriceChange, **fields: Any) -> UsageRepriced:
    """A new price of an attempt's usage."""
    values: dict[str, Any] = {"attempt_id": of.attempt_id, "client_key": of.client_key, "fold_rules": FOLD_RULES}
    return UsageRepriced(
        event_id=ids.repriced_id(of.event_id), at_ms=of.at_ms, of=of.event_id, changes=changes, **(values | fields)
    )


@pytest.mark.parametrize(
    ("was_nusd", "cost_nusd", "cost", "unpriced"),
    [(1_000, 400, 400, 0), (None, 400, 400, 0), (1_000, None, 0, 1), (None, None, 0, 1), (1_000, 1_000, 1_000, 0)],
)
def test_a_new_price_changes_cost_alone(was_nusd: int | None, cost_nusd: int | None, cost: int, unpriced: int) -> None:
    """In the cell and the hour of the usage, however much later it comes; nothing else counts again."""
    end = ended(1, cost_nusd=was_nusd)
    later = ended(2, NOW_MS + 3 * HOUR_MS, cost_nusd=0)
    ledger = after(end, later, repriced(end, PriceChange(MODEL, was_nusd, cost_nusd)))
    used = Usage(attempts=1, input=10, output=5, cost_nusd=cost, unpriced=unpriced)
    assert ledger.usage[HOUR] == {MODEL: {"alice": used}}
    assert ledger.hours[HOUR] == used
    assert ledger.newest_ms == later.at_ms


def test_a_new_price_of_a_model_among_others_stays_among_them() -> None:
    """Its usage has no cell of its own."""
    names = [ended(number, model_sent=f"m{number}", fold_rules=FOLD_RULES) for number in range(1, KEPT_MODELS + 2)]
    ledger = after(*names, repriced(names[-1], PriceChange(names[-1].model_sent, 1_000, 7)))
    assert ledger.usage[HOUR][OTHER_MODEL]["alice"].cost_nusd == 7
    assert names[-1].model_sent not in ledger.usage[HOUR]


@pytest.mark.parametrize(("rules", "beside_nusd"), [(4, 900), (5, 1_000), (FOLD_RULES, 1_000)])
def test_a_new_price_of_advice_counts_beside_answers(rules: int, beside_nusd: int) -> None:
    """As the advice does, since the fifth rules; that of the answer stays among the answers of its model."""
    lines = (UsageLine(MODEL, cost_nusd=7), UsageLine("claude-opus-4-8", "advisor", cost_nusd=900))
    end = ended(1, lines=lines, fold_rules=5)
    changes = (PriceChange(MODEL, 7, 9), PriceChange("claude-opus-4-8", 900, 1_000))
    beside = after(end, repriced(end, *changes, fold_rules=rules)).beside
    assert {model: used.cost_nusd for model, used in beside[HOUR].items()} == {"claude-opus-4-8": beside_nusd}


def test_a_new_price_of_a_session_counts_beside_answers() -> None:
    """As its growth does: of one line it is the first, and no answer all the same."""
    grown = ended(1)
    priced = repriced(grown, PriceChange(MODEL, None, 700), of_growth=True)
    ledger = after(grown, priced)
    assert ledger.beside[HOUR][MODEL] == Usage(cost_nusd=700, unpriced=-1)
    assert after(grown, msgspec.structs.replace(priced, of_growth=False)).beside == {}


def test_a_new_price_of_an_estimate_goes_with_it() -> None:
    """The attempt's end takes both back; after the end, it counts no more."""
    gone, end = lost(1, cost_nusd=None), ended(1, cost_nusd=500)
    price = repriced(gone, PriceChange(MODEL, None, 90), of_lost=True)
    assert after(started(1), gone, price).hours[HOUR].cost_nusd == 90
    counted = Usage(attempts=1, input=10, output=5, cost_nusd=500)
    assert after(started(1), gone, price, end).hours[HOUR] == counted
    assert after(started(1), gone, end, price).hours[HOUR] == counted
