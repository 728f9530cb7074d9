"""Log lines about attempts. At its end each request has a line of its own (`service.edge.request_log`)."""

import logging
from collections.abc import Mapping

from service.ledger.events import AttemptEnded
from service.relay.attempt import AttemptPlan
from service.relay.client import ClientRequest
from service.settings import Route
from service.telemetry.log import LogEvent, Sentence

log = logging.getLogger("ccproxy.relay")

STARTED = "→ {route_title} {method} {path}"
UNANSWERED = "  no route answered | {detail}"
UNREAD = "  usage of {route_title} has {field}, which this version does not count"
MODEL_MAPPED = "  model remap: {model_asked} → {model}"
FIELDS_DROPPED = "  {route_title} does not get: {dropped}"


class FailureLogEvent(LogEvent, frozen=True, kw_only=True):
    """An attempt failed: ← Anthropic 529 | overloaded | Overloaded"""

    name: str = "attempt.failed"
    route: Route
    attempt: int
    ended: AttemptEnded

    def __str__(self) -> str:
        ended = self.ended
        words = f" | {ended.message}" if ended.message else ""
        return f"← {self.route.title} {ended.status or 'no answer'} | {ended.kind}{words}"

    def fields(self) -> Mapping[str, object]:
        """The attempt, and what its failure applies to."""
        ended = self.ended
        return {
            "route": self.route.id,
            "attempt": self.attempt,
            "model_asked": ended.model_asked,
            "model": ended.model_sent,
            "status": ended.status or None,
            "kind": ended.kind,
            "scope": ended.scope,
            "error": ended.message,
            "total_ms": ended.total_ms,
            "final": ended.final,
            "words": ended.words or None,
            "opinion": ended.opinion or None,
        }


def log_attempt(request: ClientRequest, plan: AttemptPlan) -> None:
    """→ Anthropic POST /v1/messages. At info for a mapped model and from the second attempt on, else at debug."""
    if plan.dropped:
        log_dropped(request, plan)
    is_mapped = bool(request.model) and plan.model != request.model
    level = logging.INFO if is_mapped or plan.attempt.number > 1 else logging.DEBUG
    if not log.isEnabledFor(level):
        return
    extra = {"request": request.request_id}
    values: dict[str, object] = {
        "route": plan.route.id,
        "route_title": plan.route.title,
        "attempt": plan.attempt.number,
        "model_asked": request.model,
        "model": plan.model,
    }
    if is_mapped:
        log.info(Sentence(name="attempt.model_mapped", template=MODEL_MAPPED, values=values), extra=extra)
    values |= {"method": request.method, "path": request.path}
    log.log(level, Sentence(name="attempt.started", template=STARTED, values=values), extra=extra)


def log_dropped(request: ClientRequest, plan: AttemptPlan) -> None:
    """Z.AI does not get: safeguards, service_tier. A warning if the client relies on one of them, else at debug."""
    is_broken = bool(plan.attempt.candidate.breaks)
    values = {"route": plan.route.id, "route_title": plan.route.title, "dropped": ", ".join(plan.dropped)}
    log.log(
        logging.WARNING if is_broken else logging.DEBUG,
        Sentence(name="attempt.fields_dropped", template=FIELDS_DROPPED, values=values),
        extra={"request": request.request_id},
    )


def log_failure(request: ClientRequest, plan: AttemptPlan, ended: AttemptEnded) -> None:
    """← Anthropic 529 | overloaded | Overloaded"""
    event = FailureLogEvent(route=plan.route, attempt=plan.attempt.number, ended=ended)
    log.warning(event, extra={"request": request.request_id})


def log_unread(route: Route, field: str) -> None:
    """Anthropic's usage has hologram_tokens, which is not counted"""
    values = {"route": route.id, "route_title": route.title, "field": field}
    log.warning(Sentence(name="usage.unread", template=UNREAD, values=values))


def log_unanswered(request: ClientRequest, verdict: str, detail: str) -> None:
    """no route answered | anthropic: Overloaded; zai: connection refused"""
    values = {"verdict": verdict, "detail": detail}
    log.warning(
        Sentence(name="request.unanswered", template=UNANSWERED, values=values), extra={"request": request.request_id}
    )
