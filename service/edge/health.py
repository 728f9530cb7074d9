"""Health endpoints of this process: liveness, readiness, and the state of its routes.

Readiness is about this process alone: a replica that could serve no request is not ready, such as one without a usable
credential. Unavailable providers, Redis or Postgres are reported in the body: all replicas share them, and a proxy
without them still answers; if a balancer removed all proxies, clients would not even get a proper error. The endpoints
reveal no secrets and make no requests.
"""

import time
from typing import Any, Literal

from litestar import HttpMethod, MediaType, Response, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec

from service.drain import Drain
from service.fleet.clock import Clock, utc_of
from service.fleet.outbox import Outbox
from service.fleet.snapshots import Watcher
from service.routing.rank import CREDENTIAL_PREFIX, lacks_credential, passes_through, serves_clients_only
from service.routing.route_status import RouteStatus, read_route_status
from service.routing.view import View
from service.settings import Settings
from service.version import product_version

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
"""The original's list of endpoints."""
NAMES = {"anthropic": "Anthropic API"}
"""The original's names of routes, where they differ."""
METHODS = (HttpMethod.GET, HttpMethod.HEAD)
"""Some load balancers look at a status by HEAD alone."""
FALLBACKS = 3
"""The original listed this many, and called inactive ones disabled."""


Readiness = Literal["ready", "starting", "draining", "no_keys", "no_credential"]


class HealthChecks:
    """Data of the health endpoints."""

    def __init__(self, watcher: Watcher, outbox: Outbox, clock: Clock, drain: Drain, settings: Settings) -> None:
        self._watcher = watcher
        self._outbox = outbox
        self._drain = drain
        self._settings = settings
        self._clock = clock
        self._started_s = time.monotonic()

    @property
    def state(self) -> Readiness:
        """Return `ready` if this process could serve a request: no stop has begun, the first snapshot has arrived or
        the wait for it timed out, client keys are known, and a route has a credential."""
        if self._drain.begun:
            return "draining"
        if not self._watcher.ready.is_set():
            return "starting"
        settings = self._settings
        if settings.ledger_keys and not settings.client_keys and not self._watcher.control_known:
            return "no_keys"
        return "ready" if may_serve(settings, self._watcher.view) else "no_credential"

    def readiness(self) -> dict[str, Any]:
        """Return what this process knows about itself and its dependencies, without requests."""
        return {
            "status": self.state,
            "replica": self._outbox.replica,
            "version": product_version(),
            "providers": {reading.route: route_fields(reading) for reading in self._readings()},
            "redis": self.redis(),
            "postgres": self.lag(),
            "problems": self.problems(),
        }

    def _readings(self) -> list[RouteStatus]:
        """Return the routes' statuses; where clients have the only credentials, of their route, too."""
        settings, readings = self._settings, self._watcher.route_statuses()
        if not serves_clients_only(settings.routes, settings.client_credentials):
            return readings
        view, now_ms = self._watcher.view, self._clock.now_ms()
        return [*readings, read_route_status(settings.client_route, view, settings.policy, now_ms)]

    def problems(self) -> list[dict[str, str]]:
        """Return what is wrong with this process, without details that only concern its operators."""
        return [
            {
                "problem": problem.code,
                "words": problem.words,
                "since": utc_of(problem.since_ms).isoformat(timespec="milliseconds"),
            }
            | ({"subject": problem.subject} if problem.subject else {})
            for problem in self._outbox.problems.current
        ]

    def redis(self) -> dict[str, Any]:
        """Return if Redis could be used last time, and the number of pending events."""
        used = self._settings.redis_url is not None
        up = used and self._watcher.redis_up and not self._outbox.problems.has("redis")
        return {"used": used, "up": up, "pending_events": self._outbox.pending}

    def lag(self) -> dict[str, Any]:
        """Return the lag of the ledger: events of this process that no snapshot includes, and the oldest's age."""
        oldest_ms = self._outbox.oldest_unacknowledged_ms
        behind_ms = 0 if oldest_ms is None else max(0, self._clock.now_ms() - oldest_ms)
        return {"behind_events": self._outbox.unacknowledged_count, "behind_ms": behind_ms}

    def report(self) -> dict[str, Any]:
        """Return health in the original proxy's format; `best` is the route for the next Claude request."""
        readings = self._readings()
        return {
            "status": "healthy" if any(reading.available for reading in readings) else "degraded",
            "service": "Claude Code Proxy",
            "version": product_version(),
            "uptime": round(time.monotonic() - self._started_s, 2),
            "timestamp": utc_of(self._clock.now_ms()).isoformat(timespec="milliseconds"),
            "endpoints": ENDPOINTS,
            "config": self.config(),
            "problems": self.problems(),
            "providers": {
                "best": next((reading.route for reading in readings if reading.available), None),
                **{reading.route: route_fields(reading) for reading in readings},
            },
        }

    def config(self) -> dict[str, Any]:
        """Return the routes by name, in the original proxy's format."""
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


def may_serve(settings: Settings, view: View) -> bool:
    """True if this process has a credential for some route, or may pass a client's own on.

    Routes that an operator has disabled count as well as served: that is a decision for all replicas.
    """
    configured = [route for route in settings.routes if route.off is None]
    if passes_through(settings.routes, CREDENTIAL_PREFIX, settings.client_credentials):
        return True
    return any(not lacks_credential(view.ledger(route.id), view.replica) for route in configured)


def route_fields(reading: RouteStatus) -> dict[str, Any]:
    """Return a route for /health."""
    fields: dict[str, Any] = {"state": reading.state, "available": reading.available}
    if reading.reason:
        fields["reason"] = reading.reason
    if reading.until_ms:
        fields["readyAt"] = utc_of(reading.until_ms).isoformat(timespec="milliseconds")
    return fields


@route(["/", "/api/hello"], http_method=METHODS, media_type=MediaType.TEXT, sync_to_thread=False)
def hello() -> str:
    """Reachability check of clients."""
    return "Claude Code Proxy\n"


@route("/livez", http_method=METHODS, sync_to_thread=False)
def livez() -> dict[str, str]:
    """Liveness probe: 200 while the process runs."""
    return {"status": "ok"}


@route(
    "/readyz",
    http_method=METHODS,
    sync_to_thread=False,
    responses={503: ResponseSpec(dict[str, Any], description="Not ready", generate_examples=False)},
)
def readyz(state: State) -> Response[dict[str, Any]]:
    """Readiness probe: 200 while the process could serve a request."""
    report = state.health.readiness()
    return Response(report, status_code=200 if report["status"] == "ready" else 503)


@route("/health", http_method=METHODS, sync_to_thread=False)
def health(state: State) -> dict[str, Any]:
    """State of this process and its routes."""
    report: dict[str, Any] = state.health.report()
    return report


HANDLERS: tuple[HTTPRouteHandler, ...] = (hello, livez, readyz, health)
