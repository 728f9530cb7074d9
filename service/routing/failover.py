"""The failover plan of one request, from the first attempt to the verdict. The only retry loop in the system.

`failover` is a generator: it yields an `Attempt`, is sent its result, and returns a `Verdict`. It never waits itself;
an attempt may carry a delay.

Rules
- A response, a disconnected client, or bytes already sent to the client end the plan.
- A request's own fault, reported by a provider of the model's own family, is the answer: no other route is tried. From
  another vendor it means only that this route can't serve the request.
- If no rule says that a 4xx is the request's own fault, one more route of that family is tried, once: never the owner's
  after the client's own credential. If it rejects the request too, the fault is confirmed to be the request's; anything
  else is no opinion. Either way the first error is the answer.
- Endpoints other than messages and count_tokens are answered by the first route that responds at all.
- If the provider lacks a model, its fallback model is tried on the same route, then other routes.
- A rejected thinking block is due to the conversation's history: the same route is tried once more without thinking
  blocks; one that is missed, once more with thinking turned off.
- A thinking block of another account is nobody's fault here if the session never left the route: the error is the
  client's answer. After a move the route that made it goes first; then the same route again without thinking blocks.
- A stale connection is retried once on the same route; so is an attempt whose credential has been renewed since; so
  is a second opinion.
- The order of routes is the user's, after a 529 too: an overloaded provider's other keys stay where the user put them.
- A route that denies admission (no slot, quota reserved, probed by another process, or skipped by now) is left out. If
  nothing is left, the plan waits briefly for a slot, and tries a route that is being probed after all.
- If nothing is left but a throttle of at most two seconds, that route is tried again, within the retry budget.
- There are at most `max_retries` more attempts than routes: clients repeat a request ten times by themselves.
- If all failed, the most useful error is returned: the request's own fault, a provider's failure, the shortest actual
  wait; a route that can't serve the request at all hides none of these. Never the route's own credential.
"""

from collections.abc import Callable, Generator, Sequence
from operator import attrgetter
from typing import Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from service.routing.failure import Failure, is_binding_mismatch, is_thought_refusal, lacks_thought
from service.routing.models import fallback_model, is_native
from service.routing.quota import unnamed_wait_ms
from service.routing.rank import Candidate, SkipReason
from service.settings import Policy, Route

SHORT_WAIT_MS = 2_000
"""A throttle that ends this soon is worth waiting for if no other route is left."""


SLOT_WAITS_MS = (50, 100, 200, 400, 800)
"""Delays while waiting for a free slot if no other route is left: 1.5 seconds in total, then the client should
retry."""
RESERVED_WAIT_MS = 5_000
"""Reservations turn into usage as attempts end, so a retry makes sense after a few seconds."""

IS_USABLE = attrgetter("usable")
REDIRECT = 300
BAD_REQUEST = 400
NOT_FOUND = 404
SERVER_ERROR = 500

PASSING_SCOPES = frozenset(("quota", "throttle", "credential"))
"""Temporary failures, and those of the owner's credential: the client gets a wait, never the provider's own
response."""

RefusalKind = Literal["probe", "slots", "quota", "spent", "passed_over"]


class AdmissionDenied(Struct, frozen=True):
    """Why a route denied admission: probed by another process, no slot, quota reserved or spent.

    Or it has to be skipped by now; `until_ms`: the end of its wait or quota, 0 if there is none.
    """

    kind: RefusalKind
    reason: str
    until_ms: int = 0


class Attempt(Struct, frozen=True):
    """An attempt. `number` counts from 1; `wait_ms` is the delay before it. `opinion_on`: it is a second opinion on the
    failure of attempt `opinion_on`, 0 for none."""

    candidate: Candidate
    number: int
    wait_ms: int = 0
    opinion_on: int = 0


class AttemptResult(Struct, frozen=True):
    """Result of an attempt. `failure` is None for a success; `over`: nothing more can be done for the client.

    `over` is set once bytes were sent, the client disconnected, or the deadline passed. `refusal`: admission was
    denied. `renewed`: the rejected credential was replaced by a new one.
    """

    now_ms: int
    failure: Failure | None = None
    over: bool = False
    refusal: AdmissionDenied | None = None
    renewed: bool = False


VerdictKind = Literal["answered", "relayed", "throttled", "too_large", "unsupported", "unreachable", "no_route"]


class Verdict(Struct, frozen=True):
    """The outcome of a request.

    `answered`: by the last attempt. `relayed`: with the error response of attempt `number`. `throttled`: every route
    waits, the first until `until_ms`. `too_large`: no model holds the prompt. `unsupported`: no route keeps a field of
    the request. `unreachable`: no response worth
    returning. `no_route`: none was tried. `confirmed`: a second route rejected the request too.
    """

    kind: VerdictKind
    number: int = 0
    until_ms: int = 0
    failure: Failure | None = None
    confirmed: bool = False


class Tried(Struct, frozen=True):
    """A failed attempt."""

    attempt: Attempt
    failure: Failure

    @property
    def is_unproven(self) -> bool:
        """Whether the request may be at fault, and nobody has said so for sure."""
        return self.failure.scope == "request" and not self.failure.proven

    @property
    def is_refusal(self) -> bool:
        """Whether a provider refused the request for its own sake."""
        return self.failure.scope == "request" and BAD_REQUEST <= self.failure.status < SERVER_ERROR


class ThoughtOrigin(Struct, frozen=True):
    """Which route made the thinking blocks of a session, "" if unknown. `maker` made the last ones; `own` all of them,
    since the session was never moved."""

    own: str = ""
    maker: str = ""


NO_ORIGIN = ThoughtOrigin()


class PlanState(Struct):
    """State of a plan: candidates left to try, failures, and denied admissions."""

    queue: list[Candidate]
    thoughts: Callable[[], ThoughtOrigin] = lambda: NO_ORIGIN
    tried: list[Tried] = field(default_factory=list)
    refused: list[tuple[Candidate, AdmissionDenied]] = field(default_factory=list)
    renewed: set[str] = field(default_factory=set)
    slot_waits: int = 0
    wait_ms: int = 0
    now_ms: int = 0

    def next_attempt(self) -> Attempt:
        """Return the attempt for the next candidate."""
        candidate = self.queue.pop(0)
        wait_ms, self.wait_ms = self.wait_ms, 0
        return Attempt(candidate, len(self.tried) + 1, wait_ms)

    def take_denied(self, kind: RefusalKind) -> list[Candidate]:
        """Remove and return the candidates that were denied for this reason."""
        taken = [candidate for candidate, refusal in self.refused if refusal.kind == kind]
        self.refused = [entry for entry in self.refused if entry[1].kind != kind]
        return taken


Plan: TypeAlias = Generator[Attempt, AttemptResult, Verdict]


def failover(
    candidates: Sequence[Candidate],
    policy: Policy,
    model: str,
    may_repeat: Callable[[], bool] = lambda: True,
    *,
    searching: bool = False,
    as_it_came: bool = False,
    thoughts: Callable[[], ThoughtOrigin] = lambda: NO_ORIGIN,
) -> Plan:
    """The plan for one request for `model`, over candidates ordered by `rank`.

    `may_repeat` is the retry budget. `searching`: a resource is read whose route is unknown, so that a 404 only means
    that it is not on this route. `as_it_came`: the first response is the client's, whatever it says. `thoughts`
    finds out who made those of the session.
    """
    state = PlanState(list(filter(IS_USABLE, candidates)), thoughts)
    most = len(state.queue) + policy.max_retries
    while state.queue and len(state.tried) < most:
        attempt = state.next_attempt()
        result = yield attempt
        state.now_ms = result.now_ms
        if result.refusal:
            state.refused.append((attempt.candidate, result.refusal))
        elif result.failure is None or result.over:
            return Verdict("answered", attempt.number, failure=result.failure)
        else:
            failed = Tried(attempt, result.failure)
            state.tried.append(failed)
            if is_shown_at_once(failed, searching=searching, as_it_came=as_it_came):
                return Verdict("relayed", attempt.number, failure=failed.failure)
            if ends_plan(failed, policy, model, thoughts, searching=searching):
                break
            requeue(state, renewed=result.renewed)
        if not state.queue:
            final_attempts(state, policy, may_repeat)
    end = PlanEnd(candidates, state.tried, waits_of(candidates, state, policy), model)
    if needs_opinion(state, policy):
        return (yield from second_opinion(state, end))
    return verdict(end)


def is_shown_at_once(tried: Tried, *, searching: bool, as_it_came: bool) -> bool:
    """True if a provider's error is the client's answer. A 404 is none while a resource is searched."""
    status = tried.failure.status
    return as_it_came and status >= REDIRECT and not (searching and status == NOT_FOUND)


def needs_opinion(state: PlanState, policy: Policy) -> bool:
    """True if the plan has ended with a rejection that is not proven to be the request's own fault."""
    if not state.tried or policy.fallback_on_codes:
        return False
    last = state.tried[-1]
    return last.is_unproven and last.attempt.candidate.route.auth != "client"


def final_attempts(state: PlanState, policy: Policy, may_repeat: Callable[[], bool]) -> None:
    """Queue the last options: a route that is being probed, a slot that becomes free, a short throttle."""
    if probed := state.take_denied("probe"):
        state.queue = [replace(candidate, probe=False) for candidate in probed]
    elif state.slot_waits < len(SLOT_WAITS_MS) and (full := state.take_denied("slots")):
        state.queue, state.wait_ms = full, SLOT_WAITS_MS[state.slot_waits]
        state.slot_waits += 1
    else:
        queue, wait_ms = last_wait(state.tried, policy, state.now_ms)
        if queue and may_repeat():
            state.queue, state.wait_ms = queue, wait_ms


def ends_plan(
    tried: Tried, policy: Policy, model: str, thoughts: Callable[[], ThoughtOrigin], *, searching: bool
) -> bool:
    """True if a failure ends the plan, whatever other routes there are."""
    candidate, failure = tried.attempt.candidate, tried.failure
    if searching and failure.status == NOT_FOUND:
        return False  # not on this route
    if cured(candidate, failure, thoughts) or is_clients_own(candidate, failure):
        return False
    if policy.fallback_on_codes and failure.status >= BAD_REQUEST:
        return failure.status not in policy.fallback_on_codes and failure.scope not in ("credential", "model")
    return failure.scope == "request" and is_own_family(candidate, model)


def is_clients_own(candidate: Candidate, failure: Failure) -> bool:
    """True if the client's own credential failed, which says nothing about the owner's routes."""
    return candidate.route.auth == "client" and failure.scope in PASSING_SCOPES


def cured(candidate: Candidate, failure: Failure, thoughts: Callable[[], ThoughtOrigin]) -> Candidate | None:
    """Return the candidate with which the same route may serve the request: without its thinking blocks, or without
    thinking; None if that does not help."""
    if is_binding_mismatch(failure) and candidate.route.id == thoughts().own:
        return None
    if is_thought_refusal(failure) and not candidate.without_thinking:
        return replace(candidate, without_thinking=True)
    if lacks_thought(failure) and not candidate.thinking_off:
        return replace(candidate, thinking_off=True)
    return None


def is_own_family(candidate: Candidate, model: str) -> bool:
    """True if the provider serves the model's family, so that its judgement of the request counts."""
    return not model or candidate.model == model or is_native(candidate.route.provider, model)


def requeue(state: PlanState, *, renewed: bool) -> None:
    """Queue what to try after the last failure. `renewed`: its credential was replaced."""
    candidate = state.tried[-1].attempt.candidate
    if again := repeated(state.tried, state.thoughts):
        state.queue.insert(0, again)
        if is_binding_mismatch(state.tried[-1].failure):
            maker = state.thoughts().maker
            state.queue.sort(key=lambda queued: queued.route.id != maker)
    if renewed and candidate.route.id not in state.renewed:
        state.renewed.add(candidate.route.id)
        state.queue.insert(0, candidate)


def repeated(tried: Sequence[Tried], thoughts: Callable[[], ThoughtOrigin]) -> Candidate | None:
    """Return the candidate for a retry of the last failure; None if another route is next."""
    candidate, failure = tried[-1].attempt.candidate, tried[-1].failure
    if failure.kind == "stale_socket":
        is_first = sum(t.attempt.candidate == candidate for t in tried) == 1
        return candidate if is_first else None
    if better := cured(candidate, failure, thoughts):
        return better
    return other_model(tried) if failure.scope == "model" else None


def other_model(tried: Sequence[Tried]) -> Candidate | None:
    """Return the route that lacks a model with its fallback model, unless that was tried already."""
    candidate = tried[-1].attempt.candidate
    asked = {t.attempt.candidate.model for t in tried if t.attempt.candidate.route == candidate.route}
    other = fallback_model(candidate.route, candidate.model)
    return replace(candidate, model=other) if other and other not in asked else None


def last_wait(tried: Sequence[Tried], policy: Policy, now_ms: int) -> tuple[list[Candidate], int]:
    """Return the route whose short throttle ends first, and the wait; none if no wait is short enough."""
    last = {t.attempt.candidate.route.id: t for t in tried if t.failure.scope != "model"}.values()
    if not last or not all(t.failure.kind == "throttle" and t.attempt.candidate.route.auth != "client" for t in last):
        return [], 0
    soonest = min(last, key=lambda t: t.failure.retry_at_ms or now_ms)
    wait_ms = max(policy.retry_delay_ms, soonest.failure.retry_at_ms - now_ms)
    return ([soonest.attempt.candidate], wait_ms) if wait_ms <= SHORT_WAIT_MS else ([], 0)


class PlanEnd(Struct, frozen=True):
    """Input of a verdict: the candidates, the failed attempts, and the ends of all waits (ms)."""

    candidates: Sequence[Candidate]
    tried: Sequence[Tried]
    waits: Sequence[int]
    model: str

    @property
    def answers(self) -> list[Tried]:
        """Failures with a provider's error response: neither a broken connection nor a broken 200."""
        return [t for t in self.tried if t.failure.status >= REDIRECT]

    @property
    def decisive(self) -> list[Tried]:
        """Failures that mean more than that this route can't serve the request."""
        return [t for t in self.tried if not means_elsewhere(t, self.model)]


def second_opinion(state: PlanState, end: PlanEnd) -> Plan:
    """Ask one more route of the model's family. Unless it answers, the verdict stands, confirmed if it refuses too."""
    first = state.tried[-1].attempt
    judges = [one for one in state.queue if may_judge(one, first.candidate.route, end.model)]
    number = len(end.tried) + 1
    while judges:
        candidate = judges.pop(0)
        result = yield Attempt(candidate, number, opinion_on=first.number)
        if result.refusal:
            continue
        if result.failure is None:
            return Verdict("answered", number)
        if was_not_asked(result) and number == len(end.tried) + 1:
            judges, number = [candidate], number + 1
            continue
        judged = Tried(Attempt(candidate, number), result.failure)
        return replace(verdict(end), confirmed=judged.is_refusal)
    return verdict(end)


def was_not_asked(result: AttemptResult) -> bool:
    """True if a route has not judged the request: its connection was stale, or its token, which was renewed since."""
    is_stale = result.failure is not None and result.failure.kind == "stale_socket"
    return not result.over and (result.renewed or is_stale)


def may_judge(candidate: Candidate, first: Route, model: str) -> bool:
    """True if a route can say whether the request is at fault: of the model's family, and another account's."""
    return (
        is_own_family(candidate, model)
        and candidate.route.auth != "client"
        and not share_account(candidate.route, first)
    )


def share_account(one: Route, other: Route) -> bool:
    """True if two routes are configured with the same key or log-in."""
    if one.api_key or other.api_key:
        return one.api_key == other.api_key
    return bool(one.credentials_path) and one.credentials_path == other.credentials_path


def verdict(end: PlanEnd) -> Verdict:
    """Return the most useful verdict for a request without a successful attempt: the first applicable one of
    `VERDICTS`."""
    return next(outcome(end) for applies, outcome in VERDICTS if applies(end))


def own_fault(end: PlanEnd) -> Tried | None:
    """Return the first failure that is the request's own fault, from a provider of the model's own family."""
    own = (t for t in end.answers if t.failure.scope == "request" and is_own_family(t.attempt.candidate, end.model))
    return next(own, None)


def clients_answer(end: PlanEnd) -> Tried | None:
    """Return the first failure of the client's own credential, which is relayed unchanged."""
    return next((t for t in end.answers if t.attempt.candidate.route.auth == "client"), None)


def trouble_answer(end: PlanEnd) -> Tried | None:
    """Return a provider's failure, of several the one with the shortest wait. Another route's limit is not reported:
    clients give up on a long one, while the provider may recover in a moment."""
    answers = [t for t in troubles(end) if t.failure.status >= BAD_REQUEST]
    return min(answers, key=lambda t: t.failure.retry_at_ms, default=None)


def troubles(end: PlanEnd) -> list[Tried]:
    """Return the decisive failures that are neither limits nor credentials."""
    return [t for t in end.decisive if t.failure.scope not in PASSING_SCOPES]


def other_answer(end: PlanEnd) -> Tried | None:
    """Return the first failure that is neither a limit nor the owner's credential."""
    return next((t for t in end.answers if t.failure.scope not in PASSING_SCOPES), None)


def relayed(
    choose: Callable[[PlanEnd], Tried | None],
) -> tuple[Callable[[PlanEnd], object], Callable[[PlanEnd], Verdict]]:
    """Return a row of `VERDICTS` that relays the response found by `choose`."""

    def outcome(end: PlanEnd) -> Verdict:
        shown = choose(end)
        assert shown is not None  # noqa: S101 - guaranteed by the row's predicate
        return Verdict("relayed", shown.attempt.number, failure=shown.failure)

    return choose, outcome


def throttled(end: PlanEnd) -> Verdict:
    """Return a wait until the first route is available again."""
    return Verdict("throttled", until_ms=min(end.waits), failure=end.tried[0].failure if end.tried else None)


def unreachable(end: PlanEnd) -> Verdict:
    """Return that no route's response is worth returning."""
    return Verdict("unreachable", failure=(troubles(end) or end.tried)[0].failure)


VERDICTS: tuple[tuple[Callable[[PlanEnd], object], Callable[[PlanEnd], Verdict]], ...] = (
    (lambda end: not end.tried and end.waits, throttled),
    (lambda end: not end.tried and is_skipped_for("context_too_small", end.candidates), lambda _: Verdict("too_large")),
    (
        lambda end: not end.tried and is_skipped_for("field_unsupported", end.candidates),
        lambda _: Verdict("unsupported"),
    ),
    (lambda end: not end.tried, lambda _: Verdict("no_route")),
    relayed(own_fault),
    relayed(clients_answer),
    relayed(trouble_answer),
    (troubles, unreachable),
    (lambda end: end.waits and end.decisive, throttled),
    relayed(other_answer),
    (lambda _: True, unreachable),
)
"""Verdicts of requests without a successful attempt: (predicate, outcome), in order of precedence."""


def is_skipped_for(reason: SkipReason, candidates: Sequence[Candidate]) -> bool:
    """True if a route was skipped for this reason."""
    return any(candidate.skip_reason == reason for candidate in candidates)


def means_elsewhere(tried: Tried, model: str) -> bool:
    """True if a failure only means that this route can't serve the request: other failures are more informative."""
    is_strangers = tried.failure.scope == "request" and not is_own_family(tried.attempt.candidate, model)
    return is_strangers or tried.failure.scope == "model"


def waits_of(candidates: Sequence[Candidate], state: PlanState, policy: Policy) -> list[int]:
    """Return the ends of all waits that could make a retry succeed."""
    last = {t.attempt.candidate.route.id: t.failure for t in state.tried if t.failure.scope in ("quota", "throttle")}
    named = [failure.retry_at_ms or state.now_ms + unnamed_wait_ms(failure.scope, policy) for failure in last.values()]
    passed = [candidate.until_ms for candidate in candidates if candidate.skip_reason in ("waiting", "quota_spent")]
    refused = [until_ms for _, refusal in state.refused if (until_ms := wait_for(refusal, state.now_ms))]
    return [*named, *passed, *refused]


def wait_for(refusal: AdmissionDenied, now_ms: int) -> int:
    """Return the time until which a client denied admission should wait; 0 if waiting does not help."""
    if refusal.kind in ("passed_over", "spent"):
        return refusal.until_ms
    return now_ms + (RESERVED_WAIT_MS if refusal.kind == "quota" else 1_000)
