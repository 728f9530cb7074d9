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
        for key, inner in asdict(value).items():
            yield from flattened(f"{name}.{key}" if name else key, inner)
    elif isinstance(value, tuple | list) and any(isinstance(inner, Struct) for inner in value):
        for number, inner in enumerate(value):
            label = getattr(inner, "id", "") or getattr(inner, "key_id", "") or str(number)
            yield from flattened(f"{name}.{label}", inner)
    elif isinstance(value, tuple | list):
        yield name, ", ".join(str(inner) for inner in value)
    elif isinstance(value, dict):
        yield name, ", ".join(f"{key}={inner}" for key, inner in value.items())
    else:
        yield name, value


def address_masked(text: str) -> str:
    """A text without the user, password and query of an address."""
    if "://" not in text:
        return text
    return QUERY.sub("", IN_ADDRESS.sub(f"{MASK}@", text))
