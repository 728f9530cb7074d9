"""Weekly quotas, providers' windows, and waits: readings of a route's ledger under the policy at `now`.

Not here: reserving within a limit, and what is done about a reading (`rank`).

Rules
- A week begins at a day and time of a time zone (Monday 00:00 UTC by default). Usage is folded by hour of UTC, so that
  a week begins with the hour of UTC in which that moment lies: in zones that are off by half an hour, half an hour
  early. A moment that a change of clocks leaves out comes an hour later; of one that comes twice, the first counts.
- Tokens count by the weights of the settings; by default input and output, as the original proxy counted them.
- A wait holds until the provider's end. Days are believed for a quota; a throttle's wait has a cap.
- A window whose reset has passed is over. A spent one holds its models until then, unless it came with an answer (paid
  overage), or one came after it. At the warning threshold other routes go first.
- What was told before an operator's reset holds nothing.
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
"""A forecast is rounded up to ten minutes: it is no more exact than that, and need not change each second."""
WEEKLY_WINDOW = "7d_"
"""How a subscription's windows of some models begin; what follows is the models' name, unless a rule says more."""


class QuotaReading(Struct, frozen=True):
    """A route's week so far. `limit_tokens` 0 is no limit."""

    state: QuotaState
    used_tokens: int
    limit_tokens: int
    week_start_ms: int
    resets_at_ms: int

    @property
    def used_percent(self) -> float:
        """Percent of the limit that is gone; 0 without a limit."""
        return 100 * self.used_tokens / self.limit_tokens if self.limit_tokens else 0.0


class WaitReading(Struct, frozen=True):
    """A wait that still holds: its scope, its end and why. `holds` is a word in its models' names, "" for all."""

    scope: str
    until_ms: int
    reason: str
    holds: str = ""

    def concerns(self, model: str) -> bool:
        """Whether it holds requests for this model."""
        return not self.holds or self.holds in model.lower()


class WindowReading(Struct, frozen=True):
    """A provider's quota window that is not over. `used_percent` is None when the provider did not say.

    `status` is the provider's word, `state` what follows from it; `told_at_ms` is when it was said.
    """

    name: str
    state: WindowState
    used_percent: float | None
    resets_at_ms: int
    status: str = ""
    holds: str = ""
    told_at_ms: int = 0

    def concerns(self, model: str) -> bool:
        """Whether it is about this model."""
        return not self.holds or self.holds in model.lower()


# -- the week


def week_of(now_ms: int, policy: QuotaPolicy) -> tuple[int, int]:
    """The start of the running week and of the next."""
    return _week_of_hour(now_ms // HOUR_MS, policy)


@lru_cache(maxsize=64)
def _week_of_hour(hour: int, policy: QuotaPolicy) -> tuple[int, int]:
    """Weeks begin on the hour of UTC, so that all of an hour is in one."""
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
    """The tokens that count against a weekly limit."""
    return int(
        usage.input * weights.input
        + usage.output * weights.output
        + usage.cache_read * weights.cache_read
        + usage.cache_write_5m * weights.cache_write_5m
        + usage.cache_write_1h * weights.cache_write_1h
    )


def counted_since(ledger: RouteLedger, first_hour: int, weights: QuotaWeights) -> int:
    """The tokens that count, from an hour on."""
    return counted_tokens(usage_since(ledger.hours, first_hour), weights)


def read_quota(ledger: RouteLedger, limit_tokens: int, policy: Policy, now_ms: int) -> QuotaReading:
    """How much of the week's limit is gone."""
    week = week_of(now_ms, policy.quota)
    return quota_of(usage_since(ledger.hours, week[0] // HOUR_MS), limit_tokens, policy, week)


def quota_of(usage: Usage, limit_tokens: int, policy: Policy, week: tuple[int, int]) -> QuotaReading:
    """How much of the limit that usage is, in a week from its start to that of the next."""
    used = counted_tokens(usage, policy.quota.weights)
    state: QuotaState = "ok"
    if limit_tokens and used >= limit_tokens:
        state = "spent"
    elif limit_tokens and used * 100 >= limit_tokens * policy.warning_percent:
        state = "warning"
    return QuotaReading(state, used, limit_tokens, *week)


def read_forecast(ledger: RouteLedger, quota: QuotaReading, policy: Policy, now_ms: int) -> int:
    """When the week's limit will be spent, in Unix milliseconds; 0: not within the week, without a limit, or spent.

    The rate is the mean of two: that of the last 24 hours, and that of the week so far. In the first day of a week the
    second is taken from the last 24 hours too, so that one early burst, or a quiet first hour, foretells nothing.
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
    """The wait for a model that ends last, or None when the route may be asked now.

    What is free of charge is held by a refused credential alone: its limits are others.
    """
    holding = (
        wait
        for wait in all_waits(ledger, policy, now_ms, reset_ms)
        if wait.concerns(model) and (not free or wait.scope == "credential")
    )
    return max(holding, key=lambda wait: wait.until_ms, default=None)


def all_waits(ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int = 0) -> Iterator[WaitReading]:
    """The waits that still hold, whomever they hold: those that were asked for, and spent windows."""
    for name, wait in ledger.waits.items():
        scope = name.partition(":")[0]
        until_ms = wait_until_ms(scope, wait, policy)
        if wait.at_ms > reset_ms and until_ms > now_ms:
            yield WaitReading(scope, until_ms, f"{wait.kind} {wait.status or ''}".strip(), wait.holds)
    for window in read_windows(ledger, policy, now_ms, reset_ms):
        if window.state == "spent":
            yield WaitReading("quota", window.resets_at_ms, f"window {window.name} {window.status}", window.holds)


def wait_until_ms(scope: str, wait: Wait, policy: Policy) -> int:
    """The end of a wait: the provider's word, else the policy's time after it began."""
    if not wait.until_ms:
        return wait.at_ms + (policy.credential_wait_ms if scope == "credential" else policy.wait_ms)
    if scope == "throttle":
        return min(wait.until_ms, wait.at_ms + policy.circuit.open_cap_ms)
    return wait.until_ms


# -- windows


def read_windows(ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int = 0) -> tuple[WindowReading, ...]:
    """The windows that are not over, as the provider told them last. Limits by the minute are none of them."""
    if not ledger.windows:
        return ()
    answered_ms = max((health.last_success_ms for health in ledger.health.values()), default=0)
    found = []
    for name, told in sorted(ledger.windows.items()):
        rule = window_rule(name, policy.rules)
        ends_ms = told.resets_at_ms or told.at_ms + policy.wait_ms
        if rule is not None and ends_ms > now_ms:
            state = window_state(told, policy, contradicted=told.at_ms <= max(reset_ms, answered_ms))
            percent = None if told.used_ratio is None else round(told.used_ratio * 100, 2)
            found.append(WindowReading(name, state, percent, ends_ms, told.status, rule.holds, told.at_ms))
    return tuple(found)


def window_rule(name: str, rules: Rules) -> WindowRule | None:
    """What is known of a window, or follows from its name; None when it is no window of a plan."""
    known = next((rule for rule in rules.windows if rule.name == name), None)
    if known is None and name.startswith(WEEKLY_WINDOW):
        return WindowRule(name, holds=name.removeprefix(WEEKLY_WINDOW))
    return known


def window_state(told: WindowTold, policy: Policy, *, contradicted: bool) -> WindowState:
    """Whether a window is spent, or nearly; `contradicted`: an answer or an operator's reset came after it was told."""
    if told.status in policy.rules.spent_words:
        return "warning" if told.answered or contradicted else "spent"
    return "warning" if is_near(told, policy) else "ok"


def is_near(told: WindowTold, policy: Policy) -> bool:
    """Whether a window is nearly spent, by its figure."""
    return told.used_ratio is not None and told.used_ratio * 100 >= policy.warning_percent


def is_pressed(ledger: RouteLedger, policy: Policy) -> bool:
    """Whether any window may be spent, or nearly: mostly none is, and none need be read for a request."""
    return any(told.status in policy.rules.spent_words or is_near(told, policy) for told in ledger.windows.values())


def is_warned(windows: Iterable[WindowReading], model: str) -> bool:
    """Whether other routes should go first for this model."""
    return any(window.state != "ok" and window.concerns(model) for window in windows)
