"""A spent quota and an open circuit move traffic on, in every process of the fleet and after a restart."""

import httpx
import pytest

from tests.fakes import Usage, reply
from tests.support.installation import ANTHROPIC_KEY, ZAI_KEY, Installation, Proxy
from tests.support.ledger_reader import LedgerReader
from tests.support.messages import ASK, ask, client_of, way
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e


def route_of(proxy: Proxy) -> str | None:
    """Which route answers a request."""
    status, route, _ = way(once(proxy))
    assert status == 200
    return route


def once(proxy: Proxy) -> httpx.Response:
    """One request through a proxy."""
    with client_of(proxy.url) as client:
        return ask(client, ASK)


def used_tokens(ledger: LedgerReader) -> int:
    """What counts against the week of the route `anthropic` so far."""
    ledger.settle()
    week = "route = 'anthropic' AND hour >= date_trunc('week', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC'"
    return sum(counted.usage.input + counted.usage.output for counted in ledger.usage(week).values())


def test_a_spent_week_moves_traffic_on(installation: Installation, ledger: LedgerReader) -> None:
    """At ANTHROPIC_WEEKLY_LIMIT the next request goes to Z.AI: in this process, in others, and after a restart."""
    variables = {"ANTHROPIC_WEEKLY_LIMIT": str(used_tokens(ledger) + 2000), "QUOTA_WARNING_THRESHOLD": "100"}
    first, second = installation.start_proxy(variables), installation.start_proxy(variables)
    installation.anthropic.script(reply.message(usage=Usage(input=500, output=499, cache_read=10_000)).repeated(1))
    assert route_of(first) == "anthropic"
    installation.anthropic.default = reply.message(usage=Usage(input=900, output=101))
    assert route_of(first) == "anthropic", "half was left; what was read from a cache does not count"
    assert route_of(first) == "zai"
    eventually(lambda: route_of(second) == "zai")
    spent = len(installation.anthropic.requests)
    first.stop()
    third = installation.start_proxy(variables, home=first.home)
    assert [route_of(proxy) for proxy in (second, third, third)] == ["zai"] * 3
    assert len(installation.anthropic.requests) == spent


def test_the_warning_threshold_swaps_before(installation: Installation, ledger: LedgerReader) -> None:
    """From QUOTA_WARNING_THRESHOLD on other routes go first; the route still serves when they fail."""
    used = used_tokens(ledger)
    limit = (used + 500) * 2
    proxy = installation.start_proxy({"ANTHROPIC_WEEKLY_LIMIT": str(limit), "QUOTA_WARNING_THRESHOLD": "50"})
    installation.anthropic.script(reply.message(usage=Usage(input=400)), reply.message(usage=Usage(output=100)))
    assert [route_of(proxy) for _ in range(3)] == ["anthropic", "anthropic", "zai"]
    installation.zai.script(reply.error(500))
    assert way(once(proxy)) == (200, "anthropic", "2")


def test_a_hard_limit_holds_whatever_else_is_down(installation: Installation, ledger: LedgerReader) -> None:
    """A spent limit is never overstepped: when the other routes are down, the client is told to wait."""
    proxy = installation.start_proxy({"ANTHROPIC_WEEKLY_LIMIT": str(max(1, used_tokens(ledger)))})
    installation.anthropic.script(reply.message(usage=Usage(input=10)))
    eventually(lambda: route_of(proxy) == "zai")
    asked = len(installation.anthropic.requests)
    installation.zai.script(reply.error(529).forever())
    answer = once(proxy)
    assert answer.status_code in (429, 529)
    assert len(installation.anthropic.requests) == asked


def test_an_open_circuit_is_avoided_by_the_fleet(installation: Installation, ledger: LedgerReader) -> None:
    """After five failures the route is not asked again: by this process, by one that starts later, after a restart."""
    routes = installation.own_routes(("frail", "anthropic", ANTHROPIC_KEY), ("firm", "zai", ZAI_KEY))
    variables = routes | {"CIRCUIT_BREAKER_ENABLED": "true", "CIRCUIT_BREAKER_COOLDOWN_MS": "60000"}
    first = installation.start_proxy(variables)
    installation.anthropic.script(reply.error(500).repeated(5))
    ways = [way(once(first)) for _ in range(7)]
    assert ways == [(200, "firm", "2")] * 5 + [(200, "firm", "1")] * 2
    assert len(installation.anthropic.requests) == 5
    ledger.settle()
    second = installation.start_proxy(variables)
    assert way(once(second)) == (200, "firm", "1")
    first.stop()
    again = installation.start_proxy(variables, home=first.home)
    assert way(once(again)) == (200, "firm", "1")
    assert len(installation.anthropic.requests) == 5
    health = "SELECT (account->>'failures_in_row')::int FROM ccproxy.route_health WHERE route = 'frail'"
    assert max(row[0] for row in ledger.rows(health)) == 5


def test_a_circuit_closes_after_a_probe(installation: Installation) -> None:
    """When the open time is over, a success brings the route back: for a growing share, then for all."""
    routes = installation.own_routes(("brittle", "anthropic", ANTHROPIC_KEY), ("solid", "zai", ZAI_KEY))
    proxy = installation.start_proxy(
        routes | {"CIRCUIT_BREAKER_ENABLED": "true", "CIRCUIT_BREAKER_COOLDOWN_MS": "1500"}
    )
    installation.anthropic.script(reply.error(500).repeated(5))
    assert [route_of(proxy) for _ in range(6)] == ["solid"] * 6
    eventually(lambda: route_of(proxy) == "brittle")
    eventually(lambda: [route_of(proxy) for _ in range(12)] == ["brittle"] * 12)


def test_the_clients_own_faults_open_no_circuit(installation: Installation) -> None:
    """Any number of 400s leaves the route as it was."""
    routes = installation.own_routes(("patient", "anthropic", ANTHROPIC_KEY), ("spare", "zai", ZAI_KEY))
    proxy = installation.start_proxy(routes | {"CIRCUIT_BREAKER_ENABLED": "true"})
    installation.anthropic.script(reply.bad_request("prompt_too_long").repeated(8))
    assert {way(once(proxy)) for _ in range(8)} == {(400, "patient", "1")}
    assert route_of(proxy) == "patient"
