"""Lines and running totals in Postgres: cells by the model that served, and a recount over old and new events."""

import pytest

from service.ledger import wire
from service.ledger.events import FOLD_RULES, ResourceUsed, TokenCounts, UsageLine
from service.ledger.state import RouteLedger
from service.ledger.usage_lines import total_tokens
from tests.support.old_log import old_log
from tests.support.stream_factories import NOON_MS, STREAM, append, append_each, ended, new_id
from tests.workers.conftest import Bench
from workers.rebuild import rebuild

LINES = (
    UsageLine("claude-sonnet-4-6", tokens=TokenCounts(2, 491), cost_nusd=7_371_000),
    UsageLine("claude-opus-4-8", "advisor", TokenCounts(159_419, 7_805), cost_nusd=992_220_000),
)


def advised(seq: int) -> object:
    """An answer with an advisor's tokens."""
    return ended(seq, lines=LINES, tokens=total_tokens(LINES), cost_nusd=999_591_000, fold_rules=FOLD_RULES)


def reading(seq: int, tokens: int) -> ResourceUsed:
    """A session's total."""
    return ResourceUsed(
        event_id=new_id(), at_ms=NOON_MS + seq, replica="r1", seq=seq, resource_id="sesn_1", kind="session",
        client_key="ann", model="claude-opus-4-8", tokens=TokenCounts(tokens), rates_nusd=TokenCounts(5 * 10**9),
    )  # fmt: skip


def cells(bench: Bench) -> list[tuple[object, ...]]:
    """Attempts, input and price by model and key."""
    return bench.rows(
        "SELECT model, client_key, sum(attempts)::int, sum(input)::int, sum(cost_nusd)::bigint"
        " FROM ccproxy.usage_hourly GROUP BY 1, 2 ORDER BY 1, 2"
    )


def test_cells_are_those_of_the_models_that_served(bench: Bench) -> None:
    """An advisor's tokens in its own, and a session's growth once, for whoever read it first."""
    append(bench.redis, [advised(1), reading(2, 1_000), reading(3, 1_000), reading(4, 1_500)])  # type: ignore[list-item]
    bench.project()
    assert cells(bench) == [
        ("claude-opus-4-8", "alice", 0, 159_419, 992_220_000),
        ("claude-opus-4-8", "ann", 0, 1_500, 7_500_000),
        ("claude-sonnet-4-6", "alice", 1, 2, 7_371_000),
    ]


@pytest.mark.parametrize("first", ["old", "new"])
def test_a_recount_agrees_over_old_and_new_events(bench: Bench, first: str) -> None:
    """Whatever order they come in; a rebuild changes nothing, and what is read afterwards is booked once."""
    new = [advised(101), reading(102, 1_000), reading(103, 1_500)]
    for part in (old_log(), new) if first == "old" else (new, old_log()):
        append_each(bench.redis, part)  # type: ignore[arg-type]
        bench.project()
    assert bench.verify().differences == ()
    before = cells(bench)
    assert rebuild(bench.new_archive(), STREAM).faults == ()
    assert cells(bench) == before
    append(bench.redis, [reading(104, 1_500), reading(105, 1_600)])
    projected = bench.project()
    assert isinstance(projected.ledger, RouteLedger)
    assert [total.booked.input for total in projected.ledger.resources.values()] == [1_600]
    assert bench.verify().differences == ()


def test_a_stream_that_a_newer_worker_has_folded_is_left_to_it(bench: Bench) -> None:
    """Nothing of its state is written back without what this version doesn't know."""
    append(bench.redis, [ended(1)])
    bench.project()
    bench.execute("""UPDATE ccproxy.checkpoints SET state = '[99, {"all": "new"}]'""")
    append(bench.redis, [ended(2)])
    with pytest.raises(wire.NewerState):
        bench.project()
    rows = bench.rows("SELECT position, state::text FROM ccproxy.checkpoints")
    assert rows == [(1, '[99, {"all": "new"}]')]
