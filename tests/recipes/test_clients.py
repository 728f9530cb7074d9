"""The recipes for clients: each asks, streams, uses its tool, and notices nothing of the route that fails."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.recipes import scenario
from tests.recipes.page import recipes
from tests.recipes.workspace import Workspace, installed_programs

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes import FakeProvider
    from tests.recipes.product import Product

pytestmark = pytest.mark.timeout(600)
WEATHER = {"city": "Oslo"}
NOTE = "note.txt"
TOOLS: dict[str, tuple[str, dict[str, Any]]] = {
    "Claude Code": ("Read", {"file_path": NOTE}),
    "OpenCode": ("read", {"filePath": NOTE}),
    "Python SDK": ("weather", WEATHER),
    "TypeScript SDK": ("weather", WEATHER),
    "Claude Agent SDK": ("mcp__here__weather", WEATHER),
    "Vercel AI SDK": ("weather", WEATHER),
    "LangChain": ("weather", WEATHER),
    "pydantic-ai": ("weather", WEATHER),
}
"""The tool that each client has, and how the model calls it; a file's name becomes its path."""

RESENDING = ("Python SDK", "TypeScript SDK")
"""Those that keep their conversation at the provider."""
OTHERS = {"Two accounts and a team", "Behind Caddy", "In GitHub Actions"}
"""Recipes for installations, which have tests of their own (`test_installations`)."""


def test_every_recipe_is_tested() -> None:
    """And says what the reader sees, or whose recipe it takes up."""
    found = recipes()
    assert set(found) == {*TOOLS, *OTHERS}
    assert [title for title, recipe in found.items() if not recipe.seen] == ["Behind Caddy"]


@pytest.mark.parametrize("title", TOOLS)
def test_a_client(
    title: str, shared_product: Product, anthropic: FakeProvider, zai: FakeProvider, tmp_path: Path
) -> None:
    """As the page has it, but for the proxy's port."""
    recipe = recipes()[title].at(shared_product.url)
    name, arguments = TOOLS[title]
    placed = {key: str(tmp_path / NOTE) if value == NOTE else value for key, value in arguments.items()}
    scenario.script(anthropic, zai, name, placed)
    before = set(shared_product.requests())
    workspace = Workspace(tmp_path, recipe, installed_programs(), {"PROXY_PORT": str(shared_product.port)})
    workspace.type(recipe.commands).check(recipe.seen)
    new = [attempts for request, attempts in shared_product.requests().items() if request not in before]
    scenario.check(anthropic, zai, new, routes=("anthropic", "zai"), resent=title in RESENDING)
