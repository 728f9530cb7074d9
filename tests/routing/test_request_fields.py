"""Fields on which a client relies: which of a body's they are, and which routes come after others for them."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from service.ledger.state import RouteLedger
from service.routing.failover import AttemptResult, failover
from service.routing.failure import Failure
from service.routing.rank import Candidate, RoutingRequest, rank
from service.routing.request_fields import broken_fields, lost_fields, notable_fields, unkeepable
from service.settings import Route
from tests.support.routing_factories import CHAIN, NOW_MS, OTHER, POLICY, A, Z, names, open_circuit, reasons, view_of

MODEL = "claude-opus-4-8"


def fields_in(**body: Any) -> tuple[str, ...]:
    """The notable fields of a body."""
    raw = msgspec.json.encode({"model": MODEL, "messages": [], **body})
    return notable_fields(msgspec.json.decode(raw, type=dict[str, Raw]))


def ranked(
    *fields: str, chain: tuple[Route, ...] = CHAIN, request: Any = None, **ledgers: RouteLedger
) -> list[Candidate]:
    """The candidates of a request with these fields."""
    given = {"model": MODEL, "fields": fields, **(request or {})}
    return rank(RoutingRequest(**given), chain, view_of(None, **ledgers), POLICY, NOW_MS)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, ()),
        ({"stream": True, "tools": [], "thinking": {"type": "adaptive"}, "tool_choice": {"type": "auto"}}, ()),
        ({"tool_choice": {"type": "none"}}, ()),
        ({"tool_choice": {"type": "any"}}, ("tool_choice.forced",)),
        ({"tool_choice": {"type": "tool", "name": "x"}}, ("tool_choice.forced",)),
        ({"tool_choice": {"type": 5}}, ()),
        ({"tool_choice": "any"}, ()),
        ({"tool_choice": None, "safeguards": None, "output_config": None}, ()),
        ({"safeguards": []}, ("safeguards",)),
        ({"output_config": {"effort": "low"}}, ("output_config.effort",)),
        ({"output_config": {"format": {}, "effort": None}}, ("output_config.format",)),
        ({"output_config": []}, ("output_config",)),
        ({"new_field": 1, "": 1, "Prompt text": 1, "x" * 41: 1}, ("new_field",)),
        ({f"f{number}": 1 for number in range(100)}, tuple(sorted(f"f{number}" for number in range(100))[:32])),
    ],
)  # fmt: skip
def test_the_notable_fields_of_a_body(body: dict[str, Any], expected: tuple[str, ...]) -> None:
    """By name, and by part where parts differ; no name that a client made up to be read elsewhere."""
    assert fields_in(**body) == expected


def test_what_is_lost_where() -> None:
    """Nothing at Anthropic; elsewhere all but what the Messages API has had from the start."""
    fields = ("container", "new_field", "output_config", "output_config.effort", "safeguards", "tool_choice.forced")
    assert lost_fields("anthropic", fields) == broken_fields("anthropic", fields) == ()
    assert lost_fields("zai", fields) == fields
    assert lost_fields("compatible", fields) == fields[:-1]
    assert broken_fields("zai", fields) == ("container", "safeguards", "tool_choice.forced")
    assert broken_fields("zai", ("safeguards.level", "effort.level")) == ("safeguards.level",), (
        "parts follow their field"
    )
    assert [unkeepable("zai", (field,)) for field in fields] == ["container", "", "", "", "", "tool_choice.forced"]


def test_a_route_that_drops_safeguards_comes_last() -> None:
    """Whatever else speaks for it: the order, a session in the middle of a turn, the make of the model."""
    assert names(ranked("safeguards", chain=(Z, A))) == ["anthropic", "zai"]
    in_turn = {"session_route": "zai", "mid_turn": True}
    assert names(ranked("safeguards", request=in_turn)) == ["anthropic", "subscription", "zai"]
    assert names(ranked("service_tier", request=in_turn)) == ["zai", "anthropic", "subscription"]
    assert names(ranked("safeguards", request={"model": "glm-5.2"}, chain=(Z, A))) == ["anthropic", "zai"]
    assert names(ranked("safeguards", chain=(Z, OTHER), request=in_turn)) == ["zai", "other"]
    assert [candidate.breaks for candidate in ranked("safeguards", chain=(Z, A))] == [(), ("safeguards",)]


def test_it_is_tried_when_the_others_would_not_be() -> None:
    """An open circuit is tried only when nothing else is left."""
    assert names(ranked("safeguards", chain=(A, Z), anthropic=open_circuit())) == ["zai"]
    assert names(ranked("output_config.format", chain=(A, Z), anthropic=open_circuit())) == ["anthropic"]
    [only] = ranked("safeguards", chain=(Z,), zai=open_circuit())
    assert (only.usable, only.breaks) == (True, ("safeguards",))


@pytest.mark.parametrize(
    "field",
    ["compaction", "container", "inference_geo", "mcp_servers", "output_config.format", "tool_choice.forced"],
)
def test_a_route_that_breaks_other_fields_is_never_tried(field: str) -> None:
    """The answer would be none to what was asked."""
    candidates = ranked(field, chain=(Z, A))
    assert (names(candidates), reasons(candidates)) == (["anthropic"], {"zai": "field_unsupported"})
    assert candidates[1].reason == f"Zai does not support {field}"
    assert names(ranked(field, request={"endpoint": "models"})) == ["anthropic", "subscription", "zai"]


def test_without_any_route_the_field_is_the_reason() -> None:
    """A wait of a route that keeps it comes first: it will be over."""
    [alone] = ranked("container", chain=(Z,))
    plan = failover([alone], POLICY, MODEL)
    with pytest.raises(StopIteration) as ended:
        next(plan)
    assert ended.value.value.kind == "unsupported"
    plan = failover([Candidate(A, MODEL, "waiting", until_ms=NOW_MS + 5), alone], POLICY, MODEL)
    with pytest.raises(StopIteration) as ended:
        next(plan)
    assert ended.value.value.kind == "throttled"
    plan = failover([Candidate(A, MODEL), alone], POLICY, MODEL)
    next(plan)
    with pytest.raises(StopIteration) as ended:
        plan.send(AttemptResult(NOW_MS, Failure("overloaded", "provider", status=529)))
    assert (ended.value.value.kind, ended.value.value.number) == ("relayed", 1)
