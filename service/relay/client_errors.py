"""The errors that clients get when no route has answered: type, status and message.

Not here: which attempt's error is shown (`routing.failover`), its words (`plain_words`), or sending it
(`verdict_response`).
"""

from collections.abc import Mapping, Sequence
from typing import TypeGuard

import msgspec

from service.errors import (
    AllThrottled,
    BadClientKey,
    FieldUnsupported,
    NoRoute,
    NotFound,
    PromptTooLong,
    ProviderFailed,
    Unreachable,
)
from service.ledger.model_names import bounded_name
from service.providers.error_facts import object_of
from service.relay.attempt import AttemptOutcome
from service.relay.classifier import STATUS_OF_TYPE
from service.relay.client import ClientRequest
from service.relay.plain_words import is_technical, name_of, reason_of_failure
from service.routing.failover import AdmissionDenied
from service.routing.failure import Failure
from service.routing.rank import MODEL_ENDPOINTS, Candidate
from service.routing.request_fields import unkeepable
from service.settings import Route

SHORT_WAIT_MS = 60_000
"""Claude Code obeys a retry-after of this length, and gives up at once on one of 90 s."""

NOT_MODIFIED = 304
FIRST_ERROR, BAD_GATEWAY = 400, 502
TYPE_OF_STATUS = {status: error_type for error_type, status in STATUS_OF_TYPE.items()}
STATUS_WORDS = {
    401: "rejected the credential",
    403: "refused the request",
    404: "found nothing at this path",
    408: "did not receive the request in time",
    413: "found the request too large",
    429: "is limiting requests",
    503: "is not available",
    504: "did not answer in time",
    529: "is overloaded",
}
"""What an error says that has nothing but a status."""


def error_event(request: ClientRequest, route: Route, failure: Failure) -> bytes:
    """The event that ends a broken stream."""
    error_type = "overloaded_error" if failure.kind == "overloaded" else "api_error"
    words = reason_of_failure(request, route, failure, 0).words
    message = f"The answer is incomplete: {name_of(route)} {words} (request id {request.request_id})"
    error = {"type": error_type, "message": message}
    data = msgspec.json.encode({"type": "error", "error": error, "request_id": request.request_id})
    return b"event: error\ndata: " + data + b"\n\n"


def is_anthropic_error(request: ClientRequest, outcome: AttemptOutcome) -> bool:
    """Return true if the provider's error can be shown unchanged: it has Anthropic's shape, or no body to have one."""
    return request.method == "HEAD" or outcome.status == NOT_MODIFIED or is_in_shape(outcome.body)


def is_in_shape(body: bytes) -> bool:
    """Return true if a body is an error in Anthropic's shape: with a message, and a type that is not a number."""
    fields = object_of(body)
    error = fields.get("error")
    if fields.get("type") != "error" or not isinstance(error, dict):
        return False
    error_type, message = error.get("type"), error.get("message")
    return is_text(error_type) and not error_type.isdigit() and is_text(message)


def is_text(value: object) -> TypeGuard[str]:
    """Return true if a value is a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def provider_error(request: ClientRequest, outcome: AttemptOutcome) -> ProviderFailed:
    """An error in another shape, a page, or an empty or cut body: its status, and what is known of it in plain words.

    The message of a JSON object is the provider's own account of what is wrong, and is quoted unless it is technical.
    """
    status = outcome.shown_status
    error = ProviderFailed(f"{name_of(outcome.plan.route)} {words_of(outcome, status)}, with status {status}")
    error.message += f" (request id {request.request_id})"
    error.status = status if status >= FIRST_ERROR else BAD_GATEWAY
    error.type = type_of_status(error.status)
    return error


def relayed_in_stream(outcome: AttemptOutcome, body: bytes, headers: Sequence[tuple[bytes, bytes]]) -> ProviderFailed:
    """A provider's error in Anthropic's shape, to be told in a stream with its own object of an error."""
    status = outcome.shown_status
    error = ProviderFailed(f"{name_of(outcome.plan.route)} {STATUS_WORDS.get(status, 'refused the request')}")
    error.fields = object_of(body)["error"]
    error.status, error.type, error.headers = status, error.fields["type"], headers
    return error


def words_of(outcome: AttemptOutcome, status: int) -> str:
    """What is known of an error in another shape."""
    message = outcome.failure.message if outcome.failure and object_of(outcome.body) else ""
    if message and not is_technical(message):
        return f'answered "{message}"'
    return STATUS_WORDS.get(status, "had an internal error" if status >= 500 else "refused the request")


def type_of_status(status: int) -> str:
    """The error type of a status."""
    return TYPE_OF_STATUS.get(status, "api_error" if status >= 500 else "invalid_request_error")


def all_failed(outcome: AttemptOutcome, message: str) -> ProviderFailed:
    """Every route failed: the status and type of the most useful failure, and why, of all of them."""
    error = ProviderFailed(message)
    error.status = outcome.shown_status
    is_known = is_in_shape(outcome.body)
    error.type = object_of(outcome.body)["error"]["type"] if is_known else type_of_status(error.status)
    return error


def redacted(body: bytes, secret: str) -> bytes:
    """A body or header value without the credential, in case the provider has quoted it."""
    return body.replace(secret.encode(), b"***") if secret else body


def describe_attempts(
    outcomes: Sequence[AttemptOutcome], candidates: Sequence[Candidate], denied: Mapping[str, AdmissionDenied]
) -> str:
    """Why each route did not answer, in detail, for the log. `denied`: why routes did not admit the request, by their
    ids."""
    failures = [(outcome.plan.route.id, outcome.failure) for outcome in outcomes if outcome.failure]
    failed = [f"{route}: {failure.message or failure.kind}" for route, failure in failures]
    not_admitted = [f"{route}: {denial.reason}" for route, denial in denied.items()]
    skipped = [f"{candidate.route.id}: {candidate.reason}" for candidate in candidates if candidate.skip_reason]
    return "; ".join([*failed, *not_admitted, *skipped])


def throttled(until_ms: int, now_ms: int, message: str) -> AllThrottled:
    """Every route waits: how long, and whether it is worth waiting."""
    wait_ms = max(0, until_ms - now_ms)
    error = AllThrottled(message)
    error.retry_after_s = -(-wait_ms // 1000)
    error.should_retry = wait_ms <= SHORT_WAIT_MS
    return error


def prompt_too_long(candidates: Sequence[Candidate]) -> PromptTooLong:
    """No model holds the prompt.

    It begins with the token of Claude Code's gateway contract (a colon behind it would make it another token), and goes
    on in the words by which clients know that they have to shorten a conversation, and by how much.
    """
    reasons = "; ".join(candidate.reason for candidate in candidates if candidate.skip_reason == "context_too_small")
    return PromptTooLong(f"capability_rejected: prompt_too_long ({reasons})")


def field_unsupported(request: ClientRequest, candidates: Sequence[Candidate]) -> FieldUnsupported:
    """No route keeps a field of the request; like `prompt_too_long` it begins with the token of the contract."""
    routes = [candidate.route for candidate in candidates if candidate.skip_reason == "field_unsupported"]
    field = unkeepable(routes[0].provider.dialect, request.fields)
    names = " and ".join(dict.fromkeys(map(name_of, routes)))
    return FieldUnsupported(
        f"capability_rejected: {field} ({names} can't do what it asks for, and no other provider is available: leave "
        f"it out, or ask whoever runs the proxy for a route to Anthropic; request id {request.request_id})"
    )


def unreachable(outcomes: Sequence[AttemptOutcome], message: str) -> Unreachable:
    """No route could answer: why, by the kinds of their failures."""
    kinds = {outcome.failure.kind for outcome in outcomes if outcome.failure}
    error = Unreachable(message)
    if "overloaded" in kinds:
        error.status, error.type = 529, "overloaded_error"
    elif kinds & {"timeout", "deadline"}:
        error.status, error.type = 504, "timeout_error"
    return error


def uncounted(request: ClientRequest) -> NotFound:
    """No route counts tokens; the client estimates them then."""
    model = bounded_name(request.model) or "this request"
    return NotFound(f"no provider can count tokens for {model}; estimate them (request id {request.request_id})")


def no_provider(request: ClientRequest, *, is_owner: bool) -> NoRoute | BadClientKey:
    """No provider is set up. `is_owner`: the client is on the proxy's own machine, and may set what is missing."""
    fix = "set ANTHROPIC_API_KEY or ZAI_API_KEY for the proxy" if is_owner else "ask whoever runs it"
    if request.credential:
        return NoRoute(f"the proxy has no provider for this request: {fix}")
    return BadClientKey(
        f"the proxy has no provider key, and the request has no credential: {fix}, or log in with Claude Code"
    )


def no_route(request: ClientRequest, candidates: Sequence[Candidate], message: str) -> NoRoute | NotFound:
    """No route was even tried."""
    reasons = {candidate.skip_reason for candidate in candidates} - {"off"}
    is_missing = reasons == {"model_missing"} and request.endpoint in MODEL_ENDPOINTS
    return NotFound(message) if is_missing else NoRoute(message)
