"""A reset: what is held against the route is forgotten, what attempts begun before it still bring does not count."""

from typing import Any

import pytest

from service.ledger.events import RouteReset, TokenCounts, Window
from service.ledger.fold import LATE_RESET_MS
from service.ledger.state import RouteLedger
from tests.support.event_factories import MODEL, NOW_MS, SECOND_MS, after, ended, failed, id_of, started

HELD: tuple[dict[str, Any], ...] = (
    {"windows": {"5h": Window(1.0, NOW_MS + 9_000_000, "rejected")}},
    {"kind": "throttle", "scope": "throttle", "status": 429, "account": "a1"},
    {"kind": "model_missing", "scope": "model", "status": 404},
    {"kind": "bad_request", "scope": "request", "status": 400, "words": "w1", "body": "b1"},
)


def reset(at_ms: int = NOW_MS, **fields: Any) -> RouteReset:
    """An operator resets the route."""
    return RouteReset(event_id=id_of(900, at_ms), at_ms=at_ms, replica="op", seq=1, **fields)


def held(ledger: RouteLedger) -> list[bool]:
    """What of a route is held: health, cool-downs, windows, missing models, unknown errors."""
    parts = (ledger.health, ledger.waits, ledger.windows, ledger.missing_models, ledger.refusals)
    return [bool(part) for part in parts]


def evidence(at_ms: int) -> list[Any]:
    """One failure of each kind that is held."""
    return [failed(number, at_ms, seq=number, **fields) for number, fields in enumerate(HELD, start=1)]


def test_all_that_is_held_is_forgotten() -> None:
    """Usage, attempts under way and counts stay."""
    before = evidence(NOW_MS - 9)
    assert held(after(*before)) == [True] * 5
    ledger = after(started(7, NOW_MS - 5), ended(8, NOW_MS - 4), *before, reset())
    assert held(ledger) == [False] * 5
    assert list(ledger.open) == [started(7, NOW_MS - 5).event_id]
    assert sum(hour.input for hour in ledger.hours.values()) == 10
    assert ledger.unknown_errors == 1


@pytest.mark.parametrize("fields", HELD)
@pytest.mark.parametrize("is_first", [True, False], ids=["reset first", "end first"])
def test_a_stream_from_before_brings_usage_alone(fields: dict[str, Any], is_first: bool) -> None:  # noqa: FBT001 - a case
    """It began before the reset and fails behind it, in whatever order the two reach the stream."""
    end = failed(1, NOW_MS + 30_000, started_at_ms=NOW_MS - SECOND_MS, tokens=TokenCounts(output=7), **fields)
    ledger = after(*((reset(), end) if is_first else (end, reset())))
    assert held(ledger) == [False] * 5
    assert sum(cell.output for by_key in ledger.usage.values() for cell in by_key[MODEL].values()) == 7


def test_what_began_later_counts() -> None:
    """A reset is no amnesty."""
    ledger = after(reset(NOW_MS - 9_000), *evidence(NOW_MS))
    assert held(ledger) == [True] * 5


@pytest.mark.parametrize(("late_ms", "kept"), [(LATE_RESET_MS, False), (LATE_RESET_MS + 1, True)])
def test_a_late_reset_leaves_what_is_newer(late_ms: int, kept: bool) -> None:  # noqa: FBT001 - a case
    """It came through a spool, or an older worker had put it aside; one in time clears all that was seen with it."""
    at_ms = NOW_MS - late_ms
    old = after(failed(9, at_ms - SECOND_MS, replica="r9"), *evidence(NOW_MS), reset(at_ms, spooled=True))
    assert held(old) == [kept] * 5
    assert "r9" not in old.health


def test_second_opinions_are_counted() -> None:
    """By what came of them, with those of attempts from before a reset."""
    ledger = after(
        reset(),
        failed(1, NOW_MS + 5, opinion="none", words="w1", scope="request"),
        failed(2, NOW_MS + 6, opinion="none"),
        failed(3, NOW_MS + 7, opinion="confirmed"),
    )
    assert ledger.opinions == {"none": 2, "confirmed": 1}
    assert ledger.unknown_errors == 1
