"""Terminal output of `status` and `check`. Not here: the data."""

import time
from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap

from rich.console import RenderableType
from rich.table import Table

from service.commands.finding import Finding
from service.fleet.status import ReplicaStatus, Status
from service.routing.quota import WaitReading, WindowReading
from service.routing.route_status import RouteStatus, UnknownError, describe_limit, describe_unpriced
from service.telemetry.safe_console import SafeConsole, Text
from service.telemetry.safe_text import visible

COLOURS = {"healthy": "green", "degraded": "yellow", "quota_warning": "yellow", "off": "dim"}
REPLICAS = "replicas  "
SKEW_MS = 5_000
"""A clock that is further off is worth saying: log lines of such a machine have other times."""
BAR_WIDTH = 8
"""Wide enough to see a change, narrow enough for the whole table to fit 80 columns."""


def show_status(status: Status, console: SafeConsole) -> None:
    """Print the status; routes first, since they are what people look for."""
    console.print(routes_table(status))
    for reading in status.routes:
        for words in notes(reading, status.at_ms):
            console.print(Text(f"{reading.route}: {words}", style="dim"), soft_wrap=True)
    console.print()
    if status.routes:
        console.print(f"next      {visible(next_words(status))}; see `ccproxy explain`")
    console.print(f"ledger    {ledger_words(status)}")
    show_replicas(status, console)
    show_problems(status, console)
    show_differences("settings", status.settings, console)
    show_differences("versions", status.versions, console)


def show_problems(status: Status, console: SafeConsole) -> None:
    """Print the number of workers, and what is wrong with proxies and workers."""
    if status.workers:
        console.print(f"workers   {len(status.workers)}")
    told = [("redis", words) for words in status.redis_faults]
    told += [(one.replica, words) for one in status.replicas for words in one.problems]
    told += [(f"worker {one.worker}", words) for one in status.workers for words in one.problems]
    for name, words in told:
        console.print(Text(visible(f"problem   {name}: {words}"), style="red"), soft_wrap=True)


def show_differences(name: str, groups: Mapping[str, Sequence[str]], console: SafeConsole) -> None:
    """Print which replicas have what, if they differ."""
    if len(groups) > 1:
        words = "; ".join(f"{value} {', '.join(replicas)}" for value, replicas in groups.items())
        console.print(Text(visible(f"{name}  differ between replicas: {words}"), style="yellow"), soft_wrap=True)


def next_words(status: Status) -> str:
    """Describe where the next request goes."""
    reading = next((each for each in status.routes if each.route == status.next_route), None)
    if reading is None:
        return status.next_route or "no route can answer now"
    if reading.available:
        return reading.route
    return f"no route is available; {reading.route} is tried all the same, since it is back first"


def ledger_words(status: Status) -> str:
    """Describe how far the ledger is, and which streams have entries to fold."""
    late = [stream for stream in status.streams if stream.lag]
    waiting = ", ".join(f"{stream.stream} {stream.lag}" for stream in late) or "none"
    events = sum(stream.position for stream in status.streams)
    return f"{events:,} events folded, entries to fold: {waiting}"


def show_replicas(status: Status, console: SafeConsole) -> None:
    """Print a line per replica; on a terminal, long text wraps."""
    lines = [visible(words_of(replica, status.at_ms)) for replica in status.replicas] or ["none; is a proxy running?"]
    room = console.width - len(REPLICAS)
    shown = [part for line in lines for part in (wrap(line, room) if console.is_terminal else [line])]
    for number, line in enumerate(shown):
        console.print(f"{'' if number else REPLICAS:{len(REPLICAS)}}{line}", soft_wrap=True)


def words_of(replica: ReplicaStatus, now_ms: int) -> str:
    """Describe a replica: its name, version, and whether it drains."""
    facts = [f"seen {replica.seen_ms_ago / 1000:.0f} s ago"]
    if replica.version:
        facts = [replica.version, replica.address, f"up {span(now_ms - replica.started_at_ms)}", *facts]
    if replica.pending:
        facts.append(f"{replica.pending:,} events pending")
    if abs(replica.clock_skew_ms or 0) >= SKEW_MS:
        facts.append(skew_words(replica.clock_skew_ms or 0))
    if replica.draining:
        facts.append("draining")
    return f"{replica.replica} ({', '.join(facts)})"


def skew_words(skew_ms: int) -> str:
    """Say how far a machine's clock is from the fleet's time, which is that of Redis."""
    return f"its machine's clock is {span(abs(skew_ms))} {'fast' if skew_ms > 0 else 'slow'}"


def span(ms: int) -> str:
    """Format a duration in its largest unit: 59 s, 3 min, 5 h, 12 d."""
    for size_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min")):
        if ms >= size_ms:
            return f"{ms // size_ms} {unit}"
    return f"{max(0, ms) // 1_000} s"


def routes_table(status: Status) -> Table:
    """Return a table with a row per route; tokens are those of the current week."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("route", overflow="fold")  # a name that is cut can't be typed
    for name in ("state", "week"):
        table.add_column(name, no_wrap=True)
    for name in ("tries", "failed", "input", "output", "cached"):
        table.add_column(name, justify="right", no_wrap=True)
    for reading in status.routes:
        table.add_row(*row(reading))
    return table


def row(reading: RouteStatus) -> list[RenderableType]:
    """Return one route's cells."""
    cached = reading.cache_read_tokens + reading.cache_write_5m_tokens + reading.cache_write_1h_tokens
    counts = (reading.attempts, reading.failed, reading.input_tokens, reading.output_tokens, cached)
    state = Text(reading.state.replace("_", " "), style=COLOURS.get(reading.state, "red"))
    return [reading.route, state, quota_bar(reading), *(short(count) for count in counts)]


def short(count: int) -> str:
    """Format a count in at most five characters: 999, 12.3k, 4.56M. Rounding up to 1,000 switches to the next unit."""
    for size, letter in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def quota_bar(reading: RouteStatus) -> RenderableType:
    """Return a bar of the used share of the week's limit."""
    if not reading.limit_tokens:
        return Text("no limit", style="dim")
    filled = min(BAR_WIDTH, round(reading.used_percent / 100 * BAR_WIDTH))
    style = {"ok": "green", "warning": "yellow", "spent": "red"}[reading.quota]
    return Text("█" * filled + "░" * (BAR_WIDTH - filled), style=style) + Text(f" {reading.used_percent:.0f} %")


def usage_notes(reading: RouteStatus) -> Iterator[str]:
    """Yield what has to be said about the week's usage."""
    if reading.estimated:
        yield f"{reading.estimated_tokens:,} of the tokens, of {reading.estimated:,} attempts, are estimates"
    if reading.unpriced:
        yield f"{describe_unpriced(reading.unpriced, reading.unpriced_models)}; see `ccproxy prices`"


def notes(reading: RouteStatus, now_ms: int) -> Iterator[str]:
    """Yield details below the table: reasons, cool-downs, providers' windows, the forecast, and unknown errors."""
    if words := why(reading, now_ms):
        yield words
    for wait in reading.waits:
        yield f"cool-down {wait_words(wait)}: {wait.reason}, until {clock(wait.until_ms)}"
    if reading.windows:
        yield "windows " + ", ".join(map(window_words, reading.windows))
    if reading.limit_source == "operator":
        yield describe_limit(reading.limit_tokens, reading.configured_tokens)
    if reading.exhausted_at_ms:
        yield f"at this rate, the weekly limit is reached {clock(reading.exhausted_at_ms)}"
    yield from usage_notes(reading)
    yield from map(unknown_words, reading.unknown_words)
    if reading.second_opinions:
        counts = ", ".join(f"{count:,} {outcome}" for outcome, count in reading.second_opinions.items())
        yield f"second opinions {counts}"
    if reading.unread_usage:
        told = ", ".join(f"{name} (last {clock(at_ms)})" for name, at_ms in reading.unread_usage.items())
        yield f"fields of usage that are not counted: {told}"


def wait_words(wait: WaitReading) -> str:
    """Say whose a cool-down is: `quota of account 0f1e2d3c4b5a6978, opus, count_tokens`."""
    owner = f"{wait.scope} of account {wait.account}" if wait.account else wait.scope
    return ", ".join(part for part in (owner, wait.holds, wait.endpoint.replace("messages", "")) if part)


def unknown_words(error: UnknownError) -> str:
    """Describe an error that no rule knows, by the digest of its words."""
    met_by = f"{error.requests} requests of {error.clients} clients" if error.requests > 1 else "1 request"
    return (
        f"unknown error {error.words}: status {error.status} on {error.endpoint}, {met_by}, last {clock(error.at_ms)}"
    )


def why(reading: RouteStatus, now_ms: int) -> str:
    """Describe the reason and its end."""
    return f"{reading.reason}, until {clock(reading.until_ms)}" if reading.until_ms > now_ms else reading.reason


def window_words(window: WindowReading) -> str:
    """Format a window: `5h 93 % until Mon 12:00:00`."""
    used = window.status if window.used_percent is None else f"{window.used_percent:.0f} %"
    return f"{window.name} {used} until {clock(window.resets_at_ms)}"


def clock(at_ms: int) -> str:
    """Format a time within the next days, in this machine's time zone."""
    return time.strftime("%a %H:%M:%S", time.localtime(at_ms / 1000))


def show_findings(findings: list[Finding], console: SafeConsole) -> None:
    """Print a line per finding."""
    for finding in findings:
        mark = Text("✓", style="green") if finding.ok else Text("✗", style="red")
        if finding.ok is None:
            mark = Text("·", style="dim")
        console.print(mark, finding.what, Text(finding.words, style="" if finding.ok else "default"), soft_wrap=True)
