"""Two providers, and a file for Claude Code to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.claude_code.tasks import CLIENTS_KEY
from tests.fakes import FakeProvider

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def anthropic_fake() -> Iterator[FakeProvider]:
    """The first route's provider."""
    with FakeProvider("anthropic", keys={"owner", CLIENTS_KEY}) as provider:
        yield provider


@pytest.fixture
def zai_fake() -> Iterator[FakeProvider]:
    """The second route's provider."""
    with FakeProvider("zai", keys={"zai-owner"}) as provider:
        yield provider


@pytest.fixture
def note(tmp_path: Path) -> Path:
    """The file that the task is about."""
    path = tmp_path / "work" / "note.txt"
    path.parent.mkdir()
    path.write_text("the heron is blue\n", encoding="utf-8")
    return path
