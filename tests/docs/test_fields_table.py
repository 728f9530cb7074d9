"""The table of fields in docs/routing.md says what service/routing/fields.toml does, and both know the SDK's fields."""

import re
from typing import get_type_hints

import pytest
from anthropic.types.beta.beta_output_config_param import BetaOutputConfigParam
from anthropic.types.beta.message_create_params import MessageCreateParamsBase

from service.routing.request_fields import TABLES, rule_of
from service.settings.failure_rules import Dialect
from tests.docs.pages import DOCS, text_of

HEADERS = frozenset(("betas", "user_profile_id", "workspace_id"))
"""Parameters of the SDK that are headers."""


def rows() -> dict[str, set[str]]:
    """The fields of each row, by what becomes of them."""
    section = text_of(DOCS / "routing.md").split("### Fields that a route can't keep\n")[1].split("\n### ")[0]
    lines = [line.strip("|").split("|") for line in re.findall(r"^\|.*$", section, re.MULTILINE)[2:]]
    return {becomes.strip(): set(re.findall(r"`([^`]+)`", names)) for names, becomes in lines}


def becomes(dialect: Dialect, name: str) -> str:
    """What the data makes of a field."""
    rule = rule_of(dialect, name)
    if rule.weight == "binding":
        return "tried last; then left out" if rule.dropped else "never tried"
    return {"kept": "kept", "hint": "left out"}[rule.weight]


def test_the_table_has_every_field() -> None:
    """In the row that says what becomes of it."""
    actual: dict[str, set[str]] = {}
    for name in TABLES["zai"]:
        outcome, at_zai = becomes("compatible", name), becomes("zai", name)
        actual.setdefault(outcome if outcome == at_zai else f"{outcome}; at Z.AI {at_zai}", set()).add(name)
    assert rows() == actual


def test_the_sdks_fields_are_known() -> None:
    """A field of a later SDK is looked at before it is left out."""
    names = set(get_type_hints(MessageCreateParamsBase)) - HEADERS
    parts = {f"output_config.{part}" for part in get_type_hints(BetaOutputConfigParam)}
    assert (names - {"output_config"}) | parts <= set(TABLES["compatible"])


@pytest.mark.parametrize("name", TABLES["zai"])
def test_every_row_has_a_source(name: str) -> None:
    """Where the fact was found, so that it can be looked up again."""
    assert re.match(r"\[(doc|sdk|house)\] .", TABLES["zai"][name].source)
