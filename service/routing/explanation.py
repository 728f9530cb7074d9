"""Explains where a request would go now, and why not elsewhere: `rank` on a view, with routes assumed to be down. Pure.

Not here: which route a session, a thread or a resource is bound to, and reading the view (`fleet.status`).
"""

from collections.abc import Collection, Sequence

from msgspec import Struct
from msgspec.structs import replace

from service.routing.rank import Candidate, RoutingRequest, is_rest_short, rank
from service.routing.view import View
from service.settings import Policy, Route

DOWN = "assumed to be down"
LAST_RESORT = "no route is available, and this one is back first"


class ExplainedRoute(Struct, frozen=True):
    """A route, in the order in which it would be tried. `place` counts from 1, 0: it would not be tried; `reason` says
    why not, or why later than in the settings. `until_ms`: when that may end, 0 if unknown."""

    route: str
    title: str
    place: int
    model: str
    skip_reason: str
    reason: str
    until_ms: int = 0


def explain(
    request: RoutingRequest,
    chain: Sequence[Route],
    view: View,
    policy: Policy,
    now_ms: int,
    without: Collection[str] = (),
) -> tuple[ExplainedRoute, ...]:
    """Return the routes in the order in which they would be tried, then those that would not be."""
    assumed = [replace(route, off=DOWN) if is_named(route, without) else route for route in chain]
    candidates = rank(request, assumed, view, policy, now_ms)
    order = [candidate for candidate in candidates if candidate.usable]
    return tuple(
        ExplainedRoute(
            route=candidate.route.id,
            title=candidate.route.title,
            place=order.index(candidate) + 1 if candidate.usable else 0,
            model=candidate.model,
            skip_reason=candidate.skip_reason,
            reason=candidate.reason or reason_of_place(candidate),
            until_ms=0 if candidate.usable else candidate.until_ms,
        )
        for candidate in candidates
    )


def next_route(chain: Sequence[Route], view: View, policy: Policy, now_ms: int) -> str:
    """Return the route that a usual request would take now, "" if there is none. It may be unavailable: if all are, the
    one that is back first is tried."""
    candidates = rank(RoutingRequest(), chain, view, policy, now_ms)
    return next((one.route.id for one in candidates if one.usable and not is_spent(one, view)), "")


def is_spent(candidate: Candidate, view: View) -> bool:
    """True if what is left of a route's weekly limit is less than a request has to reserve."""
    return candidate.quota is not None and is_rest_short(candidate.route, view, candidate.quota)


def is_named(route: Route, names: Collection[str]) -> bool:
    """True if a route is named, by its own id or by its provider's: that takes all of its routes down."""
    return route.id in names or route.provider.id in names


def reason_of_place(candidate: Candidate) -> str:
    """Say what is particular about a route that would be tried."""
    if candidate.last_resort:
        return LAST_RESORT
    if candidate.probe:
        return "its circuit is half open: one request probes it"
    if candidate.breaks:
        return f"would drop {', '.join(candidate.breaks)}"
    if candidate.deprioritized:
        return "other routes go first: its quota is nearly spent, or it has only just recovered"
    return ""
