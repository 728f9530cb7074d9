"""Fleet time never goes back once something bears it, follows Redis slowly, and makes ids that sort by it."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.fleet import clock as rooms
from service.fleet.clock import Clock
from service.ledger.ids import time_of_id_ms


class Hands:
    """The clocks of this host, the monotonic one moved by hand."""

    def __init__(self) -> None:
        self.ms = 1_000.0

    def monotonic_ns(self) -> int:
        return int(self.ms * 1_000_000)

    def time(self) -> float:
        return 1_700_000_000.0


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    made = Hands()
    monkeypatch.setattr(rooms, "time", made)
    return made


@given(st.lists(st.tuples(st.floats(0, 10_000), st.none() | st.floats(0, 4e12))))
def test_it_never_goes_back(steps: list[tuple[float, float | None]]) -> None:
    """Once an id was made, whatever Redis says and however often, no reading is less than the one before."""
    hands = Hands()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rooms, "time", hands)
        clock = Clock()
        clock.new_id()
        last = clock.now_ms()
        for elapsed_ms, sampled_ms in steps:
            hands.ms += elapsed_ms
            if sampled_ms is not None:
                clock.sample(sampled_ms)
            now = clock.now_ms()
            assert now >= last
            last = now


def test_a_clock_far_behind_is_set_at_once(hands: Hands) -> None:
    """The first sample, and any later one by which the clock is far behind, is taken as it is."""
    clock = Clock()
    there = clock.now_ms() + 3_600_000
    clock.sample(there)
    assert clock.now_ms() == there
    clock.sample(there + 5_000)
    assert clock.now_ms() == there + 5_000
    hands.ms += 10
    assert clock.now_ms() == there + 5_010


@pytest.mark.parametrize("off_ms", [-400, 400])
def test_small_corrections_are_slewed(hands: Hands, off_ms: int) -> None:
    """A small difference is made good over time, at a tenth of the speed, and then no more."""
    clock = Clock()
    start = clock.now_ms()
    clock.sample(start)
    clock.sample(start + off_ms)
    assert clock.now_ms() == start
    hands.ms += 1_000
    assert abs(clock.now_ms() - (start + 1_000 + (100 if off_ms > 0 else -100))) <= 1
    hands.ms += 100_000
    assert abs(clock.now_ms() - (start + 101_000 + off_ms)) <= 1


DAY_MS = 86_400_000


def test_a_clock_that_starts_ahead_is_set_back(hands: Hands) -> None:
    """As long as nothing bears its time, a clock that is a day ahead takes Redis's at once."""
    clock = Clock()
    there = clock.now_ms() - DAY_MS
    clock.sample(there)
    assert (clock.now_ms(), clock.ahead_ms) == (there, 0)
    hands.ms += 10
    assert clock.now_ms() == there + 10


@pytest.mark.parametrize("make", [Clock.new_id, Clock.new_request_id], ids=["an event", "a request"])
def test_a_clock_that_has_made_ids_never_goes_back(hands: Hands, make: Callable[[Clock], str]) -> None:
    """Once something bears its time, a clock that is far ahead runs at half the speed until Redis has caught up."""
    clock = Clock()
    make(clock)
    start = clock.now_ms()
    clock.sample(start - DAY_MS)
    assert (clock.now_ms(), round(clock.ahead_ms)) == (start, DAY_MS)
    hands.ms += DAY_MS
    assert abs(clock.now_ms() - (start + DAY_MS / 2)) <= 1
    hands.ms += DAY_MS
    assert abs(clock.now_ms() - (start + DAY_MS)) <= 1
    assert clock.ahead_ms <= 1
    hands.ms += 1_000
    assert abs(clock.now_ms() - (start + DAY_MS + 1_000)) <= 2


def test_a_later_sample_far_behind_sets_nothing_back(hands: Hands) -> None:
    """A Redis that goes back by a day, after a first sample that was taken, is followed at half the speed."""
    clock = Clock()
    start = clock.now_ms()
    clock.sample(start)
    clock.sample(start - DAY_MS)
    hands.ms += 1_000
    assert abs(clock.now_ms() - (start + 500)) <= 1


def test_ids_are_uuids_of_version_7_in_fleet_time(hands: Hands) -> None:
    """An id has the version and variant of UUIDv7, and fleet time in it."""
    clock = Clock()
    clock.sample(clock.now_ms() + 3_600_000)
    for _ in range(200):
        made = clock.new_id()
        assert [len(part) for part in made.split("-")] == [8, 4, 4, 4, 12]
        assert made[14] == "7"
        assert made[19] in "89ab"
        assert time_of_id_ms(made) == clock.now_ms()
        hands.ms += 1


def test_ids_never_repeat(hands: Hands) -> None:
    """Within one millisecond no id comes twice."""
    clock = Clock()
    assert hands.ms
    assert len({clock.new_id() for _ in range(20_000)}) == 20_000


def test_request_ids_are_short_and_sort_by_time(hands: Hands) -> None:
    """A request's id has 18 hexadecimal digits and a later one is greater."""
    clock = Clock()
    first = clock.new_request_id()
    hands.ms += 1
    second = clock.new_request_id()
    assert len(first) == len(second) == 18
    assert int(first, 16) < int(second, 16)
