"""Sends the verdict to a client that no route has answered: a provider's error, or one of our own.

Behind an early head both are raised, for the edge to tell them in the stream (`edge.responses`).

Not here: which of these it is (`routing.failover`), or its message (`client_errors`).
"""

from service.errors import ProxyError
from service.fleet.clock import Clock
from service.relay.attempt import AttemptOutcome
from service.relay.attempt_log import log_unanswered
from service.relay.client import ClientRequest, ClientResponse, content_length
from service.relay.client_errors import (
    all_failed,
    describe_attempts,
    field_unsupported,
    is_anthropic_error,
    no_route,
    prompt_too_long,
    provider_error,
    redacted,
    relayed_in_stream,
    throttled,
    uncounted,
    unreachable,
)
from service.relay.plain_words import reasons_of, sentence
from service.relay.request_plan import RequestPlan
from service.relay.responses import HeaderList, response_headers
from service.relay.threads import thread_lost
from service.routing.failover import Verdict, VerdictKind
from service.routing.rank import MODEL_ENDPOINTS
from service.settings import Settings

REFUSED = frozenset((401, 403))
NO_RETRY = (b"x-should-retry", b"false")
JSON_HEADER = (b"content-type", b"application/json")


ROUTES_FAULTS = frozenset(("route", "provider", "model"))
"""Scopes of failures that say nothing about the request: the client is told of all routes."""


class VerdictResponse:
    """Sends verdicts."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._asks_for_keys = settings.asks_for_keys
        self._clock = clock

    async def send(self, request: ClientRequest, plan: RequestPlan, response: ClientResponse) -> None:
        """Tell the client how its request ended. Raises ProxyError for an error of our own."""
        if lost := thread_lost(plan):
            raise lost
        verdict = plan.final_verdict
        if verdict.kind != "relayed":
            raise self._own_error(request, plan, verdict)
        outcome = plan.outcomes[verdict.number - 1]
        response.route, response.dropped = outcome.plan.route.id, outcome.plan.dropped
        head = self._head(outcome, is_model=request.endpoint in MODEL_ENDPOINTS)
        if error := self._reworded(request, plan, outcome):
            error.headers = [(name, value) for name, value in head if not name.startswith(b"content-")]
            raise error
        body = redacted(outcome.body, outcome.credential)
        if response.started:
            raise relayed_in_stream(outcome, body, head)
        await response.start(outcome.shown_status, [*head, content_length(body)])
        await response.end(body)

    def _reworded(self, request: ClientRequest, plan: RequestPlan, outcome: AttemptOutcome) -> ProxyError | None:
        """The provider's error in our words: when all routes have failed, and when it is not in Anthropic's shape."""
        if is_routes_failure(request, outcome):
            return all_failed(outcome, self._sentence(request, plan, "relayed"))
        return None if is_anthropic_error(request, outcome) else provider_error(request, outcome)

    def _own_error(self, request: ClientRequest, plan: RequestPlan, verdict: Verdict) -> ProxyError:
        """The error for a request that was not answered by any route."""
        message = self._sentence(request, plan, verdict.kind, verdict.until_ms)
        is_uncounted = all(outcome.failure and outcome.failure.kind == "bad_answer" for outcome in plan.outcomes)
        if request.endpoint == "count_tokens" and is_uncounted:
            return uncounted(request)
        if verdict.kind == "too_large":
            return prompt_too_long(plan.candidates)
        if verdict.kind == "unsupported":
            return field_unsupported(request, plan.candidates)
        if verdict.kind == "throttled":
            return throttled(verdict.until_ms, self._clock.now_ms(), message)
        if verdict.kind == "no_route":
            return no_route(request, plan.candidates, message)
        return unreachable(plan.outcomes, message)

    def _sentence(self, request: ClientRequest, plan: RequestPlan, verdict: VerdictKind, until_ms: int = 0) -> str:
        """Why no route has answered, in words for people; the log gets the details."""
        log_unanswered(request, verdict, describe_attempts(plan.outcomes, plan.candidates, plan.denied))
        now_ms = self._clock.now_ms()
        reasons = reasons_of(request, plan.outcomes, plan.candidates, plan.denied, now_ms)
        return sentence(request, reasons, until_ms, now_ms)

    def _head(self, outcome: AttemptOutcome, *, is_model: bool) -> HeaderList:
        """The headers of a provider's error; one that came inside a stream becomes JSON. What another endpoint may not
        is not worth a retry."""
        hides_account = self._asks_for_keys and outcome.plan.route.auth != "client"
        head = response_headers(
            outcome.headers, outcome.credential, hides_account=hides_account, body_decoded=outcome.body_decoded
        )
        if not is_model and outcome.status in REFUSED:
            head = [*((name, value) for name, value in head if name != b"x-should-retry"), NO_RETRY]
        if outcome.shown_status == outcome.status:
            return head
        return [*((name, value) for name, value in head if name != b"content-type"), JSON_HEADER]


def is_routes_failure(request: ClientRequest, outcome: AttemptOutcome) -> bool:
    """Whether an error is about the owner's routes; the client's own credential, and what is no message, get the
    provider's words."""
    is_owners = request.endpoint in MODEL_ENDPOINTS and outcome.plan.route.auth != "client"
    return is_owners and outcome.failure is not None and outcome.failure.scope in ROUTES_FAULTS
