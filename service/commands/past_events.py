"""Past events for `ccproxy events`: those on the streams, and where the streams don't reach, those of the ledger.

Workers keep a bounded tail on each stream, so older events are asked of them, as the dashboard does. Not here: new
events, and output (`events`).
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from service.console.api_types import EventView
from service.console.event_text import views_of_rows
from service.console.reports import ReportClient
from service.console.stream_reader import StreamReader
from service.errors import BadReport, ReportAway
from service.ledger.ids import lowest_id

PAGE = 500
MOST_PAGES = 40

Matches = Callable[[EventView], bool]


class Question(NamedTuple):
    """What is asked for: at most `most` events since `since_ms` that match; `filters` are those that the workers
    know."""

    most: int
    since_ms: int
    matches: Matches
    filters: dict[str, str]


class PastEvents(NamedTuple):
    """Events, newest first. `missing`: why older ones may be missing, "" if none are."""

    events: list[EventView]
    missing: str = ""


async def past_events(
    tail: StreamReader, streams: Sequence[str], queue_url: str | None, question: Question
) -> PastEvents:
    """Return the newest matching events. Raises RedisError or OSError."""
    page = await tail.page(streams, "", question.most, question.matches)
    floor_ms = await tail.complete_from_ms(streams)
    if len(page.events) >= question.most or floor_ms <= question.since_ms:
        return PastEvents(page.events[: question.most])
    reports = ReportClient(queue_url)
    try:
        older = await older_events(reports, question, floor_ms, {view.event_id for view in page.events})
    except (ReportAway, BadReport) as error:
        is_known = await tail.has_history(streams)
        return PastEvents(page.events, missing_words(floor_ms, error) if is_known else "")
    finally:
        reports.close()
    if not older:
        return PastEvents(page.events)
    found = sorted([*page.events, *older], key=lambda view: view.at_ms, reverse=True)
    return PastEvents(found[: question.most])


async def older_events(reports: ReportClient, question: Question, floor_ms: int, known: set[str]) -> list[EventView]:
    """Return matching events of the ledger, of which the streams may have some: `known`. Raises ReportAway and
    BadReport."""
    if request := question.filters.get("request"):
        return chosen(await reports.ask("request", request_id=request), question, known)
    found: list[EventView] = []
    asked: dict[str, Any] = {"limit": PAGE, "since": question.since_ms, "until": 0, **question.filters}
    before = lowest_id(floor_ms + 1)
    for _ in range(MOST_PAGES):
        page = await reports.ask("events", before=before, **asked)
        found += chosen(page["rows"], question, known)
        before = page["next"]
        if not before or len(found) >= question.most:
            break
    return found


def chosen(rows: Sequence[dict[str, Any]], question: Question, known: set[str]) -> list[EventView]:
    """Return the events of the ledger's rows that match and are not known."""
    return [view for view in views_of_rows(rows) if view.event_id not in known and question.matches(view)]


def missing_words(floor_ms: int, error: Exception) -> str:
    """Say from when on events are shown, and why older ones are not."""
    begin = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(floor_ms / 1000))
    return f"events before {begin} UTC are in the ledger and are not shown: {error}"
