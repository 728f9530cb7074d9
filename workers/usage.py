"""Usage reports: tokens, costs and attempts by day, week, route, model and client key, from the usage cells in
Postgres.

Cells are whole hours, so reports cover whole hours; all times are UTC. A request counts where its last attempt ended,
and a session's move where the next answer came from; both are known from the events alone, and None for periods with
dropped events. Not here: output (`terminal_views`).
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from service.ledger import fold, ids
from service.ledger.state import Usage
from service.settings.quantities import past_time
from workers.archive import Archive
from workers.consume import NO_ENTRY, StreamSource, read_batch
from workers.store import QUERIES, first_id, week_of

DIMENSIONS = ("day", "week", "route", "model", "key", "hour")
HOUR = timedelta(hours=1)


class Period(NamedTuple):
    """A period of whole hours, `since` <= hour < `until`, UTC."""

    since: datetime
    until: datetime


class Moves(NamedTuple):
    """Answers of sessions that left a prompt cache behind, the tokens that were read anew, and their price; `unpriced`
    answers have none."""

    answers: int = 0
    tokens: int = 0
    cost_nusd: int = 0
    unpriced: int = 0


class EventCounts(NamedTuple):
    """What is known from the events alone."""

    requests: int = 0
    moves: Moves = Moves()


class UsageSum(NamedTuple):
    """Usage of one group; `names` are its dimensions, in the order of `Report.by`. `counts` is None if events were
    dropped."""

    names: tuple[str, ...]
    usage: Usage
    counts: EventCounts | None


class Unfolded(NamedTuple):
    """Events of routes that are in Redis and in no report yet; `more`: some streams have more than were counted."""

    events: int
    more: bool


class Report(NamedTuple):
    """The rows of a report, and their totals."""

    period: Period
    by: tuple[str, ...]
    rows: list[UsageSum]
    total: UsageSum


def period_of(since: str | None, until: str | None, now: datetime) -> Period:
    """Return the whole hours that cover a period; by default the last seven days and today. Raises ValueError."""
    begin = past_time(since, now) if since else (now - timedelta(days=7)).replace(hour=0)
    end = past_time(until, now) if until else now
    begin = begin.replace(minute=0, second=0, microsecond=0)
    whole = end.replace(minute=0, second=0, microsecond=0)
    end = whole if whole == end else whole + HOUR
    if begin >= end:
        raise ValueError(f"the period ends ({end:%Y-%m-%dT%H:%MZ}) before it begins ({begin:%Y-%m-%dT%H:%MZ})")
    return Period(begin, end)


def dimensions_of(requested: Iterable[str], known: tuple[str, ...] = DIMENSIONS) -> tuple[str, ...]:
    """Parse the dimensions to group by, given repeatedly or with commas. Raises ValueError."""
    names = [name.strip() for option in requested for name in option.split(",") if name.strip()]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a group; use {', '.join(known)}")
    return tuple(dict.fromkeys(names)) or ("day",)


def report(
    archive: Archive, period: Period, by: tuple[str, ...], *, route: str = "", model: str = "", key: str = ""
) -> Report:
    """Report the usage of a period, of one route, model or key, or of all (""). Raises psycopg.Error."""
    parameters = parameters_of(period, by, route=route, model=model, key=key)
    with archive.snapshot():
        cells = read_cells(archive, parameters)
        counts = read_counts(archive, parameters)
    places = [DIMENSIONS.index(name) for name in by]
    rows = []
    for names, usage in cells:
        count = None if counts is None else counts.get(names, EventCounts())
        rows.append(UsageSum(tuple(names[place] for place in places), usage, count))
    rows.sort(key=lambda row: row.names)
    return Report(period, by, rows, total_of(rows, known=counts is not None))


def unfolded(archive: Archive, streams: StreamSource, names: Iterable[str]) -> Unfolded:
    """Count the events that no worker has folded yet, of each stream at most a batch. Raises RedisError."""
    batches = []
    for name in names:
        last = archive.checkpoint(name)
        batches.append(read_batch(streams, name, last.run_id if last else "", last.stream_id if last else NO_ENTRY))
    return Unfolded(sum(len(batch.records) for batch in batches), any(batch.full for batch in batches))


def parameters_of(
    period: Period, by: tuple[str, ...], *, route: str = "", model: str = "", key: str = ""
) -> dict[str, Any]:
    """Return the parameters of the statements below."""
    return {
        **{name: name in by for name in DIMENSIONS},
        "only_route": route,
        "only_model": model,
        "only_key": key,
        "since": int(period.since.timestamp()),
        "until": int(period.until.timestamp()),
    }


def read_cells(archive: Archive, parameters: dict[str, Any]) -> list[tuple[tuple[str, ...], Usage]]:
    """Return usage by all dimensions; those that were not asked for are blank."""
    size = len(DIMENSIONS)
    cells = archive.connection.execute(QUERIES["usage_report"], parameters).fetchall()
    return [(tuple(cell[:size]), Usage(*cell[size:])) for cell in cells]


def usage_by_route(archive: Archive, period: Period) -> dict[str, dict[tuple[str, str], Usage]]:
    """Return the usage of a period by day and model, of each route. Raises psycopg.Error."""
    found: dict[str, dict[tuple[str, str], Usage]] = {}
    for names, usage in read_cells(archive, parameters_of(period, ("day", "route", "model"))):
        day, _, route, model, *_ = names
        found.setdefault(route, {})[day, model] = usage
    return found


def read_counts(archive: Archive, parameters: dict[str, Any]) -> dict[tuple[str, ...], EventCounts] | None:
    """Count requests and moves by all dimensions; None if events of the period were dropped."""
    week = week_of(ids.lowest_id(max(0, parameters["since"]) * 1000))
    found = archive.connection.execute(QUERIES["kept_from"]).fetchone()
    if found and ids.time_of_id_ms(found[0]) > parameters["since"] * 1000:
        return None
    parameters = parameters | {"first": first_id(week - 1)}
    requests = archive.connection.execute(QUERIES["requests_report"], parameters).fetchall()
    rows = archive.connection.execute(QUERIES["moves_report"], parameters).fetchall()
    moves = {row[: len(DIMENSIONS)]: Moves(*row[len(DIMENSIONS) :]) for row in rows}
    return {tuple(names): EventCounts(count, moves.get(tuple(names), Moves())) for *names, count in requests}


def total_of(rows: Sequence[UsageSum], *, known: bool) -> UsageSum:
    """Sum all rows."""
    total, requests, moves = Usage(), 0, Moves()
    for row in rows:
        fold.add_usage(total, row.usage)
        if row.counts:
            requests += row.counts.requests
            moves = Moves(*map(sum, zip(moves, row.counts.moves, strict=True)))
    return UsageSum((), total, EventCounts(requests, moves) if known else None)


def fields_of(row: UsageSum, by: Sequence[str]) -> dict[str, Any]:
    """Return a row as plain values, for JSON and CSV. The cost covers usage that has a price."""
    usage, counts = row.usage, row.counts
    return dict(zip(by, row.names, strict=False)) | {
        "requests": counts.requests if counts else None,
        "attempts": usage.attempts,
        "failed": usage.failed,
        "aborted": usage.aborted,
        "lost": usage.lost,
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "cache_read_tokens": usage.cache_read,
        "cache_write_5m_tokens": usage.cache_write_5m,
        "cache_write_1h_tokens": usage.cache_write_1h,
        "batch_items": usage.batch_items,
        "cost_nusd": usage.cost_nusd,
        "cost_usd": dollars(usage.cost_nusd, 9),
        "unpriced": usage.unpriced,
        "estimated": usage.estimated,
        "estimated_tokens": usage.estimated_tokens,
        "moves": counts.moves.answers if counts else None,
        "moved_tokens": counts.moves.tokens if counts else None,
        "moved_cost_nusd": counts.moves.cost_nusd if counts else None,
        "moved_unpriced": counts.moves.unpriced if counts else None,
    }


def dollars(nusd: int, places: int) -> str:
    """Format nano-dollars as dollars, exactly, rounded half up to so many places."""
    unit = 10 ** (9 - places)
    units = (abs(nusd) + unit // 2) // unit
    whole, part = divmod(units, 10**places)
    return f"{'-' if nusd < 0 else ''}{whole}.{part:0{places}d}"
