"""Answers about this process: does it live, is it ready, how do its routes stand.

None reveals a secret, and none asks a provider.
"""

import time
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from litestar import HttpMethod, MediaType, Response, get, route
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler

from service.clock import Clock
from service.routing.readings import RouteReading
from service.watcher import Watcher

VERSION = version("claude-code-proxy")


class Health:
    """What the health endpoints look at."""

    def __init__(self, watcher: Watcher, clock: Clock) -> None:
        self._watcher = watcher
        self._clock = clock
        self._started_s = time.monotonic()

    @property
    def ready(self) -> bool:
        """Whether this process may be given requests: its first snapshot came, or it has waited long enough."""
        return self._watcher.ready.is_set()

    def report(self) -> dict[str, Any]:
        """The original's /health, true this time: `best` is the route that the next Claude request would take."""
        readings = self._watcher.readings()
        return {
            "status": "healthy" if any(reading.available for reading in readings) else "degraded",
            "service": "Claude Code Proxy",
            "version": VERSION,
            "uptime": round(time.monotonic() - self._started_s, 2),
            "timestamp": datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC).isoformat(timespec="milliseconds"),
            "providers": {
                "best": next((reading.route for reading in readings if reading.available), None),
                **{reading.route: told(reading) for reading in readings},
            },
        }


def told(reading: RouteReading) -> dict[str, Any]:
    """A route in /health."""
    fields: dict[str, Any] = {"state": reading.state, "available": reading.available}
    if reading.reason:
        fields["reason"] = reading.reason
    if reading.until_ms:
        fields["readyAt"] = datetime.fromtimestamp(reading.until_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return fields


@route(
    ["/", "/api/hello"], http_method=[HttpMethod.GET, HttpMethod.HEAD], media_type=MediaType.TEXT, sync_to_thread=False
)
def hello() -> str:
    """What clients ask for to see whether anybody is there."""
    return "Claude Code Proxy\n"


@get("/livez", sync_to_thread=False)
def livez() -> dict[str, str]:
    """This process runs."""
    return {"status": "ok"}


@get("/readyz", sync_to_thread=False)
def readyz(state: State) -> Response[dict[str, Any]]:
    """This process may be given requests."""
    ready = state.health.ready
    return Response({"status": "ready" if ready else "starting"}, status_code=200 if ready else 503)


@get("/health", sync_to_thread=False)
def health(state: State) -> dict[str, Any]:
    """How this process and its routes stand."""
    report: dict[str, Any] = state.health.report()
    return report


HANDLERS: tuple[HTTPRouteHandler, ...] = (hello, livez, readyz, health)
