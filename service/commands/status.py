"""`ccproxy status`: how the fleet stands, once or each second. Not here: the facts and what they look like."""

import time
from contextlib import suppress
from pathlib import Path

import click
import msgspec
from redis.exceptions import RedisError
from rich.console import Console
from rich.live import Live
from rich.text import Text

from service.commands import config_option, json_option, with_settings
from service.console.running import place_of, redis_url_of
from service.console.screens import show_status
from service.console.status import Status, read_status
from service.settings import Settings

INTERVAL_S = 1.0


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Look again each second, until Ctrl-C.")
@config_option
@json_option
def status(config: Path | None, *, watch: bool, as_json: bool) -> None:
    """Show how routes, ledger and replicas stand, as Redis knows them."""
    settings = with_settings(config)
    if watch:
        with suppress(KeyboardInterrupt):
            look_on(settings, Console(), as_json=as_json)
        return
    found = asked(settings)
    if as_json:
        click.echo(told(found))
    else:
        show_status(found, Console())


def asked(settings: Settings) -> Status:
    """The status; ends the command when Redis can't be asked."""
    url = redis_url_of(settings)
    try:
        return read_status(settings, url)
    except (RedisError, OSError) as error:
        raise click.ClickException(
            f"Redis at {place_of(url)} can't be asked ({error}); start `ccproxy up`, or set REDIS_URL"
        ) from None


def look_on(settings: Settings, console: Console, *, as_json: bool) -> None:
    """Show it again and again: in place on a terminal, one below the other in a pipe. It outlives Redis."""
    with Live(console=console, auto_refresh=False, screen=console.is_terminal and not as_json) as live:
        while True:
            try:
                found = asked(settings)
                shown = told(found) if as_json else drawn(found, console)
            except click.ClickException as error:
                shown = msgspec.json.encode({"error": error.message}).decode() if as_json else error.message
            if console.is_terminal and not as_json:
                live.update(Text.from_ansi(shown), refresh=True)
            else:
                click.echo(shown)
            time.sleep(INTERVAL_S)


def told(found: Status) -> str:
    """One line of JSON."""
    return msgspec.json.encode(found.fields()).decode()


def drawn(found: Status, like: Console) -> str:
    """What `show_status` prints, for a terminal like this one."""
    page = Console(width=like.width, force_terminal=like.is_terminal)
    with page.capture() as captured:
        show_status(found, page)
    at = time.strftime("%H:%M:%S", time.localtime(found.at_ms / 1000))
    return f"{captured.get()}\n{at}  each second; Ctrl-C ends"
