"""`ccproxy status`: shows the fleet's status, once or each second. Not here: the data and their layout."""

import time
from contextlib import suppress
from pathlib import Path

import click
from redis.exceptions import RedisError
from rich.live import Live
from rich.text import Text as AnsiText

from service.commands import config_option, json_option, with_settings
from service.commands.redis_errors import redis_error
from service.commands.terminal_views import show_status
from service.embedded.run_file import redis_url_of
from service.fleet.status import Status, read_status
from service.settings import Settings
from service.telemetry.safe_console import SafeConsole
from service.telemetry.safe_text import visible
from service.telemetry.terminal import echo_json, echo_own

INTERVAL_S = 1.0


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Refresh every second until Ctrl-C.")
@config_option
@json_option
def status(config: Path | None, *, watch: bool, as_json: bool) -> None:
    """Show the state of routes, ledger and replicas, as known to Redis."""
    settings = with_settings(config)
    if watch:
        with suppress(KeyboardInterrupt):
            watch_status(settings, SafeConsole(), as_json=as_json)
        return
    found = status_or_exit(settings)
    if as_json:
        echo_json(found.fields())
    else:
        show_status(found, SafeConsole())


def status_or_exit(settings: Settings) -> Status:
    """Return the status; ends the command if Redis does not answer."""
    url = redis_url_of(settings)
    try:
        return read_status(settings, url)
    except (RedisError, OSError) as error:
        raise redis_error(error, settings, url) from None


def watch_status(settings: Settings, console: SafeConsole, *, as_json: bool) -> None:
    """Show the status repeatedly: in place on a terminal, one below the other in a pipe. Continues through outages of
    Redis."""
    with Live(console=console, auto_refresh=False, screen=console.is_terminal and not as_json) as live:
        while True:
            try:
                found = status_or_exit(settings)
                fields, page = (found.fields(), "") if as_json else ({}, drawn(found, console))
            except click.ClickException as error:
                fields, page = {"error": error.message}, visible(error.message)
            if as_json:
                echo_json(fields)
            elif console.is_terminal:
                live.update(AnsiText.from_ansi(page), refresh=True)
            else:
                echo_own(page)
            time.sleep(INTERVAL_S)


def drawn(found: Status, like: SafeConsole) -> str:
    """Return what `show_status` prints, for a terminal like this one."""
    page = SafeConsole(width=like.width, force_terminal=like.is_terminal)
    with page.capture() as captured:
        show_status(found, page)
    at = time.strftime("%H:%M:%S", time.localtime(found.at_ms / 1000))
    return f"{captured.get()}\n{at}  every second; Ctrl-C to stop"
