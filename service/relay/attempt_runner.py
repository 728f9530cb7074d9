"""Runs one attempt: sends the request to its route, relays the response, and returns the outcome.

    build the request -> record the start -> send it, wait for the head -> relay all but the last part
        -> record the end -> send the last part

Not here: which route is tried, and what follows from a failure (`request`).
"""

import asyncio
import contextlib

from msgspec import Struct, field
from msgspec.structs import replace

from service.fleet.admission import Admission
from service.fleet.clock import Clock
from service.http1.upstream import UpstreamClient, UpstreamError, UpstreamResponse
from service.ledger.events import FailureScope, Outcome
from service.ledger.usage_lines import NO_TOKENS
from service.protocol.sse import EventTooLarge
from service.protocol.usage_estimate import UsageEstimator
from service.relay.attempt import (
    AttemptFailed,
    AttemptOutcome,
    AttemptPlan,
    ResponseProgress,
    UpstreamExchange,
)
from service.relay.attempt_log import log_attempt
from service.relay.client import ClientRequest, ResponseWriter
from service.relay.client_errors import error_event
from service.relay.recorder import AttemptRecorder
from service.relay.responses import ResponseRelay
from service.relay.upstream_request import UpstreamRequest, UpstreamRequestBuilder
from service.routing.failure import Failure
from service.routing.quota import counted_tokens
from service.settings import Settings

DRAIN_S = 0.25
"""After `message_stop` the end of the body follows at once; a slower connection is not worth keeping."""

FAILURES = (AttemptFailed, UpstreamError, TimeoutError, EventTooLarge)
"""The exceptions with which an attempt fails."""


class AttemptProgress(Struct):
    """The progress of an attempt. It may end at any moment; the outcome is made of what is known by then."""

    plan: AttemptPlan
    client: ResponseWriter
    response: ResponseProgress = field(default_factory=ResponseProgress)
    sent: UpstreamRequest | None = None
    upstream: UpstreamResponse | None = None
    first_byte_ms: int | None = None
    ended: AttemptOutcome | None = None
    """The outcome, once its record is under way: nothing is recorded twice."""

    def failed(self, failure: Failure, body: bytes) -> AttemptOutcome:
        """The outcome of an attempt that fails here; one that failed behind its end stays as it is on the ledger."""
        return replace(self.ended, failure=failure) if self.ended else self.outcome("failed", failure, body)

    def outcome(self, result: Outcome, failure: Failure | None = None, body: bytes = b"") -> AttemptOutcome:
        """The outcome of an attempt that ends here."""
        upstream = self.upstream
        return AttemptOutcome(
            plan=self.plan,
            result=result,
            failure=failure,
            credential=self.sent.credential if self.sent else "",
            account=self.sent.account if self.sent else "",
            loses_thoughts=self.sent is not None and self.sent.loses_thoughts,
            status=upstream.status if upstream else 0,
            headers=upstream.headers if upstream else (),
            body=body,
            body_decoded=upstream is not None and upstream.decoded,
            is_event_stream=self.response.is_event_stream,
            usage=self.response.usage,
            first_byte_ms=self.first_byte_ms,
            first_part_ms=self.response.first_part_ms,
            first_content_ms=self.response.first_content_ms,
            early_head=self.client.early,
            started=self.sent is not None,
        )


class AttemptRunner:
    """Runs attempts."""

    def __init__(
        self,
        settings: Settings,
        *,
        upstream: UpstreamClient,
        requests: UpstreamRequestBuilder,
        responses: ResponseRelay,
        recorder: AttemptRecorder,
        admission: Admission,
        estimator: UsageEstimator,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._upstream = upstream
        self._requests = requests
        self._responses = responses
        self._recorder = recorder
        self._admission = admission
        self._estimator = estimator
        self._clock = clock
        self._unanswered: dict[str, int] = {}
        """Streams of which nothing has come yet: attempt id -> when they were sent."""

    def longest_wait_ms(self) -> int:
        """For how long the stream that waits longest has had no answer; 0 if none waits."""
        sent_ms = min(self._unanswered.values(), default=0)
        return max(0, self._clock.now_ms() - sent_ms) if sent_ms else 0

    async def run_attempt(
        self, request: ClientRequest, plan: AttemptPlan, response: ResponseWriter, deadline_s: float, *, is_last: bool
    ) -> AttemptOutcome:
        """Run an attempt to its outcome, which the caller has to release.

        An answer, and a failure after commit, are recorded; a failure before commit is the caller's to record, who
        knows whether another attempt follows. When the client leaves, the attempt is recorded as aborted and released.
        """
        log_attempt(request, plan)
        progress = AttemptProgress(plan, response)
        try:
            outcome = await self._answer(request, progress, response, deadline_s, is_last=is_last)
            if outcome.failure and response.committed:
                outcome = await self._end_broken(request, progress, outcome, response)
        except BaseException:  # the client has left, mostly; whatever it was, what was used counts
            await self._abort(request, progress)
            raise
        return outcome

    async def _answer(
        self,
        request: ClientRequest,
        progress: AttemptProgress,
        response: ResponseWriter,
        deadline_s: float,
        *,
        is_last: bool,
    ) -> AttemptOutcome:
        """Send the request and relay the response. Before commit nothing is raised but a cancellation."""
        head_s, content_s = self._limits_s(request, deadline_s, is_last=is_last)
        try:
            async with asyncio.timeout_at(head_s) as deadline:
                upstream, credential = await self._open(request, progress)
                if head_s != content_s:
                    deadline.reschedule(content_s)
                exchange = UpstreamExchange(
                    request, progress.plan, credential, upstream, response, deadline, progress.response
                )
                final_part = await self._responses.relay(exchange)
            if final_part.resource_ids:
                await self._recorder.record_resources(request, progress.plan, final_part.resource_ids)
            outcome = progress.outcome("failed" if final_part.failure else "ok", final_part.failure)
            outcome = await self._record_end(request, progress, outcome)
            if final_part.head:
                await response.start(*final_part.head)
            await response.end(final_part.data)
            if progress.response.is_event_stream and not upstream.at_end:
                await drain_upstream(upstream)
        except FAILURES as error:
            return self._failed(request, progress, error)
        finally:
            if progress.upstream:
                await progress.upstream.close()
        return outcome

    async def _open(self, request: ClientRequest, progress: AttemptProgress) -> tuple[UpstreamResponse, str]:
        """Send the request; the response, whose head has come, and the credential that was sent.

        The start is on the ledger before the first byte is sent.
        """
        plan = progress.plan
        sent = progress.sent = await self._requests.build(request, plan)
        await self._recorder.record_start(request, plan)
        if request.stream:
            self._unanswered[plan.attempt_id] = plan.started_ms
        try:
            upstream = progress.upstream = await self._upstream.open(
                request.method, plan.route.base_url, request.target, sent.headers, sent.content
            )
        finally:
            self._unanswered.pop(plan.attempt_id, None)
        progress.first_byte_ms = self._clock.now_ms() - plan.started_ms
        return upstream, sent.credential

    def _limits_s(self, request: ClientRequest, deadline_s: float, *, is_last: bool) -> tuple[float, float]:
        """When head and content must have come: sooner while other routes are left; whole answers may take minutes."""
        if is_last:
            return deadline_s, deadline_s
        now_s = asyncio.get_running_loop().time()
        if not request.stream:
            return (now_s + deadline_s) / 2, deadline_s
        content_s = min(deadline_s, now_s + self._settings.timeouts.first_content_ms / 1000)
        return min(content_s, now_s + self._settings.timeouts.first_byte_ms / 1000), content_s

    async def _record_end(
        self, request: ClientRequest, progress: AttemptProgress, outcome: AttemptOutcome
    ) -> AttemptOutcome:
        """Record the end of the last attempt of a request."""
        progress.ended = replace(outcome, recorded=True)  # also if the client leaves while this waits
        progress.ended = await self._recorder.record_end(request, outcome, final=True)
        return progress.ended

    async def _end_broken(
        self, request: ClientRequest, progress: AttemptProgress, outcome: AttemptOutcome, response: ResponseWriter
    ) -> AttemptOutcome:
        """End a response that broke after commit: an event stream with an error event, any other by cutting it off."""
        if outcome.recorded:
            return outcome
        outcome = await self._record_end(request, progress, outcome)
        if outcome.is_event_stream and outcome.failure:
            await response.end(error_event(request, outcome.plan.route, outcome.failure))
        return outcome

    async def _abort(self, request: ClientRequest, progress: AttemptProgress) -> None:
        """End an attempt whose client has left: what was used is recorded, and what was held is released."""
        try:
            if not progress.ended:
                self._estimate_left(request, progress)
                await asyncio.shield(self._record_end(request, progress, progress.outcome("aborted")))
        finally:
            self.release(progress.ended or progress.outcome("aborted"))

    def _failed(self, request: ClientRequest, progress: AttemptProgress, error: BaseException) -> AttemptOutcome:
        """The outcome of an attempt that fails with an exception."""
        failure = self._failure_of(error, progress)
        if failure.kind == "deadline":
            self._estimate_left(request, progress)
        return progress.failed(failure, error.body if isinstance(error, AttemptFailed) else b"")

    def _estimate_left(self, request: ClientRequest, progress: AttemptProgress) -> None:
        """Estimate the usage of a request that was sent and left before anything of its answer was read."""
        is_answered = progress.upstream is not None and progress.upstream.status >= 300
        if request.endpoint != "messages" or progress.sent is None or is_answered:
            return
        if progress.response.usage.total == NO_TOKENS:
            progress.response.usage = self._estimator.of_left(
                progress.plan.model, request.plain, is_stream=request.stream, max_tokens=request.max_tokens
            )

    def release(self, outcome: AttemptOutcome) -> None:
        """Give back what the attempt held, and remember its size for those to come."""
        plan = outcome.plan
        used = counted_tokens(outcome.usage.total, self._settings.policy.quota.weights)
        if used:
            self._admission.sizes.record(plan.route.id, plan.model, used)
        self._admission.release(plan.grant, used, outcome.ended_seq)

    def _failure_of(self, error: BaseException, progress: AttemptProgress) -> Failure:
        """Return the failure that an exception stands for."""
        status = progress.upstream.status if progress.upstream else 0
        if isinstance(error, AttemptFailed):
            return error.failure
        if isinstance(error, UpstreamError):
            return Failure(error.kind, scope_of(error), message=str(error), status=status)
        if isinstance(error, EventTooLarge):
            return Failure("bad_answer", "route", message=str(error), status=status)
        return self._timeout_failure(progress, status)

    def _timeout_failure(self, progress: AttemptProgress, status: int) -> Failure:
        """A time-out is the route's fault only if the route had its time; some clients allow a second."""
        timeouts, is_alive = self._settings.timeouts, progress.response.first_part_ms is not None
        waited_ms = self._clock.now_ms() - progress.plan.started_ms
        patience_ms = min(self._settings.policy.circuit.slow_ms, timeouts.first_byte_ms)
        if waited_ms < (timeouts.first_content_ms if is_alive else patience_ms):
            return Failure("deadline", "", message="the client's deadline has passed", status=status)
        what = "no content" if is_alive else "nothing"
        return Failure("timeout", "route", message=f"the provider sent {what} for too long", status=status)


def scope_of(error: UpstreamError) -> FailureScope:
    """Whose fault a broken connection is: a reused one that had gone stale is nobody's."""
    if error.kind == "stale_socket":
        return ""
    return "request" if error.kind == "bad_request" else "route"


async def drain_upstream(upstream: UpstreamResponse) -> None:
    """Read the end of the body, so that the connection can be used again; a slow one is dropped."""
    with contextlib.suppress(TimeoutError, UpstreamError):
        async with asyncio.timeout(DRAIN_S):
            while await upstream.chunk():
                pass
