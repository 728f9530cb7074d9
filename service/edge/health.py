"""Answers about this process: does it live, is it ready, how do its routes stand.

Readiness judges this process alone: a provider, Redis or Postgres that is away is told in its body, for a proxy without
them still answers, and a balancer that took all proxies out would leave clients without even an error of their kind.
None reveals a secret, and none asks anybody.
"""

import time
from typing import Any, Literal

from litestar import HttpMethod, MediaType, Response, get, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from service.drain import Drain
from service.fleet.clock import Clock, utc_of
from service.fleet.outbox import Outbox
from service.fleet.snapshots import VERSION, Watcher
from service.routing.route_status import RouteStatus
from service.settings import Settings

ENDPOINTS = {
    "health": "/health",
    "config": "/config",
    "providers": "/providers",
    "usage": "/usage",
    "proxy": "/v1/messages",
    "logs": "/logs",
    "logsStream": "/logs/stream",
    "logsUi": "/logs/ui",
}
"""As the original listed them."""
NAMES = {"anthropic": "Anthropic API"}
"""The original's name of a route, where ours is another."""
FALLBACKS = 3
"""The original had so many, and called those that were off disabled."""


class HealthChecks:
    """What the health endpoints look at."""

    def __init__(self, watcher: Watcher, outbox: Outbox, clock: Clock, drain: Drain, settings: Settings) -> None:
        self._watcher = watcher
        self._outbox = outbox
        self._drain = drain
        self._settings = settings
        self._clock = clock
        self._started_s = time.monotonic()

    @property
    def state(self) -> Literal["ready", "starting", "draining"]:
        """Whether this process may be given requests: its first snapshot came, or it has waited long enough, and
        nobody has told it to stop."""
        if self._drain.begun:
            return "draining"
        return "ready" if self._watcher.ready.is_set() else "starting"

    def readiness(self) -> dict[str, Any]:
        """What this process knows, without asking, of itself and of those that it works with."""
        return {
            "status": self.state,
            "replica": self._outbox.replica,
            "version": VERSION,
            "providers": {reading.route: route_fields(reading) for reading in self._watcher.route_statuses()},
            "redis": self.redis(),
            "postgres": self.lag(),
        }

    def redis(self) -> dict[str, Any]:
        """Whether Redis answered when it was last asked, and how many events wait for it."""
        used = self._settings.redis_url is not None
        return {"used": used, "up": used and self._watcher.redis_up, "pending_events": self._outbox.pending}

    def lag(self) -> dict[str, Any]:
        """How far the ledger is behind this process: its events that no snapshot has heard, and since when."""
        oldest_ms = self._outbox.oldest_unacknowledged_ms
        behind_ms = 0 if oldest_ms is None else max(0, self._clock.now_ms() - oldest_ms)
        return {"behind_events": self._outbox.unacknowledged_count, "behind_ms": behind_ms}

    def report(self) -> dict[str, Any]:
        """Health in the original proxy's format; `best` is the route that gets the next Claude request."""
        readings = self._watcher.route_statuses()
        return {
            "status": "healthy" if any(reading.available for reading in readings) else "degraded",
            "service": "Claude Code Proxy",
            "version": VERSION,
            "uptime": round(time.monotonic() - self._started_s, 2),
            "timestamp": utc_of(self._clock.now_ms()).isoformat(timespec="milliseconds"),
            "endpoints": ENDPOINTS,
            "config": self.config(),
            "providers": {
                "best": next((reading.route for reading in readings if reading.available), None),
                **{reading.route: route_fields(reading) for reading in readings},
            },
        }

    def config(self) -> dict[str, Any]:
        """The routes by name, in the original proxy's format."""
        names = [
            NAMES.get(route.id, route.title) if route.off is None else "disabled" for route in self._settings.routes
        ]
        names += ["disabled"] * (1 + FALLBACKS - len(names))
        return {
            "primary": names[0],
            **{f"fallback{number}": name for number, name in enumerate(names[1:], start=1)},
            "port": self._settings.port,
            "models": len(self._settings.policy.model_map),
            "tracking": self._settings.redis_url is not None,
        }


def route_fields(reading: RouteStatus) -> dict[str, Any]:
    """A route in /health."""
    fields: dict[str, Any] = {"state": reading.state, "available": reading.available}
    if reading.reason:
        fields["reason"] = reading.reason
    if reading.until_ms:
        fields["readyAt"] = utc_of(reading.until_ms).isoformat(timespec="milliseconds")
    return fields


@route(
    ["/", "/api/hello"], http_method=[HttpMethod.GET, HttpMethod.HEAD], media_type=MediaType.TEXT, sync_to_thread=False
)
def hello() -> str:
    """Reachability check of clients."""
    return "Claude Code Proxy\n"


@get("/livez", sync_to_thread=False)
def livez() -> dict[str, str]:
    """Liveness probe: 200 while the process runs."""
    return {"status": "ok"}


@get(
    "/readyz",
    sync_to_thread=False,
    responses={503: ResponseSpec(dict[str, Any], description="Not ready", generate_examples=False)},
)
def readyz(state: State) -> Response[dict[str, Any]]:
    """Readiness probe: 200 while the process accepts requests."""
    report = state.health.readiness()
    return Response(report, status_code=200 if report["status"] == "ready" else 503)


@get("/health", sync_to_thread=False)
def health(state: State) -> dict[str, Any]:
    """State of this process and its routes."""
    report: dict[str, Any] = state.health.report()
    return report


HANDLERS: tuple[HTTPRouteHandler, ...] = (hello, livez, readyz, health)
