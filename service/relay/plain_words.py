"""Why no route has answered, in one sentence for people.

It names each provider once, says in a few words why, and when to try again. Addresses, system errors, settings and the
words of routing are for the log (`client_errors.describe_attempts`).

Not here: status and type of the error (`client_errors`).
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from msgspec import Struct

from service.fleet.clock import utc_of
from service.ledger.events import Endpoint, FailureKind
from service.ledger.model_names import bounded_name
from service.relay.attempt import AttemptOutcome
from service.relay.client import ClientRequest
from service.routing.failover import AdmissionDenied, RefusalKind
from service.routing.failure import Failure
from service.routing.rank import Candidate, SkipReason
from service.settings import Route

SECOND_MS, MINUTE_MS = 1_000, 60_000
UNITS = (("day", 86_400_000), ("hour", 3_600_000), ("minute", MINUTE_MS), ("second", SECOND_MS))
UNAUTHORIZED = 401

FAILURE_WORDS: dict[FailureKind, str] = {
    "": "is not available",
    "connect": "could not be reached",
    "reset": "broke off the connection",
    "stale_socket": "broke off the connection",
    "timeout": "did not answer in time",
    "deadline": "did not answer in time",
    "server_error": "had an internal error",
    "overloaded": "is overloaded",
    "throttle": "is limiting requests",
    "quota": "has reached its limit",
    "billing": "is out of credit",
    "credential": "refuses this account",
    "model_missing": "does not offer this model",
    "bad_request": "can't take this request",
    "bad_answer": "sent an answer that can't be read",
    "stream_error": "reported an error",
}
"""What a provider did, by the kind of its failure; of credentials and models more is told where it is known."""
SKIP_WORDS: dict[SkipReason, str] = {
    "": "was not tried",
    "disabled": "is switched off",
    "circuit_open": "has been failing for a while",
    "refused": "has refused several requests in a row",
    "quota_spent": "has reached its weekly limit",
    "context_too_small": "can't hold a prompt of this length",
    "elsewhere": "does not have what the request refers to",
    "field_unsupported": "can't do what a field of the request asks for",
}
"""Why a route was not tried; `waiting` and `model_missing` need more than that. What is off is not mentioned."""
DENIED_WORDS: dict[RefusalKind, str] = {
    "probe": "is being tested after failures",
    "slots": "is busy with other requests",
    "quota": "has only as much of its limit left as other requests are using",
    "spent": "has less left of its weekly limit than this request may use",
    "passed_over": "is not available",
}
SERVICES: dict[Endpoint, str] = {
    "messages": "this model",
    "count_tokens": "token counts",
    "models": "a list of models",
    "batches": "batches",
    "files": "files",
    "other": "this service",
}
LIMITS: frozenset[str] = frozenset(("throttle", "quota"))
"""Kinds of failure whose end is part of the reason."""
PASSING: frozenset[str] = frozenset(
    (
        "connect",
        "reset",
        "stale_socket",
        "timeout",
        "deadline",
        "server_error",
        "overloaded",
        "bad_answer",
        "stream_error",
    )
)
"""Kinds of failure that may be over at any moment."""
TECHNICAL = re.compile(
    r"\berrno\b|\d+\.\d+\.\d+\.\d+|\[[0-9a-f:]*:[0-9a-f:]*\]|[a-z\]]:\d{2,5}\b|://|\blocalhost\b|</?[a-z!]",
    re.IGNORECASE,
)
"""System errors, addresses and tags."""
SETTING = re.compile(r"\b[A-Z][A-Z0-9]*_[A-Z0-9_]+\b")


class Reason(Struct, frozen=True):
    """Why a route did not answer: words that follow its name. `until_ms` is when that ends, 0 if nobody knows;
    `is_passing`: it may be over at any moment."""

    route: Route
    words: str
    until_ms: int = 0
    is_passing: bool = False


def is_technical(words: str) -> bool:
    """Whether words have a system error, an address, a tag or a setting in them."""
    return bool(TECHNICAL.search(words) or SETTING.search(words))


def reasons_of(
    request: ClientRequest,
    outcomes: Sequence[AttemptOutcome],
    candidates: Sequence[Candidate],
    denied: Mapping[str, AdmissionDenied],
    now_ms: int,
) -> list[Reason]:
    """Why each route did not answer: its last failure, else why it was not admitted or not tried."""
    found = {
        outcome.plan.route.id: reason_of_failure(request, outcome.plan.route, outcome.failure, now_ms)
        for outcome in outcomes
        if outcome.failure
    }
    for candidate in candidates:
        route, denial = candidate.route, denied.get(candidate.route.id)
        if route.id in found or candidate.skip_reason == "off":
            continue
        if candidate.skip_reason:
            found[route.id] = reason_of_skip(request, candidate, now_ms)
        elif denial:
            found[route.id] = Reason(route, DENIED_WORDS[denial.kind], denial.until_ms, is_passing=True)
    return list(found.values())


def reason_of_failure(request: ClientRequest, route: Route, failure: Failure, now_ms: int) -> Reason:
    """Why a route that was tried did not answer."""
    kind = failure.kind
    if kind == "credential":
        words = credential_words(route, is_expired=failure.refresh or not failure.status)
    elif kind == "model_missing":
        words = f"does not offer {offer_of(request)}"
    else:
        words = FAILURE_WORDS[kind] + end_of_limit(kind, failure.retry_at_ms, now_ms)
    return Reason(route, words, failure.retry_at_ms, kind in PASSING)


def reason_of_skip(request: ClientRequest, candidate: Candidate, now_ms: int) -> Reason:
    """Why a route was not tried."""
    route, reason, kind = candidate.route, candidate.skip_reason, candidate.wait_kind
    if reason == "model_missing":
        return Reason(route, f"does not offer {offer_of(request)}")
    if reason == "no_credential":
        return Reason(route, credential_words(route, is_expired=True))
    if reason == "waiting" and kind == "credential":
        words = credential_words(route, is_expired=candidate.wait_status in (0, UNAUTHORIZED))
    elif reason == "waiting":
        words = FAILURE_WORDS[kind] + end_of_limit(kind, candidate.until_ms, now_ms)
    else:
        words = SKIP_WORDS[reason] + end_of_limit(
            "quota" if reason == "quota_spent" else "", candidate.until_ms, now_ms
        )
    return Reason(route, words, candidate.until_ms)


def credential_words(route: Route, *, is_expired: bool) -> str:
    """What is wrong with a route's credential."""
    if route.auth == "client":
        return "does not accept your own login or key"
    if not is_expired:
        return FAILURE_WORDS["credential"]
    return "can't be used because its login has expired" if route.auth == "oauth" else "does not accept the API key"


def offer_of(request: ClientRequest) -> str:
    """What was asked of a provider."""
    if request.endpoint == "messages" and request.model:
        return f"the model {bounded_name(request.model)}"
    return SERVICES[request.endpoint]


def end_of_limit(kind: str, until_ms: int, now_ms: int) -> str:
    """When a limit ends."""
    wait_ms = until_ms - now_ms
    if kind not in LIMITS or wait_ms <= 0:
        return ""
    return f" for {format_wait(wait_ms)}" if wait_ms <= MINUTE_MS else f" until {format_time(until_ms)}"


def sentence(request: ClientRequest, reasons: Sequence[Reason], until_ms: int, now_ms: int) -> str:
    """The whole of it, with the id by which the log has the rest."""
    causes = listed([*clauses(reasons)]) or "none is set up for it"
    return (
        f"No provider can answer this request: {causes}; {when_to_retry(reasons, until_ms, now_ms)} "
        f"(request id {request.request_id})"
    )


def clauses(reasons: Sequence[Reason]) -> Iterator[str]:
    """Name and reason of each provider; of several routes with one name and one reason, once."""
    by_name: dict[str, list[Reason]] = {}
    for reason in reasons:
        by_name.setdefault(name_of(reason.route), []).append(reason)
    for name, own in by_name.items():
        words = dict.fromkeys(reason.words for reason in own)
        if len(words) == 1:
            yield f"{name} {own[0].words}"
        else:
            yield from (f"{name} ({reason.route.id}) {reason.words}" for reason in own)


def name_of(route: Route) -> str:
    """A route's title, or its provider's when it has none of its own."""
    return route.title if route.title != route.id else route.provider.title


def listed(words: Sequence[str]) -> str:
    """One, one and two, or one, two and three."""
    return " and ".join([*filter(None, [", ".join(words[:-1])]), *words[-1:]])


def when_to_retry(reasons: Sequence[Reason], until_ms: int, now_ms: int) -> str:
    """When to try again, relative and absolute. `until_ms` is the end of the soonest wait, 0 if nobody waits."""
    ends = [until_ms] if until_ms else [reason.until_ms for reason in reasons if reason.until_ms > now_ms]
    if not until_ms and any(reason.is_passing and reason.until_ms <= now_ms for reason in reasons):
        return "try again in a moment"
    if not ends:
        return "trying again won't help until that changes"
    soonest_ms = min(ends)
    wait_ms = max(0, soonest_ms - now_ms)
    at = f"{utc_of(soonest_ms):%H:%M:%S} UTC" if wait_ms <= MINUTE_MS else format_time(soonest_ms)
    return f"try again in {format_wait(wait_ms)}, at {at}"


def format_wait(wait_ms: int) -> str:
    """A length of time: 12 seconds, 5 minutes, 3 hours, 4 days; rounded up."""
    unit, unit_ms = next((unit, unit_ms) for unit, unit_ms in UNITS if wait_ms >= 2 * unit_ms or unit_ms == SECOND_MS)
    count = max(1, -(-wait_ms // unit_ms))
    return f"{count} {unit}{'' if count == 1 else 's'}"


def format_time(at_ms: int) -> str:
    """A moment, UTC."""
    return f"{utc_of(at_ms):%a %Y-%m-%d %H:%M} UTC"
