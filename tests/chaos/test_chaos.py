"""A short run of `make chaos`, the same each time; and that a plan is what it says."""

from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.plan import ACTS, PARTS, REST_S, Step, plan
from tests.chaos.run import run

SEED = 13
ACTIONS = 40
SECONDS = 28.0


def test_a_seed_gives_the_same_plan_again() -> None:
    """A failing run can be had again, with as many actions as were asked for."""
    assert plan(5, 200, 120) == plan(5, 200, 120) != plan(6, 200, 120)
    assert len(plan(5, 200, 120)) == 200


def test_no_part_is_hit_before_it_is_back() -> None:
    """Each part's steps follow one another, and every act befalls every part that it is meant for."""
    steps = plan(5, 600, 300)
    for part in PARTS:
        mine = [step for step in steps if step.part == part]
        assert all(later.at_s >= step.back_s + REST_S - 0.01 for step, later in pairwise(mine))
        assert {step.act for step in mine} == {*ACTS[part.partition("-")[0]]}
    assert steps == sorted(steps, key=lambda step: step.at_s)
    assert len({step.at_s for step in steps}) < len(steps), "nothing falls together"
    assert isinstance(steps[0], Step)


@pytest.mark.e2e
@pytest.mark.timeout(240)
def test_the_ledger_is_exact_whatever_is_killed(tmp_path: Path) -> None:
    """Attempts are the providers' requests, tokens are exact, sessions are booked once, usage costs its newest
    price, and no client saw what was killed behind the proxies."""
    said: list[str] = []
    report = run(tmp_path, seed=SEED, actions=ACTIONS, seconds=SECONDS, say=said.append, closes_lost=False)
    assert report.tally.findings == [], "\n".join((*said, *report.lines, *report.tally.findings))
    assert report.steps == ACTIONS
    assert report.tally.counts["complete answers"] > 50
    assert report.tally.counts["readings of sessions"] > 20
    assert report.tally.counts["prices after others"] > 50
