"""Weekly quotas, providers' windows, and waits: computed from a route's ledger under the policy at `now`.

Not here: reservations within a limit (`fleet.admission`), and consequences (`rank`).

Rules
- A week begins at a day and time of a time zone (Monday 00:00 UTC by default). Usage is folded by hours in UTC, so a
  week begins with the UTC hour that contains that time: in zones that are off by half an hour, half an hour early. A
  time skipped by a clock change comes an hour later; of a repeated one, the first counts.
- Tokens are weighted by the settings; by default input and output count, as in the original proxy.
- A wait lasts until the provider's end. Days are accepted for a quota; a throttle's wait is capped.
- A window whose reset has passed is over. A used-up one blocks its models until then, unless it came with an answer
  (paid overage), or one came after it. At the warning threshold other routes are preferred.
- Reports from before an operator's reset are ignored.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

from service.ledger.events import TokenCounts
from service.ledger.fold import HOUR_MS
from service.ledger.state import RouteLedger, Usage, Wait, WindowTold
from service.routing.view import usage_since
from service.settings import Policy, QuotaPolicy, QuotaWeights
from service.settings.failure_rules import Rules, WindowRule

QuotaState = Literal["ok", "warning", "spent"]
WindowState = Literal["ok", "warning", "spent"]
DAY_HOURS = 24
FORECAST_STEP_MS = 600_000
"""Forecasts are rounded up to ten minutes: they are no more precise, and need not change each second."""
WEEKLY_WINDOW = "7d_"
"""Prefix of a subscription's windows of some models; the models' name follows, unless a rule says otherwise."""


class QuotaReading(Struct, frozen=True):
    """A route's usage of the week. `limit_tokens` 0 is no limit."""

    state: QuotaState
    used_tokens: int
    limit_tokens: int
    week_start_ms: int
    resets_at_ms: int

    @property
    def used_percent(self) -> float:
        """The used percentage of the limit; 0 without a limit."""
        return 100 * self.used_tokens / self.limit_tokens if self.limit_tokens else 0.0


class WaitReading(Struct, frozen=True):
    """An active wait: its scope, end and reason. `holds` is a substring of its models, "" for all."""

    scope: str
    until_ms: int
    reason: str
    holds: str = ""

    def concerns(self, model: str) -> bool:
        """True if it blocks requests for this model."""
        return not self.holds or self.holds in model.lower()


class WindowReading(Struct, frozen=True):
    """An active quota window of a provider. `used_percent` is None if the provider did not report it.

    `status` is the provider's value, `state` what follows from it; `told_at_ms` is when it was reported.
    """

    name: str
    state: WindowState
    used_percent: float | None
    resets_at_ms: int
    status: str = ""
    holds: str = ""
    told_at_ms: int = 0

    def concerns(self, model: str) -> bool:
        """True if it concerns this model."""
        return not self.holds or self.holds in model.lower()


# -- the week


def week_of(now_ms: int, policy: QuotaPolicy) -> tuple[int, int]:
    """Return the start of the current week and of the next."""
    return _week_of_hour(now_ms // HOUR_MS, policy)


@lru_cache(maxsize=64)
def _week_of_hour(hour: int, policy: QuotaPolicy) -> tuple[int, int]:
    """Weeks begin on the UTC hour, so each hour belongs to one week."""
    zone = UTC if policy.timezone == "UTC" else ZoneInfo(policy.timezone)
    today = datetime.fromtimestamp(hour * 3600, UTC).astimezone(zone).date()
    day, minute = divmod(policy.week_start_minute, 24 * 60)
    near = today - timedelta(days=(today.weekday() - day) % 7)
    starts = []
    for weeks in (-1, 0, 1, 2):
        date = near + timedelta(weeks=weeks)
        start = datetime(date.year, date.month, date.day, *divmod(minute, 60), tzinfo=zone)
        starts.append(int(start.timestamp()) // 3600)
    index = max(index for index, start in enumerate(starts) if start <= hour)
    return starts[index] * HOUR_MS, starts[index + 1] * HOUR_MS


def counted_tokens(usage: Usage | TokenCounts, weights: QuotaWeights) -> int:
    """Return the tokens that count towards a weekly limit."""
    return int(
        usage.input * weights.input
        + usage.output * weights.output
        + usage.cache_read * weights.cache_read
        + usage.cache_write_5m * weights.cache_write_5m
        + usage.cache_write_1h * weights.cache_write_1h
    )


def counted_since(ledger: RouteLedger, first_hour: int, weights: QuotaWeights) -> int:
    """Return the counted tokens from an hour on."""
    return counted_tokens(usage_since(ledger.hours, first_hour), weights)


def read_quota(ledger: RouteLedger, limit_tokens: int, policy: Policy, now_ms: int) -> QuotaReading:
    """Return the usage of the week's limit."""
    week = week_of(now_ms, policy.quota)
    return quota_of(usage_since(ledger.hours, week[0] // HOUR_MS), limit_tokens, policy, week)


def quota_of(usage: Usage, limit_tokens: int, policy: Policy, week: tuple[int, int]) -> QuotaReading:
    """Return the reading for a usage, in a week from its start to that of the next."""
    used = counted_tokens(usage, policy.quota.weights)
    state: QuotaState = "ok"
    if limit_tokens and used >= limit_tokens:
        state = "spent"
    elif limit_tokens and used * 100 >= limit_tokens * policy.warning_percent:
        state = "warning"
    return QuotaReading(state, used, limit_tokens, *week)


def read_forecast(ledger: RouteLedger, quota: QuotaReading, policy: Policy, now_ms: int) -> int:
    """Return when the week's limit will be used up, in Unix milliseconds; 0: not within the week, no limit, or used up
    already.

    The rate is the mean of that of the last 24 hours and that of the week so far. In the first day of a week the second
    is taken from the last 24 hours too, so that an early burst or a quiet first hour does not distort it.
    """
    left = quota.limit_tokens - quota.used_tokens
    if left <= 0:
        return 0
    day_hour = now_ms // HOUR_MS - (DAY_HOURS - 1)
    since = (day_hour, min(day_hour, quota.week_start_ms // HOUR_MS))
    rates = [counted_since(ledger, hour, policy.quota.weights) / (now_ms - hour * HOUR_MS) for hour in since]
    rate = sum(rates) / len(rates)
    if not rate:
        return 0
    at_ms = -(-int(now_ms + left / rate) // FORECAST_STEP_MS) * FORECAST_STEP_MS
    return at_ms if at_ms < quota.resets_at_ms else 0


# -- waits


def read_waits(
    ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int = 0, *, model: str = "", free: bool = False
) -> WaitReading | None:
    """Return the wait for a model that ends last, or None if the route is available.

    Free endpoints are blocked only by a rejected credential: they have other limits.
    """
    holding = (
        wait
        for wait in all_waits(ledger, policy, now_ms, reset_ms)
        if wait.concerns(model) and (not free or wait.scope == "credential")
    )
    return max(holding, key=lambda wait: wait.until_ms, default=None)


def all_waits(ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int = 0) -> Iterator[WaitReading]:
    """Yield all active waits, for any model: requested ones, and used-up windows."""
    for name, wait in ledger.waits.items():
        scope = name.partition(":")[0]
        until_ms = wait_until_ms(scope, wait, policy)
        if wait.at_ms > reset_ms and until_ms > now_ms:
            yield WaitReading(scope, until_ms, f"{wait.kind} {wait.status or ''}".strip(), wait.holds)
    for window in read_windows(ledger, policy, now_ms, reset_ms):
        if window.state == "spent":
            yield WaitReading("quota", window.resets_at_ms, f"window {window.name} {window.status}", window.holds)


def wait_until_ms(scope: str, wait: Wait, policy: Policy) -> int:
    """Return the end of a wait: the provider's, else the policy's time after its begin."""
    if not wait.until_ms:
        return wait.at_ms + (policy.credential_wait_ms if scope == "credential" else policy.wait_ms)
    if scope == "throttle":
        return min(wait.until_ms, wait.at_ms + policy.circuit.open_cap_ms)
    return wait.until_ms


# -- windows


def read_windows(ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int = 0) -> tuple[WindowReading, ...]:
    """Return the active windows as last reported by the provider. Per-minute limits are excluded."""
    if not ledger.windows:
        return ()
    answered_ms = max((health.last_success_ms for health in ledger.health.values()), default=0)
    found = []
    for name, window in sorted(ledger.windows.items()):
        rule = window_rule(name, policy.rules)
        ends_ms = window.resets_at_ms or window.at_ms + policy.wait_ms
        if rule is not None and ends_ms > now_ms:
            state = window_state(window, policy, contradicted=window.at_ms <= max(reset_ms, answered_ms))
            percent = None if window.used_ratio is None else round(window.used_ratio * 100, 2)
            found.append(WindowReading(name, state, percent, ends_ms, window.status, rule.holds, window.at_ms))
    return tuple(found)


def window_rule(name: str, rules: Rules) -> WindowRule | None:
    """Return the rule of a window, or one derived from its name; None if it is not a plan's window."""
    known = next((rule for rule in rules.windows if rule.name == name), None)
    if known is None and name.startswith(WEEKLY_WINDOW):
        return WindowRule(name, holds=name.removeprefix(WEEKLY_WINDOW))
    return known


def window_state(window: WindowTold, policy: Policy, *, contradicted: bool) -> WindowState:
    """Return if a window is used up or nearly so; `contradicted`: an answer or an operator's reset came after the
    report."""
    if window.status in policy.rules.spent_words:
        return "warning" if window.answered or contradicted else "spent"
    return "warning" if is_near(window, policy) else "ok"


def is_near(window: WindowTold, policy: Policy) -> bool:
    """True if a window is nearly used up, by its reported ratio."""
    return window.used_ratio is not None and window.used_ratio * 100 >= policy.warning_percent


def is_pressed(ledger: RouteLedger, policy: Policy) -> bool:
    """True if any window may be (nearly) used up: usually false, so that a request need not read them."""
    return any(
        window.status in policy.rules.spent_words or is_near(window, policy) for window in ledger.windows.values()
    )


def is_warned(windows: Iterable[WindowReading], model: str) -> bool:
    """True if other routes should be preferred for this model."""
    return any(window.state != "ok" and window.concerns(model) for window in windows)
