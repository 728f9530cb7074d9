"""Weekly quotas and waits, read at a moment."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger.state import RouteLedger, Usage, Wait
from service.routing.quota import WEEK_MS, WaitReading, read_quota, read_waits, week_start_ms
from tests.routing.making import HOUR_MS, MONDAY_MS, NOW_MS, POLICY, used, waiting


def unix_ms(text: str) -> int:
    """A time of day in UTC."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    ("now", "monday"),
    [
        ("2026-09-14 00:00:00", "2026-09-14"),
        ("2026-09-14 00:00:01", "2026-09-14"),
        ("2026-09-16 12:00:00", "2026-09-14"),
        ("2026-09-20 23:59:59", "2026-09-14"),
        ("2026-09-21 00:00:00", "2026-09-21"),
        ("1970-01-05 00:00:00", "1970-01-05"),
        ("1970-01-01 00:00:00", "1969-12-29"),
        ("2024-02-29 06:00:00", "2024-02-26"),
        ("2027-01-01 00:00:00", "2026-12-28"),
    ],
    ids=[
        "Monday at 0",
        "a second later",
        "Wednesday",
        "Sunday",
        "next Monday",
        "first",
        "epoch",
        "leap day",
        "new year",
    ],
)
def test_a_week_begins_on_monday_in_utc(now: str, monday: str) -> None:
    """Sunday belongs to the week that began six days before."""
    assert week_start_ms(unix_ms(now)) == unix_ms(f"{monday} 00:00:00")


@given(st.integers(0, 4_102_444_800_000))
def test_the_start_of_a_week_is_within_the_last_seven_days(now_ms: int) -> None:
    """It is a Monday, has passed, and is its own week's start."""
    start_ms = week_start_ms(now_ms)
    assert 0 <= now_ms - start_ms < WEEK_MS
    assert datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%a %H:%M:%S.%f") == "Mon 00:00:00.000000"
    assert week_start_ms(start_ms) == start_ms


@pytest.mark.parametrize(
    ("tokens", "limit", "state"),
    [
        (0, 1_000, "ok"),
        (899, 1_000, "ok"),
        (900, 1_000, "warning"),
        (999, 1_000, "warning"),
        (1_000, 1_000, "spent"),
        (5_000, 1_000, "spent"),
        (10**12, 0, "ok"),
    ],
)
def test_a_limit_warns_then_is_spent(tokens: int, limit: int, state: str) -> None:
    """From the threshold (90 %) other routes go first; at 100 % it is over; 0 is no limit."""
    assert read_quota(used(tokens), limit, POLICY, NOW_MS).state == state


def test_the_threshold_is_a_setting() -> None:
    """In percent of the limit."""
    assert read_quota(used(500), 1_000, replace(POLICY, warning_percent=50), NOW_MS).state == "warning"


def test_a_new_week_needs_no_reset() -> None:
    """A spent limit is whole again on Monday, without anybody doing anything."""
    ledger = used(1_000, MONDAY_MS + WEEK_MS - 1)
    before, after = (read_quota(ledger, 1_000, POLICY, MONDAY_MS + WEEK_MS + late) for late in (-1, 0))
    assert (before.state, before.used_tokens, before.resets_at_ms) == ("spent", 1_000, MONDAY_MS + WEEK_MS)
    assert (after.state, after.used_tokens, after.week_start_ms) == ("ok", 0, MONDAY_MS + WEEK_MS)


def test_input_and_output_count() -> None:
    """As in the original: what was read from a cache or written to one does not."""
    usage = Usage(attempts=3, input=10, output=5, cache_read=1_000, cache_write_5m=100, cache_write_1h=100)
    reading = read_quota(RouteLedger(hours={NOW_MS // HOUR_MS: usage}), 30, POLICY, NOW_MS)
    assert (reading.used_tokens, reading.used_percent) == (15, 50.0)


def test_the_hours_of_the_week_are_added() -> None:
    """From the first of Monday on, and no other."""
    hours = {(MONDAY_MS + hours * HOUR_MS) // HOUR_MS: Usage(input=1) for hours in (-1, 0, 1, 60)}
    assert read_quota(RouteLedger(hours=hours), 0, POLICY, NOW_MS).used_tokens == 3


def test_no_limit_is_no_percentage() -> None:
    """Nothing is divided by zero."""
    assert read_quota(used(5), 0, POLICY, NOW_MS).used_percent == 0.0


# -- waits


@pytest.mark.parametrize(
    ("ledger", "until_ms"),
    [
        pytest.param(RouteLedger(), None, id="none"),
        pytest.param(waiting(until_ms=NOW_MS + 1), NOW_MS + 1, id="one that ends in a moment"),
        pytest.param(waiting(until_ms=NOW_MS), None, id="one that has ended"),
        pytest.param(waiting(until_ms=NOW_MS + 10**10), NOW_MS + 10**10, id="a provider's word is taken as it is"),
        pytest.param(waiting(until_ms=0, at_ms=NOW_MS), NOW_MS + POLICY.wait_ms, id="without an end"),
        pytest.param(waiting("quota", 0, NOW_MS - POLICY.wait_ms), None, id="without an end, over"),
        pytest.param(
            waiting("credential", 0, NOW_MS), NOW_MS + POLICY.credential_wait_ms, id="a credential without an end"
        ),
    ],
)
def test_a_wait_holds_until_its_end(ledger: RouteLedger, until_ms: int | None) -> None:
    """The provider's end, else the policy's time after it began."""
    wait = read_waits(ledger, POLICY, NOW_MS)
    assert (wait.until_ms if wait else None) == until_ms


def test_the_wait_that_ends_last_is_the_routes() -> None:
    """Whatever its scope."""
    ends = {"throttle": 10, "quota": 30, "credential": 20}
    waits = {
        scope: Wait(at_ms=NOW_MS - 1, until_ms=NOW_MS + end, kind="quota", status=429) for scope, end in ends.items()
    }
    assert read_waits(RouteLedger(waits=waits), POLICY, NOW_MS) == WaitReading("quota", NOW_MS + 30, "quota 429")


def test_a_wait_without_a_status_says_none() -> None:
    """A credential that could not even be read had no answer."""
    waits = {"credential": Wait(at_ms=NOW_MS, kind="credential")}
    wait = read_waits(RouteLedger(waits=waits), POLICY, NOW_MS)
    assert wait is not None
    assert wait.reason == "credential"


def test_an_operators_reset_ends_waits_from_before() -> None:
    """And no later ones."""
    assert read_waits(waiting(at_ms=NOW_MS - 5), POLICY, NOW_MS, reset_ms=NOW_MS - 5) is None
    assert read_waits(waiting(at_ms=NOW_MS - 4), POLICY, NOW_MS, reset_ms=NOW_MS - 5) is not None
