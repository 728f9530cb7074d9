"""What `ccproxy explain` says: the order of the routes, and why one is not tried."""

from service.routing.explanation import DOWN, ExplainedRoute, explain, next_route
from service.routing.rank import RoutingRequest
from service.routing.view import View
from tests.support.routing_factories import CHAIN, NOW_MS, POLICY, S, Z, route_of, view_of, waiting

REQUEST = RoutingRequest(model="claude-opus-4-8")


def explained(view: View | None = None, without: tuple[str, ...] = ()) -> dict[str, ExplainedRoute]:
    """The routes by their ids."""
    return {one.route: one for one in explain(REQUEST, CHAIN, view or view_of(), POLICY, NOW_MS, without)}


def test_routes_stand_in_the_order_in_which_they_would_be_tried() -> None:
    """Counted from 1."""
    assert [(one.route, one.place) for one in explained().values()] == [
        ("anthropic", 1),
        ("subscription", 2),
        ("zai", 3),
    ]
    assert {one.until_ms for one in explained().values()} == {0}


def test_a_route_without_which_one_asks_is_down_and_the_others_are_not() -> None:
    """By its own id; a provider's takes all of its routes."""
    found = explained(without=("subscription",))
    assert (found["subscription"].place, found["subscription"].reason) == (0, DOWN)
    assert (found["anthropic"].place, found["zai"].place) == (1, 2)
    assert {name: one.place for name, one in explained(without=("anthropic",)).items()} == {
        "anthropic": 0,
        "subscription": 0,
        "zai": 1,
    }


def test_a_route_that_rests_says_until_when() -> None:
    """And it has no place."""
    found = explained(view_of(anthropic=waiting("quota", until_ms=NOW_MS + 90_000)))
    assert (found["anthropic"].place, found["anthropic"].until_ms) == (0, NOW_MS + 90_000)
    assert found["subscription"].place == 1


def test_the_next_route_is_the_first_that_would_be_tried() -> None:
    """None, when nothing is left."""
    assert next_route(CHAIN, view_of(), POLICY, NOW_MS) == "anthropic"
    off = tuple(route_of(name, off="no key") for name in ("anthropic", "zai"))
    assert next_route(off, view_of(), POLICY, NOW_MS) == ""
    assert next_route((), view_of(), POLICY, NOW_MS) == ""
    assert next_route((off[0], S, Z), view_of(), POLICY, NOW_MS) == "subscription"
