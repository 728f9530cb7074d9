"""The circuit: a reading of counts under the policy at a moment, the same in every process."""

from typing import Any
from unittest.mock import patch
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger.fold import BUCKET_MS, fold_route
from service.ledger.state import Bucket, ReplicaHealth, RouteLedger
from service.routing import circuit
from service.routing.circuit import (
    HALF_OPEN_MS,
    JITTER_RATIO,
    RAMP_MS,
    RECENT_MS,
    CircuitReading,
    open_until_ms,
    read_circuit,
    steady_probes,
)
from service.settings import CircuitPolicy
from tests.support.event_factories import Log, ended, failed
from tests.support.routing_factories import ME, NOW_MS, tripped

POLICY = CircuitPolicy(open_ms=60_000)
"""An open time that is longer than what counts as recent, and that doubles with the first failed probe."""
IDS = st.text(min_size=1, max_size=12)


def read(
    fleet: dict[str, ReplicaHealth] | None = None, now_ms: int = NOW_MS, *, replica: str = ME, reset_ms: int = 0
) -> CircuitReading:
    """The circuit as `replica` reads it."""
    return read_circuit(RouteLedger(health=fleet or {}), POLICY, now_ms, replica=replica, reset_ms=reset_ms)


def good(ago_ms: int = 1_000) -> ReplicaHealth:
    """A replica that the route answered."""
    return ReplicaHealth(last_success_ms=NOW_MS - ago_ms)


# -- one replica


@pytest.mark.parametrize(
    ("failures", "state", "degraded"),
    [
        (0, "closed", False),
        (POLICY.degraded_failures - 1, "closed", False),
        (POLICY.degraded_failures, "closed", True),
        (POLICY.trip_failures - 1, "closed", True),
        (POLICY.trip_failures, "open", True),
        (1_000_000, "open", True),
    ],
)
def test_failures_in_a_row_degrade_then_trip(failures: int, state: str, degraded: bool) -> None:  # noqa: FBT001
    """3 are shown, 5 open the circuit."""
    reading = read({ME: tripped(failures)})
    assert (reading.state, reading.degraded, reading.failures_in_row) == (state, degraded, failures)


def test_nobody_knows_of_a_fault() -> None:
    """A route that nobody used is closed."""
    assert read() == CircuitReading()


def test_a_circuit_can_be_turned_off() -> None:
    """Then failures never close a route."""
    reading = read_circuit(RouteLedger(health={ME: tripped()}), replace(POLICY, enabled=False), NOW_MS, replica=ME)
    assert reading.state == "closed"


def test_open_ends_in_half_open_and_a_success_closes() -> None:
    """Until the end of its time it is open; from then on, however late, it may be probed; an answer clears it."""
    health = tripped()
    until_ms = open_until_ms(health, POLICY)
    assert (read({ME: health}, until_ms - 1).state, read({ME: health}, until_ms - 1).until_ms) == ("open", until_ms)
    assert read({ME: health}, until_ms).state == "half_open"
    assert read({ME: health}, until_ms + 10**9).state == "half_open"
    assert read({ME: replace(health, failures_in_row=0, worst_row=0)}, until_ms).state == "closed"


def test_the_reading_says_why() -> None:
    """With the number of failures and the last one's kind."""
    assert read({ME: tripped(7, last_failure_kind="overloaded")}).reason == "7 failures in a row, the last: overloaded"
    assert read({ME: tripped(7)}).reason == "7 failures in a row, the last: failure"
    assert read({ME: tripped(5)}).reason == "5 failures in a row, the last: failure"
    assert read({ME: tripped(5, failed_probes=2)}).reason == "2 probes failed, the last failure: failure"
    window = replace(windowed((10, 10, 0)), worst_row=4, last_failure_kind="timeout")
    assert read({ME: window}).reason == "half of the attempts failed or were slow, the last failure: timeout"


@given(st.integers(0, 5), IDS)
def test_the_open_time_doubles(further: int, event_id: str) -> None:
    """With each failed probe, up to the cap; the jitter adds at most a tenth."""
    health = tripped(failed_probes=further, last_failure_id=event_id)
    open_ms = open_until_ms(health, POLICY) - health.last_failure_ms
    least = POLICY.open_ms * 2**further
    assert min(least, POLICY.open_cap_ms) <= open_ms <= min(least * (1 + JITTER_RATIO), POLICY.open_cap_ms)


@given(st.integers(0, 10**9), IDS, st.integers(0, 10**10))
def test_the_open_time_never_exceeds_the_cap(probes: int, event_id: str, asked_ms: int) -> None:
    """Whatever the failures and whatever the provider asks for: days of retry-after do not take a route away."""
    health = tripped(failed_probes=probes, last_failure_id=event_id, retry_at_ms=NOW_MS + asked_ms)
    assert POLICY.open_ms <= open_until_ms(health, POLICY) - health.last_failure_ms <= POLICY.open_cap_ms


@given(IDS)
def test_the_jitter_is_the_same_everywhere(event_id: str) -> None:
    """It follows from the last failure's id alone, so that all processes read one end."""
    one, other = (tripped(last_failure_id=event_id, buckets={1: Bucket(failed=n)}) for n in (1, 2))
    assert open_until_ms(one, POLICY) == open_until_ms(other, POLICY)


def test_the_jitter_differs_between_failures() -> None:
    """Circuits that trip together do not end together."""
    ends = {open_until_ms(tripped(last_failure_id=str(number)), POLICY) for number in range(100)}
    assert len(ends) > 90


@pytest.mark.parametrize("event_id", ["an-id", "b", "c"])
def test_the_jitter_is_the_ids_hash_as_a_share_of_a_tenth(event_id: str) -> None:
    """The hash has 32 bits; part of the contract, since other versions read the same ledger."""
    health = tripped(ago_ms=0, last_failure_id=event_id)
    jitter = 0.1 * crc32(event_id.encode()) / 2**32
    assert open_until_ms(health, POLICY) - NOW_MS == int(POLICY.open_ms * (1 + jitter))


def test_an_open_time_of_nothing_is_none() -> None:
    """Whatever the jitter; a provider's own word still holds."""
    policy = replace(POLICY, open_ms=0)
    assert open_until_ms(tripped(ago_ms=0), policy) == NOW_MS
    assert open_until_ms(tripped(ago_ms=0, retry_at_ms=NOW_MS + 1), policy) == NOW_MS + 1


@pytest.mark.parametrize(
    ("asked_ms", "open_ms"),
    [(0, 60_000), (30_000, 60_000), (200_000, 200_000), (10**9, 600_000)],
    ids=["none", "a shorter one", "a longer one", "one beyond the cap"],
)
def test_retry_after_is_a_floor_up_to_the_cap(asked_ms: int, open_ms: int) -> None:
    """A provider that asks for longer is given longer; never longer than the cap."""
    health = tripped(ago_ms=0, last_failure_id="", retry_at_ms=NOW_MS + asked_ms)
    assert open_until_ms(health, POLICY) == NOW_MS + open_ms


# -- the window


def windowed(*buckets: tuple[int, int, int], ago_ms: int = 0) -> ReplicaHealth:
    """Buckets of (ok, failed, slow), the newest first, that of the last failure."""
    number = (NOW_MS - ago_ms) // BUCKET_MS
    return ReplicaHealth(
        failures_in_row=1,
        worst_row=1,
        opened_ms=NOW_MS - ago_ms,
        last_failure_ms=NOW_MS - ago_ms,
        last_failure_id="an-id",
        buckets={number - age: Bucket(ok, bad, slow) for age, (ok, bad, slow) in enumerate(buckets)},
    )


@pytest.mark.parametrize(
    ("health", "state"),
    [
        pytest.param(windowed((10, 10, 0)), "open", id="half of twenty failed"),
        pytest.param(windowed((11, 10, 0)), "closed", id="less than half failed"),
        pytest.param(windowed((9, 10, 0)), "closed", id="too few to tell"),
        pytest.param(windowed((5, 5, 0), (5, 5, 0)), "open", id="over two buckets"),
        pytest.param(windowed((15, 5, 5)), "open", id="slow ones are bad ones"),
        pytest.param(windowed((1, 1, 0), (0, 0, 0), (0, 0, 0), (0, 50, 0)), "closed", id="what is older than 30 s"),
    ],
)
def test_half_of_the_recent_attempts_trip(health: ReplicaHealth, state: str) -> None:
    """Half of at least 20 within 30 s, failed or slow."""
    assert read({ME: health}).state == state


@pytest.mark.parametrize("ago_ms", [0, 20_000, 31_000, 59_000])
def test_a_window_that_tripped_stays_open_for_its_time(ago_ms: int) -> None:
    """Time alone heals nothing: the window is that of the last failure, not one that moves on."""
    assert read({ME: windowed((10, 10, 0), ago_ms=ago_ms)}).state == "open"


def test_a_window_that_tripped_ends_half_open() -> None:
    """Like every other trip, after its open time."""
    assert read({ME: windowed((10, 10, 0), ago_ms=67_000)}).state == "half_open"


def test_slow_first_bytes_trip_alone() -> None:
    """Without a single failure; a good probe ends it."""
    health = ReplicaHealth(
        last_success_ms=NOW_MS, last_slow_ms=NOW_MS, buckets={NOW_MS // BUCKET_MS: Bucket(20, 0, 10)}
    )
    assert read({ME: health}).state == "open"
    assert read({ME: health}).reason == "half of the attempts failed or were slow, the last failure: slow first bytes"
    assert read({ME: replace(health, recovered_ms=NOW_MS)}).state == "closed"


# -- probes


def test_a_failed_probe_trips_whoever_made_it() -> None:
    """A replica that had no failures of its own waits like the others once its probe has failed."""
    probing = tripped(1, failed_probes=1)
    assert read({ME: probing}).state == "open"
    assert read({ME: probing}).reason == "a probe failed, the last failure: failure"


def test_a_good_probe_ends_the_fleets_trip_and_its_makers() -> None:
    """The others end their own, each with a probe that they need not wait for any more, unless theirs failed since."""
    well = ReplicaHealth(last_success_ms=NOW_MS, recovered_ms=NOW_MS)
    since = tripped(ago_ms=-10, failed_probes=1)
    fleet = {"b": tripped(), "c": tripped(failed_probes=5), "d": since, ME: well}
    assert read(fleet).state == "closed"
    assert [read(fleet, replica=name).state for name in "bcd"] == ["half_open", "half_open", "open"]


@pytest.mark.parametrize(
    ("later_ms", "own", "fleet"), [(-1, "open", "open"), (0, "open", "closed"), (1, "half_open", "closed")]
)
def test_a_probe_ends_the_trips_that_are_older(later_ms: int, own: str, fleet: str) -> None:
    """For the fleet also one of that very moment; whoever tripped itself may then make a probe of its own at once."""
    opened_ms = NOW_MS - 1_000
    health = {ME: tripped(ago_ms=1_000), "b": ReplicaHealth(recovered_ms=opened_ms + later_ms)}
    reading = read(health)
    assert reading.state == own
    assert reading.until_ms == (opened_ms + 1 if own == "half_open" else open_until_ms(health[ME], POLICY))
    assert read(health, replica="new").state == fleet


def test_a_trip_after_the_probe_is_news() -> None:
    """What fails again after the route has recovered opens it again."""
    fleet = {"b": tripped(ago_ms=0), "c": tripped(ago_ms=0), ME: ReplicaHealth(recovered_ms=NOW_MS - 1)}
    assert read(fleet).state == "open"


@pytest.mark.parametrize(("since_ms", "share"), [(0, 0.1), (2_500, 0.25), (RAMP_MS, 1.0), (10**9, 1.0)])
def test_a_route_that_recovered_takes_a_growing_share(since_ms: int, share: float) -> None:
    """Over ten seconds, for all replicas."""
    assert read({"b": ReplicaHealth(recovered_ms=NOW_MS)}, NOW_MS + since_ms).share == share


def test_the_share_grows_from_the_last_recovery() -> None:
    """Of all replicas' the latest counts."""
    fleet = {"b": ReplicaHealth(recovered_ms=NOW_MS - 5_000), "c": ReplicaHealth(recovered_ms=NOW_MS - 10**6)}
    assert read(fleet).share == 0.5


# -- operators


def test_what_failed_before_a_reset_counts_no_more() -> None:
    """Neither the row nor the window; what fails after it does."""
    assert read({ME: tripped(ago_ms=10)}, reset_ms=NOW_MS - 10).state == "closed"
    assert read({ME: tripped(ago_ms=10)}, reset_ms=NOW_MS - 10) == CircuitReading()
    assert read({ME: tripped(ago_ms=9)}, reset_ms=NOW_MS - 10).state == "open"
    before = windowed((0, 0, 0), (10, 10, 0))
    assert read({ME: before}, reset_ms=NOW_MS - 5).state == "closed"


# -- the fleet


@pytest.mark.parametrize(
    ("fleet", "state"),
    [
        pytest.param({"b": tripped()}, "open", id="the only one that uses it"),
        pytest.param({"b": tripped(), "c": good()}, "closed", id="one of two"),
        pytest.param({"b": tripped(), "c": tripped()}, "open", id="two of two"),
        pytest.param({"b": tripped(), "c": good(), "d": good()}, "closed", id="one of three"),
        pytest.param({"b": tripped(), "c": tripped(), "d": good()}, "open", id="two of three"),
        pytest.param({"b": tripped(), "c": tripped(), "d": good(), "e": good()}, "open", id="two of four"),
        pytest.param({"b": tripped(), "c": tripped(), **{name: good() for name in "def"}}, "closed", id="two of five"),
        pytest.param({**{name: tripped() for name in "bcd"}, "e": good(), "f": good()}, "open", id="three of five"),
        pytest.param({"b": tripped(), "c": tripped(), **{name: good() for name in "defg"}}, "closed", id="two of six"),
        pytest.param({"b": tripped(), "c": good(RECENT_MS)}, "open", id="the silent are not asked"),
        pytest.param({"b": good(), "c": good()}, "closed", id="none"),
    ],
)
def test_the_fleet_agrees(fleet: dict[str, ReplicaHealth], state: str) -> None:
    """Open for all when half of those that used it lately are tripped, and two if there are two."""
    assert read(fleet).state == state


def test_one_replica_does_not_close_a_route_for_the_others() -> None:
    """One with bad DNS avoids it alone."""
    fleet = {ME: tripped(), "b": good(), "c": good()}
    assert read(fleet).state == "open"
    assert read(fleet, replica="b").state == "closed"


def test_the_fleets_circuit_ends_with_the_last() -> None:
    """All are open until the latest end."""
    ends = [open_until_ms(tripped(failed_probes=number), POLICY) for number in range(3)]
    fleet = {"b": tripped(), "c": tripped(failed_probes=2), "d": tripped(failed_probes=1)}
    assert read(fleet).until_ms == max(ends)


@pytest.mark.parametrize("ago_ms", [1_000, RECENT_MS + 1, 59_000])
def test_a_process_that_starts_anew_knows_of_an_open_circuit(ago_ms: int) -> None:
    """The replica that tripped is gone, and the route is open for its successor until the end of its time."""
    assert read({"old": tripped(ago_ms=ago_ms)}, replica="new").state == "open"


def test_the_dead_do_not_degrade_a_route_for_ever() -> None:
    """A replica that has not used the route lately says nothing about it, unless it is oneself."""
    assert read({"old": tripped(4, ago_ms=RECENT_MS)}) == CircuitReading()
    assert read({"old": tripped(50, ago_ms=10**7)}) == CircuitReading()
    assert read({"old": tripped(50, ago_ms=120_000)}).state == "half_open"
    assert read({ME: tripped(4, ago_ms=RECENT_MS)}).degraded
    assert read({"old": tripped(4, ago_ms=RECENT_MS - 1)}).degraded


def test_a_trip_of_the_dead_counts_for_ten_minutes_after_its_end() -> None:
    """Then the route is as good as any other."""
    dead = {"old": tripped(ago_ms=0)}
    ends_ms = open_until_ms(dead["old"], POLICY) + HALF_OPEN_MS
    assert read(dead, ends_ms - 1).state == "half_open"
    assert read(dead, ends_ms) == CircuitReading()


def test_the_worst_row_of_all_that_use_a_route_is_shown() -> None:
    fleet = {ME: tripped(1), "b": tripped(4), "c": good()}
    assert (read(fleet).failures_in_row, read(fleet).degraded) == (4, True)


@given(st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 12).map(tripped)), st.integers(0, 10**6))
def test_a_reading_is_consistent(fleet: dict[str, ReplicaHealth], later_ms: int) -> None:
    """Open means that the end lies ahead, half open that it has passed, closed that there is none."""
    now_ms = NOW_MS + later_ms
    reading = read(fleet, now_ms, replica="a")
    if reading.state == "closed":
        assert (reading.until_ms, reading.reason) == (0, "")
    else:
        assert (now_ms < reading.until_ms) == (reading.state == "open")
        assert reading.degraded


# -- the short way


OUTCOMES = st.tuples(
    st.sampled_from((ME, "b", "c")),
    st.sampled_from((0, 1_000, 9_000, 31_000, 700_000)),
    st.sampled_from(("ok", "ok", "ok", "slow", "probe", "failed", "failed probe")),
    st.sampled_from((1, 5, 20)),
)


def folded(outcomes: list[tuple[str, int, str, int]]) -> tuple[RouteLedger, int]:
    """A ledger of outcomes, each some time after the one before and so many times over; and when the last one was."""
    at_ms = NOW_MS
    events: Log = []
    for replica, later_ms, kind, times in outcomes:
        at_ms += later_ms
        make = failed if kind.startswith("failed") else ended
        fields: dict[str, Any] = {"replica": replica, "slow": kind == "slow", "probe": kind.endswith("probe")}
        events += [make(len(events) + number, at_ms, **fields) for number in range(1, times + 1)]
    return fold_route(RouteLedger(), events), at_ms


@given(st.lists(OUTCOMES, max_size=16), st.sampled_from((0, 5_000, 61_000, 1_300_000)), st.integers(-1, 20_000))
def test_a_sound_route_reads_the_same_the_long_way(
    outcomes: list[tuple[str, int, str, int]], later_ms: int, reset_ago_ms: int
) -> None:
    """Where nothing bad seems left to read, reading all of it tells nothing else."""
    ledger, last_ms = folded(outcomes)
    reset_ms = last_ms - reset_ago_ms if reset_ago_ms >= 0 else 0
    for replica in (ME, "new"):
        short = read_circuit(ledger, POLICY, last_ms + later_ms, replica=replica, reset_ms=reset_ms)
        with patch.object(circuit, "is_sound", lambda ledger, *_: not ledger.health):
            long = read_circuit(ledger, POLICY, last_ms + later_ms, replica=replica, reset_ms=reset_ms)
        assert short == long


GONE_MS = POLICY.open_cap_ms + HALF_OPEN_MS


@pytest.mark.parametrize(
    ("health", "replica", "sound"),
    [
        pytest.param(ReplicaHealth(recovered_ms=NOW_MS - RAMP_MS), ME, True, id="it recovered ten seconds ago"),
        pytest.param(ReplicaHealth(recovered_ms=NOW_MS - RAMP_MS + 1), ME, False, id="it recovered just now"),
        pytest.param(tripped(1), ME, False, id="a failure"),
        pytest.param(tripped(0, failed_probes=1), ME, False, id="a failed probe"),
        pytest.param(tripped(0), ME, True, id="a failure whose bucket is gone"),
        pytest.param(replace(windowed((0, 1, 0)), worst_row=0), ME, False, id="a failure whose bucket is kept"),
        pytest.param(tripped(1, ago_ms=GONE_MS), "b", True, id="of one that is long gone"),
        pytest.param(tripped(1, ago_ms=GONE_MS), ME, False, id="long ago, but its own"),
        pytest.param(tripped(1, ago_ms=GONE_MS - 1), "b", False, id="of one that is gone, not for long enough"),
        pytest.param(
            tripped(1, ago_ms=GONE_MS, last_success_ms=NOW_MS - GONE_MS + 1), "b", False, id="of one that was answered"
        ),
    ],
)
def test_the_short_way_is_for_routes_without_anything_bad(health: ReplicaHealth, replica: str, sound: bool) -> None:  # noqa: FBT001
    """Of no replica that could still matter."""
    assert circuit.is_sound(RouteLedger(health={replica: health, "c": good()}), POLICY, NOW_MS, ME) is sound


def test_a_sound_route_is_read_the_short_way() -> None:
    """Also with failures that lie behind it, and replicas that are gone."""
    outcomes = [("gone", 0, "failed", 9), (ME, 600_000, "failed", 2), *[(ME, 10_000, "ok", 1)] * 70]
    ledger, last_ms = folded(outcomes)
    assert circuit.is_sound(ledger, POLICY, last_ms, ME)
    assert not circuit.is_sound(ledger, POLICY, last_ms, "gone")


@pytest.mark.parametrize(("open_ms", "probes"), [(60_000, 0), (30_000, 1), (20_000, 2), (10_000, 5), (1, 59_999)])
def test_probes_that_fail_within_the_first_minute(open_ms: int, probes: int) -> None:
    """They do not double the wait."""
    assert steady_probes(CircuitPolicy(open_ms=open_ms)) == probes
