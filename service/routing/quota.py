"""Weekly quotas, providers' windows, and waits: computed from a route's ledger under the policy at `now`.

Not here: reservations within a limit (`fleet.admission`), and consequences (`rank`).

Rules
- A week begins at a day and time of a time zone (Monday 00:00 UTC by default). Usage is folded by hours in UTC, so a
  week begins with the UTC hour that contains that time: in zones that are off by half an hour, half an hour early. A
  time skipped by a clock change comes an hour later; of a repeated one, the first counts.
- Tokens are weighted by the settings; by default input and output count, as in the original proxy.
- A wait lasts until the provider's end. Days are accepted for a quota; a throttle's wait is capped.
- A window whose reset has passed is over. A used-up one blocks its models until then, unless it came with an answer
  (paid overage), or one of its account came after it. At the warning threshold other routes are preferred.
- Waits, windows and errors from before an operator's reset are ignored.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

from msgspec import Struct

from service.ledger.events import Endpoint, FailureKind, TokenCounts
from service.ledger.fold import HOUR_MS
from service.ledger.state import RouteLedger, Usage, Wait, WindowTold
from service.routing.evidence import Evidence, seen_lately
from service.routing.view import usage_since
from service.settings import Policy, QuotaPolicy, QuotaWeights
from service.settings.failure_rules import Rules, WindowRule

QuotaState = Literal["ok", "warning", "spent"]
WindowState = Literal["ok", "warning", "spent"]
DAY_HOURS = 24
FORECAST_STEP_MS = 600_000
"""Forecasts are rounded up to ten minutes: they are no more precise, and need not change each second."""
REASONS: dict[FailureKind, str] = {"credential": "credential refused", "billing": "payment refused"}
"""Kinds that alone would not say what is wrong."""
REFUSED = "refused"
"""The scope of a wait that no provider asked for: errors that no rule knows."""
REFUSED_BODIES = 3
"""So many requests have to get the same error until it is taken for the route's fault."""
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

    @property
    def name(self) -> str:
        """The week and its limit, under which is noted that what is left is too little."""
        return f"{self.week_start_ms} {self.limit_tokens}"


class WaitReading(Struct, frozen=True):
    """An active wait: its scope, end and reason. `holds` is a substring of its models, "" for all.

    `account` ("": unknown) and `endpoint`, a class of endpoints, are whose it is; `kind` and `status` are those of the
    failure that it began with.
    """

    scope: str
    until_ms: int
    reason: str
    holds: str = ""
    account: str = ""
    endpoint: Endpoint = "messages"
    kind: FailureKind = ""
    status: int = 0

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
    account: str = ""

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
    if left <= 0 or quota.state == "spent":
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
    ledger: RouteLedger,
    policy: Policy,
    now_ms: int,
    reset_ms: int = 0,
    *,
    model: str = "",
    account: str = "",
    endpoint: Endpoint = "messages",
    client: str | None = None,
) -> WaitReading | None:
    """Return the wait for a model that ends last, or None if the route is available: see `all_waits`."""
    holding = all_waits(ledger, policy, now_ms, reset_ms, account=account, endpoint=endpoint, client=client)
    return max((wait for wait in holding if wait.concerns(model)), key=lambda wait: wait.until_ms, default=None)


def all_waits(
    ledger: RouteLedger,
    policy: Policy,
    now_ms: int,
    reset_ms: int = 0,
    *,
    account: str = "",
    endpoint: Endpoint = "messages",
    client: str | None = None,
) -> Iterator[WaitReading]:
    """Yield the active waits of a class of endpoint: requested ones, errors that several requests got, used-up windows.

    `account` is the one that the route has now, by default that of the last attempt.
    """
    account = account or ledger.account
    yield from read_requested(ledger, policy, now_ms, reset_ms, account=account, endpoint=endpoint)
    yield from read_refusals(ledger, policy, now_ms, reset_ms, account=account, endpoint=endpoint, client=client)
    if endpoint != "messages":
        return
    for window in read_windows(ledger, policy, now_ms, reset_ms, account=account):
        if window.state == "spent":
            reason = f"window {window.name} {window.status}"
            yield WaitReading("quota", window.resets_at_ms, reason, window.holds, window.account, kind="quota")


def read_requested(
    ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int, *, account: str, endpoint: Endpoint
) -> Iterator[WaitReading]:
    """Waits that the provider asked for."""
    for name, wait in ledger.waits.items():
        scope = scope_of(name)
        until_ms = wait_until_ms(scope, wait, policy)
        is_over = wait.at_ms <= reset_ms or until_ms <= now_ms
        if not is_over and wait.endpoint == endpoint and is_of_account(wait.account, account):
            reason = f"{REASONS.get(wait.kind, wait.kind)} {wait.status or ''}".strip()
            yield WaitReading(
                scope, until_ms, reason, wait.holds, wait.account, wait.endpoint, kind=wait.kind, status=wait.status
            )


def read_refusals(
    ledger: RouteLedger,
    policy: Policy,
    now_ms: int,
    reset_ms: int,
    *,
    account: str,
    endpoint: Endpoint,
    client: str | None,
) -> Iterator[WaitReading]:
    """Errors whose words no rule knows, and that so many requests met that they are the route's, not the requests'.

    Those of one client alone may be its own mistakes, for as long as others use the route: its next one must not leave
    for another provider.
    """
    seen = seen_lately(ledger.clients, now_ms)
    readers = [Evidence(reader, seen, ()) for reader in {client, None}]
    for refusal in ledger.refusals.values():
        until_ms = refusal.at_ms + policy.credential_wait_ms
        is_over = refusal.at_ms <= reset_ms or until_ms <= now_ms
        is_proven = len(refusal.bodies) >= REFUSED_BODIES and all(one.weighs(refusal.clients) for one in readers)
        is_about = refusal.endpoint == endpoint and is_of_account(refusal.account, account)
        if is_about and is_proven and not is_over:
            reason = f"refused in the same words: status {refusal.status}"
            yield WaitReading(REFUSED, until_ms, reason, "", refusal.account, refusal.endpoint)


def scope_of(name: str) -> str:
    """Return the scope in the name under which a wait is kept."""
    return name.rpartition("/")[2].partition(":")[0]


def is_of_account(held: str, account: str) -> bool:
    """Whether what is held against an account holds for the one that the route has; unknown ones always match."""
    return not held or not account or held == account


def wait_until_ms(scope: str, wait: Wait, policy: Policy) -> int:
    """Return the end of a wait: the provider's, else the policy's time after its begin."""
    if not wait.until_ms:
        return wait.at_ms + unnamed_wait_ms(scope, policy)
    if scope == "throttle":
        return min(wait.until_ms, wait.at_ms + policy.circuit.open_cap_ms)
    return wait.until_ms


def unnamed_wait_ms(scope: str, policy: Policy) -> int:
    """Return how long a wait holds whose end the provider does not name."""
    if scope == "credential":
        return policy.credential_wait_ms
    return policy.quota_wait_ms if scope == "quota" else policy.wait_ms


# -- windows


def read_windows(
    ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int = 0, *, account: str = ""
) -> tuple[WindowReading, ...]:
    """Return the active windows as last reported by the provider. Per-minute limits are excluded."""
    if not ledger.windows:
        return ()
    answered_ms = max((health.last_success_ms for health in ledger.health.values()), default=0)
    found = []
    account = account or ledger.account
    for name, window in told_windows(ledger, account, reset_ms):
        rule = window_rule(name, policy.rules)
        ends_ms = window.resets_at_ms or window.at_ms + policy.quota_wait_ms
        if rule is not None and ends_ms > now_ms:
            contradicted = window.at_ms <= answered_ms and is_of_account(window.account, ledger.account)
            state = window_state(window, policy, contradicted=contradicted)
            percent = None if window.used_ratio is None else round(window.used_ratio * 100, 2)
            found.append(
                WindowReading(name, state, percent, ends_ms, window.status, rule.holds, window.at_ms, window.account)
            )
    return tuple(found)


def told_windows(ledger: RouteLedger, account: str, reset_ms: int) -> Iterator[tuple[str, WindowTold]]:
    """Yield what was reported of an account's windows since an operator's reset, by the provider's names."""
    for place, told in sorted(ledger.windows.items()):
        if told.at_ms > reset_ms and is_of_account(told.account, account):
            yield place.rpartition("/")[2], told


def window_rule(name: str, rules: Rules) -> WindowRule | None:
    """Return the rule of a window, or one derived from its name; None if it is not a plan's window."""
    known = next((rule for rule in rules.windows if rule.name == name), None)
    if known is None and name.startswith(WEEKLY_WINDOW):
        return WindowRule(name, holds=name.removeprefix(WEEKLY_WINDOW))
    return known


def window_state(window: WindowTold, policy: Policy, *, contradicted: bool) -> WindowState:
    """Return if a window is used up or nearly so; `contradicted`: an answer came after the report."""
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
