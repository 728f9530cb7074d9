"""A route as people want to see it: one state, why, and its week. Used by health, status and the operators' keys."""

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from service.ledger.fold import add_usage
from service.ledger.state import Usage
from service.routing.circuit import CircuitState, read_circuit
from service.routing.quota import QuotaState, read_quota, read_waits
from service.routing.rank import Ask, consider
from service.routing.view import View
from service.settings import Policy, Route

RouteState = Literal[
    "healthy", "degraded", "off", "disabled", "circuit_open", "waiting", "quota_spent", "quota_warning"
]


class RouteReading(Struct, frozen=True, kw_only=True):
    """One route at one moment. `until_ms` is when `state` may change by itself, 0 when nobody knows.

    Token counts are of the running week, Monday 00:00 UTC on; `used_tokens` is what counts against the limit.
    """

    route: str
    title: str
    state: RouteState
    reason: str = ""
    until_ms: int = 0
    circuit: CircuitState = "closed"
    failures_in_row: int = 0
    quota: QuotaState = "ok"
    used_tokens: int = 0
    limit_tokens: int = 0
    used_percent: float = 0.0
    week_start_ms: int = 0
    resets_at_ms: int = 0
    attempts: int = 0
    failed: int = 0
    aborted: int = 0
    lost: int = 0
    open_attempts: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0

    @property
    def available(self) -> bool:
        """Whether requests may take it."""
        return self.state in ("healthy", "degraded", "quota_warning")


def read_route(route: Route, view: View, policy: Policy, now_ms: int) -> RouteReading:
    """How a route stands."""
    ledger = view.ledger(route.id)
    candidate = consider(Ask(), route, view, policy, now_ms)
    reset_ms = view.control.resets.get(route.id, 0)
    circuit = read_circuit(ledger, policy.circuit, now_ms, replica=view.replica, reset_ms=reset_ms)
    quota = read_quota(ledger, view.control.limits.get(route.id, route.weekly_tokens), policy, now_ms)
    wait = read_waits(ledger, policy, now_ms, reset_ms)
    week = total(usage for hour, usage in ledger.hours.items() if hour * 3_600_000 >= quota.week_start_ms)
    state: RouteState = "degraded" if circuit.degraded else "healthy"
    if candidate.passed_over in ("off", "disabled", "circuit_open", "waiting", "quota_spent"):
        state = candidate.passed_over
    elif quota.state == "warning":
        state = "quota_warning"
    return RouteReading(
        route=route.id,
        title=route.title,
        state=state,
        reason=candidate.reason or circuit.reason or (wait.reason if wait else ""),
        until_ms=candidate.until_ms,
        circuit=circuit.state,
        failures_in_row=circuit.failures_in_row,
        quota=quota.state,
        used_tokens=quota.used_tokens,
        limit_tokens=quota.limit_tokens,
        used_percent=round(quota.used_percent, 2),
        week_start_ms=quota.week_start_ms,
        resets_at_ms=quota.resets_at_ms,
        attempts=week.attempts,
        failed=week.failed,
        aborted=week.aborted,
        lost=week.lost,
        open_attempts=len(ledger.open),
        input_tokens=week.input,
        output_tokens=week.output,
        cache_read_tokens=week.cache_read,
        cache_write_5m_tokens=week.cache_write_5m,
        cache_write_1h_tokens=week.cache_write_1h,
    )


def total(cells: Iterable[Usage]) -> Usage:
    """The sum of cells."""
    whole = Usage()
    for cell in cells:
        add_usage(whole, cell)
    return whole
