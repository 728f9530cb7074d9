"""Sends the verdict to a client that no route has answered: a provider's error, or one of our own.

Not here: which of these it is (`routing.failover`), or its message (`client_errors`).
"""

from service.errors import ProxyError
from service.fleet.clock import Clock
from service.relay.attempt import AttemptOutcome
from service.relay.client import ClientRequest, ResponseWriter, content_length
from service.relay.client_errors import (
    describe_attempts,
    is_anthropic_error,
    no_route,
    prompt_too_long,
    provider_error,
    redacted,
    throttled,
    uncounted,
    unreachable,
)
from service.relay.request_plan import RequestPlan
from service.relay.responses import HeaderList, response_headers
from service.routing.failover import Verdict
from service.routing.rank import MODEL_ENDPOINTS
from service.settings import Settings

REFUSED = frozenset((401, 403))
NO_RETRY = (b"x-should-retry", b"false")
JSON_HEADER = (b"content-type", b"application/json")


class VerdictResponse:
    """Sends verdicts."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._asks_for_keys = settings.asks_for_keys
        self._clock = clock

    async def send(self, request: ClientRequest, plan: RequestPlan, response: ResponseWriter) -> None:
        """Tell the client how its request ended. Raises ProxyError for an error of our own."""
        verdict = plan.final_verdict
        if verdict.kind != "relayed":
            raise self._own_error(request, plan, verdict)
        outcome = plan.outcomes[verdict.number - 1]
        response.route = outcome.plan.route.id
        if not is_anthropic_error(request, outcome):
            raise provider_error(outcome)
        body = redacted(outcome.body, outcome.credential)
        await response.start(
            outcome.shown_status,
            [*self._head(outcome, is_model=request.endpoint in MODEL_ENDPOINTS), content_length(body)],
        )
        await response.end(body)

    def _own_error(self, request: ClientRequest, plan: RequestPlan, verdict: Verdict) -> ProxyError:
        """The error for a request that was not answered by any route."""
        summary = describe_attempts(plan.outcomes, plan.candidates, plan.denied)
        is_uncounted = all(outcome.failure and outcome.failure.kind == "bad_answer" for outcome in plan.outcomes)
        if request.endpoint == "count_tokens" and is_uncounted:
            return uncounted(request, summary)
        if verdict.kind == "too_large":
            return prompt_too_long(plan.candidates)
        if verdict.kind == "throttled":
            return throttled(verdict.until_ms, self._clock.now_ms(), summary)
        if verdict.kind == "no_route":
            return no_route(request, plan.candidates, summary)
        return unreachable(plan.outcomes, summary)

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
