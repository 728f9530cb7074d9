"""`ccproxy routes`: disables, enables and resets routes, and changes their limits.

Needs Redis alone: a command is an event on the control stream, which every proxy reads itself, so that it takes effect
within a second. A reset is an event of the route's own stream, too, where workers fold it. Not here: what the events
mean (`service.ledger`).
"""

from pathlib import Path
from typing import Any

import click
from msgspec.structs import asdict

from service.commands import config_option, json_option, with_settings
from service.commands.keys import open_operator
from service.fleet.control_stream import read_view
from service.ledger.events import Forgotten, QuotaLimitChanged, RouteDisabled, RouteEnabled
from service.ledger.wire import CONTROL, STREAMS_KEY
from service.routing.reset import describe_forgotten, read_forgotten
from service.settings import Settings
from service.settings.quantities import MOST_INTEGER, whole_number
from service.telemetry.terminal import echo, echo_json

AS_SET = "settings"


@click.group()
def routes() -> None:
    """Disable, enable and reset routes, and change their weekly limits."""


def complete_route(_context: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Complete route names for the shell."""
    try:
        return [route.id for route in with_settings(None).routes if route.id.startswith(begun)]
    except click.ClickException:
        return []


route_argument = click.argument("route", shell_complete=complete_route)


@routes.command()
@route_argument
@click.option("--reason", default="", metavar="TEXT", help="Reason to show with the route.")
@config_option
def disable(route: str, reason: str, config: Path | None) -> None:
    """Take ROUTE out of service. Requests in flight are finished."""
    with open_operator(config) as (operator, settings):
        check_known([route], operator, settings)
        operator.append([RouteDisabled(**operator.common_fields(), route=route, reason=reason)])
    echo(f"{route} is disabled{f': {reason}' if reason else ''}. `ccproxy routes enable {route}` enables it again.")


@routes.command()
@route_argument
@config_option
def enable(route: str, config: Path | None) -> None:
    """Put ROUTE back into service."""
    with open_operator(config) as (operator, settings):
        check_known([route], operator, settings)
        operator.append([RouteEnabled(**operator.common_fields(), route=route)])
    echo(f"{route} is enabled.")


@routes.command()
@click.argument("names", metavar="[ROUTE]...", nargs=-1, shell_complete=complete_route)
@config_option
@json_option
def reset(names: tuple[str, ...], config: Path | None, *, as_json: bool) -> None:
    """Forget what is held against ROUTE, or all routes: circuit, cool-downs, provider's windows, missing models and
    unknown errors. Attempts that began before no longer count, either. Usage and quotas stay.
    """
    with open_operator(config) as (operator, settings):
        chosen = list(dict.fromkeys(names)) or [route.id for route in settings.routes]
        check_known(chosen, operator, settings)
        forgot = forgotten_by(operator, chosen, settings)
        for route in chosen:
            operator.reset(route, forgot[route])
    if as_json:
        echo_json([{"route": route, **asdict(forgot[route])} for route in chosen])
        return
    for route in chosen:
        echo(f"{route} is reset: {describe_forgotten(forgot[route])}.")


def forgotten_by(operator: Any, routes: list[str], settings: Settings) -> dict[str, Forgotten]:
    """Return what a reset forgets of each route, as known to Redis. Raises RedisError."""
    view, now_ms = read_view(operator.redis), operator.now_ms()
    return {route: read_forgotten(route, view, settings.policy, now_ms) for route in routes}


@routes.command()
@route_argument
@click.argument("tokens")
@config_option
def limit(route: str, tokens: str, config: Path | None) -> None:
    """Set ROUTE's weekly limit to TOKENS: a number such as 20M, 0 for none, or `settings` for the configured one."""
    weekly_tokens = tokens_of(tokens)
    with open_operator(config) as (operator, settings):
        check_known([route], operator, settings)
        operator.append([QuotaLimitChanged(**operator.common_fields(), route=route, weekly_tokens=weekly_tokens)])
    words = "as configured" if weekly_tokens is None else f"{weekly_tokens:,} tokens" if weekly_tokens else "none"
    echo(f"{route}: weekly limit {words}.")


def check_known(names: list[str], operator: Any, settings: Settings) -> None:
    """Reject routes that neither the settings nor any proxy's streams know. Raises RedisError."""
    streams = {name.decode() for name in operator.redis.smembers(STREAMS_KEY)} - {CONTROL}
    known = streams | {route.id for route in settings.routes}
    for name in names:
        if name not in known:
            raise click.ClickException(f"no route {name!r}; available: {', '.join(sorted(known))}")


def tokens_of(text: str) -> int | None:
    """Parse a limit: 20M, 1.5M, 20_000_000; None for that of the settings."""
    if text == AS_SET:
        return None
    try:
        return whole_number(text, 0, MOST_INTEGER)
    except ValueError as error:
        raise click.UsageError(f"{error}; 0 is no limit, `{AS_SET}` the configured one") from None
