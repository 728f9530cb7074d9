"""The prose of the code and of the docs: phrases that standard terms have replaced don't come back."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BANNED = (
    r"shown out",
    r"takes? leave",
    r"taken leave",
    r"lets? go of",
    r"means ill",
    r"comes round",
    r"goes round",
    r"stands above",
    r"is told to",
    r"are told of",
    r"in .{1,10}'s clothes",
    r"nobody who looks",
    r"at next to no cost",
    r"a moment at which",
    r"close[sd]? the books",
)
"""Only phrases that no sentence about software needs."""
PHRASE = re.compile("|".join(rf"\b{phrase}\b" for phrase in BANNED), re.IGNORECASE)
SOURCES = sorted(path for folder in ("service", "workers") for path in (ROOT / folder).rglob("*.py"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def prose_of(source: str) -> Iterator[str]:
    """Yield the docstrings and comments of a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.value.value
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.string


def found_in(texts: Iterator[str]) -> list[str]:
    """Return the banned phrases in texts, however their lines are broken."""
    return [match.group() for text in texts for match in PHRASE.finditer(" ".join(text.split()))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_and_comments_use_standard_terms(path: Path) -> None:
    """No docstring or comment has one of the banned phrases."""
    assert found_in(prose_of(path.read_text())) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_pages_use_standard_terms(path: Path) -> None:
    """No page of the documentation has one of the banned phrases."""
    assert found_in(iter([path.read_text()])) == []


@pytest.mark.parametrize(
    "text", ['"""The process takes leave."""', "# Free at next to no cost\n", '"""A client\nis shown\n  out."""']
)
def test_a_banned_phrase_is_found(text: str) -> None:
    """In a docstring, in a comment, and across lines."""
    assert len(found_in(prose_of(text))) == 1
