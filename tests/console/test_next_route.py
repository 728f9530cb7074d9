"""Where the next request goes, as the dashboard, `status` and `explain` say it: they never contradict an outage."""

from service.commands.explain import place_words
from service.commands.terminal_views import next_words
from service.console.overview import overview_of
from service.fleet.status import Status
from service.ledger.state import ControlLedger, RouteLedger
from service.routing.explanation import explain, next_route
from service.routing.quota import read_quota
from service.routing.rank import RoutingRequest
from service.routing.route_status import read_route_status
from service.routing.view import View
from service.settings import Settings, from_variables
from tests.support.routing_factories import NOW_MS, open_circuit, used, view_of, waiting

KEYS = {"ANTHROPIC_API_KEY": "k", "CLAUDE_CODE_OAUTH_TOKEN": "t", "ZAI_API_KEY": "z"}
SETTINGS = from_variables(KEYS | {"CCPROXY_HOME": "/nonexistent", "ANTHROPIC_WEEKLY_LIMIT": "1000"})
ROUTES = ("anthropic", "subscription", "zai")


def each(ledger: RouteLedger) -> dict[str, RouteLedger]:
    """The same ledger for every route."""
    return dict.fromkeys(ROUTES, ledger)


def told(view: View, settings: Settings = SETTINGS) -> tuple[str, str, list[str]]:
    """What the dashboard says of the next route, what the terminal does, and the codes of the dashboard's problems."""
    overview = overview_of(settings, view, None, [], now_ms=NOW_MS, version="1")
    routes = tuple(read_route_status(route, view, settings.policy, NOW_MS) for route in settings.routes)
    first = next_route(settings.routes, view, settings.policy, NOW_MS)
    assert overview.serving == first
    assert [route.route for route in overview.routes if route.serves] == ([first] if first else [])
    words = next_words(Status(NOW_MS, routes, (), (), first))
    problems = [notice.code for notice in overview.notices if notice.level == "problem"]
    return overview.serving_reason, words, problems


def test_all_is_well() -> None:
    """The first route, without an ado."""
    assert told(view_of()) == ("it is first in order", "anthropic", [])


def test_in_an_outage_the_route_that_is_tried_does_not_pass_for_one_that_serves() -> None:
    """All circuits are open, wherever the one that is back first stands in the order."""
    for first in ROUTES:
        view = view_of(None, **(each(open_circuit(ago_ms=0)) | {first: open_circuit(ago_ms=5_000)}))
        reason, words, problems = told(view)
        assert reason == "no route is available, and this one is back first"
        assert words == f"no route is available; {first} is tried all the same, since it is back first"
        assert problems == ["no_route"]
        overview = overview_of(SETTINGS, view, None, [], now_ms=NOW_MS, version="1")
        assert f"{overview.routes[ROUTES.index(first)].title} is tried all the same" in overview.notices[0].message
        [tried, *others] = explain(RoutingRequest(), SETTINGS.routes, view, SETTINGS.policy, NOW_MS)
        assert place_words(tried) == "first; no route is available, and this one is back first"
        assert all(other.place == 0 for other in others)


def test_a_key_that_was_refused_is_a_failure_with_a_time() -> None:
    """The card of a route that counts a failure does not say that it never failed."""
    ago = waiting("credential", at_ms=NOW_MS - 7)
    views = {"anthropic": ago, "zai": open_circuit(ago_ms=5_000)}
    overview = overview_of(SETTINGS, view_of(None, **views), None, [], now_ms=NOW_MS, version="1")
    found = {route.route: (route.last_failure_ms, route.last_failure_kind) for route in overview.routes}
    assert found["anthropic"] == (NOW_MS - 7, "throttle")
    assert found["subscription"] == (None, "")
    assert found["zai"][0] == NOW_MS - 5_000


def test_without_any_route_nothing_is_tried() -> None:
    """Waits that providers asked for are kept."""
    reason, words, problems = told(view_of(None, **each(waiting("quota"))))
    assert reason.startswith("no route is available: Anthropic is cooling down")
    assert (words, problems) == ("no route can answer now", ["no_route"])


def test_a_route_with_too_little_left_is_not_the_next_one() -> None:
    """Admission passes it over; the next one serves, and if there is none, all are out."""
    others = ControlLedger(disabled={"subscription": "", "zai": ""})
    for control, first in ((None, "subscription"), (others, "no route can answer now")):
        view = view_of(control, anthropic=used(990))
        view.spent["anthropic"] = read_quota(view.ledger("anthropic"), 1_000, SETTINGS.policy, NOW_MS).name
        reason, words, problems = told(view)
        assert "Anthropic has spent its weekly quota" in reason
        assert (words, problems) == (first, ["no_route"] if control else [])
