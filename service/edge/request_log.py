"""The line that each request has in the log once it is over, whatever became of it.

Not here: lines about attempts (`service.relay`), and how lines are written (`service.telemetry.log`).
"""

import logging
from collections.abc import Callable, Mapping

from service.edge.responses import AsgiResponseWriter, OwnError
from service.ledger.events import Endpoint, TokenCounts
from service.ledger.usage_lines import served_model
from service.relay.client import ClientRequest, EndedAttempt
from service.telemetry.log import OK, LogEvent, log_line

log = logging.getLogger("ccproxy.request")

NO_TOKENS = TokenCounts()
NO_REQUEST = ClientRequest(request_id="", method="", path="")
WARNING = logging.WARNING
LEVELS = {"ok": OK, "aborted": logging.INFO}
"""Other verdicts are warnings."""


class RequestLogEvent(LogEvent, frozen=True, kw_only=True):
    """A request is over. `last` is its last attempt on the ledger, None when none was made; `error` is why the proxy
    itself refused it, or could not serve it."""

    name: str = "request.ended"
    endpoint: Endpoint
    verdict: str
    reason: str
    status: int
    error: OwnError | None
    client_key: str
    model: str
    stream: bool
    route: str
    attempts: int
    early_head: bool
    last: EndedAttempt | None
    total_ms: int

    def __str__(self) -> str:
        if self.error:
            return f"{self.error.status} {self.error.message} client={self.error.client}"
        return f"← {self.last.route.title if self.last else 'no route'} {self._words()} | {self.total_ms / 1000:.2f} s"

    def _words(self) -> str:
        if self.verdict == "aborted":
            return "client disconnected"
        if self.verdict != "ok":
            return f"{self.status or 'no response'} | {self.verdict} after {self.attempts} attempts"
        tokens = self.last.event.tokens if self.last else NO_TOKENS
        read = tokens.input + tokens.cache_read + tokens.cache_write_5m + tokens.cache_write_1h
        return f"{self.status} | {read:,}→{tokens.output:,} tokens" if read or tokens.output else str(self.status)

    def fields(self) -> Mapping[str, object]:
        """The same keys for every request; null, or 0 for a sum, where there is nothing to tell."""
        return {
            "client_key": self.client_key,
            "client": self.error.client if self.error else None,
            "endpoint": self.endpoint,
            "stream": self.stream,
            "verdict": self.verdict,
            "reason": self.reason or None,
            "status": self.status or None,
            "error": self.error.message if self.error else None,
            "route": self.route or None,
            "attempts": self.attempts,
            "early_head": self.early_head,
            "model_asked": self.model,
            **(attempt_fields(self.last) if self.last else NO_ATTEMPT),
            "total_ms": self.total_ms,
        }


def attempt_fields(last: EndedAttempt) -> dict[str, object]:
    """The fields that the last attempt adds to a request's line."""
    ended, tokens = last.event, last.event.tokens
    return {
        "model_asked": ended.model_asked,
        "model": served_model(ended),
        "input_tokens": tokens.input,
        "output_tokens": tokens.output,
        "cache_read_tokens": tokens.cache_read,
        "cache_write_5m_tokens": tokens.cache_write_5m,
        "cache_write_1h_tokens": tokens.cache_write_1h,
        "cost_nusd": ended.cost_nusd,
        "first_byte_ms": ended.first_byte_ms,
        "first_content_ms": last.first_content_ms,
        "upstream_id": ended.upstream_id or None,
        "dropped": ended.dropped or None,
    }


NO_ATTEMPT = {
    "model": None,
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_read_tokens": 0,
    "cache_write_5m_tokens": 0,
    "cache_write_1h_tokens": 0,
    "cost_nusd": 0,
    "first_byte_ms": None,
    "first_content_ms": None,
    "upstream_id": None,
    "dropped": None,
}


def log_request(
    reply: AsgiResponseWriter,
    endpoint: Endpoint,
    verdict: str,
    reason: str,
    arrived_ms: int = 0,
    now_ms: Callable[[], int] | None = None,
) -> None:
    """Log the end of a request, whatever became of it; without a clock, one that was refused at once."""
    level = LEVELS.get(verdict, WARNING)
    if not log.isEnabledFor(level):
        return
    request = reply.request or NO_REQUEST
    event = RequestLogEvent(
        endpoint=endpoint,
        verdict=verdict,
        reason=reason,
        status=reply.status,
        error=reply.error,
        client_key=request.client_key,
        model=request.model,
        stream=request.stream,
        route=reply.route,
        attempts=reply.attempts,
        early_head=reply.early,
        last=request.last,
        total_ms=now_ms() - arrived_ms if now_ms else 0,
    )
    log_line(log, level, event, {"request": reply.request_id})
