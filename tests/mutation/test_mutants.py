"""Mutants are what they say: one fault each, at its place, in text that still compiles; and survivors are told."""

import ast
import random
from importlib.util import module_from_spec

import pytest

from tests.mutation.__main__ import (
    ROOMS,
    Room,
    Verdict,
    by_nearness,
    draw,
    equivalent,
    files_of,
    report,
    room_tests,
    text_of,
)
from tests.mutation.mutants import Mutant, line_starts, mutants_of, planted
from tests.mutation.sandbox import PlantedFinder

TEXT = '''\
"""Ein Modul, 5 < 6."""
LIMIT = 3


def price(tokens: int, rate: int = 2) -> int:
    """At most: 7 + 7."""
    total = 0
    total += tokens * rate
    return min(total, LIMIT) if tokens > 0 and not rate < 1 else -1  # ä
'''


def test_each_kind_of_fault_is_planted_where_it_belongs() -> None:
    found = {(mutant.before, mutant.after) for mutant in mutants_of("m.py", TEXT)}
    assert found == {
        ("0", "(1)"),
        ("1", "(2)"),
        ("-1", "(1)"),
        ("total += tokens * rate", "total -= tokens * rate"),
        ("tokens * rate", "(tokens // rate)"),
        ("min(total, LIMIT)", "(max(total, LIMIT))"),
        ("tokens > 0", "(tokens >= 0)"),
        ("rate < 1", "(rate <= 1)"),
        ("not rate < 1", "(rate < 1)"),
        ("tokens > 0 and (not rate < 1)", "(tokens > 0 or not rate < 1)"),
        (
            "min(total, LIMIT) if tokens > 0 and (not rate < 1) else -1",
            "(-1 if tokens > 0 and (not rate < 1) else min(total, LIMIT))",
        ),
    }


def test_annotations_defaults_docstrings_and_module_constants_are_left_alone() -> None:
    assert {mutant.function for mutant in mutants_of("m.py", TEXT)} == {"price"}
    assert all(mutant.line >= 7 for mutant in mutants_of("m.py", TEXT))


def test_a_planted_fault_changes_nothing_else() -> None:
    [mutant] = [mutant for mutant in mutants_of("m.py", TEXT) if mutant.before == "tokens > 0"]
    assert planted(TEXT, mutant) == TEXT.replace("tokens > 0", "(tokens >= 0)")


def test_columns_are_bytes() -> None:
    text = 'def f(x: int) -> int:\n    return len("ä" * x) + x\n'
    [mutant] = [mutant for mutant in mutants_of("m.py", text) if mutant.after.endswith("- x)")]
    assert planted(text, mutant).splitlines()[1] == "    return (len('ä' * x) - x)"
    assert line_starts("ä\nb\n") == [0, 3, 5]


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_every_mutant_of_a_room_can_be_read(room: Room) -> None:
    modules = files_of(room.code, "*.py")
    assert modules, "the room has moved"
    assert room_tests(room), "its tests have moved"
    for module in modules:
        text = text_of(module)
        for mutant in mutants_of(module, text):
            ast.parse(planted(text, mutant))


def test_the_same_seed_draws_the_same_mutants() -> None:
    first, again = (draw(ROOMS[:1], 5, random.Random(7)) for _ in range(2))  # noqa: S311 - reproducible
    assert first == again
    assert len(first) == 5


def test_a_survivor_without_a_reason_fails_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    mutant = Mutant("service/x.py", 1, "f", "a < b", "(a <= b)", 0, 5)
    assert report([Verdict("routing", mutant, killed=True)], 100, as_json=False) == 0
    assert report([Verdict("routing", mutant, killed=False)], 100, as_json=True) == 1
    both = [Verdict("routing", mutant, killed=True)] * 9 + [Verdict("routing", mutant, killed=False)]
    assert [report(both, least, as_json=False) for least in (100, 91, 90)] == [1, 1, 0]
    assert "service/x.py:1 f: a < b  ->  (a <= b)" in capsys.readouterr().out


def test_a_module_is_imported_with_its_fault() -> None:
    text = text_of("service/routing/retry_budget.py")
    [mutant] = [
        found for found in mutants_of("service/routing/retry_budget.py", text) if found.before == "self.credit < 1"
    ]
    finder = PlantedFinder(mutant.module, planted(text, mutant))
    spec = finder.find_spec("service.routing.retry_budget", None)
    assert spec
    assert spec.loader
    assert finder.find_spec("service.routing.rank", None) is None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    budget = module.RetryBudget()
    budget.credit = 1.0
    assert not budget.spend()


def test_tests_that_import_a_module_come_first_and_those_of_its_name_before_them() -> None:
    near, far = by_nearness("service/routing/quota.py", room_tests(ROOMS[0]))
    assert near[0] == "tests/routing/test_quota.py"
    assert set(near) | set(far) == set(room_tests(ROOMS[0]))
    assert all("service.routing.quota" in text_of(file) for file in near)


def test_whatever_is_excused_is_excused_once() -> None:
    """Two reasons for one mutant are one too many, or one is wrong."""
    entries = [tuple(value for name, value in entry.items() if name != "reason") for entry in equivalent()]
    assert len(set(entries)) == len(entries)


@pytest.mark.parametrize("entry", equivalent(), ids=lambda entry: f"{entry['function']} {entry['before']}")
def test_whatever_is_excused_still_exists_and_has_a_reason(entry: dict[str, str]) -> None:
    """When the code has changed, it has to be judged anew."""
    assert len(entry["reason"]) > 20
    found = [
        (mutant.function, mutant.before, mutant.after)
        for mutant in mutants_of(entry["module"], text_of(entry["module"]))
    ]
    assert (entry["function"], entry["before"], entry["after"]) in found
