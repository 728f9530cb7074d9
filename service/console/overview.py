"""Computes the overview from the view and the fleet status. Pure.

Not here: reading (`fleet_status`, `stream_reader`) and display.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import asdict

from service.console.api_types import (
    CoolDownView,
    EventView,
    Forecast,
    KeyLimits,
    KeyView,
    Level,
    LiveAttempt,
    Notice,
    Overview,
    QuotaView,
    RouteView,
    UnknownErrorView,
    WindowView,
)
from service.console.fleet_status import FleetStatus
from service.ledger.fold import HOUR_MS
from service.ledger.state import ClientKey, RouteLedger, Usage
from service.routing.explanation import next_route
from service.routing.keys import read_key
from service.routing.quota import WaitReading, WindowReading, counted_since, counted_tokens
from service.routing.rank import serves_clients_only
from service.routing.route_status import RouteStatus, describe_unpriced, read_route_status
from service.routing.view import View, usage_since
from service.settings import Policy, Route, Settings

PACE_HOURS = 24
BUCKET_MS = 10_000
MINUTE_BUCKETS = 6
LAG_WARNING = 100
LAG_PROBLEM = 1_000
MOST_ATTEMPTS = 500
WORST: tuple[Level, ...] = ("ok", "warning", "problem")
STATE_LEVELS: dict[str, Level] = {
    "healthy": "ok",
    "off": "ok",
    "degraded": "warning",
    "disabled": "warning",
    "no_credential": "problem",
    "waiting": "warning",
    "quota_warning": "warning",
    "quota_spent": "warning",
    "circuit_open": "warning",
}


STATE_WORDS = {
    "quota_warning": "is near its weekly limit",
    "quota_spent": "has spent its weekly quota",
    "circuit_open": "has an open circuit",
    "waiting": "is cooling down",
    "no_credential": "has no usable credential",
}
"""Descriptions of states; all others read well after `is`."""


def overview_of(
    settings: Settings,
    view: View,
    standing: FleetStatus | None,
    recent: Sequence[EventView],
    *,
    now_ms: int,
    version: str,
    own_notices: Iterable[Notice] = (),
) -> Overview:
    """Return the overview at one moment."""
    routes = routes_of(settings, view, now_ms)
    notices = without_repetition([*own_notices, *notices_of(settings, routes, standing)])
    serving = next((route for route in routes if route.serves), None)
    streams = standing.status.streams if standing else ()
    return Overview(
        at_ms=now_ms,
        version=version,
        level=max((notice.level for notice in notices), key=WORST.index, default="ok"),
        notices=sorted(notices, key=lambda notice: -WORST.index(notice.level)),
        serving=serving.route if serving else "",
        serving_reason=serving_reason(routes, serving),
        routes=routes,
        recent=list(recent),
        open_attempts=sum(route.open_attempts for route in routes),
        requests_per_minute=float(sum(answered_lately(view.ledger(route.id), now_ms) for route in settings.routes)),
        fleet_lag=sum(stream.lag for stream in streams),
        replicas=len(standing.status.replicas) if standing else 1,
    )


def routes_of(settings: Settings, view: View, now_ms: int) -> list[RouteView]:
    """Return all routes in the order of the settings, and that of clients' own credentials if it was used."""
    routes = [*settings.routes]
    clients_only = serves_clients_only(routes, settings.client_credentials)
    if clients_only or settings.client_route.id in view.routes:
        routes.append(settings.client_route)
    first = next_route(routes if clients_only else settings.routes, view, settings.policy, now_ms)
    return [
        route_of(number, route, settings, view, now_ms, is_first=route.id == first)
        for number, route in enumerate(routes, start=1)
    ]


def route_of(number: int, route: Route, settings: Settings, view: View, now_ms: int, *, is_first: bool) -> RouteView:
    """Return one route."""
    reading, ledger = read_route_status(route, view, settings.policy, now_ms), view.ledger(route.id)
    first_hour = reading.week_start_ms // HOUR_MS
    week = usage_since(ledger.hours, first_hour)
    health = list(ledger.health.values())
    failed_ms, failed_kind = last_failure(ledger)
    return RouteView(
        route=route.id,
        title=route.title,
        provider=route.provider.id,
        priority=number,
        serves=is_first,
        available=reading.available,
        state=reading.state,
        reason=reading.reason,
        until_ms=reading.until_ms or None,
        circuit=reading.circuit,
        failures_in_row=reading.failures_in_row,
        quota=quota_of(reading, ledger, settings.policy, now_ms),
        windows=[window_of(window) for window in reading.windows],
        cool_downs=[cool_down_of(wait) for wait in reading.waits],
        unknown_words=unknown_words_of(reading),
        unknown_errors=reading.unknown_errors,
        second_opinions=reading.second_opinions,
        attempts=reading.attempts,
        failed=reading.failed,
        aborted=reading.aborted,
        lost=reading.lost,
        open_attempts=reading.open_attempts,
        input_tokens=reading.input_tokens,
        output_tokens=reading.output_tokens,
        cache_read_tokens=reading.cache_read_tokens,
        cache_write_5m_tokens=reading.cache_write_5m_tokens,
        cache_write_1h_tokens=reading.cache_write_1h_tokens,
        cache_hit_percent=cache_hit_percent(week),
        cost_nusd=week.cost_nusd,
        estimated=week.estimated,
        estimated_tokens=week.estimated_tokens,
        unpriced=week.unpriced,
        unpriced_models=list(reading.unpriced_models),
        last_success_ms=max((one.last_success_ms for one in health), default=0) or None,
        last_failure_ms=failed_ms or None,
        last_failure_kind=failed_kind,
    )


def last_failure(ledger: RouteLedger) -> tuple[int, str]:
    """Return when a route failed last, and how; what counts against its account alone, such as a refused key, too."""
    found = [(health.last_failure_ms, health.last_failure_kind) for health in ledger.health.values()]
    return max([*found, *((wait.at_ms, wait.kind) for wait in ledger.waits.values())], default=(0, ""))


def window_of(window: WindowReading) -> WindowView:
    """Return a provider's quota window."""
    return WindowView(
        name=window.name,
        used_percent=window.used_percent,
        resets_at_ms=window.resets_at_ms or None,
        status=window.status,
    )


def cool_down_of(wait: WaitReading) -> CoolDownView:
    """Return a cool-down."""
    return CoolDownView(
        scope=wait.scope,
        account=wait.account,
        endpoint=wait.endpoint,
        models=wait.holds,
        reason=wait.reason,
        until_ms=wait.until_ms,
    )


def unknown_words_of(reading: RouteStatus) -> list[UnknownErrorView]:
    """Return the errors that no rule knows."""
    return [UnknownErrorView(**asdict(error)) for error in reading.unknown_words]


def quota_of(reading: RouteStatus, ledger: RouteLedger, policy: Policy, now_ms: int) -> QuotaView:
    """Return a route's week with its hourly usage and forecast."""
    first = reading.week_start_ms // HOUR_MS
    hours = [
        counted_tokens(ledger.hours[hour], policy.quota.weights) if hour in ledger.hours else 0
        for hour in range(first, now_ms // HOUR_MS + 1)
    ]
    return QuotaView(
        used_tokens=reading.used_tokens,
        limit_tokens=reading.limit_tokens or None,
        limit_source=reading.limit_source,
        configured_tokens=reading.configured_tokens or None,
        used_percent=reading.used_percent,
        state=reading.quota,
        week_start_ms=reading.week_start_ms,
        resets_at_ms=reading.resets_at_ms,
        hours=hours,
        forecast=forecast_of(reading, ledger, policy, now_ms) if reading.limit_tokens else None,
    )


def forecast_of(reading: RouteStatus, ledger: RouteLedger, policy: Policy, now_ms: int) -> Forecast:
    """Forecast the week from the pace of the last day."""
    since = now_ms // HOUR_MS - (PACE_HOURS - 1)
    pace = counted_since(ledger, since, policy.quota.weights) / ((now_ms - since * HOUR_MS) / HOUR_MS)
    left_ms = max(0, reading.resets_at_ms - now_ms)
    at_reset = reading.used_tokens + pace * left_ms / HOUR_MS
    return Forecast(
        tokens_per_hour=round(pace),
        percent_at_reset=round(100 * at_reset / reading.limit_tokens, 2),
        spent_at_ms=reading.exhausted_at_ms or None,
    )


def cache_hit_percent(usage: Usage) -> float | None:
    """Return the share of input tokens read from a prompt cache; None without input."""
    read = usage.input + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
    return round(100 * usage.cache_read / read, 2) if read else None


def answered_lately(ledger: RouteLedger, now_ms: int) -> int:
    """Count messages answered within the last minute."""
    since = now_ms // BUCKET_MS - MINUTE_BUCKETS
    return sum(
        bucket.ok for health in ledger.health.values() for number, bucket in health.buckets.items() if number > since
    )


def serving_reason(routes: Sequence[RouteView], serving: RouteView | None) -> str:
    """Explain the choice of the serving route."""
    if serving is None:
        return "no route is available: " + "; ".join(f"{route.title} {describe_state(route)}" for route in routes)
    if not serving.available:
        return "no route is available, and this one is back first"
    before = [route for route in routes if route.priority < serving.priority]
    if not before:
        return "it is first in order"
    return "; ".join(f"{route.title} {describe_state(route)}" for route in before)


def describe_state(route: RouteView) -> str:
    """Describe a route's state and its reason."""
    state = STATE_WORDS.get(route.state) or f"is {route.state}"
    return f"{state} ({route.reason})" if route.reason else state


def notices_of(settings: Settings, routes: Sequence[RouteView], standing: FleetStatus | None) -> list[Notice]:
    """Return all notices that follow from settings, routes and fleet."""
    found: list[Notice] = []
    if not any(route.available for route in routes):
        tried = next((f"; {route.title} is tried all the same" for route in routes if route.serves), "")
        found.append(Notice(level="problem", code="no_route", message=f"no route is available{tried}"))
    for route in routes:
        level = STATE_LEVELS.get(route.state, "warning")
        if level != "ok":
            found.append(
                Notice(
                    level=level, code=route.state, subject=route.route, message=f"{route.title} {describe_state(route)}"
                )
            )
        if route.unpriced:
            words = f"{route.title} {describe_unpriced(route.unpriced, route.unpriced_models)}"
            found.append(Notice(level="warning", code="unpriced", subject=route.route, message=words))
    if settings.redis_url is None:
        found.append(Notice(level="warning", code="no_redis", message="no ledger: REDIS_URL is not set"))
    elif standing is None:
        found.append(
            Notice(level="problem", code="redis_away", message="Redis can't be read: the fleet's state is unknown")
        )
    else:
        found += fleet_notices(standing)
    return found


def without_repetition(notices: Sequence[Notice]) -> list[Notice]:
    """Leave out that Redis can't be read where a notice says why."""
    is_explained = any(notice.code == "redis" for notice in notices)
    return [notice for notice in notices if not (is_explained and notice.code == "redis_away")]


def fleet_notices(standing: FleetStatus) -> list[Notice]:
    """Return notices about the ledger and the replicas."""
    found: list[Notice] = []
    for stream in standing.status.streams:
        if stream.lag >= LAG_WARNING:
            level: Level = "problem" if stream.lag >= LAG_PROBLEM else "warning"
            words = f"{stream.lag:,} entries are not folded yet; is a worker running?"
            found.append(Notice(level=level, code="lag", subject=stream.stream, message=words))
        dead, quarantined = standing.aside.get(stream.stream, (0, 0))
        if dead or quarantined:
            words = f"{dead:,} dead letters, {quarantined:,} quarantined events"
            found.append(Notice(level="warning", code="put_aside", subject=stream.stream, message=words))
    if len(standing.status.settings) > 1:
        words = f"replicas run with {len(standing.status.settings)} different configurations"
        found.append(Notice(level="warning", code="settings_differ", message=words))
    if len(standing.status.versions) > 1:
        words = f"replicas run different versions: {', '.join(sorted(standing.status.versions))}"
        found.append(Notice(level="warning", code="versions_differ", message=words))
    return found


def attempts_of(view: View) -> list[LiveAttempt]:
    """Return open attempts of the whole fleet, oldest first."""
    found = [
        LiveAttempt(
            attempt_id=attempt_id,
            request_id=attempt.request_id,
            route=route,
            replica=attempt.replica,
            started_at_ms=attempt.at_ms,
            endpoint=attempt.endpoint,
            model_asked=attempt.model_asked,
            model_sent=attempt.model_sent,
            client_key=attempt.client_key,
            session_id=attempt.session_id,
        )
        for route, ledger in view.routes.items()
        for attempt_id, attempt in ledger.open.items()
    ]
    return sorted(found, key=lambda attempt: attempt.started_at_ms)[:MOST_ATTEMPTS]


def keys_of(settings: Settings, view: View, under_way: dict[str, int], now_ms: int) -> list[KeyView]:
    """Return all keys: those of the settings, then issued ones."""
    fixed = {key.key_id: ClientKey(name=key.key_id, sha256="") for key in settings.client_keys}
    return [
        *(key_of(key_id, key, view, settings, now_ms, source="settings") for key_id, key in fixed.items()),
        *(
            key_of(key_id, key, view, settings, now_ms, under_way=under_way.get(key_id, 0))
            for key_id, key in sorted(view.control.keys.items())
        ),
    ]


def key_of(
    key_id: str,
    key: ClientKey,
    view: View,
    settings: Settings,
    now_ms: int,
    *,
    source: str = "ledger",
    under_way: int = 0,
) -> KeyView:
    """Return a key with its usage of this week."""
    reading = read_key(key_id, key, view, settings.policy.quota, settings.prices, now_ms)
    return KeyView(
        key_id=key_id,
        name=key.name,
        source="ledger" if source == "ledger" else "settings",
        state=reading.state,
        limits=KeyLimits(
            weekly_tokens=key.weekly_tokens,
            weekly_cost_nusd=key.weekly_cost_nusd,
            models=list(key.models),
            routes=list(key.routes),
            concurrency=key.concurrency,
            expires_at_ms=key.expires_at_ms,
        ),
        issued_at_ms=key.issued_at_ms or None,
        used_tokens=reading.used_tokens,
        used_cost_nusd=reading.usage.cost_nusd,
        unpriced=reading.usage.unpriced,
        counted_cost_nusd=reading.counted_nusd,
        used_percent=round(reading.used_percent, 2),
        attempts=reading.usage.attempts,
        refused=view.control.refused.get(key_id, 0),
        under_way=under_way,
        resets_at_ms=reading.resets_at_ms,
    )
