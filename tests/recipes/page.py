"""docs/recipes.md as data: its recipes, each with its files and its commands. Not here: what they do."""

import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"
ADDRESS = "http://127.0.0.1:4181"
"""Where the page says that the proxy is."""
SECTION = re.compile(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"^`([^`\n]+)`:\n\n```\w*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SEEN = re.compile(r"^You see[^\n]*:\n\n```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
START = re.compile(r"ccproxy up")
INSTALL = re.compile(r"^(pip|npm) install (?:--global )?(.+)$")


class Recipe(NamedTuple):
    """A section of the page: files by name, the lines of its shell blocks, and what the reader then sees."""

    title: str
    text: str
    files: dict[str, str]
    lines: list[str]
    seen: str

    def packages(self, tool: str) -> list[str]:
        """What it has `pip` or `npm` install."""
        found = [match for line in self.lines if (match := INSTALL.match(line)) and match[1] == tool]
        return [name.strip("'\"") for match in found for name in match[2].split()]

    @property
    def commands(self) -> list[str]:
        """Everything else that it has the reader type, once the proxy runs."""
        return [line for line in self.lines if not INSTALL.match(line) and not START.search(line)]

    @property
    def start(self) -> list[str]:
        """The arguments with which it starts the proxy."""
        [line] = [line for line in self.lines if START.search(line)]
        return line[line.index(START.pattern) :].split()[1:]

    def at(self, address: str) -> "Recipe":
        """The recipe for a proxy at another address."""
        files = {name: text.replace(ADDRESS, address) for name, text in self.files.items()}
        return self._replace(files=files, lines=[line.replace(ADDRESS, address) for line in self.lines])


def recipes() -> dict[str, Recipe]:
    """All of them, by their titles."""
    sections = SECTION.findall(PAGE.read_text(encoding="utf-8"))
    return {title: recipe_of(title, text) for title, text in sections}


def recipe_of(title: str, text: str) -> Recipe:
    """The recipe of a section."""
    return Recipe(title, text, dict(FILE.findall(text)), lines_of(text), "".join(SEEN.findall(text)))


def lines_of(text: str) -> list[str]:
    """The commands of a section, each on a line."""
    return [line for block in SHELL.findall(text) for line in block.replace("\\\n", "").splitlines() if line]
