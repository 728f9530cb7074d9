"""The errors that clients get when no route has answered: type, status and message.

Not here: which attempt's error is shown (`routing.failover`), or sending it (`verdict_response`).
"""

from collections.abc import Mapping, Sequence

import msgspec

from service.errors import AllThrottled, BadClientKey, NoRoute, NotFound, PromptTooLong, ProxyError, Unreachable
from service.fleet.clock import utc_of
from service.protocol.tap import json_usage
from service.relay.attempt import AttemptOutcome
from service.relay.classifier import STATUS_OF_TYPE
from service.relay.client import ClientRequest
from service.routing.rank import Candidate

SHORT_WAIT_MS = 60_000
"""Claude Code obeys a retry-after of this length, and gives up at once on one of 90 s."""

TYPE_OF_STATUS = {status: error_type for error_type, status in STATUS_OF_TYPE.items()}


def error_event(outcome: AttemptOutcome) -> bytes:
    """The event that ends a broken stream."""
    failure = outcome.failure
    kind = "overloaded_error" if failure and failure.kind == "overloaded" else "api_error"
    message = f"{outcome.plan.route.title}: {failure.message if failure else 'the stream was interrupted'}"
    data = msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    return b"event: error\ndata: " + data + b"\n\n"


def is_anthropic_error(request: ClientRequest, outcome: AttemptOutcome) -> bool:
    """Return true if the provider's error can be shown unchanged: the request's own fault always is."""
    own_fault = outcome.failure is not None and outcome.failure.scope == "request"
    return own_fault or request.method == "HEAD" or is_in_shape(outcome.body)


def is_in_shape(body: bytes) -> bool:
    """Return true if a body is an error in Anthropic's shape, whose type is no number (Z.AI's may be)."""
    answer = json_usage(body)
    error = answer.error if answer and answer.type == "error" else None
    return error is not None and not error.type.isdigit()


def provider_error(outcome: AttemptOutcome) -> ProxyError:
    """An error in another shape, an HTML page, or a cut body: its status and message, in Anthropic's shape."""
    message = (outcome.failure.message if outcome.failure else "") or "no message"
    error = Unreachable(f"{outcome.plan.route.title} answered with status {outcome.shown_status}: {message}")
    error.status = outcome.shown_status
    error.type = TYPE_OF_STATUS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return error


def redacted(body: bytes, secret: str) -> bytes:
    """A body or header value without the credential, in case the provider has quoted it."""
    return body.replace(secret.encode(), b"***") if secret else body


def describe_attempts(
    outcomes: Sequence[AttemptOutcome], candidates: Sequence[Candidate], denied: Mapping[str, str]
) -> str:
    """Why each route did not answer, for a person. `denied`: why routes did not admit the request, by their ids."""
    failures = [(outcome.plan.route.id, outcome.failure) for outcome in outcomes if outcome.failure]
    failed = [f"{route}: {failure.message or failure.kind}" for route, failure in failures]
    not_admitted = [f"{route}: {reason}" for route, reason in denied.items()]
    skipped = [f"{candidate.route.id}: {candidate.reason}" for candidate in candidates if candidate.skip_reason]
    return "; ".join([*failed, *not_admitted, *skipped])


def throttled(until_ms: int, now_ms: int, summary: str) -> AllThrottled:
    """Every route waits: how long, and whether it is worth waiting."""
    wait_ms = max(0, until_ms - now_ms)
    is_short = wait_ms <= SHORT_WAIT_MS
    wait = f"for {wait_ms // 1000} s" if is_short else f"until {format_time(until_ms)}"
    error = AllThrottled(f"all routes are cooling down {wait}: {summary}")
    error.retry_after_s = -(-wait_ms // 1000)
    error.should_retry = is_short
    return error


def format_time(at_ms: int) -> str:
    """A moment, UTC."""
    return f"{utc_of(at_ms):%a %Y-%m-%d %H:%M} UTC"


def prompt_too_long(candidates: Sequence[Candidate]) -> PromptTooLong:
    """No model holds the prompt.

    It begins with the token of Claude Code's gateway contract (a colon behind it would make it another token), and goes
    on in the words by which clients know that they have to shorten a conversation, and by how much.
    """
    reasons = "; ".join(candidate.reason for candidate in candidates if candidate.skip_reason == "context_too_small")
    return PromptTooLong(f"capability_rejected: prompt_too_long ({reasons})")


def unreachable(outcomes: Sequence[AttemptOutcome], summary: str) -> Unreachable:
    """No route could answer: why, by the kinds of their failures."""
    kinds = {outcome.failure.kind for outcome in outcomes if outcome.failure}
    error = Unreachable(f"all routes failed: {summary}")
    if "overloaded" in kinds:
        error.status, error.type = 529, "overloaded_error"
    elif kinds & {"timeout", "deadline"}:
        error.status, error.type = 504, "timeout_error"
    return error


def uncounted(request: ClientRequest, summary: str) -> NotFound:
    """No route counts tokens; the client estimates them then."""
    return NotFound(f"no route can count tokens for {request.model or 'this request'}; estimate them ({summary})")


def no_route(request: ClientRequest, candidates: Sequence[Candidate], summary: str) -> NoRoute | BadClientKey:
    """No route was even tried."""
    if not request.credential and all(candidate.skip_reason == "off" for candidate in candidates):
        return BadClientKey(
            "the proxy has no provider key, and the request has no credential: set ANTHROPIC_API_KEY or ZAI_API_KEY "
            "for the proxy, or log in with Claude Code"
        )
    return NoRoute(f"no route is available for this request: {summary}")
