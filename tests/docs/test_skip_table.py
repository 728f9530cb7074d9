"""The table of docs/routing.md on skipped routes is that of the rules: one row for each, in their order."""

import re
from typing import Any, get_args

import pytest
from msgspec.structs import replace

from service.ledger.state import ControlLedger, Refusal, ReplicaNotice, RouteLedger
from service.routing.rank import RULES, RouteCheck, RoutingRequest, SkipReason
from service.routing.view import View
from service.settings import ModelLimits, Route
from tests.docs.pages import DOCS, text_of
from tests.support.routing_factories import (
    CLIENT,
    ME,
    NOW_MS,
    POLICY,
    A,
    Z,
    open_circuit,
    route_of,
    used,
    view_of,
    waiting,
)

MODEL = "claude-opus-4-8"
ASK = RoutingRequest(model=MODEL)
KNOWING = replace(POLICY, models=(("*", ModelLimits(context_tokens=1_000)),))
REFUSED = RouteLedger(
    refusals={"w": Refusal(at_ms=NOW_MS - 1, since_ms=NOW_MS - 9, bodies=["1", "2", "3"], clients=["alice", "bob"])}
)


def rows() -> list[list[str]]:
    """The cells of the table."""
    section = text_of(DOCS / "routing.md").split("### Why a route is skipped\n")[1]
    lines = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def check(route: Route = A, view: View | None = None, **fields: Any) -> RouteCheck:
    """A request before a route."""
    return RouteCheck(replace(ASK, **fields), route, view or view_of(), KNOWING, NOW_MS)


CHECKS: list[list[RouteCheck]] = [
    [check(route_of("anthropic", off="no key"), bound_to="zai")],
    [check(bound_to="zai", threaded=True)],
    [check(Z, threaded=True, endpoint="count_tokens")],
    [check(Z, endpoint="count_tokens", fields=("compaction",))],
    [check(Z, view_of(ControlLedger(disabled={"zai": ""})), fields=("compaction",))],
    [check(A, view_of(ControlLedger(disabled={"anthropic": ""}), anthropic=waiting()))],
    [check(A, view_of(anthropic=replace(waiting(), notices={ME: ReplicaNotice("ended", message="m", seq=1)})))],
    [check(CLIENT, view_of(client=open_circuit()))],
    [check(A, view_of(anthropic=RouteLedger(missing_models={MODEL: NOW_MS})), least_tokens=10**8)],
    [check(route_of("anthropic", weekly_tokens=9), view_of(anthropic=used(9)), least_tokens=10**8)],
    [check(route_of("anthropic", weekly_tokens=9), view_of(anthropic=used(9)))],
    [
        check(A, view_of(anthropic=replace(waiting(), health=open_circuit().health))),
        check(A, view_of(anthropic=replace(REFUSED, health=open_circuit().health))),
    ],
    [check(A, view_of(anthropic=open_circuit()))],
    [check(), check(A, view_of(anthropic=open_circuit(10**6)))],
]
"""For each rule, in order: a route that it applies to, and most often some later rule as well."""


@pytest.mark.parametrize(("row", "checks"), list(zip(rows(), CHECKS, strict=True)), ids=lambda one: str(one)[:40])
def test_each_row_is_the_rule_in_its_place(row: list[str], checks: list[RouteCheck]) -> None:
    """With the reason that is given, and whether it says when the route is back."""
    applied = [next(number for number, (applies, _) in enumerate(RULES) if applies(one)) for one in checks]
    assert {rows()[number][1] for number in applied} == {row[1]}
    outcomes = [RULES[applied[0]][1](one) for one in checks]
    reasons = [outcome.skip_reason for outcome in outcomes]
    assert sorted(set(reasons)) == sorted(re.findall(r"`(\w+)`", row[0]) or [""])
    if row[0] != "used":
        assert [outcome.until_ms > 0 for outcome in outcomes] == [bool(row[2])] * len(outcomes)


def test_every_reason_has_a_row() -> None:
    assert len(RULES) == len(CHECKS)
    named = {name for row in rows() for name in re.findall(r"`(\w+)`", row[0])}
    assert named == {*get_args(SkipReason)} - {""}
