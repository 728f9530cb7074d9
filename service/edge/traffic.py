"""Verdicts of requests for metrics. The console counts them (`Traffic`)."""

from typing import Protocol

from service.edge.responses import AsgiResponseWriter
from service.errors import (
    AllThrottled,
    AskedTooOften,
    BadClientKey,
    BodyMemoryFull,
    BodyTooLarge,
    ClientError,
    KeyBusy,
    KeyExpired,
    KeyForbids,
    KeySpent,
    KeysUnknown,
    ProviderFailed,
    ProxyError,
    Stopping,
)
from service.ledger.events import Endpoint

VERDICTS = ("ok", "client_error", "provider_error", "throttled", "refused", "aborted")
REASONS: tuple[tuple[type[ProxyError], str], ...] = (
    (KeySpent, "key_spent"),
    (KeyForbids, "key_model"),
    (KeyBusy, "key_concurrency"),
    (KeyExpired, "key_expired"),
    (BadClientKey, "unknown_key"),
    (KeysUnknown, "unknown_key"),
    (AskedTooOften, "rate_limited"),
    (BodyTooLarge, "body_too_large"),
    (BodyMemoryFull, "body_memory_full"),
    (Stopping, "draining"),
)
REFUSAL_REASONS = ("foreign_host", "foreign_origin", *dict.fromkeys(reason for _, reason in REASONS))
"""Why the proxy rejects requests itself, as metrics name it: those of `origins`, and those above."""


class Traffic(Protocol):
    """Counts requests."""

    def begin(self) -> None:
        """Count the start of a request."""

    def end(self, endpoint: Endpoint, verdict: str, reason: str) -> None:
        """Count its end; `reason` is why it was rejected, "" if it was not."""

    def end_early(self, verdict: str) -> None:
        """Count how a stream ended whose head had gone before its content."""


def verdict_of(reply: AsgiResponseWriter, error: ProxyError | None) -> tuple[str, str]:
    """Return a request's verdict, and the reason if the proxy itself rejected it."""
    if error is not None:
        return verdict_of_error(error)
    if reply.broken:
        return "provider_error", ""
    if not reply.ended:
        return "aborted", ""
    return verdict_of_status(reply.status), ""


def verdict_of_status(status: int) -> str:
    """Return the verdict of a provider's complete response."""
    if status == 429:
        return "throttled"
    if status >= 500:
        return "provider_error"
    return "client_error" if status >= 400 else "ok"


def verdict_of_error(error: ProxyError) -> tuple[str, str]:
    """Return the verdict of a request that ended with an error of this proxy."""
    reason = next((word for kind, word in REASONS if isinstance(error, kind)), "")
    if reason:
        return "refused", reason
    if isinstance(error, AllThrottled):
        return "throttled", ""
    if isinstance(error, ProviderFailed):
        return verdict_of_status(error.status), ""
    return ("client_error" if isinstance(error, ClientError) else "provider_error"), ""
