"""The tables of docs/routing.md say what the rules do: each rule has its row, and each row what follows from it."""

import re
from collections import defaultdict
from typing import TYPE_CHECKING, cast

import pytest

from service.routing.failover import VERDICTS, AttemptResult, PlanEnd, Tried, failover
from service.routing.failover import Attempt as PlannedAttempt
from service.routing.failure import Failure
from service.routing.rank import Candidate
from service.settings import Policy
from service.settings.failure_rules import FailureRule, packaged_rules
from tests.docs.pages import DOCS, text_of
from tests.support.event_factories import after, failed
from tests.support.routing_factories import CLIENT, NOW_MS, A, S

if TYPE_CHECKING:
    from service.ledger.events import FailureKind, FailureScope

MODEL = "claude-opus-4-8"
RULES = packaged_rules().failures[:-1]
"""The last one takes whatever is no answer, and has no status."""
RESTS = {
    "credential": "the account",
    "quota": "the account",
    "throttle": "the account",
    "model": "the model, for an hour",
}
IN_STREAMS = {"0", "200"}


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading."""
    section = text_of(DOCS / "routing.md").split(f"### {heading}\n")[1]
    lines = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


FAULTS = {(kind.strip("`"), scope): cells for kind, scope, *cells in rows("Whose fault it is")}
VERDICT_ROWS = [cells[0].strip("`") for cells in rows("When all routes fail")]


def row_of(rule: FailureRule) -> tuple[str, str]:
    """The row that a rule belongs to."""
    return rule.kind, rule.scope + ("" if rule.proven else ", unproven")


def test_every_rule_has_its_row_and_every_row_its_rules() -> None:
    """With each status, type and code, and whether words tell it."""
    told: dict[tuple[str, str], set[str]] = defaultdict(set)
    for rule in RULES:
        names = {*map(str, rule.status), *rule.types, *rule.codes}
        told[row_of(rule)] |= {"in a stream" if name in IN_STREAMS else name for name in names}
        told[row_of(rule)] |= {"words"} if rule.words else set()
    written = {
        row: {*re.findall(r"`([^`]+)`", cells[0]), *re.findall(r"in a stream|words", cells[0])}
        for row, cells in FAULTS.items()
    }
    assert written == told


@pytest.mark.parametrize("row", FAULTS, ids=str)
def test_the_table_says_what_is_tried_next_and_what_rests(row: tuple[str, str]) -> None:
    """As the plan and the fold do it."""
    _, next_route, rests = FAULTS[row]
    kind, scope = cast("FailureKind", row[0]), row[1].removesuffix(", unproven")
    actual = cast("FailureScope", "" if scope == "capability" else scope)
    failure = Failure(kind, actual, status=400, proven=not row[1].endswith("unproven"))
    plan = failover([Candidate(A, MODEL), Candidate(S, MODEL)], Policy(), MODEL)
    next(plan)
    try:
        second = plan.send(AttemptResult(NOW_MS, failure))
    except StopIteration:
        assert next_route == "no other route"
    else:
        assert next_route == ("one route of the family" if second.opinion_on else "the next route")
    ledger = after(failed(kind=kind, scope=actual, status=400, account="a", model_sent=MODEL))
    counts = any(health.failures_in_row for health in ledger.health.values())
    assert rests == ("the circuit counts" if counts else RESTS.get(scope, "nothing"))
    assert bool(ledger.waits) == (rests == "the account")
    assert bool(ledger.missing_models) == rests.startswith("the model")


def end_of(
    *failures: Failure, skip: Candidate | None = None, waits: tuple[int, ...] = (), own: bool = False
) -> PlanEnd:
    """How a plan ended."""
    candidate = Candidate(CLIENT if own else A, MODEL)
    tried = [Tried(PlannedAttempt(candidate, number), failure) for number, failure in enumerate(failures, 1)]
    return PlanEnd([skip or candidate], tried, waits, MODEL)


ENDS = [
    end_of(waits=(NOW_MS,)),
    end_of(skip=Candidate(A, MODEL, "context_too_small")),
    end_of(skip=Candidate(A, MODEL, "field_unsupported")),
    end_of(),
    end_of(Failure("bad_request", "request", status=400)),
    end_of(Failure("credential", "credential", status=401), own=True),
    end_of(Failure("overloaded", "provider", status=529)),
    end_of(Failure("connect", "route")),
    end_of(Failure("throttle", "throttle", status=429), waits=(NOW_MS,)),
    end_of(Failure("model_missing", "model", status=404)),
    end_of(Failure("credential", "credential", status=401)),
]
"""One for each row of the table, in order."""


def test_the_table_of_verdicts_has_their_order() -> None:
    """Each row is decided by the verdict in its place, and by none before."""
    decided = [next(n for n, (applies, _) in enumerate(VERDICTS) if applies(end)) for end in ENDS]
    assert decided == list(range(len(VERDICTS)))
    assert [outcome(end).kind for end, (_, outcome) in zip(ENDS, VERDICTS, strict=True)] == VERDICT_ROWS
