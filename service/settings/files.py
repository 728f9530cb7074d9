"""Reads the sources of settings: `.env`, the TOML file, and files that hold a secret. Not here: what they mean."""

import os
import sys
import tomllib
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from dotenv.parser import Binding, parse_stream
from msgspec import Meta, Struct, field

from service.errors import SettingsError
from service.ledger.price_list import Price
from service.settings.failure_rules import Dialect, FailureRule, WindowRule
from service.settings.policy import ModelLimits
from service.settings.quantities import MOST_INTEGER, whole_number
from service.settings.values import expanded, home_folder

COUNTS = ("weekly_tokens", "concurrency", "context_tokens", "output_tokens")
"""Fields that take a number as text, too, such as `20M`."""


class RouteFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A `[[routes]]` table of the TOML file."""

    id: str
    provider: str
    title: str = ""
    base_url: str = ""
    api_key: str = ""
    api_key_env: str = ""
    auth: Literal["api_key", "oauth"] = "api_key"
    credentials_path: str = ""
    weekly_tokens: Annotated[int, Meta(ge=0)] = 0
    concurrency: Annotated[int, Meta(ge=0)] = 0
    model_map: dict[str, str] = {}


class ProviderFile(Struct, frozen=True, forbid_unknown_fields=True):
    """A `[providers.NAME]` table of the TOML file; for a known provider, what is left out keeps its value."""

    base_url: str = ""
    title: str = ""
    dialect: Dialect | None = None
    families: tuple[str, ...] | None = None
    model_map: dict[str, str] | None = None
    model_fallback: dict[str, str] | None = None


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """The TOML file. `env` has variables that the environment does not set; `routes` replaces the usual three.

    `failures` and `windows` come before the packaged rules.
    """

    env: dict[str, str | int | float | bool] = {}
    providers: dict[str, ProviderFile] = field(default_factory=dict)
    routes: tuple[RouteFile, ...] = ()
    prices: dict[str, Price] = {}
    models: dict[str, ModelLimits] = {}
    failures: tuple[FailureRule, ...] = ()
    windows: tuple[WindowRule, ...] = ()


def with_secret_files(variables: dict[str, str], names: Iterable[str]) -> dict[str, str]:
    """The variables, with those of `names` that are not set read from the file that NAME_FILE gives."""
    asked = {name: variables.get(f"{name}_FILE", "").strip() for name in names if not variables.get(name, "").strip()}
    return variables | {name: secret_in(f"{name}_FILE", Path(path)) for name, path in asked.items() if path}


def secret_in(place: str, path: Path) -> str:
    """The content of a file that holds a secret, without the trailing line break of editors."""
    try:
        return expanded(str(path)).read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise SettingsError(f"{place}: {path} is not a text file") from None
    except OSError as error:
        raise SettingsError(f"{place}: {path} can't be read ({error.strerror})") from None


def read_dotenv(path: Path) -> dict[str, str]:
    """The variables of a `.env` file, as python-dotenv reads it; `$NAME` stays as it is, since passwords have `$`."""
    return {one.key: one.value for one in dotenv_lines(path) if one.key and one.value is not None}


def unread_lines(path: Path) -> list[str]:
    """A notice for each line of a `.env` file that sets nothing, which python-dotenv passes over. Repeats nothing of
    it: it may be a secret."""
    return [
        f"line {line_of(one)} of {path} has no effect: it is not written as NAME=value, or a quote is not closed"
        for one in dotenv_lines(path)
        if one.error or (one.key and one.value is None)
    ]


def line_of(line: Binding) -> int:
    """The number of a line; python-dotenv counts from the empty ones before it."""
    text = line.original.string
    return line.original.line + text[: len(text) - len(text.lstrip())].count("\n")


def dotenv_lines(path: Path) -> list[Binding]:
    """The lines of a `.env` file, none without one. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: can't be read, as it is not UTF-8; save it as UTF-8") from None
    except OSError as error:
        raise SettingsError(f"{path}: can't be read ({error.strerror}); fix or remove it") from None
    return list(parse_stream(StringIO(text)))


def read_file(path: Path | None, environ: Mapping[str, str]) -> tuple[File, str]:
    """The TOML file and its name for errors; an empty one if no file is named and the home folder has none."""
    home = home_of(environ)
    if os.path.isfile(home):
        raise SettingsError(f"CCPROXY_HOME: {home} is a file; set CCPROXY_HOME to another folder")
    asked = path or (expanded(environ["CCPROXY_CONFIG"]) if environ.get("CCPROXY_CONFIG") else None)
    found = asked or home / "ccproxy.toml"
    try:
        content = found.read_bytes()
    except FileNotFoundError:
        if asked:
            raise SettingsError(f"{found}: no such file; correct CCPROXY_CONFIG or --config") from None
        return File(), str(found)
    except OSError as error:
        mend = "correct CCPROXY_CONFIG or --config" if asked else "set CCPROXY_HOME to a folder of your own"
        raise SettingsError(f"{found}: can't be read ({error.strerror}); {mend}") from None
    try:
        return msgspec.convert(with_numbers("", tomllib.loads(content.decode("utf-8-sig"))), File), str(found)
    except (ValueError, msgspec.ValidationError) as error:
        raise SettingsError(f"{found}: {error}") from None


def with_numbers(place: str, value: Any) -> Any:
    """The file's tables, with the texts of counts as numbers: `weekly_tokens = "20M"`. Raises ValueError."""
    if isinstance(value, dict):
        return {name: number_at(place, name, inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [with_numbers(place, inner) for inner in value]
    return value


def number_at(place: str, name: str, value: Any) -> Any:
    """A value of a table, or the table."""
    here = f"{place}.{name}" if place else name
    if name not in COUNTS or not isinstance(value, str):
        return with_numbers(here, value)
    try:
        return whole_number(value, 0, MOST_INTEGER)
    except ValueError as error:
        raise ValueError(f"{here}: {error}") from None


def home_of(environ: Mapping[str, str]) -> Path:
    """The folder for data, logs and spool: CCPROXY_HOME, else the platform's folder for a user's state.

    Raises SettingsError.
    """
    is_mac = sys.platform == "darwin"
    state = "~/Library/Application Support" if is_mac else environ.get("XDG_STATE_HOME") or "~/.local/state"
    try:
        return home_folder(environ.get("CCPROXY_HOME") or f"{state}/ccproxy")
    except ValueError as error:
        raise SettingsError(f"CCPROXY_HOME: {error}") from None
