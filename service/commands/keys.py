"""`ccproxy keys`: issues, lists, limits and revokes client keys. Needs Redis alone; acts on every proxy within a
second.

A key is shown once, when it is issued; the ledger has its SHA-256. Not here: enforcement (`edge.key_limits`).
"""

import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from rich.table import Table

from service.commands.redis_errors import redis_error
from service.embedded.run_file import redis_url_of
from service.errors import SettingsError
from service.ledger.events import ClientKeyIssued, ClientKeyLimited, ClientKeyRevoked
from service.ledger.keys import SECRET_BYTES, make_key
from service.ledger.state import ClientKey, ControlLedger
from service.settings import load
from service.settings.quantities import future_time
from service.settings.values import listed
from service.telemetry.options import NumberOption
from service.telemetry.safe_console import SafeConsole, Text
from service.telemetry.terminal import echo, echo_json

if TYPE_CHECKING:
    from service.routing.keys import KeyReading

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._@-]{0,63}")
NONE = "none"
"""The word for no limit."""
FIELDS = {"weekly_cost": "weekly_cost_nusd", "expires": "expires_at_ms"}
"""Fields of events whose names are not those of the options."""
DEFAULT_NAME = "default"


@click.group()
def keys() -> None:
    """Issue, list, limit and revoke client keys."""


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options for a key's limits."""
    options = (
        click.option(
            "--weekly-tokens", type=NumberOption(0, word=NONE), metavar="N", help="Tokens per week, such as 20M."
        ),
        click.option(
            "--weekly-cost",
            type=NumberOption(0, 10**9, whole=False, word=NONE),
            metavar="USD",
            help="Dollars per week.",
        ),
        click.option("--models", metavar="M,M", help="Allowed models; may be patterns, such as `claude-haiku-*`."),
        click.option("--routes", metavar="R,R", help="Allowed routes."),
        click.option("--concurrency", type=NumberOption(1, word=NONE), metavar="N", help="Maximum requests in flight."),
        click.option(
            "--expires", metavar="WHEN", help="A date (2027-01-31, until its end in UTC), or a duration: 12h, 30d."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


config_option = click.option(
    "--config", type=click.Path(path_type=Path), help="TOML file with settings; overrides CCPROXY_CONFIG."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@keys.command()
@click.argument("name")
@limit_options
@config_option
@json_option
def issue(name: str, config: Path | None, *, as_json: bool, **limits: Any) -> None:
    """Issue a key for NAME and print it, once."""
    if not NAME.fullmatch(name):
        raise click.UsageError(f"{name!r} is not a valid key name; use letters, digits, spaces and . _ @ -, at most 64")
    with open_operator(config) as (operator, _):
        if taken := [key_id for key_id, key in operator.control().keys.items() if key.name == name]:
            raise click.ClickException(
                f"a key named {name!r} exists already ({taken[0]}); revoke it first, or use another name"
            )
        show_new(*issue_key(operator, name, limits_of(limits, operator.now_ms())), as_json=as_json)


@keys.command()
@click.argument("name", default=DEFAULT_NAME)
@limit_options
@config_option
@json_option
def ensure(name: str, config: Path | None, *, as_json: bool, **limits: Any) -> None:
    """Issue a key for NAME if there is no key at all; for the first start of containers."""
    with open_operator(config) as (operator, _):
        if there := operator.control().keys:
            echo(f"existing keys: {len(there)}; no key was issued", err=True)
            return
        show_new(*issue_key(operator, name, limits_of(limits, operator.now_ms())), as_json=as_json)


@keys.command("list")
@config_option
@json_option
def list_keys(config: Path | None, *, as_json: bool) -> None:
    """List valid keys, their limits, and this week's usage."""
    from service.fleet.control_stream import read_view
    from service.routing.keys import read_key

    with open_operator(config) as (operator, settings):
        view, now_ms, quota = read_view(operator.redis), operator.now_ms(), settings.policy.quota
        rows = [
            (key_id, key, read_key(key_id, key, view, quota, settings.prices, now_ms))
            for key_id, key in sorted(view.control.keys.items())
        ]
    if as_json:
        fields = [{"key_id": key_id, **msgspec.to_builtins(key), "state": one.state, "used_tokens": one.used_tokens,
                   "used_cost_nusd": one.usage.cost_nusd, "unpriced": one.usage.unpriced,
                   "counted_cost_nusd": one.counted_nusd} for key_id, key, one in rows]  # fmt: skip
        for row in fields:
            del row["sha256"]
        echo_json(fields)
        return
    if not rows:
        echo("There are no keys. `ccproxy keys issue NAME` issues one.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("key", no_wrap=True)  # an id is copied: half a one is nobody's
    for title in ("name", "state", "week", "limits"):
        table.add_column(title, overflow="fold")
    for key_id, key, one in rows:
        used = f"{one.used_tokens:,} tokens, {cost_in_words(one)}"
        style = "green" if one.state == "ok" else "red"
        table.add_row(key_id, Text(key.name), Text(one.state, style=style), used, Text(limits_in_words(key)))
    SafeConsole().print(table, crop=False)


@keys.command()
@click.argument("name")
@limit_options
@config_option
def limit(name: str, config: Path | None, **limits: Any) -> None:
    """Change limits of the key NAME (a name or id); `none` removes one. The others stay."""
    if all(value is None for value in limits.values()):
        raise click.UsageError("no limit is named; use one such as --weekly-tokens 20M, or --weekly-tokens none")
    with open_operator(config) as (operator, _):
        key_id = key_id_of(operator.control(), name)
        merged = limits_in_force(operator.control().keys[key_id]) | limits_of(limits, operator.now_ms())
        operator.append([ClientKeyLimited(**operator.common_fields(), key_id=key_id, **merged)])
        echo(f"{key_id}: {limits_in_words(operator.control().keys[key_id])}")


@keys.command()
@click.argument("name")
@config_option
def revoke(name: str, config: Path | None) -> None:
    """Revoke the key NAME (a name or id), on all proxies within a second."""
    with open_operator(config) as (operator, _):
        key_id = key_id_of(operator.control(), name)
        operator.append([ClientKeyRevoked(**operator.common_fields(), key_id=key_id)])
        echo(f"{key_id} is revoked")


@contextmanager
def open_operator(config: Path | None) -> Iterator[tuple[Any, Any]]:
    """Open the ledger's Redis as an operator, with the settings; errors end the command with their fix."""
    from redis.exceptions import RedisError

    from service.fleet.control_stream import operator

    try:
        settings = load(config, to_serve=False)
    except SettingsError as error:
        raise click.ClickException(error.message) from None
    url = redis_url_of(settings)
    try:
        with operator(url) as opened:
            yield opened, settings
    except (RedisError, OSError) as error:
        raise redis_error(error, settings, url) from None


def issue_key(operator: Any, name: str, limits: dict[str, Any]) -> tuple[str, str]:
    """Issue a key; returns the key and its id."""
    key = make_key(name, secrets.token_bytes(SECRET_BYTES + 3))
    operator.append(
        [ClientKeyIssued(**operator.common_fields(), key_id=key.key_id, name=name, sha256=key.sha256, **limits)]
    )
    return key.text, key.key_id


def show_new(key: str, key_id: str, *, as_json: bool) -> None:
    """Print a new key; only the key goes to standard output, so that a script can read it."""
    if as_json:
        echo_json({"key_id": key_id, "key": key})
        return
    echo(f"{key_id}: save the key, it is not shown again. Clients send it as ANTHROPIC_AUTH_TOKEN.", err=True)
    echo(key)


def key_id_of(control: ControlLedger, name: str) -> str:
    """Return the active key with this id or name."""
    if name in control.keys:
        return name
    found = [key_id for key_id, key in control.keys.items() if key.name == name]
    if not found:
        raise click.ClickException(f"no key {name!r}; `ccproxy keys list` shows all")
    if len(found) > 1:
        raise click.ClickException(f"several keys are named {name!r}: {', '.join(found)}; use the id")
    return found[0]


def limits_of(given: dict[str, Any], now_ms: int) -> dict[str, Any]:
    """Return event fields of the limits that the options name."""
    return {FIELDS.get(name, name): limit_of(name, value, now_ms) for name, value in given.items() if value is not None}


def limit_of(name: str, value: Any, now_ms: int) -> Any:
    """Return an option's value as a field of an event."""
    match name:
        case "models" | "routes":
            return () if value == NONE else names_of(name, value)
        case _ if value == NONE:
            return None
        case "weekly_cost":
            return round(value * 10**9)
        case "expires":
            return expiry_ms(value, now_ms)
    return value


def limits_in_force(key: ClientKey) -> dict[str, Any]:
    """Return a key's limits as event fields."""
    names = ("weekly_tokens", "weekly_cost_nusd", "models", "routes", "concurrency", "expires_at_ms")
    return {name: getattr(key, name) for name in names}


def names_of(option: str, text: str) -> tuple[str, ...]:
    """Split a comma-separated list of names. An empty one may be a variable that is not set, and would allow all."""
    names = tuple(listed(text))
    if not names:
        raise click.UsageError(f"--{option} names none; `--{option} none` allows all")
    return names


def expiry_ms(text: str, now_ms: int) -> int:
    """Parse a key's expiry: the end of a day, a time, or a duration from now."""
    try:
        found_ms = int(future_time(text, datetime.fromtimestamp(now_ms / 1000, UTC)).timestamp() * 1000)
    except ValueError as error:
        raise click.UsageError(f"--expires: {error}") from None
    if found_ms <= now_ms:
        raise click.UsageError(f"--expires: {text} is in the past; `ccproxy keys revoke` ends a key at once")
    return found_ms


def cost_in_words(reading: "KeyReading") -> str:
    """Describe a key's cost, and what it has used that has no price."""
    cost = f"${reading.usage.cost_nusd / 1e9:,.2f}"
    if not reading.usage.unpriced:
        return cost
    return f"{cost} + {reading.usage.unpriced:,} without a price (counted as ${reading.counted_nusd / 1e9:,.2f} in all)"


def limits_in_words(key: ClientKey) -> str:
    """Describe a key's limits."""
    words = []
    if key.weekly_tokens is not None:
        words.append(f"{key.weekly_tokens:,} tokens per week")
    if key.weekly_cost_nusd is not None:
        words.append(f"${key.weekly_cost_nusd / 1e9:,.2f} per week")
    if key.models:
        words.append(f"models {', '.join(key.models)}")
    if key.routes:
        words.append(f"routes {', '.join(key.routes)}")
    if key.concurrency is not None:
        words.append(f"{key.concurrency} concurrent")
    if key.expires_at_ms is not None:
        words.append(f"until {datetime.fromtimestamp(key.expires_at_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC")
    return ", ".join(words) or "none"
