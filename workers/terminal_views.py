"""Terminal output of the workers' commands, with progress bars. Not here: finding the facts."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from service.telemetry.safe_console import SafeConsole, Text
from service.telemetry.safe_text import csv_text
from workers.backup import Manifest
from workers.recount import Progress as Told
from workers.reprice import Repricing
from workers.restore import Gap
from workers.usage import Report, Unfolded, UsageSum, dollars, fields_of
from workers.verify import StreamReport

COUNTS = {
    "requests": "requests",
    "attempts": "attempts",
    "failed": "failed",
    "aborted": "aborted",
    "lost": "lost",
    "input_tokens": "input",
    "output_tokens": "output",
    "cached_tokens": "cached",
    "batch_items": "batch",
    "moves": "moves",
}
ALWAYS = ("requests", "attempts", "input_tokens", "output_tokens")
"""Shown even if 0; other columns only if one of their values is not."""
NAME_WIDTH = 12
"""Minimum width of a column of long names, next to columns of numbers."""
LINE_EVERY = 100_000
"""Rows between progress lines written to a pipe."""


@contextmanager
def progress_of(console: SafeConsole, title: str, begin: int, end: int, *, lines: bool = False) -> Iterator[Told]:
    """Show a progress bar on a terminal; otherwise, with `lines`, print occasional lines, or nothing."""
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(title, total=max(1, end - begin))
            yield lambda position: bar.update(task, completed=position - begin)
        return
    reported = begin

    def report_position(position: int) -> None:
        nonlocal reported
        if lines and position >= reported + LINE_EVERY:
            reported = position
            console.print(f"{title}: {position - begin:,} of {end - begin:,}", soft_wrap=True)

    yield report_position


def show_verified(reports: Sequence[StreamReport], console: SafeConsole) -> None:
    """Print a line per stream, then the differences."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("stream")
    for name in ("events", "from", "to", "differences"):
        table.add_column(name, justify="right")
    for report in reports:
        count = len(report.differences) + report.more
        summary = Text(f"{count:,}" if count else "none", style="red" if count else "green")
        table.add_row(
            report.stream, f"{report.events:,}", f"{report.from_position + 1:,}", f"{report.position:,}", summary
        )
    console.print(table)
    if all(report.ok for report in reports):
        console.print("All projections match their events.")
        return
    console.print()
    console.print(differences_table(reports))
    for report in reports:
        if report.more:
            console.print(f"{report.stream}: and {report.more:,} more differing rows")
    console.print("`ccproxy ledger rebuild` rebuilds the projections from the events.")


def show_repriced(found: Sequence[Repricing], version: str, console: SafeConsole, *, dry_run: bool) -> None:
    """Print what each stream's usage costs, before and now."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("stream")
    for name in ("usage", "changed", "cost before", "cost now", "without a price before", "now"):
        table.add_column(name, justify="right")
    for one in found:
        costs = (f"${dollars(nusd, 4)}" for nusd in (one.was_nusd, one.now_nusd))
        unpriced = (f"{count:,}" for count in (one.was_unpriced, one.now_unpriced))
        table.add_row(one.stream, f"{one.events:,}", f"{one.changed:,}", *costs, *unpriced)
    console.print(table)
    ending = "would change" if dry_run else "changed"
    console.print(f"Price list {version}: {sum(one.changed for one in found):,} prices {ending}.")


def differences_table(reports: Sequence[StreamReport]) -> Table:
    """Return a table of all differences."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("stream", "what", "where", "found", "expected"):
        table.add_column(name, overflow="fold")
    for report in reports:
        for one in report.differences:
            table.add_row(report.stream, *(Text(words) for words in (one.what, one.name, one.stands, one.should)))
    return table


def show_usage(report: Report, console: SafeConsole) -> None:
    """Print a row per group, and the totals."""
    since, until = report.period
    console.print(f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}, UTC")
    if not report.rows:
        console.print("No usage in this period; `--since` and `--until` choose another one.")
        return
    console.print(usage_table(report), crop=False)
    for note in usage_notes(report.total):
        console.print(note, style="dim")


def usage_table(report: Report) -> Table:
    """Build the table of a usage report, with the totals in its footer."""
    total = row_fields_for_table(report.total, ())
    shown = shown_counts(total)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0), show_footer=True)
    for place, name in enumerate(report.by):
        width = name_width(name, [row.names[place] for row in report.rows])
        table.add_column(name, footer="total" if place == 0 else "", overflow="fold", min_width=width)
    for name in shown:
        table.add_column(COUNTS[name], footer=counted(total[name]), justify="right", no_wrap=True)
    table.add_column("cost", footer=cost_of(report.total), justify="right", no_wrap=True)
    for row in report.rows:
        fields = row_fields_for_table(row, report.by)
        names = (Text(name or "-") for name in row.names)
        table.add_row(*names, *(counted(fields[name]) for name in shown), cost_of(row))
    return table


def shown_counts(total: dict[str, Any]) -> list[str]:
    """Return the counts that have a column: those that always have one, and those that are not 0."""
    return [name for name in COUNTS if name in ALWAYS or total[name]]


def name_width(title: str, names: Sequence[str]) -> int:
    """Return the least width of a column of names."""
    return min(NAME_WIDTH, max(len(text) for text in (title, "total", *names)))


def usage_notes(total: UsageSum) -> Iterator[str]:
    """Yield what has to be said about the totals."""
    if total.counts is None:
        yield "Request counts are unknown: events of this period were dropped."
    elif total.counts.moves.answers:
        _, tokens, cost_nusd, unpriced = total.counts.moves
        missing = f", and {unpriced:,} answers without a price" if unpriced else ""
        yield f"Moved sessions had {tokens:,} tokens read anew, at a list price of ${dollars(cost_nusd, 4)}{missing}."
    if total.usage.unpriced:
        yield f"+ {total.usage.unpriced:,} attempts or batch items without a price, which the cost leaves out"
    if total.usage.estimated:
        yield f"{total.usage.estimated_tokens:,} of the tokens, of {total.usage.estimated:,} attempts, are estimates."


def row_fields_for_table(row: UsageSum, by: Sequence[str]) -> dict[str, Any]:
    """Return a row's fields with the cached token kinds summed; JSON and CSV list them separately."""
    fields = fields_of(row, by)
    kinds = ("cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")
    return fields | {"cached_tokens": sum(fields[kind] for kind in kinds)}


def counted(count: int | None) -> str:
    """Format a count with thousands separators."""
    return "-" if count is None else f"{count:,}"


def cost_of(row: UsageSum) -> str:
    """Format a cost in dollars; "+" if part of the usage has no price, "-" if none has."""
    usage = row.usage
    if usage.unpriced and not usage.cost_nusd:
        return "-"
    whole, _, part = dollars(usage.cost_nusd, 4).partition(".")
    return f"${int(whole):,}.{part}{'+' if usage.unpriced else ''}"


def usage_json(report: Report) -> dict[str, Any]:
    """Return a report as JSON-compatible values."""
    return {
        "since": f"{report.period.since:%Y-%m-%dT%H:%M:%SZ}",
        "until": f"{report.period.until:%Y-%m-%dT%H:%M:%SZ}",
        "time_zone": "UTC",
        "by": list(report.by),
        "rows": [fields_of(row, report.by) for row in report.rows],
        "total": fields_of(report.total, ()),
    }


def words_of_unfolded(late: Unfolded | None) -> str:
    """Return what a report has to say of events that it lacks; "" if there are none."""
    if late is None:
        return "Redis can't be asked if events wait to be folded, which would be missing here; see `ccproxy check`."
    if not late.events:
        return ""
    count = f"{late.events:,}{' or more' if late.more else ''}"
    return f"{count} events wait in Redis and are not in this report yet; is a worker running?"


def usage_csv(report: Report) -> str:
    """Return a report's rows as CSV, with a header and without totals."""
    return csv_text([*report.by, *fields_of(report.total, ())], [fields_of(row, report.by) for row in report.rows])


def show_backup(manifest: Manifest, title: str, console: SafeConsole) -> None:
    """Print the contents of a backup."""
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(manifest.made_at_ms / 1000))
    events = sum(place.position for place in manifest.streams)
    console.print(title, soft_wrap=True)
    console.print(
        f"{manifest.rows:,} rows, {events:,} events in {len(manifest.streams)} streams, schema {manifest.schema:04}, "
        f"as of {made} UTC",
        highlight=False,
        soft_wrap=True,
    )


def show_gaps(gaps: Sequence[Gap], console: SafeConsole) -> None:
    """Print the periods that neither the backup nor Redis covers."""
    for gap in gaps:
        begin, end = (time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at / 1000)) for at in (gap.from_ms, gap.to_ms))
        message = f"{gap.stream}: events between {begin} and {end} UTC are missing"
        console.print(message, style="yellow", soft_wrap=True)


def show_put_aside(rows: Sequence[dict[str, Any]], console: SafeConsole) -> None:
    """Print dead letters and quarantined events, newest first."""
    if not rows:
        console.print("There are no dead letters and no quarantined events.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in ("kind", "stream", "seen (UTC)", "reason", "bytes"):
        table.add_column(name, overflow="fold")
    for row in rows:
        seen = row["seen_at"].replace("T", " ").removesuffix("Z")
        table.add_row(
            *(Text(words) for words in (row["kind"], row["stream"], seen, row["reason"], preview(row["raw"])))
        )
    console.print(table)


def preview(raw: str) -> str:
    """Return the beginning of an event's text."""
    return raw if len(raw) <= 120 else f"{raw[:120]} ..."
