"""Reconstructs a request from its events: attempts in order, and the verdict. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from service.console.api_types import AttemptView, EventView, RequestView, Tokens
from service.ledger.events import UsageLine
from service.ledger.ids import repriced_id

Verdict = Literal["ok", "failed", "aborted", "refused", "open"]


def request_of(request_id: str, views: Sequence[EventView]) -> RequestView:
    """Return a request for display. `views` are its events, in any order, at least one."""
    ordered = sorted(views, key=lambda view: (view.at_ms, view.event_id))
    attempts = attempts_of(ordered)
    refused = next((view.kind for view in ordered if view.type == "request_refused"), "")
    fields = next((view.fields for view in ordered if view.type.startswith("attempt_")), ordered[0].fields)
    verdict = verdict_of(attempts, refused)
    return RequestView(
        request_id=request_id,
        started_at_ms=min([*(attempt.started_at_ms for attempt in attempts), ordered[0].at_ms]),
        ended_at_ms=None if verdict == "open" else ordered[-1].at_ms,
        verdict=verdict,
        model_asked=text_field(fields, "model_asked"),
        client_key=ordered[0].client_key,
        session_id=text_field(fields, "session_id"),
        endpoint=text_field(fields, "endpoint") or "messages",
        refused=refused,
        attempts=attempts,
        events=ordered,
    )


def attempts_of(ordered: Sequence[EventView]) -> list[AttemptView]:
    """Return the attempts by start time. An actual end takes precedence over an estimate."""
    found: dict[str, AttemptView] = {}
    for view in ordered:
        known = found.get(view.attempt_id)
        if view.type == "attempt_started" and known is None:
            found[view.attempt_id] = attempt_of(view, "open", started_at_ms=view.at_ms)
        elif view.type == "attempt_lost" and (known is None or known.outcome == "open"):
            found[view.attempt_id] = attempt_of(view, "lost")
        elif view.type == "attempt_ended":
            found[view.attempt_id] = attempt_of(view, view.outcome)
    return sorted(with_prices(found, ordered), key=lambda attempt: (attempt.started_at_ms, attempt.attempt_id))


def with_prices(attempts: Mapping[str, AttemptView], views: Sequence[EventView]) -> Iterator[AttemptView]:
    """Yield attempts with what their usage costs by the newest price."""
    newest = {(view.attempt_id, bool(view.fields.get("of_lost"))): view for view in newest_prices(views)}
    for attempt in attempts.values():
        price = newest.get((attempt.attempt_id, attempt.outcome == "lost"))
        yield replace(attempt, cost_nusd=cost_now(price.fields)) if price else attempt


def newest_prices(views: Sequence[EventView]) -> list[EventView]:
    """Return the prices that no other follows."""
    known = {view.event_id for view in views}
    return [view for view in views if view.type == "usage_repriced" and repriced_id(view.event_id) not in known]


def cost_now(fields: dict[str, Any]) -> int | None:
    """Return the cost of the lines that have a price by the newest list; None if none has."""
    costs = [change["cost_nusd"] for change in fields.get("changes", ()) if change.get("cost_nusd") is not None]
    return sum(costs) if costs else None


def attempt_of(view: EventView, outcome: str, started_at_ms: int = 0) -> AttemptView:
    """Return an attempt from its latest event."""
    fields: dict[str, Any] = view.fields
    given = {name: fields[name] for name in COPIED if name in fields}
    return AttemptView(
        attempt_id=view.attempt_id,
        route=view.route,
        replica=view.replica,
        started_at_ms=started_at_ms or int(fields.get("started_at_ms", view.at_ms)),
        outcome=outcome if outcome in ("ok", "failed", "aborted", "lost", "open") else "failed",  # type: ignore[arg-type]
        tokens=msgspec.convert(fields.get("tokens", {}), Tokens),
        lines=msgspec.convert(fields.get("lines", []), list[UsageLine]),
        **given,
    )


COPIED = (
    "kind",
    "scope",
    "status",
    "message",
    "model_sent",
    "model_served",
    "stream",
    "first_byte_ms",
    "total_ms",
    "cost_nusd",
)


def verdict_of(attempts: Sequence[AttemptView], refused: str) -> Verdict:
    """Return the verdict: that of the last attempt."""
    if refused and not attempts:
        return "refused"
    if not attempts or any(attempt.outcome == "open" for attempt in attempts):
        return "open"
    last = attempts[-1].outcome
    return "failed" if last == "lost" else last


def text_field(fields: dict[str, Any], name: str) -> str:
    """Return a text field."""
    return str(fields.get(name, ""))
