"""The failover plan: one request, from the first attempt to the verdict. The only retry loop in the system.

`failover` is a generator: it yields an `Attempt`, is sent what became of it, and returns a `Verdict`. It never waits
itself; an attempt may say that it begins later.

Rules
- An answer, a client that has gone, or bytes already sent to the client end the plan.
- The request's own fault, told by a provider of the model's own family, is the answer: no other route is tried. From
  another vendor it means only that this route can't take the request.
- A model that the provider lacks is asked for under its fallback name on the same route, then elsewhere.
- A refused signature of a thought is the conversation's past, not the request's fault: the same route is asked once
  more without the thoughts.
- A reused connection that was closed before any byte of an answer is tried once more on the same route; so is an
  attempt whose credential has been renewed since.
- After 529 the provider's other credentials come last: the provider is busy, not the route.
- A route that does not admit the request (its slots are taken, its quota is reserved, another process probes it, or it
  has to be passed over by the time its turn comes) is left out. When nothing is left, a slot is waited for, briefly,
  and a route that is being probed is asked after all.
- When nothing is left but a throttle of at most two seconds, that route is asked again, within the retry budget.
- Attempts are bounded, one for each route and `max_retries` more: clients repeat a request ten times by themselves.
- When all failed, the most useful error is shown: the request's own fault, a provider's trouble, the shortest true
  wait; a route that can't take the request at all hides none of these. Never the route's own credential.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import replace

from service.routing.failure import Failure, is_signature_refusal
from service.routing.models import fallback_model, is_native
from service.routing.rank import Candidate
from service.settings import Policy

SHORT_WAIT_MS = 2_000
"""A throttle that ends this soon is worth waiting for, when no other route is left."""


SLOT_WAITS_MS = (50, 100, 200, 400, 800)
"""Waits for a free slot when no other route is left: a second and a half in all, then the client waits better."""
RESERVED_WAIT_MS = 5_000
"""What is reserved turns into what is used when an answer ends: worth asking again in a few seconds."""

REDIRECT = 300
BAD_REQUEST = 400
NOT_FOUND = 404

PASSING_SCOPES = frozenset(("quota", "throttle", "credential"))
"""What is over by itself, or is the owner's business: a wait tells of it, never the provider's own answer."""

RefusalKind = Literal["probe", "slots", "quota", "passed_over"]


class AdmissionDenied(Struct, frozen=True):
    """Why a route did not admit an attempt: another process probes it, its slots are taken, its quota is reserved.

    Or it is passed over by now, while others were tried; `until_ms`: until when it waits, 0 when that is not why.
    """

    kind: RefusalKind
    reason: str
    until_ms: int = 0


class Attempt(Struct, frozen=True):
    """One try. `number` counts from 1; `wait_ms` is waited first."""

    candidate: Candidate
    number: int
    wait_ms: int = 0


class AttemptResult(Struct, frozen=True):
    """What became of an attempt. `failure` is None for an answer; `over`: nothing more can be done for the client.

    `over` holds once bytes have gone out, the client has gone, or the deadline has passed. `refusal`: it did not even
    begin. `renewed`: the credential that was refused has a successor.
    """

    now_ms: int
    failure: Failure | None = None
    over: bool = False
    refusal: AdmissionDenied | None = None
    renewed: bool = False


VerdictKind = Literal["answered", "relayed", "throttled", "too_large", "unreachable", "no_route"]


class Verdict(Struct, frozen=True):
    """How the request ended.

    `answered`: by the last attempt. `relayed`: the error answer of attempt `number` is the client's. `throttled`: every
    route waits, the first until `until_ms`. `too_large`: no model holds the prompt. `unreachable`: no answer worth
    showing. `no_route`: none was tried.
    """

    kind: VerdictKind
    number: int = 0
    until_ms: int = 0
    failure: Failure | None = None


class Tried(Struct, frozen=True):
    """A failed attempt."""

    attempt: Attempt
    failure: Failure


class PlanState(Struct):
    """How far a plan has come: what is left to try, what failed, and who did not admit the request."""

    queue: list[Candidate]
    tried: list[Tried] = field(default_factory=list)
    refused: list[tuple[Candidate, AdmissionDenied]] = field(default_factory=list)
    renewed: set[str] = field(default_factory=set)
    slot_waits: int = 0
    wait_ms: int = 0
    now_ms: int = 0

    def next_attempt(self) -> Attempt:
        """The next candidate's turn."""
        candidate = self.queue.pop(0)
        wait_ms, self.wait_ms = self.wait_ms, 0
        return Attempt(candidate, len(self.tried) + 1, wait_ms)

    def take_refused(self, kind: RefusalKind) -> list[Candidate]:
        """The candidates that were refused for this reason, which are refused no more."""
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
) -> Plan:
    """The plan for one request for `model`, over candidates as `rank` gave them.

    `may_repeat` is the retry budget. `searching`: something is read of which nobody knows where it lives, so that a
    404 means no more than that it is not here.
    """
    course = PlanState([candidate for candidate in candidates if candidate.usable])
    most = len(course.queue) + policy.max_retries
    while course.queue and len(course.tried) < most:
        attempt = course.next_attempt()
        result = yield attempt
        course.now_ms = result.now_ms
        if result.refusal:
            course.refused.append((attempt.candidate, result.refusal))
        elif result.failure is None or result.over:
            return Verdict("answered", attempt.number, failure=result.failure)
        else:
            course.tried.append(Tried(attempt, result.failure))
            if ends_plan(course.tried[-1], policy, model, searching=searching):
                break
            requeue(course, renewed=result.renewed)
        if not course.queue:
            final_attempts(course, policy, may_repeat)
    return verdict(
        PlanEnd(candidates, course.tried, waits_of(candidates, course, course.now_ms + policy.wait_ms), model)
    )


def final_attempts(course: PlanState, policy: Policy, may_repeat: Callable[[], bool]) -> None:
    """What is left when every route was asked: one that is being probed, a slot that gets free, a short throttle."""
    if probed := course.take_refused("probe"):
        course.queue = [replace(candidate, probe=False) for candidate in probed]
    elif course.slot_waits < len(SLOT_WAITS_MS) and (full := course.take_refused("slots")):
        course.queue, course.wait_ms = full, SLOT_WAITS_MS[course.slot_waits]
        course.slot_waits += 1
    else:
        queue, wait_ms = last_wait(course.tried, policy, course.now_ms)
        if queue and may_repeat():
            course.queue, course.wait_ms = queue, wait_ms


def ends_plan(tried: Tried, policy: Policy, model: str, *, searching: bool) -> bool:
    """Whether a failure is the client's answer, whatever other routes there are."""
    candidate, failure = tried.attempt.candidate, tried.failure
    if searching and failure.status == NOT_FOUND:
        return False  # it is not here: no more than that
    if is_curable(candidate, failure) or is_clients_own(candidate, failure):
        return False
    if policy.fallback_on_codes and failure.status >= BAD_REQUEST:
        return failure.status not in policy.fallback_on_codes and failure.scope not in ("credential", "model")
    return failure.scope == "request" and is_own_family(candidate, model)


def is_clients_own(candidate: Candidate, failure: Failure) -> bool:
    """Whether the client's own credential failed, which says nothing about the owner's routes."""
    return candidate.route.auth == "client" and failure.scope in PASSING_SCOPES


def is_curable(candidate: Candidate, failure: Failure) -> bool:
    """Whether the same route may take the request without the thoughts in it."""
    return is_signature_refusal(failure) and not candidate.without_thinking


def is_own_family(candidate: Candidate, model: str) -> bool:
    """Whether the provider serves the model that the client asked for: then its word on the request holds."""
    return not model or candidate.model == model or is_native(candidate.route.provider, model)


def requeue(course: PlanState, *, renewed: bool) -> None:
    """Put what to try after the last failure at the head of the queue. `renewed`: its credential has a successor."""
    last = course.tried[-1]
    candidate, failure = last.attempt.candidate, last.failure
    if again := repeated(course.tried):
        course.queue.insert(0, again)
    elif failure.kind == "overloaded":
        course.queue.sort(key=lambda other: is_same_provider(other, candidate))
    if renewed and candidate.route.id not in course.renewed:
        course.renewed.add(candidate.route.id)
        course.queue.insert(0, candidate)


def repeated(tried: Sequence[Tried]) -> Candidate | None:
    """The candidate of the last failure as it is tried once more; None when another route is next."""
    candidate, failure = tried[-1].attempt.candidate, tried[-1].failure
    if failure.kind == "stale_socket":
        is_first = sum(t.attempt.candidate == candidate for t in tried) == 1
        return candidate if is_first else None
    if is_curable(candidate, failure):
        return replace(candidate, without_thinking=True)
    return other_model(tried) if failure.scope == "model" else None


def other_model(tried: Sequence[Tried]) -> Candidate | None:
    """The route that lacked a model, with the fallback for it, unless that was tried there already."""
    candidate = tried[-1].attempt.candidate
    asked = {t.attempt.candidate.model for t in tried if t.attempt.candidate.route == candidate.route}
    other = fallback_model(candidate.route, candidate.model)
    return replace(candidate, model=other) if other and other not in asked else None


def is_same_provider(one: Candidate, other: Candidate) -> bool:
    """Whether two candidates are credentials of one provider at one address."""
    return one.route.provider.id == other.route.provider.id and one.route.base_url == other.route.base_url


def last_wait(tried: Sequence[Tried], policy: Policy, now_ms: int) -> tuple[list[Candidate], int]:
    """The route whose short throttle ends first, with the wait; nothing when no wait is short enough."""
    last = {t.attempt.candidate.route.id: t for t in tried if t.failure.scope != "model"}.values()
    if not last or not all(t.failure.kind == "throttle" and t.attempt.candidate.route.auth != "client" for t in last):
        return [], 0
    soonest = min(last, key=lambda t: t.failure.retry_at_ms or now_ms)
    wait_ms = max(policy.retry_delay_ms, soonest.failure.retry_at_ms - now_ms)
    return ([soonest.attempt.candidate], wait_ms) if wait_ms <= SHORT_WAIT_MS else ([], 0)


class PlanEnd(Struct, frozen=True):
    """What a verdict depends on: the candidates, the attempts that failed, and the ends of all waits (ms)."""

    candidates: Sequence[Candidate]
    tried: Sequence[Tried]
    waits: Sequence[int]
    model: str

    @property
    def answers(self) -> list[Tried]:
        """Failures that are a provider's error answer: neither a broken connection nor a broken 200."""
        return [t for t in self.tried if t.failure.status >= REDIRECT]

    @property
    def decisive(self) -> list[Tried]:
        """Failures that say more than that this route can't take the request."""
        return [t for t in self.tried if not means_elsewhere(t, self.model)]


def verdict(end: PlanEnd) -> Verdict:
    """The most useful end for a request that no route answered: the first of `VERDICTS` that applies."""
    return next(outcome(end) for applies, outcome in VERDICTS if applies(end))


def own_fault(end: PlanEnd) -> Tried | None:
    """The first answer by which the request itself is at fault, from a provider of the model's own family."""
    own = (t for t in end.answers if t.failure.scope == "request" and is_own_family(t.attempt.candidate, end.model))
    return next(own, None)


def clients_answer(end: PlanEnd) -> Tried | None:
    """The first answer to the client's own credential, which is relayed as it is."""
    return next((t for t in end.answers if t.attempt.candidate.route.auth == "client"), None)


def trouble_answer(end: PlanEnd) -> Tried | None:
    """A provider's trouble, of several the one with the shortest wait. Another route's limit is not told: clients give
    up on a long one, while the provider may be back in a moment."""
    answers = [t for t in troubles(end) if t.failure.status >= BAD_REQUEST]
    return min(answers, key=lambda t: t.failure.retry_at_ms, default=None)


def troubles(end: PlanEnd) -> list[Tried]:
    """Decisive failures that are no limit and no credential."""
    return [t for t in end.decisive if t.failure.scope not in PASSING_SCOPES]


def other_answer(end: PlanEnd) -> Tried | None:
    """The first answer that is neither a limit nor about the owner's credential."""
    return next((t for t in end.answers if t.failure.scope not in PASSING_SCOPES), None)


def relayed(
    choose: Callable[[PlanEnd], Tried | None],
) -> tuple[Callable[[PlanEnd], object], Callable[[PlanEnd], Verdict]]:
    """A row of `VERDICTS`: the answer that `choose` finds, if any, is the client's."""

    def outcome(end: PlanEnd) -> Verdict:
        shown = choose(end)
        assert shown is not None  # noqa: S101 - the row applies when there is one
        return Verdict("relayed", shown.attempt.number, failure=shown.failure)

    return choose, outcome


def throttled(end: PlanEnd) -> Verdict:
    """Waiting helps: until the first route is back."""
    return Verdict("throttled", until_ms=min(end.waits), failure=end.tried[0].failure if end.tried else None)


def unreachable(end: PlanEnd) -> Verdict:
    """Nothing that any route said is worth showing."""
    return Verdict("unreachable", failure=(troubles(end) or end.tried)[0].failure)


VERDICTS: tuple[tuple[Callable[[PlanEnd], object], Callable[[PlanEnd], Verdict]], ...] = (
    (lambda end: not end.tried and end.waits, throttled),
    (lambda end: not end.tried and has_too_large(end.candidates), lambda _: Verdict("too_large")),
    (lambda end: not end.tried, lambda _: Verdict("no_route")),
    relayed(own_fault),
    relayed(clients_answer),
    relayed(trouble_answer),
    (troubles, unreachable),
    (lambda end: end.waits and end.decisive, throttled),
    relayed(other_answer),
    (lambda _: True, unreachable),
)
"""How a request ends that no route answered: (predicate, outcome), in the order in which they are asked."""


def has_too_large(candidates: Sequence[Candidate]) -> bool:
    """Whether a route was passed over because no model of it holds the prompt."""
    return any(candidate.skip_reason == "context_too_small" for candidate in candidates)


def means_elsewhere(tried: Tried, model: str) -> bool:
    """Whether a failure says no more than that this route can't take the request: others' failures tell more."""
    is_strangers = tried.failure.scope == "request" and not is_own_family(tried.attempt.candidate, model)
    return is_strangers or tried.failure.scope == "model"


def waits_of(candidates: Sequence[Candidate], course: PlanState, unnamed_ms: int) -> list[int]:
    """The ends of all waits that stand between the client and an answer."""
    last = {t.attempt.candidate.route.id: t.failure for t in course.tried if t.failure.scope in ("quota", "throttle")}
    named = [failure.retry_at_ms or unnamed_ms for failure in last.values()]
    passed = [candidate.until_ms for candidate in candidates if candidate.skip_reason in ("waiting", "quota_spent")]
    refused = [until_ms for _, refusal in course.refused if (until_ms := wait_for(refusal, course.now_ms))]
    return [*named, *passed, *refused]


def wait_for(refusal: AdmissionDenied, now_ms: int) -> int:
    """Until when a refused client had better wait; 0: waiting is not what helps."""
    if refusal.kind == "passed_over":
        return refusal.until_ms
    return now_ms + (RESERVED_WAIT_MS if refusal.kind == "quota" else 1_000)
