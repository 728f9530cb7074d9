"""Fields of a request that some providers can't keep, and how much that matters. Pure.

The table is data: `fields.toml` beside this file, by dialect; `zai` adds to what holds for `compatible`. Not here:
leaving fields out of a body (`providers.bodies_compat`), and the order of routes (`rank`).
"""

import re
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Final, Literal

import msgspec
from msgspec import Raw, Struct

from service.settings.failure_rules import Dialect

Weight = Literal["kept", "hint", "binding"]


class FieldRule(Struct, frozen=True, forbid_unknown_fields=True, rename={"weight": "is"}):
    """What a provider makes of a field. `dropped`: a binding one that may be left out when no other route is left."""

    weight: Weight
    source: str
    dropped: bool = False


FieldTable = Mapping[str, FieldRule]
HINT: Final = FieldRule("hint", "")


def packaged_tables() -> dict[Dialect, FieldTable]:
    """Return the tables that come with the proxy, complete for each dialect."""
    content = resources.files("service.routing").joinpath("fields.toml").read_text(encoding="utf-8")
    given = msgspec.convert(tomllib.loads(content), dict[Dialect, dict[str, FieldRule]])
    return {"compatible": given["compatible"], "zai": given["compatible"] | given["zai"]}


TABLES: Final = packaged_tables()
KEPT: Final = frozenset(
    name for name, rule in TABLES["compatible"].items() if rule.weight == "kept" and "." not in name
)
"""Fields that every provider gets."""
PLAIN: Final = KEPT - {"tool_choice"}
"""Fields that say nothing about routes."""
PARTS: Final = {"output_config": ("format", "effort", "task_budget")}
FORCED: Final = frozenset(("any", "tool"))
OBJECT: Final = msgspec.json.Decoder(dict[str, Raw])
TEXT: Final = msgspec.json.Decoder(str)
NULL: Final = b"null"
NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}(?:\.[a-z][a-z0-9_]{0,39})?")
"""Of an unknown field: clients can invent names, and these are reported."""
MOST_NAMES: Final = 32


def notable_fields(fields: Mapping[str, Raw]) -> tuple[str, ...]:
    """Return the names of a body's fields that some provider can't keep, with their parts; fields without a value say
    nothing."""
    names = fields.keys() - PLAIN
    if not names:
        return ()
    parts = [part for name in names for part in parts_of(name, fields[name])]
    return tuple(sorted(filter(NAME.fullmatch, parts))[:MOST_NAMES])


def parts_of(name: str, value: Raw) -> tuple[str, ...]:
    """Return the names by which the table knows a field's value."""
    if bytes(value) == NULL:
        return ()
    if name == "tool_choice":
        return ("tool_choice.forced",) if is_forced(value) else ()
    if name not in PARTS:
        return (name,)
    try:
        given = OBJECT.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return (name,)
    return tuple(f"{name}.{part}" for part, inner in given.items() if bytes(inner) != NULL)


def is_forced(choice: Raw) -> bool:
    """True if a choice of tools makes the model call one."""
    try:
        return TEXT.decode(OBJECT.decode(choice).get("type", NULL)) in FORCED
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False


def rule_of(dialect: Dialect, name: str) -> FieldRule:
    """Return what a dialect makes of a field; parts follow their field, and unknown fields are hints."""
    table = TABLES[dialect]
    return table.get(name) or table.get(name.partition(".")[0], HINT)


def lost_fields(dialect: Dialect, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return which of a request's notable fields a provider of this dialect does not get."""
    if dialect == "anthropic" or not names:
        return ()
    return _lost(dialect, names)


@lru_cache(256)
def _lost(dialect: Dialect, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name for name in names if rule_of(dialect, name).weight != "kept")


def broken_fields(dialect: Dialect, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the binding fields among those that a provider of this dialect does not get."""
    return tuple(name for name in lost_fields(dialect, names) if rule_of(dialect, name).weight == "binding")


def unkeepable(dialect: Dialect, names: tuple[str, ...]) -> str:
    """Return the first binding field that may not even be dropped; "" if there is none."""
    return next((name for name in broken_fields(dialect, names) if not rule_of(dialect, name).dropped), "")
