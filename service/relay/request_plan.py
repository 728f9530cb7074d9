"""The plan of one request: which routes may serve it, in which order, and how far it has come.

Not here: the order itself (`routing.rank`), what follows from a failure (`routing.failover`).
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from zlib import crc32

from msgspec.structs import replace

from service.fleet.clock import Clock
from service.fleet.resource_index import ResourceIndex
from service.fleet.snapshots import Watcher
from service.ledger.events import Opinion
from service.protocol.token_estimate import is_short, least_tokens
from service.relay.attempt import AttemptOutcome
from service.relay.client import READS, ClientRequest
from service.relay.client_errors import no_provider, uncounted
from service.relay.ownership import home_of
from service.relay.session_affinity import SessionAffinity, origin_of_thoughts
from service.routing.context import smallest_context_tokens, smallest_on
from service.routing.failover import (
    AdmissionDenied,
    Attempt,
    AttemptResult,
    Plan,
    Verdict,
    failover,
)
from service.routing.rank import MODEL_ENDPOINTS, SOFT_REASONS, Candidate, RoutingRequest, choose_chain, rank, recheck
from service.routing.retry_budget import RetryBudget
from service.settings import Route, Settings

WAITING = frozenset(("waiting", "quota_spent"))
"""Why a route is passed over when waiting helps."""


class RequestPlan:
    """The failover plan under way: `attempt` is the next one, None once there is a verdict."""

    __slots__ = (
        "_routes_begun", "_steps", "_usable", "attempt", "candidates", "deadline_s", "denied", "held", "in_full",
        "outcomes", "routing_request", "verdict",
    )  # fmt: skip

    def __init__(
        self, steps: Plan, routing_request: RoutingRequest, candidates: Sequence[Candidate], deadline_s: float
    ) -> None:
        self.routing_request = routing_request
        self.candidates = candidates
        self.deadline_s = deadline_s
        """Of the event loop's time."""
        self.outcomes = list[AttemptOutcome]()
        self.denied: dict[str, AdmissionDenied] = {}
        """Why routes did not admit the request, by their ids."""
        self.held: AttemptOutcome | None = None
        """The outcome on which a second opinion is asked, which is recorded once that is there."""
        self.in_full: Callable[[], Sequence[Candidate]] | None = None
        """For a continued thread: the candidates for the whole conversation, as they stand now."""
        self.attempt: Attempt | None = None
        self.verdict: Verdict | None = None
        self._steps = steps
        self._usable = len([candidate for candidate in candidates if not candidate.skip_reason])
        self._routes_begun: set[str] = set()
        self.advance(None)

    def advance(self, result: AttemptResult | None) -> None:
        """Go on to the next attempt, or to the verdict."""
        if self.attempt:
            self._routes_begun.add(self.attempt.candidate.route.id)
        try:
            self.attempt = self._steps.send(result)  # type: ignore[arg-type]  # None starts a generator
        except StopIteration as stop:
            self.attempt, self.verdict = None, stop.value

    def deny(self, denied: AdmissionDenied, now_ms: int) -> None:
        """The next attempt is not admitted."""
        if self.attempt:
            self.denied[self.attempt.candidate.route.id] = denied
        self.advance(AttemptResult(now_ms, refusal=denied))

    def is_last(self, route: Route) -> bool:
        """Return true if no usable route is left after this one."""
        return len(self._routes_begun | {route.id}) >= self._usable

    def comes_late(self, route: Route) -> bool:
        """Return true if other routes were tried since the candidates were ranked, and this one is new."""
        return bool(self._routes_begun) and all(outcome.plan.route.id != route.id for outcome in self.outcomes)

    @property
    def is_confirmed(self) -> bool:
        """Whether a second route has rejected the request too."""
        return self.verdict is not None and self.verdict.confirmed

    @property
    def opinion(self) -> Opinion:
        """What came of a second opinion; none also if the client left before there was one."""
        if self.verdict is None or (self.verdict.kind == "answered" and self.verdict.failure):
            return "none"
        if self.verdict.kind == "answered":
            return "answered"
        return "confirmed" if self.verdict.confirmed else "none"

    @property
    def final_verdict(self) -> Verdict:
        """Return the request's outcome, once no attempt is left."""
        assert self.verdict is not None  # noqa: S101 - the plan ends with one
        return self.verdict


class RequestPlanner:
    """Makes plans of requests."""

    def __init__(self, settings: Settings, *, watcher: Watcher, resources: ResourceIndex, clock: Clock) -> None:
        self.sessions = SessionAffinity(resources, clock, watcher) if settings.session_affinity else None
        self._settings = settings
        self._policy = settings.policy
        self._watcher = watcher
        self._resources = resources
        self._clock = clock
        self._retry_budget = RetryBudget()
        self._smallest_tokens = smallest_context_tokens(settings.policy)

    def check_access(self, request: ClientRequest) -> None:
        """Set the routes that the client may use. Raises ProxyError when none of them has a credential."""
        request.chain = chain = self._chain(request)
        if [route for route in chain if not route.off]:
            return
        if request.endpoint == "count_tokens" and chain:
            raise uncounted(request)
        raise no_provider(request, is_owner=not self._settings.asks_for_keys)

    async def plan(self, request: ClientRequest) -> RequestPlan:
        """The plan of a request whose access was checked. Raises ProxyError for a resource that it may not use."""
        self._retry_budget.earn()
        home = await self._home_of(request) if request.resource_ids else ""
        if self.sessions and request.session_id:
            request.last_served = await self.sessions.last_served(request)
        routing_request = RoutingRequest(
            request.endpoint,
            request.model,
            least_tokens=await self._least_tokens(request),
            trimmed=request.trimmed,
            threaded=request.continues_thread,
            bound_to=home,
            session_route=request.last_served.route if request.last_served else "",
            mid_turn=request.mid_turn,
            ramp_sample=crc32(request.request_id.encode()) / 2**32,
            client=request.client_key,
            fields=request.fields,
        )
        candidates = rank(routing_request, request.chain, self._watcher.view, self._policy, self._clock.now_ms())
        searching = not home and bool(request.resource_ids) and request.method in READS
        steps = failover(
            candidates,
            self._policy,
            request.model,
            self._retry_budget.spend,
            searching=searching,
            as_it_came=request.endpoint not in MODEL_ENDPOINTS,
            thoughts=lambda: origin_of_thoughts(request),
        )
        deadline_s = asyncio.get_running_loop().time() + request.deadline_ms / 1000
        plan = RequestPlan(steps, routing_request, candidates, deadline_s)
        if request.continues_thread and request.endpoint == "messages":
            plan.in_full = partial(self._in_full, request, routing_request)
        return plan

    def recheck(self, plan: RequestPlan, attempt: Attempt) -> Attempt | AdmissionDenied:
        """An attempt that comes late, as its route stands now: its circuit may have opened, or its week have ended."""
        now = recheck(attempt.candidate, plan.routing_request, self._watcher.view, self._policy, self._clock.now_ms())
        if now.usable:
            return replace(attempt, candidate=now)
        if now.skip_reason in SOFT_REASONS and not plan.outcomes:
            return attempt  # nothing was tried yet: an open circuit may be all that is left
        plan.candidates = [now if candidate.route == now.route else candidate for candidate in plan.candidates]
        return AdmissionDenied("passed_over", now.reason, now.until_ms if now.skip_reason in WAITING else 0)

    def _in_full(self, request: ClientRequest, routing_request: RoutingRequest) -> Sequence[Candidate]:
        """The candidates for a continued thread, if the request had the whole conversation."""
        whole = replace(routing_request, threaded=False, bound_to="")
        return rank(whole, request.chain, self._watcher.view, self._policy, self._clock.now_ms())

    def _chain(self, request: ClientRequest) -> tuple[Route, ...]:
        chain = choose_chain(
            self._settings.routes,
            self._settings.client_route,
            credential=request.credential,
            mode=self._settings.client_credentials,
        )
        if not request.only_routes:
            return chain
        return tuple(route for route in chain if route.auth == "client" or route.id in request.only_routes)

    async def _home_of(self, request: ClientRequest) -> str:
        """The route on which the request's resources live, "" when it names none that is known."""
        has_own_account = any(route.auth == "client" for route in request.chain)
        return await home_of(request, self._resources, has_own_account=has_own_account)

    async def _least_tokens(self, request: ClientRequest) -> int:
        """Return a lower bound of the prompt's tokens; 0 if it fits every model of the chain, as nearly always."""
        if request.endpoint != "messages" or is_short(request.plain, self._smallest_tokens):
            return 0
        floor_tokens = smallest_on(request.chain, request.model, self._policy)
        return await asyncio.to_thread(least_tokens, request.plain, floor_tokens)
