"""One request, from plan to bytes to outcome. The page to read first.

    rank -> failover yields an attempt -> admitted -> AttemptStarted is acknowledged -> the request is sent
         -> held back until content comes (commit) -> bytes pass unchanged, a tap reads along
         -> AttemptEnded is acknowledged -> the last bytes are sent -> the plan's verdict

Laws
- Before commit nothing of an answer is sent to the client, so that every failure can be made good on another route. A
  stream's head and pings may have gone: they commit the status alone.
- After commit no other route is tried: a broken stream ends with a well-formed `event: error`.
- Nobody ever holds a complete answer that the ledger does not.
- When the client leaves, its task is cancelled: the upstream request is closed at once, and what was used is recorded.

Not here: deciding (`routing`), facing the client (`edge`), the plan (`request_plan`), the inside of an attempt
(`attempt_runner`), recording it (`recorder`), the error that a client gets in the end (`verdict_response`).
"""

import asyncio
import contextlib

from msgspec.structs import replace

from service.fleet.admission import Admission, AdmissionRequest, Grant
from service.fleet.clock import Clock
from service.fleet.outbox import Outbox
from service.fleet.resource_index import ResourceIndex
from service.fleet.snapshots import Watcher
from service.http1.upstream import UpstreamClient
from service.oauth.credentials import Credentials
from service.protocol.usage_estimate import UsageEstimator
from service.relay.attempt import AttemptOutcome, AttemptPlan
from service.relay.attempt_runner import AttemptRunner
from service.relay.client import ClientRequest, ClientResponse, ResponseWriter
from service.relay.client_stream import ClientStream
from service.relay.model_list import ModelList
from service.relay.recorder import AttemptRecorder
from service.relay.request_plan import RequestPlan, RequestPlanner
from service.relay.responses import ResponseRelay
from service.relay.session_affinity import is_own_mismatch
from service.relay.upstream_request import UpstreamRequestBuilder
from service.relay.verdict_response import VerdictResponse
from service.routing.failover import AdmissionDenied, Attempt, AttemptResult
from service.routing.failure import Failure, is_thought_refusal
from service.routing.rank import MODEL_ENDPOINTS
from service.routing.request_fields import lost_fields
from service.settings import Settings


class Relay:
    """Relays requests. What belongs to one request is local to `handle`."""

    def __init__(
        self,
        settings: Settings,
        *,
        upstream: UpstreamClient,
        credentials: Credentials,
        outbox: Outbox,
        watcher: Watcher,
        resources: ResourceIndex,
        admission: Admission,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._admission = admission
        self._credentials = credentials
        self._planner = RequestPlanner(settings, watcher=watcher, resources=resources, clock=clock)
        self._requests = UpstreamRequestBuilder(settings, credentials)
        self._recorder = AttemptRecorder(
            settings,
            outbox=outbox,
            view=watcher.view,
            resources=resources,
            clock=clock,
            fingerprints=watcher.fingerprints,
        )
        estimator = UsageEstimator()
        self._runner = AttemptRunner(
            settings,
            upstream=upstream,
            requests=self._requests,
            responses=ResponseRelay(
                settings,
                admission=admission,
                recorder=self._recorder,
                resources=resources,
                estimator=estimator,
                clock=clock,
            ),
            recorder=self._recorder,
            estimator=estimator,
            admission=admission,
            clock=clock,
        )
        self._models = ModelList(settings, runner=self._runner, recorder=self._recorder, clock=clock)
        self._verdicts = VerdictResponse(settings, clock)
        self._under_way = 0

    def longest_wait_ms(self) -> int:
        """For how long the stream that waits longest for its first byte has waited; 0 if none waits."""
        return self._runner.longest_wait_ms()

    def check_access(self, request: ClientRequest) -> None:
        """Find the routes that the client may use, before its body is read. Raises ProxyError when none of them has a
        credential."""
        self._planner.check_access(request)

    async def handle(self, request: ClientRequest, response: ClientResponse) -> None:
        """Answer one request, whose access was checked. Raises ProxyError for an error of our own."""
        self._under_way += 1
        stream = ClientStream(response, self.settings.timeouts) if is_streamed(request) else None
        plan = None
        try:
            plan = await self._planner.plan(request)
            await self._run_attempts(request, plan, response, stream or response)
            if plan.held:
                await self._record_held(request, plan, plan.held)
            if not response.committed:
                if stream:
                    stream.stop()
                response.dropped = ()
                await self._verdicts.send(request, plan, response)
        except BaseException:
            if plan and plan.held:  # the client has left while a second opinion was asked
                await asyncio.shield(self._record_held(request, plan, plan.held))
            raise
        finally:
            if stream:
                stream.stop()
            self._under_way -= 1

    async def stop(self, limit_s: float = 2.0) -> None:
        """Wait for requests that were cancelled to be recorded, within the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._under_way:  # noqa: ASYNC110 - bounded by the limit above
                    await asyncio.sleep(0.01)

    async def _run_attempts(
        self, request: ClientRequest, plan: RequestPlan, response: ClientResponse, writer: ResponseWriter
    ) -> None:
        """Make attempts until the plan has a verdict."""
        if request.endpoint == "models" and await self._models.answer(request, plan, response):
            return
        while attempt := plan.attempt:
            if attempt.wait_ms:
                await asyncio.sleep(attempt.wait_ms / 1000)
            response.route = attempt.candidate.route.id
            admitted = await self._admit(request, plan, attempt)
            if isinstance(admitted, AdmissionDenied):
                plan.deny(admitted, self.clock.now_ms())
                continue
            response.attempts = attempt.number
            response.dropped = admitted.dropped
            outcome = await self._runner.run_attempt(
                request, admitted, writer, plan.deadline_s, is_last=plan.is_last(admitted.route)
            )
            response.broken = response.committed and outcome.failure is not None
            await self._conclude(request, plan, outcome, writer)

    async def _admit(
        self, request: ClientRequest, plan: RequestPlan, attempt: Attempt
    ) -> AttemptPlan | AdmissionDenied:
        """Admit an attempt: by routing once more, if other routes had their turn since, and by the fleet."""
        attempt_id, started_ms = self.clock.new_id(), self.clock.now_ms()
        route = attempt.candidate.route
        if plan.comes_late(route):
            checked = self._planner.recheck(plan, attempt)
            if isinstance(checked, AdmissionDenied):
                return checked
            attempt = checked
        entry = AdmissionRequest(
            attempt_id=attempt_id,
            candidate=attempt.candidate,
            body_bytes=len(request.plain),
            max_tokens=request.max_tokens,
            in_session=request.session_id != "",
        )
        grant = await self._admission.admit_attempt(entry) if request.endpoint == "messages" else Grant()
        if isinstance(grant, AdmissionDenied):
            return grant
        return AttemptPlan(
            attempt=attempt,
            route=route,
            model=attempt.candidate.model,
            attempt_id=attempt_id,
            started_ms=started_ms,
            grant=grant,
            probe=grant.probe,
            dropped=lost_fields(route.provider.dialect, request.fields) if request.fields else (),
        )

    async def _conclude(
        self, request: ClientRequest, plan: RequestPlan, outcome: AttemptOutcome, response: ResponseWriter
    ) -> None:
        """Let the plan go on from an outcome, and release what the attempt held."""
        try:
            if outcome.failure:
                outcome = await self._handle_failure(request, plan, outcome, outcome.failure, response)
            else:
                plan.advance(AttemptResult(self.clock.now_ms()))
                if self._planner.sessions and request.session_key:
                    await self._planner.sessions.note_served(request, outcome)
            plan.outcomes.append(outcome)
        finally:
            self._runner.release(outcome)

    async def _handle_failure(
        self,
        request: ClientRequest,
        plan: RequestPlan,
        outcome: AttemptOutcome,
        failure: Failure,
        response: ResponseWriter,
    ) -> AttemptOutcome:
        """All that follows from a failed attempt: what is learned from it, what the plan makes of it, its record."""
        if is_thought_refusal(failure) and not is_own_mismatch(request, outcome.plan.route, failure):
            await self._requests.note_refused_signatures(request, outcome.plan, failure)
        over = response.committed or asyncio.get_running_loop().time() >= plan.deadline_s
        renewed = not over and await self._is_renewed(request, outcome, plan.deadline_s)
        plan.advance(AttemptResult(self.clock.now_ms(), failure, over, renewed=renewed))
        if renewed:
            outcome = unscoped(outcome)
        if plan.attempt and plan.attempt.opinion_on and not outcome.plan.attempt.opinion_on:
            plan.held = replace(outcome, ended_ms=self.clock.now_ms())
            return plan.held
        if plan.is_confirmed:
            outcome = replace(outcome, is_evidence=False)
        return await self._recorder.record_end(request, outcome, final=plan.attempt is None)

    async def _record_held(self, request: ClientRequest, plan: RequestPlan, held: AttemptOutcome) -> None:
        """Record the failure on which a second opinion was asked: its words count, unless the opinion confirmed it."""
        plan.held = None
        is_last = request.last is None or request.last.number < held.plan.attempt.number
        held = replace(held, opinion=plan.opinion, is_evidence=not plan.is_confirmed)
        await self._recorder.record_end(request, held, final=is_last)

    async def _is_renewed(self, request: ClientRequest, outcome: AttemptOutcome, deadline_s: float) -> bool:
        """Return true if a refused token has a successor: then the route is worth another attempt at once."""
        failure = outcome.failure
        if failure is None or not failure.refresh or request.endpoint not in MODEL_ENDPOINTS:
            return False
        try:
            async with asyncio.timeout_at(deadline_s):
                return await self._credentials.refused(outcome.plan.route, outcome.credential)
        except TimeoutError:
            return False
        except BaseException:  # the client has left; the attempt has ended, and its token may have a successor yet
            await asyncio.shield(self._recorder.record_end(request, unscoped(outcome), final=True))
            raise


def is_streamed(request: ClientRequest) -> bool:
    """Return true if the client waits for an event stream."""
    return request.stream and request.endpoint == "messages"


def unscoped(outcome: AttemptOutcome) -> AttemptOutcome:
    """The outcome of a failure that is not held against the route, whose credential is another one by now."""
    return replace(outcome, failure=replace(outcome.failure, scope="")) if outcome.failure else outcome
