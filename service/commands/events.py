"""`ccproxy events`: recent events from the tails of the streams, and new ones as they come.

Needs Redis alone; a worker for events that are no longer on the streams. Not here: finding and describing events
(`past_events`, `console.stream_reader`, `console.event_text`).
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import click
from redis.exceptions import RedisError
from rich.table import Table

from service.commands import config_option, json_option, with_settings
from service.commands.past_events import Question, past_events
from service.commands.redis_errors import redis_error
from service.commands.routes import complete_route
from service.console.api_types import EventView
from service.console.reports import queue_url
from service.console.stream_reader import StreamReader
from service.embedded.run_file import place_of, redis_url_of
from service.ledger.events import EVENT_NAMES
from service.ledger.wire import entry_order
from service.redis_client.factory import open_async
from service.settings.quantities import TIME_FORMS, past_time
from service.telemetry.options import NumberOption
from service.telemetry.safe_console import SafeConsole, Text
from service.telemetry.terminal import echo, echo_json

POLL_S = 0.25
RETRY_S = 1.0
TIMEOUT_S = 5.0
USUAL, MOST_SHOWN = 20, 10_000
STYLES = {"warning": "yellow", "problem": "red"}
ROUTE_WIDTH = 12
STARTED = "attempt_started"


class Wanted(NamedTuple):
    """Filters of events; empty, None or 0 matches all."""

    routes: tuple[str, ...] = ()
    outcome: str | None = None
    key: str = ""
    model: str = ""
    request: str = ""
    types: tuple[str, ...] = ()
    since_ms: int = 0
    starts: bool = False

    def __call__(self, view: EventView) -> bool:
        """True if an event is shown. Starts of attempts are shown on request, or for a single request."""
        return self._shows_type(view.type) and all(
            (
                not self.routes or view.route in self.routes,
                not self.outcome or view.outcome == self.outcome,
                not self.key or view.client_key == self.key,
                not self.model or fnmatchcase(view.model, self.model),
                not self.request or view.request_id == self.request,
                view.at_ms >= self.since_ms,
            )
        )

    def _shows_type(self, name: str) -> bool:
        """Return true if events of this type are shown."""
        if self.types:
            return name in self.types
        return name != STARTED or self.starts or bool(self.request)


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Keep printing new events.")
@click.option("-n", "--limit", type=NumberOption(0, MOST_SHOWN), help="Number of past events; default: 20.")
@click.option("--route", "routes", multiple=True, metavar="R", shell_complete=complete_route, help="Only these routes.")
@click.option("--outcome", type=click.Choice(["ok", "failed", "aborted"]), help="Only attempts with this outcome.")
@click.option("--key", default="", metavar="K", help="Only events of this client key.")
@click.option(
    "--model", default="", metavar="M", help="Only events of this model; may be a pattern, such as `claude-haiku-*`."
)
@click.option("--request", default="", metavar="ID", help="Only events of this request, including starts of attempts.")
@click.option(
    "--type", "types", multiple=True, type=click.Choice(EVENT_NAMES), metavar="T",
    help="Only events of these types, such as attempt_lost.",
)  # fmt: skip
@click.option("--since", metavar="TIME", help=f"Only events since then: {TIME_FORMS}; UTC.")
@click.option("--starts", is_flag=True, help="Include starts of attempts.")
@config_option
@json_option
def events(
    config: Path | None, limit: int | None, since: str | None, *, follow: bool, as_json: bool, **chosen: Any
) -> None:
    """Show recent events: attempts and their outcomes, failovers, refusals, operators' commands."""
    wanted = Wanted(**chosen, since_ms=since_ms(since))
    usual = MOST_SHOWN if since or wanted.request else USUAL
    settings = with_settings(config)
    url = redis_url_of(settings)
    queue = queue_url(settings) if settings.redis_url else url
    show = output_function(SafeConsole(), as_json=as_json)
    try:
        with suppress(KeyboardInterrupt):
            asyncio.run(show_events(url, queue, wanted, usual if limit is None else limit, show, follow=follow))
    except (RedisError, OSError) as error:
        raise redis_error(error, settings, url) from None


def since_ms(text: str | None) -> int:
    """Parse a time; 0 if there is none."""
    if text is None:
        return 0
    try:
        return int(past_time(text, datetime.now(UTC)).timestamp() * 1000)
    except ValueError as error:
        raise click.UsageError(f"--since: {error}") from None


Show = Callable[[Iterable[EventView]], None]


async def show_events(url: str, queue: str | None, wanted: Wanted, most: int, show: Show, *, follow: bool) -> None:
    """Show past events, then new ones. Raises RedisError or OSError before it follows."""
    redis = open_async(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S, legacy_responses=False)
    async with redis:
        tail = StreamReader(redis, ())
        streams = await tail.streams()
        ends = await tail.ends(streams)
        if most:
            past = await past_events(tail, streams, queue, question_of(wanted, most, ends))
            show(reversed(past.events))
            if past.missing:
                echo(past.missing, err=True)
        while follow:
            try:
                ends |= dict.fromkeys(set(await tail.streams()) - ends.keys(), "0-0")
                show(view for view in await tail.news(ends) if wanted(view))
                await asyncio.sleep(POLL_S)
            except (RedisError, OSError) as error:
                echo(f"Redis at {place_of(url)} is unreachable ({error}); waiting for it", err=True)
                await asyncio.sleep(RETRY_S)


def question_of(wanted: Wanted, most: int, ends: dict[str, str]) -> Question:
    """Return the question for past events; filters with several values or a pattern are applied here alone."""
    filters = {
        "stream": "",
        "type": wanted.types[0] if len(wanted.types) == 1 else "",
        "route": wanted.routes[0] if len(wanted.routes) == 1 else "",
        "key": wanted.key,
        "model": "" if set(wanted.model) & set("*?[") else wanted.model,
        "request": wanted.request,
        "outcome": wanted.outcome or "",
    }
    return Question(most, wanted.since_ms, lambda view: wanted(view) and is_past(view, ends), filters)


def is_past(view: EventView, ends: dict[str, str]) -> bool:
    """True if an event is of the ledger, or at or before these stream ends."""
    return not view.entry or entry_order(view.entry) <= entry_order(ends[view.stream])


def output_function(console: SafeConsole, *, as_json: bool) -> Show:
    """Return the output function: JSON lines, or lines for people."""

    def show(views: Iterable[EventView]) -> None:
        for view in views:
            if as_json:
                echo_json(view)
            elif console.is_terminal:
                console.print(row(view))
            else:
                echo(" ".join(cells(view)))

    return show


def cells(view: EventView) -> tuple[str, str, str, str]:
    """Return time, request, route, and text with the key."""
    at = time.strftime("%H:%M:%S", time.localtime(view.at_ms / 1000))
    whose = view.by or view.client_key
    return at, f"{view.request_id:<18}", f"{view.route:<{ROUTE_WIDTH}}", view.words + (f" ({whose})" if whose else "")


def row(view: EventView) -> Table:
    """Return a table row for the terminal; long text wraps within its column."""
    at, request, route, words = cells(view)
    table = Table.grid(padding=(0, 1, 0, 0))
    for width in (len(at), len(request), ROUTE_WIDTH):
        table.add_column(width=width, overflow="fold")
    table.add_column(overflow="fold", ratio=1)
    style = STYLES.get(view.level, "dim" if view.type == STARTED else "")
    table.add_row(
        Text(at, style="dim"), Text(request.strip(), style="dim"), Text(route.strip()), Text(words, style=style)
    )
    return table
