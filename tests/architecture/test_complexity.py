"""No function is so complex that it can't be understood at one reading; there are no exceptions."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from radon.visitors import Class, ComplexityVisitor  # type: ignore[import-untyped]

ROOT = Path(__file__).parents[2]
MOST_PATHS = 10
"""The highest cyclomatic complexity of a function; each boolean operator counts as a branch, as radon has it."""


def too_complex(source: str) -> list[str]:
    """The functions and methods of a module that are above the limit, with their lines and complexity."""
    module = ComplexityVisitor.from_code(source)
    functions = functions_in((*module.functions, *module.classes))
    return [f"{one.lineno} {one.name} {one.complexity}" for one in functions if one.complexity > MOST_PATHS]


def functions_in(blocks: Iterable[Any]) -> Iterator[Any]:
    """All functions in functions and classes, however deep."""
    for block in blocks:
        if isinstance(block, Class):
            yield from functions_in((*block.methods, *block.inner_classes))
        else:
            yield block
            yield from functions_in(block.closures)


@pytest.mark.parametrize("folder", ["service", "workers"])
def test_functions_are_simple(folder: str) -> None:
    """At most ten ways through each, in the proxy and in the workers."""
    found = [
        f"{path.relative_to(ROOT)}:{function}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for function in too_complex(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        pytest.param(" and ".join("abcdefghi"), [], id="ten"),
        pytest.param(" and ".join("abcdefghij"), ["1 choose 11"], id="eleven"),
    ],
)
def test_boolean_operators_count(condition: str, expected: list[str]) -> None:
    """A condition of nine operators is as complex as nine branches."""
    assert too_complex(f"def choose():\n    if {condition}:\n        pass\n") == expected


@pytest.mark.parametrize(
    ("head", "indent"),
    [
        pytest.param("class C:\n    ", 4, id="method"),
        pytest.param("class C:\n    class D:\n        ", 8, id="method of an inner class"),
        pytest.param("def outer():\n    ", 4, id="inner function"),
        pytest.param("async ", 0, id="coroutine"),
    ],
)
def test_functions_are_found_wherever_they_are(head: str, indent: int) -> None:
    """In classes and in functions."""
    source = f"{head}def choose():\n{' ' * indent}    return {' or '.join('abcdefghijk')}\n"
    assert [one.partition(" ")[2] for one in too_complex(source)] == ["choose 11"]
