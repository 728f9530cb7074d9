"""Which events of a replica were folded: the account that lets everybody fold each event once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger.fold import split_gap
from service.ledger.state import Heard, RouteLedger
from tests.support.event_factories import NOW_MS, after, started


def heard(*seqs: int) -> Heard:
    """The account after these numbers came in this order."""
    return after(*(started(seq) for seq in seqs)).heard.get("r1", Heard())


@given(st.lists(st.integers(1, 40), max_size=60))
def test_any_order_of_arrival_ends_in_the_right_account(seqs: list[int]) -> None:
    """Exactly the numbers that came are heard, at whatever time and however often they came."""
    account = heard(*seqs)
    assert account.high == max(seqs, default=0)
    assert {seq for seq in range(1, 50) if account.has(seq)} == set(seqs)


@given(st.sets(st.integers(1, 40), min_size=1), st.data())
def test_the_account_does_not_depend_on_the_order(seqs: set[int], data: st.DataObject) -> None:
    """Two ways to the same numbers are one account: gaps are whole, apart and in order."""
    in_order, shuffled = heard(*sorted(seqs)), heard(*data.draw(st.permutations(sorted(seqs))))
    assert (shuffled.high, sorted(shuffled.gaps)) == (in_order.high, in_order.gaps)
    assert all(first <= last for first, last in shuffled.gaps)


def test_no_gap_is_left_once_all_have_come() -> None:
    """An account without losses is one number."""
    assert heard(5, 3, 1, 4, 2) == Heard(high=5, at_ms=NOW_MS)


@pytest.mark.parametrize(
    ("seq", "left"),
    [
        (2, [(3, 6)]),
        (6, [(2, 5)]),
        (4, [(2, 3), (5, 6)]),
        (1, [(2, 6)]),
        (7, [(2, 6)]),
    ],
    ids=["the first", "the last", "one within", "one before", "one after"],
)
def test_a_number_that_comes_closes_its_part_of_a_gap(seq: int, left: list[tuple[int, int]]) -> None:
    """What is left of a gap are the numbers that did not come."""
    assert split_gap((2, 6), seq) == left


def test_a_gap_of_one_closes_whole() -> None:
    """Nothing is left of it."""
    assert split_gap((3, 3), 3) == []


def test_replicas_are_numbered_apart() -> None:
    """Each has an account of its own, with the time of its newest event."""
    ledger = after(started(1, replica="a"), started(2, NOW_MS + 5, replica="b", seq=1), started(3, replica="b", seq=2))
    assert ledger.heard == {"a": Heard(high=1, at_ms=NOW_MS), "b": Heard(high=2, at_ms=NOW_MS + 5)}


def test_an_event_without_a_replica_is_in_no_account() -> None:
    """What a worker writes itself has no number."""
    assert after(started(replica="", seq=0)).heard == RouteLedger().heard
