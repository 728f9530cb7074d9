"""What a failed attempt means: kind and scope, from plain facts. What is done about it is `failover`'s.

Rules
- 400, 409, 413, 422 and other 4xx are the request's own fault; a 404 that names the model is the model's.
- 401, 402, 403 and "credit balance is too low" condemn the credential, never the provider.
- 429 is a quota signal when the provider says that a window or plan is spent or that the wait is long, else a throttle.
  A 429 about long context or extra usage concerns that request alone.
- 408, 5xx, redirections and broken connections are the route's; 529 is the provider's, whatever the credential.
- Vendor codes (Z.AI) come first: they tell more than the status that they are sent with.
"""

from collections.abc import Mapping

from msgspec import Struct

from service.ledger.events import FailureKind, FailureScope

LONG_WAIT_MS = 60_000
"""A 429 that asks for more than this says that something is spent."""


class Facts(Struct, frozen=True):
    """What an upstream's answer says, already read: see `service.providers.facts`.

    `status` 0: there was no answer. `retry_at_ms` is Unix time, 0 when no wait was named.
    """

    status: int = 0
    error_type: str = ""
    error_code: str = ""
    message: str = ""
    retry_at_ms: int = 0
    should_retry: bool | None = None


class Failure(Struct, frozen=True):
    """Why an attempt failed and whose fault it is. `retry_at_ms` 0: no wait was named."""

    kind: FailureKind
    scope: FailureScope
    retry_at_ms: int = 0
    message: str = ""
    status: int = 0


ZAI_CODES: Mapping[str, tuple[FailureKind, FailureScope]] = {
    # Z.AI's business codes, collected from its documentation and recorded answers.
    **dict.fromkeys(("1000", "1001", "1002", "1003", "1004"), ("credential", "credential")),
    **dict.fromkeys(("1110", "1111", "1112", "1113", "1120", "1121"), ("billing", "credential")),
    **dict.fromkeys(("1210", "1213", "1214", "1261", "1300", "1301"), ("bad_request", "request")),
    **dict.fromkeys(("1211", "1311"), ("model_missing", "model")),
    **dict.fromkeys(("1220", "1309", "1313"), ("billing", "credential")),
    "1234": ("server_error", "route"),
    **dict.fromkeys(("1302", "1303"), ("throttle", "throttle")),
    "1305": ("overloaded", "provider"),
    **dict.fromkeys(("1308", "1310", "1316", "1317", "1318", "1319", "1320", "1321"), ("quota", "quota")),
}
ERROR_TYPES: Mapping[str, tuple[FailureKind, FailureScope]] = {
    # Anthropic's error types as they come inside a stream, where there is no status.
    "overloaded_error": ("overloaded", "provider"),
    "rate_limit_error": ("throttle", "throttle"),
    "authentication_error": ("credential", "credential"),
    "permission_error": ("credential", "credential"),
    "billing_error": ("billing", "credential"),
    "invalid_request_error": ("bad_request", "request"),
    "request_too_large": ("bad_request", "request"),
    "not_found_error": ("bad_request", "request"),
    "timeout_error": ("timeout", "route"),
    "api_error": ("server_error", "route"),
}
STATUSES: Mapping[int, tuple[FailureKind, FailureScope]] = {
    304: ("bad_request", "request"),  # not modified: what a client with a cache asked to hear
    401: ("credential", "credential"),
    402: ("billing", "credential"),
    403: ("credential", "credential"),
    408: ("timeout", "route"),
    529: ("overloaded", "provider"),
}
BALANCE_WORDS = ("credit balance is too low", "insufficient balance")
REQUEST_429_WORDS = ("long context", "extra usage")
SPENT_CODES = frozenset(("enforced_spend_limit_reached",))


SIGNATURE_WORDS = ("signature", "thinking")
"""As in "messages.1.content.0: Invalid `signature` in `thinking` block" (public issues of several proxies)."""


def classify(facts: Facts, now_ms: int) -> Failure:
    """The failure that an error answer means; an answer without a status is one inside a stream."""
    kind, scope = kind_and_scope(facts, now_ms)
    return Failure(kind, scope, facts.retry_at_ms, facts.message, facts.status)


def kind_and_scope(facts: Facts, now_ms: int) -> tuple[FailureKind, FailureScope]:
    """The table's answer."""
    known = ZAI_CODES.get(facts.error_code)
    if known:
        return known
    words = facts.message.lower()
    if any(word in words for word in BALANCE_WORDS) and facts.status in (400, 402, 403, 429):
        return "billing", "credential"
    if facts.status in (0, 200):
        return ERROR_TYPES.get(facts.error_type, ("stream_error", "route"))
    if facts.status == 429:
        return of_429(facts, words, now_ms)
    if facts.status == 404 and facts.error_type == "not_found_error" and "model" in words:
        return "model_missing", "model"
    if facts.status in STATUSES:
        return STATUSES[facts.status]
    if facts.status < 400:
        return "bad_answer", "route"
    return ("server_error", "route") if facts.status >= 500 else ("bad_request", "request")


def of_429(facts: Facts, words: str, now_ms: int) -> tuple[FailureKind, FailureScope]:
    """Throttle, quota, or this request alone."""
    if any(word in words for word in REQUEST_429_WORDS):
        return "bad_request", "request"
    if facts.error_code in SPENT_CODES or facts.error_type == "billing_error":
        return "quota", "quota"
    long_wait = facts.retry_at_ms - now_ms > LONG_WAIT_MS
    return ("quota", "quota") if long_wait else ("throttle", "throttle")


def is_signature_refusal(failure: Failure) -> bool:
    """Whether the provider can't check the signature of a thought: without the thoughts it takes the request."""
    words = failure.message.lower()
    return failure.status == 400 and failure.scope == "request" and all(word in words for word in SIGNATURE_WORDS)
