"""The settings in force with secrets removed: which ones are secret is part of their declarations.

A value of type Secret is `***`; of an address, which may hold a password, the place is shown.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import Struct

from service.console.api_types import SettingView
from service.settings import Route, Secret, Settings
from service.settings.routes import OF_ROUTE
from service.settings.secret import Address
from service.settings.setting import SettingField, setting_fields

MASK = "***"
KEY_FIELDS = {"token": "api_key"}
LEFT_OUT = frozenset(("prices.models", "prices.bounds", "prices.providers", "notices"))
"""A table of hundreds of rows, and messages that were shown at startup."""


class Leaf(NamedTuple):
    """A single value: its dotted name, the variable that sets it, and its declaration, None for an entry of a list."""

    name: str
    value: Any
    field: SettingField | None = None
    variable: str = ""


def redacted_settings_view(settings: Settings) -> list[SettingView]:
    """Return each setting by its dotted name and its variable."""
    return [view_of(leaf) for leaf in leaves(Leaf("", settings))]


def view_of(leaf: Leaf) -> SettingView:
    """A setting as it may be shown."""
    field, value = leaf.field, leaf.value
    meaning = field.setting.meaning if field and field.setting else ""
    shown, is_secret = text_of(value), False
    if isinstance(value, Address):
        shown = value.shown
    elif isinstance(value, Secret) or (field and field.secret):
        shown, is_secret = MASK if value else "", isinstance(value, Secret) or bool(value)
    return SettingView(name=leaf.name, variable=leaf.variable, value=shown, secret=is_secret, meaning=meaning)


def leaves(group: Leaf) -> Iterator[Leaf]:
    """All values in a group of settings. What is in a setting has the setting's variable."""
    if group.name in LEFT_OUT:
        return
    inner = list(children(group.value))
    if not inner:
        yield group
    for label, child, field in inner:
        variable = field.setting.variable if field and field.setting else group.variable
        yield from leaves(Leaf(f"{group.name}.{label}" if group.name else label, child, field, variable))


def children(value: Any) -> Iterator[tuple[str, Any, SettingField | None]]:
    """The fields of a struct, and the structs of a list by their ids, else by number."""
    if isinstance(value, Struct):
        declared = route_fields(value) if isinstance(value, Route) else {}
        for field in setting_fields(type(value)):
            yield field.name, getattr(value, field.name), declared.get(field.name, field)
    elif isinstance(value, tuple | list):
        for number, entry in enumerate(value):
            if isinstance(entry, Struct):
                yield getattr(entry, "id", "") or getattr(entry, "key_id", "") or str(number), entry, None


def route_fields(route: Route) -> dict[str, SettingField]:
    """The declarations of a route's fields, if variables set them; a subscription's token is its key."""
    struct = None if route.from_file else OF_ROUTE.get(route.id)
    return {KEY_FIELDS.get(field.name, field.name): field for field in setting_fields(struct)} if struct else {}


def text_of(value: Any) -> str:
    """A value as text, "" for None."""
    if isinstance(value, tuple | list):
        return ", ".join(str(inner) for inner in value)
    if isinstance(value, dict):
        return ", ".join(f"{key}={inner}" for key, inner in value.items())
    return "" if value is None else str(value)
