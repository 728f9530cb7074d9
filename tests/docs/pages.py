"""The documentation as data: its pages, their headings, links and code blocks."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
TOP_PAGES = tuple(page for name in ("README", "CONTRIBUTING", "SECURITY") if (page := ROOT / f"{name}.md").exists())
FENCED = re.compile(r"^(```+)[^\n]*\n.*?^\1$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^()\s]+)\)|(?:src|srcset|href)=\"([^\"]+)\"")


def pages() -> list[Path]:
    """README, CONTRIBUTING, SECURITY, and everything in docs/."""
    return [*TOP_PAGES, *sorted(DOCS.rglob("*.md"))]


@cache
def text_of(page: Path) -> str:
    """A page's text."""
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    """A page's path in the project, with slashes."""
    return page.relative_to(ROOT).as_posix()


def prose_of(page: Path) -> str:
    """A page's text without its code blocks."""
    return FENCED.sub("", text_of(page))


def blocks(page: Path, language: str) -> list[str]:
    """A page's code blocks in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)


@cache
def anchors(page: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: list[str] = []
    for heading in re.findall(r"^#{1,6} (.+)$", prose_of(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.strip().lower()).replace(" ", "-")
        number = sum(one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one) is not None for one in found)
        found.append(f"{slug}-{number}" if number else slug)
    return frozenset(found)


def links(page: Path) -> Iterator[str]:
    """What a page links to, and the images that it shows."""
    for plain, attribute in LINK.findall(prose_of(page)):
        yield plain or attribute
