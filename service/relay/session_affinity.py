"""Session affinity: a session's next request goes to the route that served it last, whose prompt cache it can use.

Not here: what routing makes of it (`routing.rank`).
"""

from service.fleet.clock import Clock
from service.fleet.resource_index import ResourceHome, ResourceIndex
from service.relay.attempt import AttemptPlan
from service.relay.client import ClientRequest

SESSION_TTL_S = 3_600
"""The longest life of a prompt cache."""


class SessionAffinity:
    """Remembers the route of each session, for all replicas."""

    def __init__(self, resources: ResourceIndex, clock: Clock) -> None:
        self._resources = resources
        self._clock = clock

    async def route_of(self, request: ClientRequest) -> str:
        """The route that served the request's session last, "" when there is none."""
        if not request.session_id:
            return ""
        since_ms = self._clock.now_ms() - SESSION_TTL_S * 1000
        home = await self._resources.moved_to(session_key(request), since_ms)
        return home.route if home else ""

    async def note_served(self, request: ClientRequest, plan: AttemptPlan) -> None:
        """The route has served the session, whose caches are there from now on."""
        if request.session_id and request.endpoint == "messages":
            home = ResourceHome(plan.route.id, plan.attempt_id)
            await self._resources.move(session_key(request), home, SESSION_TTL_S)


def session_key(request: ClientRequest) -> str:
    """The session's key in the index; sessions of the same name that belong to different clients are different ones."""
    return f"session:{request.client_key}:{request.session_id}"
