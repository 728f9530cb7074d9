"""The settings in force with secrets removed: which ones are secret is part of their declarations.

A value of type Secret is `***`; of an address, which may hold a password, the place is shown.
"""

from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from service.console.api_types import SettingView
from service.settings import Secret, Settings
from service.settings.secret import Address
from service.settings.setting import SettingField, setting_fields

MASK = "***"
LEFT_OUT = frozenset(("prices.models", "prices.bounds", "prices.providers", "notices"))
"""A table of hundreds of rows, and messages that were shown at startup."""


def redacted_settings_view(settings: Settings) -> list[SettingView]:
    """Return each setting by its dotted name."""
    return [view_of(name, value, field) for name, value, field in leaves("", settings)]


def view_of(name: str, value: Any, field: SettingField | None) -> SettingView:
    """A setting as it may be shown; `field` declares it, None for an entry of a list."""
    declared_secret = field is not None and field.secret
    meaning = field.setting.meaning if field and field.setting else ""
    if isinstance(value, Address):
        return SettingView(name=name, value=value.shown, secret=False, meaning=meaning)
    if isinstance(value, Secret):
        return SettingView(name=name, value=MASK if value else "", secret=True, meaning=meaning)
    text = text_of(value)
    if declared_secret and text:
        return SettingView(name=name, value=MASK, secret=True, meaning=meaning)
    return SettingView(name=name, value=text, secret=False, meaning=meaning)


def leaves(name: str, value: Any, field: SettingField | None = None) -> Iterator[tuple[str, Any, SettingField | None]]:
    """All values with their dotted names and declarations."""
    if name in LEFT_OUT:
        return
    inner = list(children(value))
    if not inner:
        yield name, value, field
    for label, child, declared in inner:
        yield from leaves(f"{name}.{label}" if name else label, child, declared)


def children(value: Any) -> Iterator[tuple[str, Any, SettingField | None]]:
    """The fields of a struct, and the structs of a list by their ids, else by number."""
    if isinstance(value, Struct):
        for field in setting_fields(type(value)):
            yield field.name, getattr(value, field.name), field
    elif isinstance(value, tuple | list):
        for number, entry in enumerate(value):
            if isinstance(entry, Struct):
                yield getattr(entry, "id", "") or getattr(entry, "key_id", "") or str(number), entry, None


def text_of(value: Any) -> str:
    """A value as text, "" for None."""
    if isinstance(value, tuple | list):
        return ", ".join(str(inner) for inner in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return "" if value is None else str(value)
