"""Reads variables into the fields that declare them. An error names the variable and how to fix it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from msgspec import Struct

from service.errors import SettingsError
from service.settings.address import Noticed
from service.settings.quantities import number, whole_number
from service.settings.secret import Secret
from service.settings.setting import Setting, SettingField, setting_fields
from service.settings.values import choice, flag

S = TypeVar("S", bound=Struct)
PARSERS: dict[Any, Callable[[str], Any]] = {str: str, bool: flag, Secret: Secret}
"""Parsers of the text of a field's type, for types without bounds."""


class Reader:
    """Variables that are read into structs. A variable that is set to nothing is not set."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        stripped = {name: value.strip() for name, value in variables.items()}
        self._quoted = {name: value[1:-1].strip() for name, value in stripped.items() if is_quoted(value)}
        self.variables = {name: value for name, value in (stripped | self._quoted).items() if value}
        self.notices: dict[str, None] = {}
        """What was changed in values that were accepted, in order, each once."""

    def text(self, name: str) -> str:
        """A variable without quotes around it, "" when it is not set."""
        if name in self._quoted:
            self.notices[f"{name}: the quotes around the value were left out"] = None
        return self.variables.get(name, "")

    def given(self, struct: type[Struct]) -> dict[str, Any]:
        """The fields of a struct whose variables are set. Raises SettingsError."""
        return {
            field.name: self.parse(setting.variable, parser_of(field, setting), self.text(setting.variable))
            for field in setting_fields(struct)
            if (setting := field.setting) and setting.variable in self.variables
        }

    def read(self, struct: type[S], **defaults: Any) -> S:
        """A struct, and the structs in it. `defaults` are for fields whose variables are not set.

        Raises SettingsError.
        """
        groups = {
            field.name: self.read(field.struct)
            for field in setting_fields(struct)
            if field.struct and not field.setting and field.name not in defaults
        }
        return struct(**(groups | defaults | self.given(struct)))

    def parse(self, place: str, parser: Callable[[str], Any], text: str) -> Any:
        """Parse the value at a place, a variable or one in the file, and keep its notices. Raises SettingsError."""
        try:
            value = parser(text)
        except ValueError as error:
            raise SettingsError(f"{place}: {error}") from None
        if not isinstance(value, Noticed):
            return value
        self.notices.update({f"{place}: {notice}": None for notice in value.notices})
        return value.value


def is_quoted(text: str) -> bool:
    """True for a value in quotes, which a shell would have taken off, and Docker's --env-file and systemd do not."""
    return len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"


def parser_of(field: SettingField, setting: Setting) -> Callable[[str], Any]:
    """Return the parser of a field's variable: its own parser, or that of the field's type."""
    if setting.parse:
        return setting.parse
    if field.choices:
        return partial(choice, choices=field.choices)
    if field.kind is int:
        return partial(whole_number, least=setting.least, most=setting.most)
    if field.kind is float:
        return partial(number, least=setting.least, most=setting.most)
    return PARSERS[field.kind]
