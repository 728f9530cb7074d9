"""Weekly quotas and waits, read at a moment."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger.events import FOLD_RULES, TokenCounts, Window
from service.ledger.state import ReplicaHealth, RouteLedger, Usage, Wait, WindowTold
from service.routing.quota import (
    FORECAST_STEP_MS,
    WaitReading,
    all_waits,
    counted_since,
    counted_tokens,
    is_pressed,
    is_warned,
    read_forecast,
    read_quota,
    read_waits,
    read_windows,
    week_of,
)
from service.settings import QuotaPolicy, QuotaWeights, minute_of_week
from tests.support.event_factories import after, ended, failed
from tests.support.routing_factories import HOUR_MS, MONDAY_MS, NOW_MS, POLICY, used, waiting

DAY_MS = 24 * HOUR_MS
WEEK_MS = 7 * DAY_MS


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
    start_ms = unix_ms(f"{monday} 00:00:00")
    assert week_of(unix_ms(now), QuotaPolicy()) == (start_ms, start_ms + WEEK_MS)


@given(st.integers(0, 4_102_444_800_000))
def test_the_start_of_a_week_is_within_the_last_seven_days(now_ms: int) -> None:
    """It is a Monday, has passed, and is its own week's start."""
    start_ms, end_ms = week_of(now_ms, QuotaPolicy())
    assert 0 <= now_ms - start_ms < WEEK_MS
    assert datetime.fromtimestamp(start_ms / 1000, UTC).strftime("%a %H:%M:%S.%f") == "Mon 00:00:00.000000"
    assert week_of(start_ms, QuotaPolicy()) == (start_ms, end_ms) == (start_ms, start_ms + WEEK_MS)


def starting(anchor: str, zone: str) -> QuotaPolicy:
    """A week that begins at this day and time."""
    return QuotaPolicy(week_start_minute=minute_of_week(anchor), timezone=zone)


@pytest.mark.parametrize(
    ("anchor", "zone", "now", "start", "end"),
    [
        # The clocks are set forward on 2026-03-29, and back on 2026-10-25.
        ("mon 00:00", "Europe/Berlin", "2026-03-25 12:00", "2026-03-22 23:00", "2026-03-29 22:00"),
        ("mon 00:00", "Europe/Berlin", "2026-10-22 12:00", "2026-10-18 22:00", "2026-10-25 23:00"),
        ("sun 02:30", "Europe/Berlin", "2026-03-29 01:30", "2026-03-29 01:00", "2026-04-05 00:00"),
        ("sun 02:30", "Europe/Berlin", "2026-10-25 00:30", "2026-10-25 00:00", "2026-11-01 01:00"),
        # A minute before it, and at the moment.
        ("fri 18:00", "America/New_York", "2026-09-18 21:59", "2026-09-11 22:00", "2026-09-18 22:00"),
        ("fri 18:00", "America/New_York", "2026-09-18 22:00", "2026-09-18 22:00", "2026-09-25 22:00"),
        # Half an hour and a quarter early.
        ("mon 00:00", "Asia/Kolkata", "2026-09-13 18:00", "2026-09-13 18:00", "2026-09-20 18:00"),
        ("mon 00:00", "Asia/Kathmandu", "2026-09-13 18:15", "2026-09-13 18:00", "2026-09-20 18:00"),
        # Far ahead, and far behind.
        ("mon 00:00", "Pacific/Kiritimati", "2026-09-13 10:00", "2026-09-13 10:00", "2026-09-20 10:00"),
        ("mon 00:00", "Pacific/Pago_Pago", "2026-09-14 10:59", "2026-09-07 11:00", "2026-09-14 11:00"),
    ],
)
def test_a_week_begins_where_the_settings_say(anchor: str, zone: str, now: str, start: str, end: str) -> None:
    """At a local time, whatever the clocks do; on a full hour of UTC, since usage is folded by those."""
    assert week_of(unix_ms(now), starting(anchor, zone)) == (unix_ms(start), unix_ms(end))


ZONES = (
    "UTC", "Europe/Berlin", "America/New_York", "America/St_Johns", "Asia/Kolkata", "Asia/Kathmandu",
    "Australia/Lord_Howe", "Pacific/Apia", "Pacific/Chatham", "Africa/Casablanca",
)  # fmt: skip
MOMENTS = st.integers(0, 4_102_444_800_000)
ANCHORS = st.builds(QuotaPolicy, week_start_minute=st.integers(0, 7 * 24 * 60 - 1), timezone=st.sampled_from(ZONES))


@given(MOMENTS, ANCHORS)
def test_weeks_follow_each_other_without_gap_or_overlap(now_ms: int, policy: QuotaPolicy) -> None:
    """In every zone: now lies within its week, each week's end is the next one's start, on the hour."""
    start_ms, end_ms = week_of(now_ms, policy)
    assert start_ms <= now_ms < end_ms
    assert start_ms % HOUR_MS == 0
    assert week_of(start_ms, policy) == week_of(end_ms - 1, policy) == (start_ms, end_ms)
    assert week_of(end_ms, policy)[0] == end_ms


@given(MOMENTS, ANCHORS)
def test_a_week_begins_at_its_local_time(now_ms: int, policy: QuotaPolicy) -> None:
    """Less than an hour before it; a clock that is set forward there moves it by as much."""
    local = datetime.fromtimestamp(week_of(now_ms, policy)[0] / 1000, ZoneInfo(policy.timezone)).replace(tzinfo=None)
    monday = local.replace(hour=0, minute=0) - timedelta(days=local.weekday())
    late_min = (local - monday).total_seconds() / 60 - policy.week_start_minute
    late_min = (late_min + 5 * 24 * 60) % (7 * 24 * 60) - 5 * 24 * 60
    assert -60 < late_min <= 60 or policy.timezone == "Pacific/Apia"  # which left a day out in 2011


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


def test_weights_are_a_setting() -> None:
    """Each kind of token counts for as much as the settings say; parts of tokens are left out."""
    weights = QuotaWeights(input=1, output=5, cache_read=0.1, cache_write_5m=1.25, cache_write_1h=2)
    usage = Usage(input=10, output=5, cache_read=19, cache_write_5m=100, cache_write_1h=100)
    assert counted_tokens(usage, weights) == 10 + 25 + 125 + 200 + 1
    assert counted_tokens(TokenCounts(input=10, cache_read=19), weights) == 11
    policy = replace(POLICY, quota=QuotaPolicy(weights=weights))
    assert read_quota(RouteLedger(hours={NOW_MS // HOUR_MS: usage}), 1_000, policy, NOW_MS).used_tokens == 361


@given(st.lists(st.builds(Usage, input=st.integers(0, 10**12), output=st.integers(0, 10**12)), max_size=20))
def test_hours_count_as_their_sum(hours: list[Usage]) -> None:
    """The fast way and the plain way agree."""
    ledger = RouteLedger(hours=dict(enumerate(hours)))
    whole = Usage(input=sum(hour.input for hour in hours), output=sum(hour.output for hour in hours))
    assert counted_since(ledger, 0, QuotaWeights()) == counted_tokens(whole, QuotaWeights())


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
        pytest.param(waiting("quota", NOW_MS + 10**10), NOW_MS + 10**10, id="days are believed for a quota"),
        pytest.param(
            waiting("throttle", NOW_MS + 10**10, NOW_MS),
            NOW_MS + POLICY.circuit.open_cap_ms,
            id="a throttle's wait has a cap",
        ),
        pytest.param(waiting(until_ms=0, at_ms=NOW_MS), NOW_MS + POLICY.wait_ms, id="without an end"),
        pytest.param(waiting(until_ms=0, at_ms=NOW_MS - POLICY.wait_ms), None, id="without an end, over"),
        pytest.param(waiting("quota", 0, NOW_MS), NOW_MS + POLICY.quota_wait_ms, id="a quota without an end"),
        pytest.param(waiting("quota", 0, NOW_MS - POLICY.quota_wait_ms), None, id="a quota without an end, over"),
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
    found = read_waits(RouteLedger(waits=waits), POLICY, NOW_MS)
    assert found == WaitReading("quota", NOW_MS + 30, "quota 429", kind="quota", status=429)


def test_a_wait_without_a_status_says_none() -> None:
    """A credential that could not even be read had no answer."""
    waits = {"credential": Wait(at_ms=NOW_MS, kind="credential")}
    wait = read_waits(RouteLedger(waits=waits), POLICY, NOW_MS)
    assert wait is not None
    assert wait.reason == "credential refused"


def test_an_operators_reset_ends_waits_from_before() -> None:
    """And no later ones."""
    assert read_waits(waiting(at_ms=NOW_MS - 5), POLICY, NOW_MS, reset_ms=NOW_MS - 5) is None
    assert read_waits(waiting(at_ms=NOW_MS - 4), POLICY, NOW_MS, reset_ms=NOW_MS - 5) is not None


# -- waits of some models


def family_wait(holds: str = "opus", until_ms: int = NOW_MS + 30) -> RouteLedger:
    """A quota of some models is spent."""
    wait = Wait(at_ms=NOW_MS - 1, until_ms=until_ms, kind="quota", status=429, holds=holds)
    return RouteLedger(waits={f"quota:{holds}": wait})


@pytest.mark.parametrize(
    ("model", "waits"),
    [("claude-opus-4-8", True), ("Claude-OPUS-5", True), ("claude-sonnet-4-6", False), ("", False)],
)
def test_a_wait_of_some_models_holds_those(model: str, *, waits: bool) -> None:
    """A request for no model at all is held by what holds all."""
    reading = read_waits(family_wait(), POLICY, NOW_MS, model=model)
    assert reading == (
        WaitReading("quota", NOW_MS + 30, "quota 429", "opus", kind="quota", status=429) if waits else None
    )


def test_all_waits_are_shown() -> None:
    """Whomever they hold."""
    assert [wait.holds for wait in all_waits(family_wait(), POLICY, NOW_MS)] == ["opus"]


@pytest.mark.parametrize("scope", ["throttle", "quota", "credential"])
def test_each_class_of_endpoint_has_waits_of_its_own(scope: str) -> None:
    """What messages wait for does not hold the counting of tokens, and the other way round."""
    assert read_waits(waiting(scope), POLICY, NOW_MS, endpoint="count_tokens") is None
    assert read_waits(waiting(scope), POLICY, NOW_MS) is not None
    counting = RouteLedger(waits={f"count_tokens//{scope}": Wait(at_ms=NOW_MS, endpoint="count_tokens")})
    assert read_waits(counting, POLICY, NOW_MS) is None
    found = read_waits(counting, POLICY, NOW_MS, endpoint="count_tokens")
    assert found is not None
    assert found.scope == scope


# -- windows

RESET_MS = NOW_MS + 5 * HOUR_MS


def told(status: str = "allowed", ratio: float | None = 0.1, name: str = "5h", **fields: object) -> RouteLedger:
    """What a provider said of a window."""
    values: dict[str, object] = {"resets_at_ms": RESET_MS, "at_ms": NOW_MS - 9, "answered": status == "allowed"}
    return RouteLedger(windows={name: WindowTold(ratio, status=status, **(values | fields))})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ledger", "state"),
    [
        pytest.param(told(), "ok", id="allowed"),
        pytest.param(told("allowed_warning", 0.8), "ok", id="below the threshold of the settings"),
        pytest.param(told(ratio=0.9), "warning", id="at the threshold"),
        pytest.param(told(ratio=None), "ok", id="without a figure"),
        *(
            pytest.param(told(word, 1.0), "spent", id=word)
            for word in ("rejected", "rate_limited", "blocked", "queueing_hard", "payment_required")
        ),
        pytest.param(told("rejected", 1.0, answered=True), "warning", id="rejected, with an answer"),
        pytest.param(told("rejected", None, resets_at_ms=0), "spent", id="rejected without a reset, a moment ago"),
    ],
)
def test_a_window_has_a_state(ledger: RouteLedger, state: str) -> None:
    """Spent when the provider says so with an error; nearly spent from the threshold on, and with paid overage."""
    [window] = read_windows(ledger, POLICY, NOW_MS)
    assert window.state == state


@pytest.mark.parametrize(
    "ledger",
    [
        pytest.param(told("rejected", 1.0, resets_at_ms=NOW_MS), id="its reset has passed"),
        pytest.param(
            told("rejected", 1.0, resets_at_ms=0, at_ms=NOW_MS - POLICY.quota_wait_ms), id="it named none, a while ago"
        ),
        pytest.param(told(name="requests", ratio=1.0), id="an API key's limit by the minute"),
    ],
)
def test_a_window_that_is_over_is_none(ledger: RouteLedger) -> None:
    """Nothing waits for it, and nothing shows it."""
    assert read_windows(ledger, POLICY, NOW_MS) == ()
    assert read_waits(ledger, POLICY, NOW_MS) is None


@pytest.mark.parametrize(
    ("account", "is_held"), [("old", True), ("new", False), ("", False)], ids=["its own", "a new log-in", "unknown"]
)
def test_a_window_is_that_of_its_account(account: str, is_held: bool) -> None:  # noqa: FBT001 - a case
    """What one key or log-in has used up says nothing about the next one; without an account it is the last one's."""
    spent = {"5h": Window(1.0, RESET_MS, "rejected")}
    old = failed(1, NOW_MS - 9, status=429, account="old", windows=spent, scope="", fold_rules=FOLD_RULES)
    new = ended(2, NOW_MS - 8, account="new", windows={"5h": Window(0.2, RESET_MS, "allowed")}, fold_rules=FOLD_RULES)
    ledger = after(old, new)
    assert sorted(ledger.windows) == ["new/5h", "old/5h"]
    assert bool(read_waits(ledger, POLICY, NOW_MS, account=account)) == is_held
    [window] = read_windows(ledger, POLICY, NOW_MS, account=account)
    assert (window.account, window.state) == (account or "new", "spent" if is_held else "ok")


def test_a_spent_window_is_a_wait_until_its_reset() -> None:
    """Also when its error's own wait is not known, as after a spool."""
    reading = read_waits(told("rejected", 1.0), POLICY, NOW_MS, model="claude-opus-4-8")
    assert reading == WaitReading("quota", RESET_MS, "window 5h rejected", kind="quota")


def test_an_answer_or_a_reset_ends_a_spent_window() -> None:
    """Fresh facts and operators stand over what was said before."""
    ledger = told("rejected", 1.0)
    assert read_waits(ledger, POLICY, NOW_MS, reset_ms=NOW_MS - 9) is None
    ledger.health["r"] = ReplicaHealth(last_success_ms=NOW_MS - 10)
    assert read_waits(ledger, POLICY, NOW_MS) is not None
    ledger.health["r"] = ReplicaHealth(last_success_ms=NOW_MS - 9)
    assert read_waits(ledger, POLICY, NOW_MS) is None
    ledger.health["other"] = ReplicaHealth(last_success_ms=NOW_MS - 10)
    assert read_waits(ledger, POLICY, NOW_MS) is None, "whichever replica had the answer"


@pytest.mark.parametrize(
    ("name", "holds"),
    [("5h", ""), ("7d", ""), ("7d_opus", "opus"), ("7d_sonnet", "sonnet"), ("7d_oi", "fable"), ("7d_haiku", "haiku")],
)
def test_a_window_of_some_models_is_about_those(name: str, holds: str) -> None:
    """By the rules, else by its name."""
    windows = read_windows(told("rejected", 1.0, name), POLICY, NOW_MS)
    assert [window.holds for window in windows] == [holds]
    for model in ("claude-opus-4-8", "claude-sonnet-4-6", "claude-fable-5", "claude-haiku-4-6"):
        assert is_warned(windows, model) == (holds in model)


def test_a_windows_figure_is_shown_in_hundredths_of_a_percent() -> None:
    [window] = read_windows(told(ratio=0.123456), POLICY, NOW_MS)
    assert window.used_percent == 12.35
    [window] = read_windows(told(ratio=None), POLICY, NOW_MS)
    assert window.used_percent is None


@pytest.mark.parametrize(
    ("windows", "pressed"),
    [
        pytest.param({}, False, id="none was told"),
        pytest.param(told().windows, False, id="one that is allowed"),
        pytest.param(told(ratio=0.899).windows, False, id="one below the threshold"),
        pytest.param(told(ratio=0.9).windows, True, id="one at the threshold"),
        pytest.param(told("rejected", None).windows, True, id="a spent one without a figure"),
        pytest.param(told(name="7d").windows | told("rejected", None).windows, True, id="one of two"),
    ],
)
def test_windows_are_read_where_one_may_be_spent(windows: dict[str, WindowTold], pressed: bool) -> None:  # noqa: FBT001
    """Or nearly; for most requests none need be."""
    assert is_pressed(RouteLedger(windows=windows), POLICY) is pressed


# -- the forecast


def forecast(ledger: RouteLedger, limit: int, now_ms: int = NOW_MS) -> int:
    """When the limit will be spent."""
    return read_forecast(ledger, read_quota(ledger, limit, POLICY, now_ms), POLICY, now_ms)


def steady(per_hour: int, until_ms: int = NOW_MS, hours: int = 14 * 24) -> RouteLedger:
    """The same use in each hour up to a moment."""
    last = until_ms // HOUR_MS
    return RouteLedger(hours={last - ago: Usage(input=per_hour) for ago in range(1, hours + 1)})


@pytest.mark.parametrize("hours", [2, 10, 50, 100])
def test_steady_use_goes_on(hours: int) -> None:
    """The forecast of a rate that does not change is that rate's; within the hour under way and the rounding."""
    used_tokens = read_quota(steady(1_000), 0, POLICY, NOW_MS).used_tokens
    at_ms = forecast(steady(1_000), used_tokens + hours * 1_000)
    assert at_ms % FORECAST_STEP_MS == 0
    assert 0.95 <= (at_ms - NOW_MS) / (hours * HOUR_MS) <= 1.1


@pytest.mark.parametrize(
    ("ledger", "limit"),
    [
        pytest.param(RouteLedger(), 1_000, id="nothing was used"),
        pytest.param(steady(1_000), 0, id="no limit"),
        pytest.param(steady(1_000), 10, id="spent already"),
        pytest.param(steady(1_000), 10**9, id="not within the week"),
    ],
)
def test_no_forecast_is_zero(ledger: RouteLedger, limit: int) -> None:
    """There is nothing to foretell."""
    assert forecast(ledger, limit) == 0


def test_a_week_that_has_just_begun_is_foretold_from_the_day_before() -> None:
    """Neither one early burst nor a first hour without use says much."""
    for late_ms in (0, 1, HOUR_MS, 12 * HOUR_MS):
        now_ms = MONDAY_MS + late_ms
        at_ms = forecast(steady(1_000, now_ms), 100_000, now_ms)
        assert 80 <= (at_ms - MONDAY_MS) / HOUR_MS <= 110
    assert forecast(steady(1_000, MONDAY_MS), 0, MONDAY_MS) == 0, "without a limit nothing is used up"
    burst = RouteLedger(hours={MONDAY_MS // HOUR_MS: Usage(input=5_000)})
    assert forecast(burst, 100_000, MONDAY_MS + 60_000) == 0


def test_a_busy_day_and_a_quiet_week_are_weighed() -> None:
    """The mean of the two rates: 24 tokens an hour lately, 9.6 in the week."""
    ledger = RouteLedger(hours={NOW_MS // HOUR_MS - 1: Usage(input=24 * 24)})
    at_ms = forecast(ledger, 24 * 24 + 168)
    assert (at_ms - NOW_MS) / HOUR_MS == pytest.approx(168 / ((24 + 9.6) / 2), rel=0.05)


@pytest.mark.parametrize(
    ("left", "late_ms"),
    [
        pytest.param(0, None, id="the last token is used"),
        pytest.param(415, 10 * HOUR_MS, id="on the full step"),
        pytest.param(416, 10 * HOUR_MS + FORECAST_STEP_MS, id="rounded up"),
        pytest.param(4_475, 108 * HOUR_MS - FORECAST_STEP_MS, id="at the last step of the week"),
        pytest.param(4_482, None, id="when the week ends"),
    ],
)
def test_the_moment_that_is_foretold(left: int, late_ms: int | None) -> None:
    """1,380 tokens were used: 60 an hour within 23 hours of the day, 23 an hour in 60 of the week; 41.5 is the mean."""
    ledger = RouteLedger(hours={NOW_MS // HOUR_MS - 23: Usage(input=1_380)})
    assert forecast(ledger, 1_380 + left) == (0 if late_ms is None else NOW_MS + late_ms)
    before = RouteLedger(hours=ledger.hours | {MONDAY_MS // HOUR_MS - 1: Usage(input=10**6)})
    assert forecast(before, 1_380 + left) == forecast(ledger, 1_380 + left)


@given(st.dictionaries(st.integers(-360, 0), st.integers(0, 10**9)), st.integers(1, 10**10), MOMENTS)
def test_a_forecast_lies_within_the_week(hours: dict[int, int], limit: int, now_ms: int) -> None:
    """Or there is none."""
    ledger = RouteLedger(hours={now_ms // HOUR_MS + ago: Usage(input=tokens) for ago, tokens in hours.items()})
    at_ms = forecast(ledger, limit, now_ms)
    assert at_ms == 0 or now_ms <= at_ms < week_of(now_ms, QuotaPolicy())[1]
