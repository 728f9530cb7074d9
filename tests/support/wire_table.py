"""The table of what may be on the wire (`wire.toml`). Not here: its checks (`tests.oracle`)."""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec
from msgspec import Struct

TABLE = Path(__file__).with_name("wire.toml")


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of name: its rows by what the proxy makes of them, and what that means."""

    title: str
    about: str
    means: dict[str, str]
    rows: dict[str, list[str]]

    @property
    def names(self) -> list[str]:
        """All names."""
        return [name for names in self.rows.values() for name in names]


def table() -> dict[str, Section]:
    """The table by kind."""
    return msgspec.convert(tomllib.loads(TABLE.read_text(encoding="utf-8")), dict[str, Section])
