"""The declaration of a setting: an annotation of the field that holds its value.

    port: Annotated[int, Setting("PROXY_PORT", Section.CLIENTS, "port to listen on", least=1, most=65_535)] = 4181

This is the only place that knows the setting. Everything else is derived from it: how the variable is read and checked
(`reader`), the list of all variables (`variables`), docs/settings.md and the example files, which variables can be
given as a file, which ones the workers see, what the console hides.
"""

from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import msgspec
from msgspec import Struct

from service.settings.quantities import MOST_INTEGER
from service.settings.secret import Secret


class Section(StrEnum):
    """The sections of docs/settings.md, in their order."""

    CLIENTS = "The proxy and its clients"
    ANTHROPIC = "Route `anthropic`"
    SUBSCRIPTION = "Route `subscription`"
    ZAI = "Route `zai`"
    ROUTING = "Choosing routes and models"
    LIMITS = "Timeouts and limits"
    CIRCUITS = "Circuits"
    CONTEXT = "Context window"
    SERVERS = "Redis and Postgres"
    LOG = "Log"
    FILES = "Files and folders"
    NETWORK = "Network"


class Setting(Struct, frozen=True):
    """An environment variable, and what it does to the annotated field.

    The field's type decides how the text is read, unless `parse` does; `parse` raises ValueError with the reason and
    how to fix it. `least` and `most` are the bounds of a number. `default` is the documented default where the field's
    own is not what users would write. A `secret` is never shown, and can be read from the file that NAME_FILE names; a
    field of type Secret is one in any case. `for_workers`: the workers see the variable too.
    """

    variable: str
    section: Section
    meaning: str
    least: float = 0
    most: float = MOST_INTEGER
    parse: Callable[[str], Any] | None = None
    default: str | None = None
    secret: bool = False
    for_workers: bool = False


class SettingField(NamedTuple):
    """A field of a settings struct; `setting` is None when no variable sets it, `default` NODEFAULT without one."""

    name: str
    kind: Any
    setting: Setting | None
    default: Any

    @property
    def secret(self) -> bool:
        """True if the value is never shown."""
        return self.kind is Secret or bool(self.setting and self.setting.secret)

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that a field takes when it takes no others."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def struct(self) -> type[Struct] | None:
        """The type of a field that groups more settings."""
        return self.kind if isinstance(self.kind, type) and issubclass(self.kind, Struct) else None


@lru_cache(maxsize=64)
def setting_fields(struct: type[Struct]) -> tuple[SettingField, ...]:
    """The fields of a struct with their declarations, in their order."""
    return tuple(field_of(info) for info in msgspec.structs.fields(struct))


def field_of(info: msgspec.structs.FieldInfo) -> SettingField:
    """A field, taken apart from its annotation."""
    is_annotated = get_origin(info.type) is Annotated
    kind, *metadata = get_args(info.type) if is_annotated else (info.type,)
    setting = next((each for each in metadata if isinstance(each, Setting)), None)
    return SettingField(info.name, kind, setting, info.default)
