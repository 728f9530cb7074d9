"""One-line descriptions of events, with a severity. Not here: finding events (`stream_reader`, `reports`)."""

from collections.abc import Sequence
from typing import Any

import msgspec

from service.console.api_types import EventView, Level
from service.ledger.events import (
    AttemptEnded,
    AttemptLost,
    AttemptStarted,
    BatchItemUsed,
    CircuitReset,
    ClientKeyIssued,
    ClientKeyLimited,
    ClientKeyRevoked,
    DropAsked,
    Event,
    QuotaLimitChanged,
    ReplayAsked,
    RequestRefused,
    ResourceCreated,
    ResourceUsed,
    RouteDisabled,
    RouteEnabled,
    RouteNotice,
    RouteReset,
    TokenCounts,
    UsageRepriced,
)
from service.ledger.wire import CONTROL, Undecodable, decode_event
from service.routing.reset import describe_forgotten

HIDDEN = ("sha256",)
"""Fields without use for operators: a key's hash."""
WORDS_CHARS = 400


def view_of(
    stream: str, event: Event | Undecodable, *, entry: str = "", position: int | None = None
) -> EventView | None:
    """Convert an event for display; None if this version can't decode it."""
    if isinstance(event, Undecodable):
        return None
    fields: dict[str, Any] = msgspec.to_builtins(event)
    for name in HIDDEN:
        fields.pop(name, None)
    level, words = describe(event)
    return EventView(
        event_id=event.event_id,
        type=str(event.__struct_config__.tag),
        at_ms=event.at_ms,
        stream=stream,
        replica=event.replica,
        level=level,
        words=words[:WORDS_CHARS],
        entry=entry,
        position=position,
        request_id=getattr(event, "request_id", ""),
        attempt_id=event.event_id if isinstance(event, AttemptStarted) else getattr(event, "attempt_id", ""),
        route=getattr(event, "route", "") if stream == CONTROL else stream,
        model=model_of(event),
        client_key=getattr(event, "client_key", "") or getattr(event, "key_id", ""),
        outcome=getattr(event, "outcome", ""),
        kind=getattr(event, "kind", "") or getattr(event, "reason", "") * isinstance(event, RequestRefused),
        by=getattr(event, "by", ""),
        fields=fields,
    )


def views_of_rows(rows: Sequence[dict[str, Any]]) -> list[EventView]:
    """Convert rows of Postgres for display."""
    views = [view_of(row["stream"], decode_event(row["body"].encode()), position=row["position"]) for row in rows]
    return [view for view in views if view]


MODEL_FIELDS = ("model_served", "model_sent", "model", "model_asked")


def model_of(event: Event) -> str:
    """Return the model of an event: the one that served, else the one that was sent or asked."""
    return next((model for name in MODEL_FIELDS if (model := getattr(event, name, ""))), "")


def describe(event: Event) -> tuple[Level, str]:
    """Return an event's severity and description."""
    match event:
        case AttemptStarted():
            return "ok", f"started: {event.model_sent or event.endpoint}"
        case AttemptEnded():
            return describe_end(event)
        case AttemptLost():
            return "warning", "lost: its replica died; the charge is an estimate"
        case BatchItemUsed() | ResourceUsed() | ResourceCreated():
            return "ok", describe_resource(event)
        case RouteReset():
            return "ok", f"reset: {describe_forgotten(event.forgot)}"
        case RouteNotice():
            return describe_notice(event)
        case RequestRefused():
            more = f", {event.count} times" if event.count > 1 else ""
            return "warning", f"refused: {event.reason.replace('_', ' ')}{more}"
    return describe_command(event)


def describe_notice(event: RouteNotice) -> tuple[Level, str]:
    """Describe what a replica knows of a route's credential."""
    if not event.code:
        return "ok", "its credential can be used again"
    return ("warning" if event.usable else "problem"), event.message


def describe_resource(event: BatchItemUsed | ResourceUsed | ResourceCreated) -> str:
    """Describe an event of a resource at the provider."""
    match event:
        case BatchItemUsed():
            return f"batch item {event.custom_id}: {describe_tokens(event.tokens)}"
        case ResourceUsed():
            kind = event.kind.replace("_", " ")
            return f"{kind} {event.part or event.resource_id}: {describe_tokens(event.tokens)} so far"
    return f"created {event.resource_kind} {event.resource_id}"


def describe_prices(event: UsageRepriced) -> str:
    """Describe what usage costs now, and did before."""
    before, now = ([getattr(change, name) for change in event.changes] for name in ("was_nusd", "cost_nusd"))
    return f"{describe_cost(now)}, before {describe_cost(before)}"


def describe_cost(costs: Sequence[int | None]) -> str:
    """Describe the cost of lines, of which some may have no price."""
    missing = sum(cost is None for cost in costs)
    total = f"${sum(cost or 0 for cost in costs) / 1e9:.4f}"
    return f"{total}, {missing} without a price" if missing else total


def describe_end(event: AttemptEnded) -> tuple[Level, str]:
    """Describe the end of an attempt."""
    seconds = f"{event.total_ms / 1000:.2f} s"
    if event.outcome == "ok":
        served = f" by {event.model_served}" if event.model_served else ""
        return "ok", f"answered {event.status}{served}, {describe_tokens(event.tokens)}, {seconds}"
    if event.outcome == "aborted":
        return "ok", f"client disconnected after {seconds}"
    words = f"{event.kind.replace('_', ' ')} {event.status or ''}".strip()
    more = f": {event.message}" if event.message else ""
    return ("problem" if event.final else "warning"), f"{words}{more}{'' if event.final else '; failed over'}"


def describe_command(event: Event) -> tuple[Level, str]:
    """Return the level and text of an operator's action, on a route or on something else."""
    match event:
        case UsageRepriced():
            return "ok", f"priced again by {event.price_version}: {describe_prices(event)}"
        case RouteDisabled():
            return "warning", f"{event.route} disabled{': ' + event.reason if event.reason else ''}"
        case RouteEnabled():
            return "ok", f"{event.route} enabled"
        case CircuitReset():
            return "ok", f"{event.route}: circuit and cool-downs reset"
        case QuotaLimitChanged(weekly_tokens=None):
            return "ok", f"{event.route}: weekly limit as configured"
        case QuotaLimitChanged():
            limit = f"{event.weekly_tokens:,} tokens" if event.weekly_tokens else "none"
            return "ok", f"{event.route}: weekly limit {limit}"
    return describe_other_command(event)


def describe_other_command(event: Event) -> tuple[Level, str]:
    """Return the level and text of an operator's action on a client key or on dead letters."""
    match event:
        case ClientKeyIssued():
            return "ok", f"key {event.key_id} issued to {event.name}"
        case ClientKeyLimited():
            return "ok", f"key {event.key_id}: limits changed"
        case ClientKeyRevoked():
            return "ok", f"key {event.key_id} revoked"
        case ReplayAsked():
            return "ok", f"retry of dead letters requested: {event.of or 'all streams'}"
        case DropAsked():
            rows = f"{len(event.rows)} rows" if len(event.rows) > 1 else "a row"
            return "warning", f"removal of {rows} from dead letters and quarantine requested: {', '.join(event.rows)}"
    return "ok", str(event.__struct_config__.tag).replace("_", " ")


def is_notable(view: EventView) -> bool:
    """True for the list of recent events: failovers, failures, refusals, notices and operators' commands.

    A reset has two events, of which the one on the route's own stream says what was forgotten.
    """
    if view.type == "attempt_ended":
        return view.outcome == "failed"
    if view.stream == CONTROL:
        return view.type != "circuit_reset"
    return view.type in ("attempt_lost", "request_refused", "route_reset", "route_notice")


def describe_tokens(tokens: TokenCounts) -> str:
    """Describe tokens: input including cached, and output."""
    read = tokens.input + tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h
    return f"{read:,}→{tokens.output:,} tokens"
