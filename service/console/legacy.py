"""The original proxy's endpoints, for existing scripts: /providers, /config, /usage, /logs. All require a token.

Shapes are the original's; unknown values are None. Not here: the admin API, which offers more.
"""

import asyncio
from base64 import b64encode
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from typing import Annotated, Any

import msgspec
from litestar import Request, Router, get, post
from litestar.exceptions import HTTPException
from litestar.params import QueryParameter
from litestar.response import Response, Stream

from service.console.actions import author_of
from service.console.api_types import RouteView
from service.console.auth import admin, viewer
from service.console.console import Desk
from service.console.error_responses import ERRORS, documented, fail
from service.console.overview import routes_of
from service.errors import ProxyError
from service.settings import Route, Settings
from service.telemetry.log_buffer import Line, LogBuffer

STATES = {
    "circuit_open": "unavailable",
    "no_credential": "unavailable",
    "waiting": "cooling_down",
    "quota_spent": "quota_exceeded",
    "quota_warning": "degraded",
    "disabled": "unavailable",
    "off": "unavailable",
}
"""States with another name in the original."""
MASK_FIRST, MASK_LAST, MASK_FROM = 8, 4, 20
REPLAYED_LINES = 100
PING_S = 25.0
MOST_LOGS = 500
LOGS_PAGE = files("service.console").joinpath("logs.html").read_bytes()


def source_of(tag: bytes) -> str:
    """Return the CSP source of the page's only inline script or style: its hash, so that no other one runs."""
    inline = LOGS_PAGE.partition(b"<%b>" % tag)[2].partition(b"</%b>" % tag)[0]
    return f"'sha256-{b64encode(sha256(inline).digest()).decode()}'"


POLICY = (
    f"default-src 'none'; style-src {source_of(b'style')}; script-src {source_of(b'script')}; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@get("/providers", guards=[viewer], responses=documented(401, 429), summary="Providers", sync_to_thread=False)
def providers(console: Desk) -> dict[str, Any]:
    """Routes in the original's shape."""
    routes = routes_of(console.settings, console.view, console.now_ms())
    if not console.settings.policy.circuit.enabled:
        return {"enabled": False, "message": "Circuit breaker is disabled"}
    return {
        "enabled": True,
        "bestProvider": next((route.route for route in routes if route.serves), None),
        "subscription": next((short_provider(route) for route in routes if route.route == "subscription"), None),
        "providers": [provider_of(route) for route in routes],
    }


@post("/providers/reset", guards=[viewer, admin], status_code=200, responses=documented(401, 403, 429))
async def reset_providers(request: Request[Any, Any, Any], console: Desk) -> dict[str, Any]:
    """Reset every route: circuit, cool-downs and all else that is held against it. Usage stays."""
    names = [route.id for route in console.settings.routes]
    for name in names:
        await console.reset(name, author_of(request))
    return {"status": "ok", "message": "All providers have been reset to healthy state", "providers": names}


@get("/config", guards=[viewer], responses=documented(401, 429), summary="Configuration", sync_to_thread=False)
def config(console: Desk) -> dict[str, Any]:
    """The settings that the original had, secrets redacted."""
    settings = console.settings
    circuit, times = settings.policy.circuit, settings.timeouts
    return {
        "providers": {route.id: route_settings(route, number) for number, route in enumerate(settings.routes, start=1)},
        "circuitBreaker": {
            "enabled": circuit.enabled,
            "cooldownMs": circuit.open_ms,
            "degradedThreshold": circuit.degraded_failures,
            "unavailableThreshold": circuit.trip_failures,
            "anthropicWeeklyLimit": weekly_limit(settings, "anthropic"),
            "quotaWarningThreshold": settings.policy.warning_percent,
        },
        "timeout": {
            "requestMs": times.request_ms,
            "streamingMs": times.stream_ms,
            "idleMs": times.idle_ms,
            "maxRetries": settings.policy.max_retries,
            "retryDelayMs": settings.policy.retry_delay_ms,
        },
        "modelFallbackMap": settings.policy.model_map,
        "fallbackOnCodes": list(settings.policy.fallback_on_codes),
        "logLevel": settings.log_level,
    }


@get("/usage", guards=[viewer], responses=documented(400, 401, 429, 503), summary="Usage by day, and recent requests")
async def usage(
    console: Desk,
    days: Annotated[int, QueryParameter(ge=1, le=3650)] = 7,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 100,
) -> dict[str, Any]:
    """Read from Postgres by the workers."""
    asked = {"since": f"{days}d", "until": "", "by": "day,model,route", "route": "", "model": "", "key": ""}
    report = await console.reports.ask("usage", **asked)
    page = {"stream": "", "type": "attempt_ended", "route": "", "key": "", "model": "", "request": "", "outcome": ""}
    found = await console.reports.ask("events", **page, since=0, until=0, before="", limit=limit)
    first = console.settings.routes[0].id if console.settings.routes else ""
    return {
        "daily_usage": [daily_row(row) for row in report["rows"]],
        "recent_requests": [
            request_row(row["stream"], msgspec.json.decode(row["body"]), first) for row in found["rows"]
        ],
        "tracking_enabled": True,
        "generated_at": iso(datetime.now(UTC)),
    }


@get("/logs", guards=[viewer], responses=documented(400, 401, 429), summary="Recent log lines", sync_to_thread=False)
def logs(console: Desk, limit: Annotated[int, QueryParameter(ge=1)] = 200) -> dict[str, Any]:
    """Log lines of this process, oldest first, at most 500."""
    lines = console.ring.lines[-min(limit, MOST_LOGS) :]
    return {"logs": lines, "count": len(lines), "generated_at": iso(datetime.now(UTC))}


@get(
    "/logs/stream",
    guards=[viewer],
    media_type="text/event-stream",
    responses=documented(401, 429, 503),
    summary="Live log lines",
)
async def logs_stream(console: Desk) -> Stream:
    """The last hundred lines, then new ones as they are written."""
    return Stream(followed(console.ring, lambda: console.draining), media_type="text/event-stream")


@get("/logs/ui", media_type="text/html", summary="A page of log lines", sync_to_thread=False)
def logs_ui() -> Response[bytes]:
    """The page contains no data; its requests need a session."""
    return Response(LOGS_PAGE, media_type="text/html", headers={"content-security-policy": POLICY})


def legacy_router() -> Router:
    """Return the router of these endpoints."""
    return Router(
        "/",
        route_handlers=[providers, reset_providers, config, usage, logs, logs_stream, logs_ui],
        exception_handlers={ProxyError: fail, HTTPException: fail, **ERRORS},
        security=[{"bearer": []}, {"session": []}],
        tags=["as in the original"],
    )


async def followed(ring: LogBuffer, is_over: Any) -> AsyncIterator[bytes]:
    """Yield log lines as server-sent events, until the client disconnects or this process drains."""
    with ring.followed() as queue:
        for line in ring.lines[-REPLAYED_LINES:]:
            yield frame(line)
        silent_s = 0.0
        while not is_over():
            try:
                yield frame(await asyncio.wait_for(queue.get(), 1.0))
            except TimeoutError:
                silent_s += 1.0
                if silent_s >= PING_S:
                    silent_s = 0.0
                    yield b":ping\n\n"


def frame(line: Line) -> bytes:
    """Encode a line in the original's framing."""
    return b"data: " + msgspec.json.encode(line) + b"\n\n"


def short_provider(route: RouteView) -> dict[str, Any]:
    """Return a route's state, and when that may change."""
    fields: dict[str, Any] = {"state": STATES.get(route.state, route.state), "available": route.available}
    if route.until_ms:
        fields["readyAt"] = iso_ms(route.until_ms)
    return fields


def provider_of(route: RouteView) -> dict[str, Any]:
    """Return a route in the original's shape of a provider."""
    fields = {"provider": route.route, **short_provider(route), "priority": route.priority}
    fields["metrics"] = {
        "totalRequests": route.attempts,
        "successfulRequests": max(0, route.attempts - route.failed - route.aborted - route.lost),
        "failedRequests": route.failed,
        "rateLimitHits": None,
        "contextWindowErrors": None,
        "consecutiveErrors": route.failures_in_row,
        "averageLatency": None,
    }
    if route.quota.limit_tokens:
        fields["quota"] = {
            "limit": route.quota.limit_tokens,
            "used": route.quota.used_tokens,
            "remaining": max(0, route.quota.limit_tokens - route.quota.used_tokens),
            "percentageUsed": route.quota.used_percent,
            "weekStart": iso_ms(route.quota.week_start_ms),
        }
    return fields


def route_settings(route: Route, priority: int) -> dict[str, Any]:
    """Return a route's settings."""
    fields: dict[str, Any] = {"enabled": route.off is None, "baseUrl": route.base_url, "priority": priority}
    if key := route.api_key.reveal():
        fields["apiKey"] = masked(key)
    if route.auth == "oauth":
        fields["authMode"] = "static-token" if route.api_key else "credentials-file"
        fields["credentialsPath"] = route.credentials_path
    return fields


def masked(key: str) -> str:
    """Return the first and last characters of a long key; nothing of a short one."""
    return f"{key[:MASK_FIRST]}...{key[-MASK_LAST:]}" if len(key) >= MASK_FROM else "***"


def weekly_limit(settings: Settings, name: str) -> int:
    """Return a route's weekly limit from the settings."""
    return next((route.weekly_tokens for route in settings.routes if route.id == name), 0)


def daily_row(row: dict[str, Any]) -> dict[str, Any]:
    """Return a day's usage of a model on a route."""
    created = row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"]
    return {
        "date": row["day"],
        "model": row["model"],
        "provider": row["route"],
        "total_requests": row["requests"],
        "total_input_tokens": row["input_tokens"],
        "total_output_tokens": row["output_tokens"],
        "total_cache_read_tokens": row["cache_read_tokens"],
        "total_cache_creation_tokens": created,
        "total_tokens": row["input_tokens"] + row["output_tokens"] + row["cache_read_tokens"] + created,
        "total_duration_ms": None,
    }


def request_row(route: str, fields: dict[str, Any], first: str) -> dict[str, Any]:
    """Return an ended attempt in the original's shape of a request."""
    at = iso_ms(fields["at_ms"])
    return {
        "id": fields["event_id"],
        "timestamp": at,
        "method": "POST",
        "path": "/v1/messages" if fields.get("endpoint", "messages") == "messages" else None,
        "model": fields.get("model_sent", ""),
        "provider": route,
        "status_code": fields.get("status", 0),
        "duration_ms": fields.get("total_ms", 0),
        "streaming": fields.get("stream", False),
        "fallback": route != first,
        "error_message": fields.get("message") or None,
        "created_at": at,
    }


def iso_ms(at_ms: int) -> str:
    """Format Unix milliseconds like the original."""
    return iso(datetime.fromtimestamp(at_ms / 1000, UTC))


def iso(moment: datetime) -> str:
    """Format a datetime like JavaScript."""
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
