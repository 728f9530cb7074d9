"""One request, from plan to bytes to outcome. The page to read first.

    rank -> failover yields an attempt -> AttemptStarted is acknowledged -> the request goes up
         -> held back until content comes (commit) -> bytes pass unchanged, a tap reads along
         -> AttemptEnded is acknowledged -> the last bytes go to the client -> the plan's verdict

Laws
- Before commit nothing goes to the client, so that every failure can be made good on another route.
- After commit no other route is tried: a broken stream ends with a well-formed `event: error`.
- Nobody ever holds a complete answer that the ledger does not.
- When the client goes, its task is cancelled: the upstream is closed at once, and what was used is accounted.

Not here: deciding (`routing`), reading what providers say (`providers`), facing the client (`edge`), passing an answer
on (`responses`, `streams`), writing it down (`recorder`).
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from zlib import crc32

from msgspec.structs import replace

from service.fleet.admission import Admission, AdmissionRequest
from service.fleet.clock import Clock
from service.fleet.outbox import Outbox
from service.fleet.resource_index import ResourceHome, ResourceIndex
from service.fleet.snapshots import Watcher
from service.http1.upstream import UpstreamClient, UpstreamError, UpstreamResponse
from service.ledger.events import FailureScope
from service.oauth.credentials import Credentials, NoCredential
from service.protocol.body_survey import LARGE_BYTES
from service.protocol.sse import EventTooLarge
from service.protocol.token_estimate import is_short, least_tokens
from service.providers.bodies import clean_body, without_thinking
from service.providers.error_facts import windows_of
from service.providers.headers import length_said, upstream_headers
from service.providers.signatures import RefusedSignatures
from service.relay.attempt import AttemptFailed, AttemptState, ClientRequest, ResponseWriter, length_of, track_upload
from service.relay.client_errors import (
    describe_attempts,
    error_event,
    is_anthropic_error,
    no_route,
    prompt_too_long,
    provider_error,
    redacted,
    throttled,
    uncounted,
    unreachable,
)
from service.relay.deadline import Deadline
from service.relay.ownership import READS, home_of
from service.relay.recorder import AttemptRecorder, log_attempt
from service.relay.responses import ResponseRelay
from service.routing.context import smallest_context_tokens, smallest_on
from service.routing.failover import AdmissionDenied, Attempt, AttemptResult, Plan, Verdict, failover
from service.routing.failure import Failure, is_signature_refusal
from service.routing.quota import counted_tokens
from service.routing.rank import Candidate, RoutingRequest, choose_chain, rank, recheck
from service.routing.retry_budget import RetryBudget
from service.settings import Route, Settings

SESSION_TTL_S = 3_600
"""The longest life of a prompt cache."""
WAITING = frozenset(("waiting", "quota_spent"))
"""Why a route is passed over when waiting helps."""


class Relay:
    """Relays requests. Holds what a request needs; keeps nothing of it but digests of signatures that were refused."""

    def __init__(
        self,
        settings: Settings,
        *,
        wires: UpstreamClient,
        credentials: Credentials,
        outbox: Outbox,
        watcher: Watcher,
        resources: ResourceIndex,
        admission: Admission,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._wires = wires
        self._credentials = credentials
        self._watcher = watcher
        self._resources = resources
        self._book = AttemptRecorder(settings, outbox=outbox, resources=resources, clock=clock)
        self._smallest_tokens = smallest_context_tokens(settings.policy)
        self._admission = admission
        self._answers = ResponseRelay(settings, admission=admission, book=self._book, resources=resources, clock=clock)
        self._budget = RetryBudget()
        self._refused_signatures = RefusedSignatures()
        self._under_way = 0

    async def handle(self, call: ClientRequest, reply: ResponseWriter) -> None:
        """Answer one request, of which `check_access` was asked before. Raises ProxyError when no route's answer is
        worth showing."""
        self._under_way += 1
        try:
            await self._handle(call, reply)
        finally:
            self._under_way -= 1

    async def stop(self, limit_s: float = 2.0) -> None:
        """Wait for requests that were cancelled to be accounted, within the limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                while self._under_way:  # noqa: ASYNC110 - bounded by the limit above
                    await asyncio.sleep(0.01)

    async def _handle(self, call: ClientRequest, reply: ResponseWriter) -> None:
        self._budget.earn()
        home = await self._home_of(call) if call.resource_ids else ""
        session_route = await self._session_route(call) if self.settings.session_affinity else ""
        least_tokens = await self._least_tokens(call)
        ask, candidates = self._candidates(call, home, session_route, least_tokens)
        searching = not home and bool(call.resource_ids) and call.method in READS
        plan = failover(candidates, self.settings.policy, call.model, self._budget.spend, searching=searching)
        usable = sum(candidate.usable for candidate in candidates)
        tries: list[AttemptState] = []
        refused: dict[str, str] = {}
        asked: set[str] = set()
        deadline = asyncio.get_running_loop().time() + call.deadline_ms / 1000
        attempt, verdict = advance(plan, None)
        while attempt:
            if attempt.wait_ms:
                await asyncio.sleep(attempt.wait_ms / 1000)
            route = attempt.candidate.route
            reply.route, reply.attempts = route.id, attempt.number
            one = AttemptState(
                attempt=attempt, route=route, attempt_id=self.clock.new_id(), started_ms=self.clock.now_ms()
            )
            is_late = bool(asked) and all(tried.route.id != one.route.id for tried in tries)
            asked.add(one.route.id)
            refusal = (self._recheck(ask, one, tries) if is_late else None) or await self._admit(call, one)
            if refusal:
                refused[one.route.id] = refusal.reason
                attempt, verdict = advance(plan, AttemptResult(self.clock.now_ms(), refusal=refusal))
                continue
            tries.append(one)
            try:
                await self._run_attempt(call, one, reply, deadline, is_last=len(asked) >= usable)
                if one.failure and is_signature_refusal(one.failure):
                    await self._note_refused(call)
                over = reply.started or asyncio.get_running_loop().time() >= deadline
                renewed = not over and await self._is_renewed(call, one, deadline)
                attempt, verdict = advance(plan, AttemptResult(self.clock.now_ms(), one.failure, over, renewed=renewed))
                if renewed and one.failure:
                    one.failure = replace(one.failure, scope="")  # the route need not rest: its credential is another
                if one.failure or not one.accounted:
                    await self._book.record_end(call, one, final=attempt is None)
                if self.settings.session_affinity and one.outcome == "ok":
                    await self._keep_session(call, one)
            finally:
                self._release(one)
        assert verdict is not None  # noqa: S101 - the plan ends with one
        if not reply.started:
            await self._send_verdict(
                call, reply, verdict, tries, candidates, describe_attempts(tries, candidates, refused)
            )

    def _recheck(self, ask: RoutingRequest, one: AttemptState, tries: Sequence[AttemptState]) -> AdmissionDenied | None:
        """Whether the route may still be tried: while others were, its circuit may have opened, or its week ended."""
        now = recheck(one.attempt.candidate, ask, self._watcher.view, self.settings.policy, self.clock.now_ms())
        if now.usable:
            one.attempt = replace(one.attempt, candidate=now)
            return None
        if now.passed_over == "circuit_open" and not tries:
            return None  # nothing was tried yet: an open circuit may be all that is left
        return AdmissionDenied("passed_over", now.reason, now.until_ms if now.passed_over in WAITING else 0)

    async def _admit(self, call: ClientRequest, one: AttemptState) -> AdmissionDenied | None:
        """Have the attempt admitted; why it is not."""
        if call.endpoint != "messages":
            return None
        entry = AdmissionRequest(
            attempt_id=one.attempt_id,
            candidate=one.attempt.candidate,
            body_bytes=len(call.plain),
            max_tokens=call.max_tokens,
        )
        grant = await self._admission.enter(entry)
        if isinstance(grant, AdmissionDenied):
            return grant
        one.grant, one.probe = grant, grant.probe
        return None

    async def _note_refused(self, call: ClientRequest) -> None:
        """Remember the signatures that a provider could not check."""
        if len(call.plain) <= LARGE_BYTES:
            self._refused_signatures.note(call.plain, call.blocks)
        else:
            await asyncio.to_thread(self._refused_signatures.note, call.plain, call.blocks)

    async def _is_renewed(self, call: ClientRequest, one: AttemptState, deadline: float) -> bool:
        """Whether a refused token has a successor: then the route is worth another try at once."""
        if one.failure is None or one.failure.scope != "credential" or one.status != 401:
            return False
        try:
            async with asyncio.timeout_at(deadline):
                return await self._credentials.refused(one.route, one.credential)
        except TimeoutError:
            return False
        except BaseException:  # the client has gone; the attempt has ended, and its token may have a successor yet
            one.failure = replace(one.failure, scope="")
            await asyncio.shield(self._book.record_end(call, one, final=True))
            raise

    def _release(self, one: AttemptState) -> None:
        """Give back what the attempt held, and remember its size for those to come."""
        used = counted_tokens(one.tokens, self.settings.policy.quota.weights)
        if used:
            self._admission.sizes.note(one.route.id, one.attempt.candidate.model, used)
        self._admission.leave(one.grant, used, one.ended_seq)

    def check_access(self, call: ClientRequest) -> None:
        """Find the routes that the client may use, before its body is read. Raises ProxyError when none of them has a
        credential."""
        call.chain = chain = self._chain(call)
        if not [route for route in chain if not route.off]:
            off = [Candidate(route, passed_over="off", reason=route.off or "") for route in chain]
            words = describe_attempts((), off, {})
            raise uncounted(call, words) if call.endpoint == "count_tokens" and chain else no_route(call, off, words)

    def _candidates(
        self, call: ClientRequest, home: str, session_route: str, least_tokens: int
    ) -> tuple[RoutingRequest, list[Candidate]]:
        """What routing is asked, and the routes, those to try first; `home`: where the request's resources live,
        `session_route`: which route served its session last."""
        chain = call.chain
        ask = RoutingRequest(
            call.endpoint,
            call.model,
            least_tokens=least_tokens,
            trimmed=call.trimmed,
            threaded=call.threaded,
            bound_to=home,
            session_route=session_route,
            draw=crc32(call.request_id.encode()) / 2**32,
        )
        return ask, rank(ask, chain, self._watcher.view, self.settings.policy, self.clock.now_ms())

    def _chain(self, call: ClientRequest) -> tuple[Route, ...]:
        """The routes that the client may use, in their order."""
        chain = choose_chain(
            self.settings.routes,
            self.settings.client_route,
            credential=call.credential,
            mode=self.settings.client_credentials,
        )
        if not call.only_routes:
            return chain
        return tuple(route for route in chain if route.auth == "client" or route.id in call.only_routes)

    async def _least_tokens(self, call: ClientRequest) -> int:
        """What the prompt has at least; 0 when every model of the chain holds it, as nearly always at first sight."""
        if call.endpoint != "messages" or is_short(call.plain, self._smallest_tokens):
            return 0
        floor_tokens = smallest_on(call.chain, call.model, self.settings.policy)
        return await asyncio.to_thread(least_tokens, call.plain, floor_tokens)

    async def _home_of(self, call: ClientRequest) -> str:
        """The route on which the request's resources live, "" when it names none that is known."""
        has_own_account = any(route.auth == "client" for route in call.chain)
        return await home_of(call, self._resources, has_own_account=has_own_account)

    async def _session_route(self, call: ClientRequest) -> str:
        """The route that served the session last."""
        if not call.session_id:
            return ""
        since_ms = self.clock.now_ms() - SESSION_TTL_S * 1000
        home = await self._resources.moved_to(session_id(call), since_ms)
        return home.route if home else ""

    async def _keep_session(self, call: ClientRequest, one: AttemptState) -> None:
        """The session's caches are on this route now."""
        if call.session_id and call.endpoint == "messages":
            await self._resources.move(session_id(call), ResourceHome(one.route.id, one.attempt_id), SESSION_TTL_S)

    # -- one attempt

    async def _run_attempt(
        self, call: ClientRequest, one: AttemptState, reply: ResponseWriter, deadline: float, *, is_last: bool
    ) -> None:
        """One attempt, to its outcome. Before commit it never raises but for cancellation."""
        log_attempt(call, one)
        upstream: UpstreamResponse | None = None
        try:
            with Deadline(deadline) as limit:
                upstream = await self._open(call, one, limit, is_last=is_last)
                await self._answers.answer(call, one, upstream, reply, limit)
        except AttemptFailed as fault:
            one.failure = fault.failure
        except UpstreamError as error:
            one.failure = Failure(error.kind, scope_of(error), message=str(error), status=one.status)
        except TimeoutError:
            one.failure = self._timeout_failure(one)
        except EventTooLarge as error:
            one.failure = Failure("bad_answer", "route", message=str(error), status=one.status)
        except BaseException:  # the client has gone, mostly; whatever it was, what was used is accounted
            one.outcome = "aborted"
            await asyncio.shield(self._book.record_end(call, one, final=True))
            raise
        finally:
            if upstream:
                await upstream.close()
        if one.failure and reply.started:
            await self._end_broken_stream(call, one, reply)

    def _timeout_failure(self, one: AttemptState) -> Failure:
        """A time-out is the route's fault only if the route had its time; some clients give it a second."""
        waited_ms = self.clock.now_ms() - one.started_ms
        if waited_ms < min(self.settings.policy.circuit.slow_ms, self.settings.timeouts.first_byte_ms):
            return Failure("deadline", "", message="the client's own deadline has passed", status=one.status)
        return Failure("timeout", "route", message="the provider stayed silent for too long", status=one.status)

    async def _open(
        self, call: ClientRequest, one: AttemptState, limit: Deadline, *, is_last: bool
    ) -> UpstreamResponse:
        """Send the request; the head of the answer. The attempt is on the ledger before its first byte goes out."""
        route = one.route
        try:
            credential = "" if route.auth == "client" else await self._credentials.of(route)
        except NoCredential as error:
            raise AttemptFailed(Failure("credential", "credential", message=str(error))) from None
        one.credential = credential
        content, is_own = await self._content(call, one)
        headers = upstream_headers(
            call.headers,
            dialect=route.provider.dialect,
            auth=route.auth,
            credential=credential,
            stream=call.stream,
            body_decoded=not is_own,
            pass_accept_encoding=call.endpoint in ("files", "other"),
            withhold=call.withhold,
        )
        if call.upload:
            headers += length_said(call.headers)
        await self._book.record_start(call, one)
        deadline = limit.when
        if not is_last and deadline is not None:
            limit.reschedule(self._head_limit(call, deadline))
        upstream = await self._wires.open(call.method, route.base_url, call.target, headers, content)
        limit.reschedule(deadline)
        one.status, one.headers = upstream.status, upstream.headers
        one.windows = windows_of(upstream.headers)
        one.first_byte_ms = self.clock.now_ms() - one.started_ms
        return upstream

    def _head_limit(self, call: ClientRequest, deadline: float) -> float:
        """Until when an answer may take to begin while other routes are left; whole answers may take minutes."""
        now = asyncio.get_running_loop().time()
        if call.stream:
            return min(deadline, now + self.settings.timeouts.first_byte_ms / 1000)
        return (now + deadline) / 2

    async def _content(self, call: ClientRequest, one: AttemptState) -> tuple[bytes | AsyncIterator[bytes], bool]:
        """The body for this route, and whether it is the client's own, byte for byte."""
        if call.upload:
            if call.upload_taken:
                raise AttemptFailed(Failure("reset", "", message="an upload can't be sent twice"))
            return track_upload(call, call.upload), True
        if call.endpoint not in ("messages", "count_tokens"):
            return call.body, True
        if len(call.plain) <= LARGE_BYTES:
            cleaned = self._cleaned(call, one)
        else:
            cleaned = await asyncio.to_thread(self._cleaned, call, one)
        is_own = cleaned is call.plain and one.route.provider.dialect == "anthropic"
        return (call.body if is_own else cleaned), is_own

    def _cleaned(self, call: ClientRequest, one: AttemptState) -> bytes:
        """The body as the route's provider takes it."""
        cleaned = clean_body(
            call.plain,
            route=one.route,
            model_asked=call.model,
            model_sent=one.attempt.candidate.model,
            strip_thinking=self.settings.strip_thinking,
            policy=self.settings.policy,
            refused=self._refused_signatures,
            blocks=call.blocks,
        )
        return without_thinking(cleaned) if one.attempt.candidate.without_thinking else cleaned

    async def _end_broken_stream(self, call: ClientRequest, one: AttemptState, reply: ResponseWriter) -> None:
        """After commit the client learns the truth: the stream broke."""
        reply.broken = True
        if one.accounted:
            return
        await self._book.record_end(call, one, final=True)
        if one.streamed:
            await reply.end(error_event(one))

    async def _send_verdict(
        self,
        call: ClientRequest,
        reply: ResponseWriter,
        verdict: Verdict,
        tries: Sequence[AttemptState],
        candidates: Sequence[Candidate],
        words: str,
    ) -> None:
        """Tell the client how its request ended. Raises ProxyError for an end in our own words."""
        if verdict.kind == "relayed":
            one = tries[verdict.number - 1]
            reply.route = one.route.id
            if not is_anthropic_error(call, one):
                raise provider_error(one)
            body = redacted(one.body, one.credential)
            await reply.start(one.shown_status, [*self._answers.error_head(one), length_of(body)])
            await reply.end(body)
            return
        is_uncounted = all(one.failure and one.failure.kind == "bad_answer" for one in tries)
        if call.endpoint == "count_tokens" and is_uncounted:
            raise uncounted(call, words)
        if verdict.kind == "too_large":
            raise prompt_too_long(candidates)
        if verdict.kind == "throttled":
            raise throttled(verdict.until_ms, self.clock.now_ms(), words)
        if verdict.kind == "no_route":
            raise no_route(call, candidates, words)
        raise unreachable(tries, words)


def advance(plan: Plan, result: AttemptResult | None) -> tuple[Attempt | None, Verdict | None]:
    """The plan's next attempt, or its verdict."""
    try:
        return (next(plan) if result is None else plan.send(result)), None
    except StopIteration as stop:
        return None, stop.value


def session_id(call: ClientRequest) -> str:
    """A client's session among the resources; another client's session of the same name is another one."""
    return f"session:{call.client_key}:{call.session_id}"


def scope_of(error: UpstreamError) -> FailureScope:
    """Whose fault a broken connection is: a reused one that had gone stale is nobody's."""
    if error.kind == "stale_socket":
        return ""
    return "request" if error.kind == "bad_request" else "route"
