"""The page `docs/wire.md`, made from the table of what may be on the wire; `make docs` writes it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.docs.pages import DOCS
from tests.support.wire_table import table

if TYPE_CHECKING:
    from tests.support.wire_table import Section

WIRE_PAGE = DOCS / "wire.md"
HEAD = """\
# The wire

All that the types of Anthropic's Python SDK name, and what the proxy makes of it. Tests compare this table
(`tests/support/wire.toml`) with the SDK and with the code, so that a newer SDK says what has changed. Unknown names are
no error: they are passed on. Fields of requests have
[a table of their own](routing.md#fields-that-a-route-cant-keep).
"""


def wire_page() -> str:
    """The page `docs/wire.md`."""
    return HEAD + "".join(section_of(section) for section in table().values())


def section_of(section: Section) -> str:
    """A kind of names as a table."""
    about = f"{section.about}\n\n" if section.about else ""
    rows = "".join(row_of(section, decision, names) for decision, names in section.rows.items())
    return f"\n## {section.title}\n\n{about}| | | |\n|---|---|---|\n{rows}"


def row_of(section: Section, decision: str, names: list[str]) -> str:
    """The names of which the same is made."""
    means = section.means.get(decision, "")
    return f"| {decision.replace('_', ' ')} | {means} | {' '.join(f'`{name}`' for name in names)} |\n"
