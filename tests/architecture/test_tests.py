"""Tests can be entered one room at a time: a room imports of other tests only what is meant to be shared."""

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
SHARED = ("tests.support.", "tests.fakes.")


def files() -> Iterator[tuple[Path, ast.Module]]:
    """All Python files of the tests, parsed."""
    for path in sorted(TESTS.rglob("*.py")):
        yield path.relative_to(TESTS), ast.parse(path.read_text(encoding="utf-8"))


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
