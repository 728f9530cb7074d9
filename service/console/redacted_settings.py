"""The settings in force, as they may be shown: a secret is `***`, an address comes without user, password and query."""

import re
from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from service.console.api_types import SettingView
from service.settings import Secret, Settings

MASK = "***"
IN_ADDRESS = re.compile(r"(?<=://)[^/@\s]*@")
QUERY = re.compile(r"\?.*", re.DOTALL)
LEFT_OUT = frozenset(("prices.prices", "notices"))
"""A table of hundreds of rows, and what was said at the start."""


def redacted_settings_view(settings: Settings) -> list[SettingView]:
    """Each setting by its dotted name."""
    found = []
    for name, value in flattened("", settings):
        secret = isinstance(value, Secret)
        shown = (MASK if value else "") if secret else address_masked(str("" if value is None else value))
        found.append(SettingView(name=name, value=shown, secret=secret, meaning=""))
    return found


def flattened(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Leaves with their dotted names; lists by number, routes and keys by their ids."""
    if name in LEFT_OUT:
        return
    if isinstance(value, Struct):
        parts = list(asdict(value).items())
    elif isinstance(value, tuple | list) and any(isinstance(element, Struct) for element in value):
        parts = [(label_of(element, number), element) for number, element in enumerate(value)]
    else:
        yield name, joined(value)
        return
    for label, inner in parts:
        yield from flattened(f"{name}.{label}" if name else label, inner)


def label_of(element: Any, number: int) -> str:
    """How an element of a list is called: by its id, else by its number."""
    return getattr(element, "id", "") or getattr(element, "key_id", "") or str(number)


def joined(value: Any) -> Any:
    """A leaf's value: of a list or a table its elements as one text."""
    if isinstance(value, tuple | list):
        return ", ".join(str(element) for element in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={element}" for key, element in value.items())
    return value


def address_masked(text: str) -> str:
    """A text without the user, password and query of an address."""
    if "://" not in text:
        return text
    return QUERY.sub("", IN_ADDRESS.sub(f"{MASK}@", text))
