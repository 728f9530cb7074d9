"""Session affinity: where a session got its last answer, whose prompt cache its next request can use, and what it costs
to go elsewhere.

Sessions are known by their client, their id, and the model that is asked for: a session asks several models, each with
a cache of its own. Not here: what routing makes of it (`routing.rank`).
"""

from service.fleet.clock import Clock
from service.fleet.resource_index import ResourceHome, ResourceIndex
from service.fleet.snapshots import Watcher
from service.relay.attempt import AttemptOutcome
from service.relay.client import ClientRequest, LastServed
from service.routing.failover import NO_ORIGIN, ThoughtOrigin
from service.routing.failure import Failure, is_binding_mismatch
from service.settings import Route

SESSION_TTL_S = 3_600
"""The longest life of a prompt cache."""


class SessionAffinity:
    """Remembers what served each session last, for all replicas."""

    def __init__(self, resources: ResourceIndex, clock: Clock, watcher: Watcher) -> None:
        self._resources = resources
        self._clock = clock
        self._watcher = watcher

    async def last_served(self, request: ClientRequest) -> LastServed | None:
        """What gave the request's session its last answer; None if nothing did. Without a choice of routes the request
        gets no session key either.

        Redis is asked only where another replica may have served the session.
        """
        if not has_choice(request):
            return None
        request.session_key = key = session_key(request)
        since_ms = self._clock.now_ms() - SESSION_TTL_S * 1000
        home = self._resources.cached(key, since_ms)
        if self._watcher.redis_up and not (home and self._watcher.replicas == 1):
            home = await self._resources.moved_to(key, since_ms)
        return last_served_of(home) if home else None

    async def note_served(self, request: ClientRequest, outcome: AttemptOutcome) -> None:
        """Remember that the attempt has served the request's session, whose cache is there from now on."""
        plan = outcome.plan
        moved = " moved" if has_moved(request.last_served, plan.route.id, outcome.account) else ""
        home = ResourceHome(plan.route.id, plan.attempt_id, f"{outcome.account} {plan.model}{moved}")
        await self._resources.move(request.session_key, home, SESSION_TTL_S)


def has_choice(request: ClientRequest) -> bool:
    """True if several routes may serve the client's message."""
    return request.endpoint == "messages" and len([route for route in request.chain if not route.off]) > 1


def session_key(request: ClientRequest) -> str:
    """The session's key in the index; sessions of the same name that belong to different clients are different ones."""
    return f"session:{request.client_key}:{request.session_id}:{request.model}"


def last_served_of(home: ResourceHome) -> LastServed:
    """What an entry of the index says; those of earlier versions name the route alone."""
    account, _, rest = home.owner.partition(" ")
    model, _, moved = rest.partition(" ")
    return LastServed(home.route, account, model, bool(moved))


def has_moved(last: LastServed | None, route: str, account: str) -> bool:
    """True if several routes or accounts have made the thoughts of a session that is served by this one now."""
    if last is None:
        return False
    return last.has_moved or last.route != route or bool(last.account and account and last.account != account)


def origin_of_thoughts(request: ClientRequest) -> ThoughtOrigin:
    """Who made the thinking blocks of a request's session. A session that nothing is known of has never left the only
    route that serves its model natively, if there is one."""
    last = request.last_served
    if last:
        return ThoughtOrigin("" if last.has_moved else last.route, last.route)
    family = [route.id for route in request.chain if not route.off and route.provider.dialect == "anthropic"]
    return ThoughtOrigin(own=family[0]) if len(family) == 1 else NO_ORIGIN


def loses_cache(last: LastServed, route: str, account: str, model: str) -> bool:
    """True if a session's prompt cache is left behind: it belongs to a route, an account and a model."""
    return (
        last.route != route
        or bool(last.account and account and last.account != account)
        or bool(last.model and last.model != model)
    )


def move_of(last: LastServed, outcome: AttemptOutcome) -> tuple[str, str]:
    """From which route an attempt moved its session, "" if it did not, and what the session lost; nothing without an
    answer."""
    plan = outcome.plan
    if outcome.result != "ok" or not loses_cache(last, plan.route.id, outcome.account, plan.model):
        return "", ""
    moved_from = last.route if last.route != plan.route.id else ""
    return moved_from, "cache,thoughts" if outcome.loses_thoughts else "cache"


def is_own_mismatch(request: ClientRequest, route: Route, failure: Failure) -> bool:
    """True if a route refuses thoughts of another account, and none of our moves has brought them: what is to be done
    about it is the client's to decide."""
    return is_binding_mismatch(failure) and route.id == origin_of_thoughts(request).own
