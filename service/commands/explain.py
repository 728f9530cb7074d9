"""`ccproxy explain`: which route a request would take now, why not the others, and what if a provider went down.

Decides with the code that routes requests, on what Redis knows. Not here: that code (`routing.rank`), and sessions: a
session may stay where it was.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
from redis.exceptions import RedisError

from service.commands import config_option, json_option, with_settings
from service.commands.keys import key_id_of
from service.commands.redis_errors import redis_error
from service.commands.routes import complete_route
from service.commands.terminal_views import clock, why
from service.embedded.run_file import redis_url_of
from service.fleet.status import FleetView, read_fleet_view
from service.ledger.state import ClientKey
from service.routing.explanation import LAST_RESORT, ExplainedRoute, is_named
from service.routing.explanation import explain as explain_routes
from service.routing.keys import allows_model, read_key
from service.routing.rank import RoutingRequest
from service.routing.route_status import RouteStatus
from service.settings import Settings
from service.telemetry.safe_console import SafeConsole, Text
from service.telemetry.terminal import echo_json


@click.command()
@click.option(
    "--model", default="", metavar="M", help="The model that is asked for; default: any that all routes have."
)
@click.option("--key", default="", metavar="K", help="The client key that asks: its name or id.")
@click.option(
    "--without", multiple=True, metavar="R", shell_complete=complete_route,
    help="Assume that this route is down, or all routes of this provider.",
)  # fmt: skip
@config_option
@json_option
def explain(config: Path | None, model: str, key: str, without: tuple[str, ...], *, as_json: bool) -> None:
    """Say which route a request would take now, and why not the others."""
    settings = with_settings(config)
    fleet = fleet_or_exit(settings)
    check_names(without, fleet)
    asking = asker(fleet, settings, key, model)
    chain = [route for route in fleet.chain if not asking.routes or route.id in asking.routes]
    request = RoutingRequest(model=model, client=asking.key_id or None)
    routes = explain_routes(request, chain, fleet.view, settings.policy, fleet.now_ms, without)
    if not as_json:
        show(routes, asking.refusal, SafeConsole(), doubt_of(routes, fleet))
        return
    first = next((each.route for each in routes if each.place == 1 and not asking.refusal), "")
    echo_json(
        {
            "at_ms": fleet.now_ms,
            "model": model,
            "key": asking.key_id,
            "without": without,
            "refusal": asking.refusal,
            "next_route": first,
            "routes": [msgspec.to_builtins(each) for each in routes],
        }
    )


class Asker(NamedTuple):
    """Who asks: a client key, the routes that it may use (() for all), and why it would be refused."""

    key_id: str = ""
    routes: tuple[str, ...] = ()
    refusal: str = ""


def asker(fleet: FleetView, settings: Settings, name: str, model: str) -> Asker:
    """Return who asks; the keys of the settings have no limits."""
    if not name or any(known.key_id == name for known in settings.client_keys):
        return Asker(name)
    key_id = key_id_of(fleet.view.control, name)
    key = fleet.view.control.keys[key_id]
    return Asker(key_id, key.routes, key_refusal(fleet, settings, key_id, key, model))


def fleet_or_exit(settings: Settings) -> FleetView:
    """Return what routing decides with; ends the command if Redis does not answer."""
    url = redis_url_of(settings)
    try:
        return read_fleet_view(settings, url)
    except (RedisError, OSError) as error:
        raise redis_error(error, settings, url) from None


def check_names(names: tuple[str, ...], fleet: FleetView) -> None:
    """Reject names that are no route and no provider."""
    for name in names:
        if not any(is_named(route, (name,)) for route in fleet.chain):
            known = ", ".join(sorted({name for route in fleet.chain for name in (route.id, route.provider.id)}))
            raise click.ClickException(f"no route or provider {name!r}; available: {known}")


def key_refusal(fleet: FleetView, settings: Settings, key_id: str, key: ClientKey, model: str) -> str:
    """Return why a request with this key would go to no route at all, "" if it would."""
    reading = read_key(key_id, key, fleet.view, settings.policy.quota, settings.prices, fleet.now_ms)
    if reading.state != "ok":
        return f"the key {key.name} is {reading.state}"
    if model and not allows_model(key, model):
        return f"the key {key.name} may not use {model}"
    return ""


def doubt_of(routes: Sequence[ExplainedRoute], fleet: FleetView) -> str:
    """Say that the proxies see the first route in another way, which their settings do; "" if they don't."""
    first = next((each for each in routes if each.place == 1), None)
    reading = next((each for each in fleet.routes if first and each.route == first.route), None)
    if first is None or reading is None or reading.state == "quota_spent":
        return ""
    is_taken_for_well = first.reason != LAST_RESORT
    return "" if reading.available == is_taken_for_well else doubt_words(reading, fleet.now_ms)


def doubt_words(reading: RouteStatus, now_ms: int) -> str:
    """Say how the proxies see a route."""
    because = why(reading, now_ms)
    state = reading.state.replace("_", " ") + (f" ({because})" if because else "")
    return f"To the proxies, {reading.route} is {state}: their settings are others than those of this shell."


def show(routes: tuple[ExplainedRoute, ...], refusal: str, console: SafeConsole, doubt: str) -> None:
    """Print a sentence, and a line per route."""
    first = next((each for each in routes if each.place == 1), None)
    if refusal:
        console.print(Text(f"No route: {refusal}.", style="red"), soft_wrap=True)
    elif first:
        console.print(Text(f"A request would go to {first.route} now.", style="bold"), soft_wrap=True)
    else:
        console.print(Text("No route can answer now.", style="red"), soft_wrap=True)
    for each in routes:
        mark = f"{each.place}." if each.place else "-"
        console.print(Text(f"{mark:<3}{each.route}: {place_words(each)}"), soft_wrap=True)
    if doubt:
        console.print(Text(doubt, style="yellow"), soft_wrap=True)


def place_words(route: ExplainedRoute) -> str:
    """Describe a route's place."""
    until = f", until {clock(route.until_ms)}" if route.until_ms else ""
    if not route.place:
        return f"not tried: {route.reason}{until}"
    when = "first" if route.place == 1 else "if those before it fail"
    asked = f", as {route.model}" if route.model else ""
    return f"{when}{asked}{f'; {route.reason}' if route.reason else ''}"
