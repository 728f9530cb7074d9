"""How requests ended, in words that can be counted. Who counts is the console's business (`Traffic`)."""

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
    ProxyError,
    Stopping,
)
from service.ledger.events import Endpoint

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


class Traffic(Protocol):
    """Who counts requests."""

    def begin(self) -> None:
        """A request has come."""

    def end(self, endpoint: Endpoint, verdict: str, reason: str) -> None:
        """It is over; `reason` says why it was refused, "" when it was not."""


def verdict_of(reply: AsgiResponseWriter, error: ProxyError | None) -> tuple[str, str]:
    """How a request ended: verdict, and the reason when we refused it ourselves."""
    if error is not None:
        return verdict_of_error(error)
    if reply.broken:
        return "provider_error", ""
    if not reply.ended:
        return "aborted", ""
    if reply.status == 429:
        return "throttled", ""
    if reply.status >= 500:
        return "provider_error", ""
    return ("client_error" if reply.status >= 400 else "ok"), ""


def verdict_of_error(error: ProxyError) -> tuple[str, str]:
    """The same for a request that ended with an error of this proxy."""
    reason = next((word for kind, word in REASONS if isinstance(error, kind)), "")
    if reason:
        return "refused", reason
    if isinstance(error, AllThrottled):
        return "throttled", ""
    return ("client_error" if isinstance(error, ClientError) else "provider_error"), ""
