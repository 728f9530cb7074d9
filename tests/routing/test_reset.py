"""What a reset forgets, counted and in words; and the readers' own floor until the route's stream has it."""

from typing import Any

import pytest
from msgspec.structs import replace

from service.ledger.events import Forgotten
from service.ledger.state import ControlLedger, Refusal, ReplicaHealth, RouteLedger, Wait, WindowTold
from service.routing.rank import RoutingRequest, evaluate_route
from service.routing.reset import describe_forgotten, read_forgotten
from service.routing.view import View
from service.settings import Policy
from tests.support.routing_factories import ME, NOW_MS, A, view_of

POLICY = Policy()
ROUTE = A
MODEL = "claude-sonnet-4-5"
HELD: tuple[tuple[str, dict[str, Any]], ...] = (
    ("cool_downs", {"waits": {"throttle": Wait(at_ms=NOW_MS - 5, until_ms=NOW_MS + 900, kind="throttle")}}),
    ("windows", {"windows": {"5h": WindowTold(1.0, NOW_MS + 900, "rejected", at_ms=NOW_MS - 5)}}),
    ("missing_models", {"missing_models": {MODEL: NOW_MS - 5}}),
    ("unknown_errors", {"refusals": {"messages//w": Refusal(at_ms=NOW_MS - 5, bodies=["1", "2", "3"])}}),
    ("circuit", {"health": {ME: ReplicaHealth(worst_row=9, last_failure_ms=NOW_MS - 5, opened_ms=NOW_MS - 5)}}),
)


def view(reset_ms: int = 0, **held: Any) -> View:
    """The view of one process of a route that has these held against it."""
    return view_of(ControlLedger(resets={ROUTE.id: reset_ms}), anthropic=RouteLedger(**held))


@pytest.mark.parametrize(("name", "held"), HELD)
def test_what_holds_is_counted(name: str, held: dict[str, Any]) -> None:
    """Until it is over, or was reset already."""
    value: Any = "open" if name == "circuit" else 1
    assert read_forgotten(ROUTE.id, view(**held), POLICY, NOW_MS) == replace(Forgotten(), **{name: value})
    assert read_forgotten(ROUTE.id, view(NOW_MS - 5, **held), POLICY, NOW_MS) == Forgotten()


@pytest.mark.parametrize(("name", "held"), HELD)
def test_readers_ignore_it_at_once(name: str, held: dict[str, Any]) -> None:
    """The operators' event acts without workers, who have to fold the route's."""
    request = RoutingRequest(model=MODEL)
    before = evaluate_route(request, ROUTE, view(NOW_MS - 6, **held), POLICY, NOW_MS)
    assert not before.usable, name
    assert evaluate_route(request, ROUTE, view(NOW_MS - 5, **held), POLICY, NOW_MS).usable


@pytest.mark.parametrize(
    ("forgot", "words"),
    [
        (Forgotten(), "nothing was held against it"),
        (Forgotten(circuit="open"), "forgot an open circuit"),
        (Forgotten(circuit="half_open", cool_downs=1), "forgot a half-open circuit and 1 cool-down"),
        (
            Forgotten(circuit="open", cool_downs=2, windows=1, missing_models=3, unknown_errors=1),
            "forgot an open circuit, 2 cool-downs, 1 window reading, 3 missing models and 1 unknown error",
        ),
    ],
)
def test_it_is_said_in_words(forgot: Forgotten, words: str) -> None:
    """As people count."""
    assert describe_forgotten(forgot) == words
