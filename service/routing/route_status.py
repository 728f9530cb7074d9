"""Status of a route for people: one state with its reason, waits and windows with their ends, and the week's usage.

Used by health, status and the Redis hashes for operators; `fields_of` and `reading_of` convert to and from a hash.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace

from service.ledger.events import Endpoint, NoticeCode
from service.ledger.fold import HOUR_MS
from service.ledger.state import RouteLedger, Wait
from service.routing.circuit import CircuitReading, CircuitState, read_circuit
from service.routing.quota import (
    QuotaReading,
    QuotaState,
    WaitReading,
    WindowReading,
    all_waits,
    is_of_account,
    is_warned,
    read_forecast,
    read_quota,
    read_windows,
    scope_of,
)
from service.routing.rank import Candidate, RoutingRequest, evaluate_route, is_rest_short
from service.routing.view import View, usage_since
from service.settings import Policy, Route

RouteState = Literal[
    "healthy",
    "degraded",
    "off",
    "disabled",
    "no_credential",
    "circuit_open",
    "waiting",
    "quota_spent",
    "quota_warning",
]

LimitSource = Literal["settings", "operator"]

WAITING_ENDPOINTS: tuple[Endpoint, ...] = ("messages", "count_tokens")
AS_JSON = ("waits", "windows", "unknown_words", "second_opinions", "unread_usage", "unpriced_models", "notices")
"""Fields that are no number and no text."""
MOST_UNPRICED = 8
"""Models without a price that are named."""


class UnknownError(Struct, frozen=True):
    """An error in words that no rule knows, as an account met it: a digest of its words, how many requests (at most 3)
    of how many clients (at most 3) met it, and when first and last."""

    words: str
    status: int
    endpoint: Endpoint
    requests: int
    clients: int
    since_ms: int
    at_ms: int
    account: str = ""


class NoticeReading(Struct, frozen=True):
    """What a live replica knows of the route's credential; `usable`: it serves nevertheless, for now."""

    replica: str
    code: NoticeCode
    usable: bool
    message: str
    since_ms: int


class RouteStatus(Struct, frozen=True, kw_only=True):
    """Status of a route at one moment. `until_ms` is when `state` may change without an event, 0 if unknown.

    Token counts are of the current week (`week_start_ms` to `resets_at_ms`); `used_tokens` counts towards the limit,
    `limit_tokens`. Its source is an operator if that of the settings, `configured_tokens`, is another.
    `exhausted_at_ms` is the forecast from the mean of the last 24 hours' rate and the week's; 0 if not within the week,
    or used up already. `waits` block all requests of a class of endpoint or those for some models: their scope is
    throttle, quota, credential or refused. `windows` are the provider's own reports. Both are those of the account that
    the route has now, and so are `unknown_words`: recent errors that no rule knows. `unknown_errors` are all of these
    since the ledger began, `second_opinions` by outcome. `cost_nusd` is the week's, without the `unpriced` parts of its
    usage; `unpriced_models` are the first models that have some. `estimated` is how many
    attempts have estimated usage, `estimated_tokens` all tokens of theirs. `notices` are about the credential; with
    `refused` the provider has refused it, and not taken it since.
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
    limit_source: LimitSource = "settings"
    configured_tokens: int = 0
    used_percent: float = 0.0
    week_start_ms: int = 0
    resets_at_ms: int = 0
    exhausted_at_ms: int = 0
    waits: tuple[WaitReading, ...] = ()
    windows: tuple[WindowReading, ...] = ()
    unknown_errors: int = 0
    unknown_words: tuple[UnknownError, ...] = ()
    second_opinions: dict[str, int] = {}
    unread_usage: dict[str, int] = {}
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
    cost_nusd: int = 0
    estimated: int = 0
    estimated_tokens: int = 0
    unpriced: int = 0
    unpriced_models: tuple[str, ...] = ()
    notices: tuple[NoticeReading, ...] = ()
    refused: bool = False

    @property
    def available(self) -> bool:
        """True if requests may use it."""
        return self.state in ("healthy", "degraded", "quota_warning")


def read_route_status(route: Route, view: View, policy: Policy, now_ms: int) -> RouteStatus:
    """Return the status of a route."""
    ledger = view.ledger(route.id)
    candidate = evaluate_route(RoutingRequest(), route, view, policy, now_ms)
    reset_ms = view.control.resets.get(route.id, 0)
    circuit = read_circuit(ledger, policy.circuit, now_ms, replica=view.replica, reset_ms=reset_ms)
    limit = view.control.limits.get(route.id, route.weekly_tokens)
    quota = read_quota(ledger, limit, policy, now_ms)
    if candidate.usable and is_rest_short(route, view, quota):
        candidate, quota = as_spent(candidate, quota)
    account = view.accounts.get(route.id, "")
    notices = read_notices(ledger, view)
    refusal = last_refusal(ledger, account, reset_ms)
    flaw = describe_credential(notices, view.live, refusal)
    windows = read_windows(ledger, policy, now_ms, reset_ms, account=account)
    week = usage_since(ledger.hours, quota.week_start_ms // HOUR_MS)
    return RouteStatus(
        route=route.id,
        title=route.title,
        state=state_of(candidate, quota, windows, is_degraded=circuit.degraded or bool(flaw)),
        reason=candidate.reason or flaw or describe_failures(circuit, ledger) or warned_by(windows),
        until_ms=candidate.until_ms,
        circuit=circuit.state,
        failures_in_row=circuit.failures_in_row,
        quota=quota.state,
        used_tokens=quota.used_tokens,
        limit_tokens=limit,
        limit_source="settings" if limit == route.weekly_tokens else "operator",
        configured_tokens=route.weekly_tokens,
        used_percent=round(quota.used_percent, 2),
        week_start_ms=quota.week_start_ms,
        resets_at_ms=quota.resets_at_ms,
        exhausted_at_ms=read_forecast(ledger, quota, policy, now_ms),
        waits=read_owned_waits(ledger, policy, now_ms, reset_ms, account=account),
        windows=windows,
        unknown_errors=ledger.unknown_errors,
        unknown_words=read_unknown_words(ledger, reset_ms, account or ledger.account),
        second_opinions=dict(sorted(ledger.opinions.items())),
        unread_usage=dict(sorted(ledger.unread.items())),
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
        cost_nusd=week.cost_nusd,
        estimated=week.estimated,
        estimated_tokens=week.estimated_tokens,
        unpriced=week.unpriced,
        unpriced_models=models_without_price(ledger, quota.week_start_ms // HOUR_MS) if week.unpriced else (),
        notices=notices,
        refused=refusal is not None,
    )


def describe_limit(limit_tokens: int, configured_tokens: int) -> str:
    """Say that an operator set another limit than the settings."""
    limit, configured = (f"{tokens:,} tokens" if tokens else "none" for tokens in (limit_tokens, configured_tokens))
    return f"an operator set the weekly limit to {limit}; in the settings it is {configured}"


def read_notices(ledger: RouteLedger, view: View) -> tuple[NoticeReading, ...]:
    """Return what live replicas know of the route's credential."""
    return tuple(
        NoticeReading(replica, notice.code, notice.usable, notice.message, notice.at_ms)
        for replica, notice in sorted(ledger.notices.items())
        if notice.code and (view.live is None or replica in view.live or replica == view.replica)
    )


def as_fleets(reading: RouteStatus, view: View) -> RouteStatus:
    """Return the status as it is for the whole fleet: a credential that others can use degrades the route alone."""
    forbidden = {notice.replica for notice in reading.notices if not notice.usable}
    if reading.state != "no_credential" or not (view.live or frozenset()) - forbidden:
        return reading
    return replace(reading, state="degraded", reason=describe_notices(reading.notices, view.live))


def describe_notices(notices: Sequence[NoticeReading], live: Collection[str] | None) -> str:
    """Describe what replicas know of the credential: of one among several, which it is."""
    if not notices:
        return ""
    worst = min(notices, key=lambda notice: notice.usable)
    if len(live or ()) <= len(notices):
        return worst.message
    return f"{worst.message} (on {len(notices)} of {len(live or ())} proxies: {worst.replica})"


def last_refusal(ledger: RouteLedger, account: str, reset_ms: int) -> Wait | None:
    """Return the provider's last refusal of the account's credential, None if it has taken it since."""
    account = account or ledger.account
    refusals = [
        wait
        for name, wait in ledger.waits.items()
        if scope_of(name) == "credential" and wait.at_ms > reset_ms and is_of_account(wait.account, account)
    ]
    return max(refusals, key=lambda wait: wait.at_ms, default=None)


def describe_credential(notices: Sequence[NoticeReading], live: Collection[str] | None, refusal: Wait | None) -> str:
    """Say what is known against the credential, "" if nothing is."""
    return describe_notices(notices, live) or describe_refusal(refusal)


def describe_refusal(refusal: Wait | None) -> str:
    """Say that the provider refused the credential when it was used last."""
    if refusal is None:
        return ""
    return f"its credential was refused when it was used last: {refusal.kind} {refusal.status or ''}".strip()


def describe_failures(circuit: CircuitReading, ledger: RouteLedger) -> str:
    """Say why a route that is still used is degraded: its last failures; or why its circuit is not closed."""
    if circuit.reason or not circuit.degraded:
        return circuit.reason
    newest = max(ledger.health.values(), key=lambda health: health.last_failure_ms)
    return f"{circuit.failures_in_row} failures in a row, the last: {newest.last_failure_kind or 'failure'}"


def models_without_price(ledger: RouteLedger, first_hour: int) -> tuple[str, ...]:
    """Return models with usage without a price from an hour on."""
    found = {
        model
        for hour, by_model in ledger.usage.items()
        if hour >= first_hour
        for model, by_key in by_model.items()
        if any(cell.unpriced for cell in by_key.values())
    }
    return tuple(sorted(found)[:MOST_UNPRICED])


def describe_unpriced(count: int, models: Iterable[str]) -> str:
    """Say that usage has no price, and of which models."""
    return f"used {count:,} times this week what has no price: {', '.join(models)}"


def state_of(
    candidate: Candidate, quota: QuotaReading, windows: Iterable[WindowReading], *, is_degraded: bool
) -> RouteState:
    """Return the one state of a route: why it is skipped, else what its requests should know."""
    if candidate.skip_reason in ("off", "disabled", "no_credential", "circuit_open", "waiting", "quota_spent"):
        return candidate.skip_reason
    if candidate.skip_reason == "refused":
        return "waiting"
    if quota.state == "warning" or is_warned(windows, ""):
        return "quota_warning"
    return "degraded" if is_degraded else "healthy"


def as_spent(candidate: Candidate, quota: QuotaReading) -> tuple[Candidate, QuotaReading]:
    """Return the route as one whose quota is spent, although the limit is not reached."""
    left = quota.limit_tokens - quota.used_tokens
    reason = f"weekly limit spent: the {left:,} tokens left are less than a request may use"
    skipped = replace(candidate, skip_reason="quota_spent", reason=reason, until_ms=quota.resets_at_ms)
    return skipped, replace(quota, state="spent")


def read_owned_waits(
    ledger: RouteLedger, policy: Policy, now_ms: int, reset_ms: int, *, account: str
) -> tuple[WaitReading, ...]:
    """Return the active waits of an account, of all classes of endpoint that wait."""
    return tuple(
        wait
        for endpoint in WAITING_ENDPOINTS
        for wait in all_waits(ledger, policy, now_ms, reset_ms, account=account, endpoint=endpoint)
    )


def read_unknown_words(ledger: RouteLedger, reset_ms: int, account: str) -> tuple[UnknownError, ...]:
    """Return the errors that no rule knows, of an account."""
    return tuple(
        UnknownError(
            words=name.rpartition("/")[2],
            status=refusal.status,
            endpoint=refusal.endpoint,
            requests=len(refusal.bodies),
            clients=len(refusal.clients),
            since_ms=refusal.since_ms,
            at_ms=refusal.at_ms,
            account=refusal.account,
        )
        for name, refusal in ledger.refusals.items()
        if refusal.at_ms > reset_ms and is_of_account(refusal.account, account)
    )


def warned_by(windows: Iterable[WindowReading]) -> str:
    """Describe the windows that are nearly used up."""
    return ", ".join(f"window {window.name} {shown(window)}" for window in windows if window.state != "ok")


def shown(window: WindowReading) -> str:
    """Describe a window briefly."""
    return window.status if window.used_percent is None else f"{window.used_percent:.0f} %"


def fields_of(reading: RouteStatus) -> dict[str, Any]:
    """Return the status as fields of a hash: numbers and texts; all else as JSON."""
    encoded = {name: msgspec.json.encode(getattr(reading, name)).decode() for name in AS_JSON}
    return asdict(reading) | encoded | {"refused": int(reading.refused)}


def reading_of(fields: Mapping[str, str]) -> RouteStatus:
    """Parse the fields of a hash; raises msgspec.DecodeError if they are invalid."""
    decoded = {name: msgspec.json.decode(fields[name]) for name in AS_JSON if name in fields}
    return msgspec.convert({**fields, **decoded}, RouteStatus, strict=False)
