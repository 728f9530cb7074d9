"""The list of all variables, collected from the declarations of the settings.

docs/settings.md, `.env.example` and `.env.docker.example` are generated from it.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import Struct

from service.settings.database import DatabaseParts
from service.settings.invoice import InvoiceSettings
from service.settings.quantities import MOST_INTEGER, shown_number
from service.settings.routes import ROUTE_SETTINGS
from service.settings.secret import Secret
from service.settings.setting import Section, Setting, SettingField, setting_fields
from service.settings.shapes import Settings


class Variable(NamedTuple):
    """An environment variable. `default` and `allowed` are texts for the documentation, "" where there is nothing."""

    name: str
    default: str
    allowed: str
    meaning: str
    section: Section
    secret: bool = False
    for_workers: bool = False


ENVIRONMENT_ONLY = "read from the environment only"
WITHOUT_FIELD = (
    Setting(
        "CIRCUIT_BREAKER_HEALTH_CHECK_INTERVAL",
        Section.CIRCUITS,
        "accepted without effect: real requests are the probes, there is no timer",
        default="30000",
    ),
    Setting(
        "DB_MAX_CONNECTIONS",
        Section.SERVERS,
        "accepted without effect: a worker holds one connection",
        default="10",
        for_workers=True,
    ),
    Setting(
        "DB_IDLE_TIMEOUT_MS",
        Section.SERVERS,
        "accepted without effect: a worker keeps its connection",
        default="30000",
        for_workers=True,
    ),
    Setting("NO_COLOR", Section.LOG, f"any value: no colors on a terminal; {ENVIRONMENT_ONLY}", for_workers=True),
    Setting(
        "CCPROXY_CONFIG",
        Section.FILES,
        "the TOML file",
        default="ccproxy.toml in CCPROXY_HOME",
        for_workers=True,
    ),
    Setting(
        "SSL_CERT_FILE",
        Section.NETWORK,
        f"file of CA certificates to trust instead of the packaged ones; {ENVIRONMENT_ONLY}",
        for_workers=True,
    ),
    Setting(
        "HTTPS_PROXY",
        Section.NETWORK,
        "HTTP or SOCKS 5 proxy for requests to providers; `NO_PROXY` excludes names, addresses and networks; "
        f"{ENVIRONMENT_ONLY}",
    ),
    Setting("ALL_PROXY", Section.NETWORK, f"the same, where HTTPS_PROXY is not set; {ENVIRONMENT_ONLY}"),
)
"""Variables that are read before the settings or by others, and those that are accepted without effect."""
OBSOLETE_PREFIXES = ("OPENROUTER_", "NODE_ENV")
"""Variables of the original that mean nothing here: accepted, with a notice."""


def declared(struct: type[Struct]) -> Iterator[tuple[SettingField, Setting]]:
    """The fields that variables set, of a struct and of the structs in it."""
    for field in setting_fields(struct):
        if field.setting:
            yield field, field.setting
        elif field.struct:
            yield from declared(field.struct)


def variable_of(field: SettingField, setting: Setting) -> Variable:
    """A declaration as the documentation shows it."""
    default = shown_default(field.default) if setting.default is None else setting.default
    return Variable(
        setting.variable,
        default,
        allowed_values(field, setting),
        setting.meaning,
        setting.section,
        field.secret,
        setting.for_workers,
    )


def shown_default(value: Any) -> str:
    """A field's default as users would write it; "" for nothing at all."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return shown_number(value)
    if isinstance(value, Secret):
        return value.reveal()
    return value if isinstance(value, str) else ""


def allowed_values(field: SettingField, setting: Setting) -> str:
    """The words or numbers that a setting takes, "" where its meaning says it."""
    if field.choices:
        return ", ".join(field.choices)
    if field.kind is bool:
        return "true, false"
    if setting.parse or field.kind not in (int, float):
        return ""
    if setting.most == MOST_INTEGER:
        return f"at least {shown_number(setting.least)}"
    return f"{shown_number(setting.least)} to {shown_number(setting.most)}"


def collected() -> Iterator[Variable]:
    """All variables."""
    structs: tuple[type[Struct], ...] = (*ROUTE_SETTINGS, InvoiceSettings, Settings, DatabaseParts)
    for struct in structs:
        yield from (variable_of(*each) for each in declared(struct))
    for one in WITHOUT_FIELD:
        yield Variable(one.variable, one.default or "", "", one.meaning, one.section, for_workers=one.for_workers)


VARIABLES = tuple(sorted(collected(), key=lambda variable: list(Section).index(variable.section)))
"""In the order of the documentation: by section, then as they are declared."""
SECRETS = tuple(sorted(variable.name for variable in VARIABLES if variable.secret))
"""Variables that can be given as a file, as containers get secrets: NAME_FILE is its path."""
FOR_WORKERS = tuple(sorted(variable.name for variable in VARIABLES if variable.for_workers))
"""All that workers and their commands read: no key of a provider, no token of the proxy's."""
