"""Routes, views and candidates for the tests of routing."""

from typing import Any

from service.ledger.state import ControlLedger, ReplicaHealth, RouteLedger, Usage, Wait
from service.routing.rank import Candidate
from service.routing.view import View
from service.settings import ANTHROPIC, CLIENT_ROUTE_ID, ZAI, Policy, Provider, Route, Secret

MONDAY_MS = 1_789_344_000_000
"""2026-09-14T00:00:00Z, a Monday."""
NOW_MS = MONDAY_MS + 2 * 86_400_000 + 12 * 3_600_000
"""The Wednesday after it, at noon."""
HOUR_MS = 3_600_000
POLICY = Policy()
ME = "me"
"""The replica that looks."""


def route_of(name: str, provider: Provider = ANTHROPIC, **fields: Any) -> Route:
    """A route with a key."""
    values: dict[str, Any] = {"title": name.title(), "base_url": provider.base_url, "api_key": Secret(f"{name}-key")}
    return Route(id=name, provider=provider, **(values | fields))


A = route_of("anthropic")
S = route_of("subscription", auth="oauth")
Z = route_of("zai", ZAI)
CLIENT = route_of(CLIENT_ROUTE_ID, auth="client", api_key=Secret(""))
OTHER = route_of("other", Provider(id="other", title="Other", base_url="https://other.example"))
CHAIN = (A, S, Z)


def view_of(control: ControlLedger | None = None, **routes: RouteLedger) -> View:
    """What this replica sees; ledgers by the route's id, `client` for the pseudo-route's."""
    ledgers = {CLIENT_ROUTE_ID if name == "client" else name: ledger for name, ledger in routes.items()}
    return View(replica=ME, routes=ledgers, control=control or ControlLedger())


def tripped(failures: int = 5, ago_ms: int = 1_000, **fields: Any) -> ReplicaHealth:
    """A replica's account with failures in a row."""
    values: dict[str, Any] = {
        "failures_in_row": failures,
        "worst_row": failures,
        "opened_ms": NOW_MS - ago_ms,
        "last_failure_ms": NOW_MS - ago_ms,
        "last_failure_id": "an-id",
    }
    return ReplicaHealth(**(values | fields))


def open_circuit(ago_ms: int = 1_000) -> RouteLedger:
    """A ledger by which this replica's circuit is open."""
    return RouteLedger(health={ME: tripped(ago_ms=ago_ms)})


def used(tokens: int, at_ms: int = NOW_MS) -> RouteLedger:
    """A ledger with tokens used in an hour."""
    return RouteLedger(hours={at_ms // HOUR_MS: Usage(attempts=1, input=tokens)})


def waiting(scope: str = "throttle", until_ms: int = NOW_MS + 30_000, at_ms: int = NOW_MS - 1_000) -> RouteLedger:
    """A ledger with a wait; `until_ms` 0: the provider named no end."""
    return RouteLedger(waits={scope: Wait(at_ms=at_ms, until_ms=until_ms, kind="throttle", status=429)})


def names(candidates: list[Candidate]) -> list[str]:
    """The routes to try, in order."""
    return [candidate.route.id for candidate in candidates if candidate.usable]


def reasons(candidates: list[Candidate]) -> dict[str, str]:
    """The routes passed over, and why."""
    return {candidate.route.id: candidate.skip_reason for candidate in candidates if not candidate.usable}
