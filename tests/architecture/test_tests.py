"""Tests can be entered one room at a time, and none of them sleeps for a fixed time to let something happen."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

TESTS = Path(__file__).parents[1]
SHARED = ("tests.support.", "tests.fakes.")
MAY_SLEEP = {
    "alerts/lab.py": "its clients pause between requests",
    "attacks/fuzz.py": "measures how long the event loop is blocked at most between two turns",
    "attacks/test_strangers.py": "a probe's pace while an attack is on",
    "chaos/load.py": "the pace of clients",
    "chaos/run.py": "a tick of the plan, and of the wait for quiet, which is bounded",
    "deploy/image.py": "polls the health command of the image, at most START_S",
    "fakes/process.py": "polls a provider in another process, for a limited time",
    "http1/scripted.py": "a provider that is slow",
    "scale/load.py": "the pace of clients",
    "simulation/clients.py": "simulated time",
    "simulation/replica.py": "simulated time",
    "support/proxies.py": "makes uvicorn's own polling faster",
    "support/virtual_time.py": "virtual time",
    "support/waiting.py": "polls a condition, for a limited time",
    "support/traffic.py": "the pace of clients",
}
"""Everything else waits for a condition, with the help of `tests.support.waiting`."""


@cache
def files() -> tuple[tuple[Path, ast.Module], ...]:
    """All Python files of the tests, parsed."""
    paths = sorted(TESTS.rglob("*.py"))
    return tuple((path.relative_to(TESTS), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_a_room_imports_no_other_room() -> None:
    """Of the tests it may import `tests.support`, `tests.fakes`, and itself; these two import no room."""
    found = {}
    for path, tree in files():
        allowed = (*SHARED, f"tests.{path.parts[0]}.")
        others = [name for name in imported(tree) if name.startswith("tests.") and not f"{name}.".startswith(allowed)]
        if others:
            found[str(path)] = others
    assert found == {}


def test_what_is_shared_holds_no_test() -> None:
    assert list((TESTS / "support").glob("test_*.py")) == []


def sleeps(tree: ast.Module) -> Iterator[int]:
    """The lines that sleep; `sleep(0)` only lets other tasks run."""
    for node in ast.walk(tree):
        called = ast.unparse(node.func).rpartition(".")[2] if isinstance(node, ast.Call) else ""
        if called == "sleep" and ast.unparse(node) not in ("asyncio.sleep(0)", "sleep(0)"):
            yield getattr(node, "lineno", 0)


def test_no_test_sleeps_to_let_something_happen() -> None:
    found = {path.as_posix(): list(sleeps(tree)) for path, tree in files() if path.as_posix() not in MAY_SLEEP}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert [path for path in MAY_SLEEP if not (TESTS / path).exists()] == []
