"""How a request ends without an answer, in words: which error the client gets, and why.

Not here: deciding which attempt is shown (`routing.failover`), or sending it (`request`).
"""

from collections.abc import Mapping, Sequence

import msgspec

from service.errors import AllThrottled, BadClientKey, NoRoute, NotFound, PromptTooLong, ProxyError, Unreachable
from service.fleet.clock import utc_of
from service.protocol.tap import json_usage
from service.relay.attempt import AttemptState, ClientRequest
from service.relay.classifier import STATUS_OF_TYPE
from service.routing.rank import Candidate

SHORT_WAIT_MS = 60_000
"""Claude Code obeys a retry-after of this length, and gives up at once on one of 90 s."""

TYPE_OF_STATUS = {status: error_type for error_type, status in STATUS_OF_TYPE.items()}


def error_event(one: AttemptState) -> bytes:
    """The end of a broken stream, in Anthropic's words."""
    failure = one.failure
    kind = "overloaded_error" if failure and failure.kind == "overloaded" else "api_error"
    message = f"{one.route.title}: {failure.message if failure else 'the stream broke'}"
    data = msgspec.json.encode({"type": "error", "error": {"type": kind, "message": message}})
    return b"event: error\ndata: " + data + b"\n\n"


def is_anthropic_error(call: ClientRequest, one: AttemptState) -> bool:
    """Whether an error answer can be shown as it is: the request's own fault always is."""
    own_fault = one.failure is not None and one.failure.scope == "request"
    return own_fault or call.method == "HEAD" or is_in_shape(one.body)


def is_in_shape(body: bytes) -> bool:
    """Whether an error answer has Anthropic's shape, with a word for its type (Z.AI has numbers, or another shape)."""
    answer = json_usage(body)
    told = answer.error if answer and answer.type == "error" else None
    return told is not None and not told.type.isdigit()


def provider_error(one: AttemptState) -> ProxyError:
    """An error in another shape, a page of some machine, or one cut off: its status and words, in Anthropic's shape."""
    told = one.failure.message if one.failure else ""
    error = Unreachable(f"{one.route.title} answered with status {one.shown_status}: {told or 'no message'}")
    error.status = one.shown_status
    error.type = TYPE_OF_STATUS.get(error.status, "api_error" if error.status >= 500 else "invalid_request_error")
    return error


def redacted(body: bytes, secret: str) -> bytes:
    """A body or the value of a header without the credential, should the provider have quoted it."""
    return body.replace(secret.encode(), b"***") if secret else body


def describe_attempts(
    tries: Sequence[AttemptState], candidates: Sequence[Candidate], refused: Mapping[str, str]
) -> str:
    """Why each route did not answer, for a person; `refused` are the routes that did not admit the request."""
    failed = [f"{one.route.id}: {one.failure.message or one.failure.kind}" for one in tries if one.failure]
    passed = [f"{candidate.route.id}: {candidate.reason}" for candidate in candidates if candidate.passed_over]
    return "; ".join([*failed, *(f"{route}: {reason}" for route, reason in refused.items()), *passed])


def throttled(until_ms: int, now_ms: int, words: str) -> AllThrottled:
    """Every route waits: how long, and whether it is worth waiting."""
    wait_ms = max(0, until_ms - now_ms)
    is_short = wait_ms <= SHORT_WAIT_MS
    wait = f"for {wait_ms // 1000} s" if is_short else f"until {format_time(until_ms)}"
    error = AllThrottled(f"every route waits, the first {wait}: {words}")
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
    words = "; ".join(candidate.reason for candidate in candidates if candidate.passed_over == "context_too_small")
    return PromptTooLong(f"capability_rejected: prompt_too_long ({words})")


def unreachable(tries: Sequence[AttemptState], words: str) -> Unreachable:
    """No route could answer: why, by the kinds of their failures."""
    kinds = {one.failure.kind for one in tries if one.failure}
    error = Unreachable(f"no route could answer: {words}")
    if "overloaded" in kinds:
        error.status, error.type = 529, "overloaded_error"
    elif kinds & {"timeout", "deadline"}:
        error.status, error.type = 504, "timeout_error"
    return error


def uncounted(call: ClientRequest, words: str) -> NotFound:
    """No route counts tokens; the client estimates them then."""
    return NotFound(f"no route counts tokens for {call.model or 'this request'}; estimate them ({words})")


def no_route(call: ClientRequest, candidates: Sequence[Candidate], words: str) -> NoRoute | BadClientKey:
    """No route was even tried."""
    if not call.credential and all(candidate.passed_over == "off" for candidate in candidates):
        return BadClientKey(
            "this proxy has no provider key, and the request brings none: set ANTHROPIC_API_KEY or ZAI_API_KEY for the "
            "proxy, or log in with Claude Code"
        )
    return NoRoute(f"no route can take this request: {words}")
