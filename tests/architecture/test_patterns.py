"""Regular expressions that Python before 3.11.5 gets wrong, which Debian 12 has.

There, a possessive or atomic group whose last turn fails half-way doesn't go back to where that turn began: it takes a
sign too much, or ends with a SystemError. Not here: what the expressions match.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import service
import workers

PARSER: Any = importlib.import_module("re._parser")
ONE_SIGN = ("IN", "LITERAL", "NOT_LITERAL", "ANY")
CHECKED = {
    "service.edge.body_fields.KEY",
    "service.protocol.json_shape.ESCAPES",
    "service.protocol.sse.EMPTY_LINE",
    "service.relay.streams.EMPTY_LINE",
}
"""Whose turns fail at their first sign, or where it does not matter. 3.11.2 and 3.13 matched 150,000 random texts each
alike."""


def has_group(tree: Any) -> bool:
    """True if a parsed expression has a group that is atomic, or repeated possessively."""
    for operator, argument in tree:
        if str(operator) == "ATOMIC_GROUP":
            return True
        if str(operator) == "POSSESSIVE_REPEAT" and not is_one_sign(argument[2]):
            return True
        if any(has_group(part) for part in parts_of(argument)):
            return True
    return False


def is_one_sign(tree: Any) -> bool:
    """True for a class of signs, or a sign: these are right on every Python."""
    return len(tree) == 1 and str(tree[0][0]) in ONE_SIGN


def parts_of(argument: Any) -> Iterator[Any]:
    """Yield the expressions within an operator's argument."""
    if isinstance(argument, PARSER.SubPattern):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for one in argument:
            yield from parts_of(one)


def patterns_of(module: ModuleType) -> Iterator[tuple[str, re.Pattern[Any]]]:
    """Yield the compiled expressions of a module's constants, those in tables among them."""
    for name, value in vars(module).items():
        for one in constants_in(value):
            if isinstance(one, re.Pattern):
                yield f"{module.__name__}.{name}", one


def constants_in(value: object) -> Iterator[object]:
    """Yield a value, or those of a table."""
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple, set, frozenset)):
        for one in value:
            yield from constants_in(one)
    else:
        yield value


@pytest.mark.parametrize(
    ("expression", "has"),
    [
        ("[ab]*+x", False),
        ("a++", False),
        ("(?:ab)+", False),
        ("(?:ab)++", True),
        ("x(?>a|b)", True),
        ("(?:x(?:ab)*+)", True),
    ],
)
def test_a_group_is_told_from_a_class(expression: str, *, has: bool) -> None:
    """Also within another group."""
    assert has_group(PARSER.parse(expression)) is has


def test_no_possessive_group_can_fail_half_way() -> None:
    """Possessive classes of signs (`[a-z]++`) are right everywhere; groups are not."""
    found, looked_at = set(), 0
    for package in (service, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            for name, pattern in patterns_of(importlib.import_module(module.name)):
                looked_at += 1
                if has_group(PARSER.parse(pattern.pattern, pattern.flags & re.DOTALL)):
                    found.add(name)
    assert found == CHECKED
    assert looked_at > len(CHECKED)
