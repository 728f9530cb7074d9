"""The failover plan: one request, from the first attempt to the verdict, without a clock and without waiting."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.ledger.events import FailureKind, FailureScope
from service.routing.failover import (
    NO_ORIGIN,
    RESERVED_WAIT_MS,
    SHORT_WAIT_MS,
    SLOT_WAITS_MS,
    AdmissionDenied,
    Attempt,
    AttemptResult,
    ThoughtOrigin,
    Verdict,
    failover,
    share_account,
)
from service.routing.failure import Failure
from service.routing.rank import Candidate
from service.routing.retry_budget import RetryBudget
from service.settings import Policy, Secret
from tests.support.routing_factories import CLIENT, NOW_MS, POLICY, A, S, Z, route_of

MODEL = "claude-sonnet-4-6"
FIRST = Candidate(A, MODEL)
SECOND = Candidate(S, MODEL)
OTHER_VENDOR = Candidate(Z, "glm-5.2")
OWN_KEY = Candidate(CLIENT, MODEL)
CHAIN = (FIRST, SECOND, OTHER_VENDOR)


def fault(kind: FailureKind, scope: FailureScope, status: int = 0, wait_ms: int = 0) -> Failure:
    """A failure that asks for a wait from now on."""
    return Failure(kind, scope, NOW_MS + wait_ms if wait_ms else 0, f"{kind} {status}", status)


BAD_REQUEST = fault("bad_request", "request", 400)
BROKEN = fault("server_error", "route", 500)
REFUSED = fault("connect", "route")
OVERLOADED = fault("overloaded", "provider", 529)
STALE = fault("stale_socket", "")
NO_MODEL = fault("model_missing", "model", 404)
BAD_KEY = fault("credential", "credential", 401)
CUT_STREAM = fault("bad_answer", "route", 200)
LONG_BROKEN = fault("server_error", "route", 503, 7_200_000)
REDIRECTED = fault("bad_answer", "route", 302)
OVERLOADED_STREAM = fault("overloaded", "provider", 200)


def throttle(wait_ms: int = 0) -> Failure:
    """A 429 of a short wait; 0: without an end."""
    return fault("throttle", "throttle", 429, wait_ms)


def quota(wait_ms: int = 0) -> Failure:
    """A 429 that says that something is spent."""
    return fault("quota", "quota", 429, wait_ms)


def run(
    candidates: Sequence[Candidate],
    outcomes: Iterable[Failure | None],
    policy: Policy = POLICY,
    model: str = MODEL,
    over: int = 0,
    thoughts: ThoughtOrigin = NO_ORIGIN,
) -> tuple[list[Attempt], Verdict]:
    """Play a plan: the outcomes in order, the last again and again; after attempt `over` nothing more can be done."""
    plan = failover(candidates, policy, model, thoughts=lambda: thoughts)
    attempts: list[Attempt] = []
    told = list(outcomes)
    try:
        attempt = next(plan)
        while True:
            attempts.append(attempt)
            outcome = told.pop(0) if len(told) > 1 else told[0]
            attempt = plan.send(AttemptResult(NOW_MS, outcome, over=attempt.number == over))
    except StopIteration as end:
        return attempts, end.value


def tried(attempts: Sequence[Attempt]) -> list[str]:
    """The routes that were tried, in order."""
    return [attempt.candidate.route.id for attempt in attempts]


# -- ends


def test_an_answer_ends_the_plan() -> None:
    """The first attempt that succeeds is the request's."""
    attempts, verdict = run(CHAIN, [None])
    assert (tried(attempts), verdict) == (["anthropic"], Verdict("answered", 1))


@pytest.mark.parametrize("failure", [BROKEN, OVERLOADED, quota(), BAD_KEY, STALE, NO_MODEL], ids=lambda f: f.kind)
def test_no_failover_once_it_is_over(failure: Failure) -> None:
    """Bytes have gone out, the client has gone, or its deadline has passed: nothing is tried after that."""
    attempts, verdict = run(CHAIN, [failure], over=1)
    assert (len(attempts), verdict) == (1, Verdict("answered", 1, failure=failure))


def test_nothing_to_try_is_no_route() -> None:
    """No candidate, or none that may be tried."""
    assert run((), [None]) == ([], Verdict("no_route"))
    off = (Candidate(A, skip_reason="off"), Candidate(S, skip_reason="disabled"))
    assert run(off, [None]) == ([], Verdict("no_route"))


def test_only_waits_are_told_with_the_soonest_end() -> None:
    """When every route waits, the client hears when the first one is free; a circuit's end is no promise."""
    waits = (
        Candidate(A, skip_reason="waiting", until_ms=NOW_MS + 9),
        Candidate(S, skip_reason="quota_spent", until_ms=NOW_MS + 5),
        Candidate(Z, skip_reason="circuit_open", until_ms=NOW_MS + 1),
    )
    assert run(waits, [None]) == ([], Verdict("throttled", until_ms=NOW_MS + 5))


# -- whose fault


@pytest.mark.parametrize(
    "failure",
    [BROKEN, REFUSED, OVERLOADED, throttle(), quota(), BAD_KEY, CUT_STREAM, OVERLOADED_STREAM],
    ids=lambda failure: failure.message,
)
def test_what_is_not_the_requests_fault_changes_the_route(failure: Failure) -> None:
    """At once: there is no wait between different routes."""
    attempts, verdict = run(CHAIN, [failure, None])
    assert (len(attempts), verdict) == (2, Verdict("answered", 2))
    assert [attempt.wait_ms for attempt in attempts] == [0, 0]
    assert attempts[0].candidate.route != attempts[1].candidate.route


def test_a_request_fault_of_the_own_family_is_the_answer() -> None:
    """No other route is tried, and the prompt goes to no third party."""
    attempts, verdict = run(CHAIN, [BAD_REQUEST])
    assert (tried(attempts), verdict) == (["anthropic"], Verdict("relayed", 1, failure=BAD_REQUEST))


def test_a_request_fault_of_another_vendor_is_no_answer() -> None:
    """It means that this route can't take the request: the earlier error is shown, never masked by a fallback's 400."""
    attempts, verdict = run((FIRST, OTHER_VENDOR), [BROKEN, BAD_REQUEST])
    assert (tried(attempts), verdict) == (["anthropic", "zai"], Verdict("relayed", 1, failure=BROKEN))
    attempts, verdict = run((OTHER_VENDOR, FIRST), [BAD_REQUEST, None])
    assert (tried(attempts), verdict.kind) == (["zai", "anthropic"], "answered")


def test_a_wish_for_another_vendor_makes_its_word_final() -> None:
    """Whoever asks for a GLM model hears what Z.AI says of the request."""
    attempts, verdict = run((Candidate(Z, "glm-5.2"), FIRST), [BAD_REQUEST], model="glm-5.2")
    assert (tried(attempts), verdict.kind) == (["zai"], "relayed")


@pytest.mark.parametrize("model", ["", "gpt-4o"], ids=["no model", "a name that nobody maps"])
def test_a_request_fault_is_final_where_the_name_is_the_clients(model: str) -> None:
    """Without a model, or under the client's own name, every provider may judge the request."""
    attempts, verdict = run((Candidate(Z, model), Candidate(A, model)), [BAD_REQUEST], model=model)
    assert (tried(attempts), verdict.kind) == (["zai"], "relayed")


# -- a second opinion

UNPROVEN = replace(BAD_REQUEST, proven=False)
FORBIDDEN = replace(fault("bad_request", "request", 403), proven=False)


@pytest.mark.parametrize("first", [UNPROVEN, FORBIDDEN], ids=["400", "403"])
def test_a_second_route_of_the_family_may_answer_what_the_first_refused(first: Failure) -> None:
    """Then it was the first route's fault, and the client never learns of it."""
    attempts, verdict = run((FIRST, OTHER_VENDOR, SECOND), [first, None])
    assert tried(attempts) == ["anthropic", "subscription"]
    assert [attempt.opinion_on for attempt in attempts] == [0, 1]
    assert verdict == Verdict("answered", 2)


@pytest.mark.parametrize("second", [BAD_REQUEST, UNPROVEN, FORBIDDEN], ids=["proven", "unproven", "another status"])
def test_two_routes_that_refuse_a_request_confirm_that_it_is_its_own_fault(second: Failure) -> None:
    """The first one's answer is shown, and nothing else is asked."""
    attempts, verdict = run((FIRST, SECOND, OTHER_VENDOR, FIRST), [UNPROVEN, second])
    assert tried(attempts) == ["anthropic", "subscription"]
    assert verdict == Verdict("relayed", 1, failure=UNPROVEN, confirmed=True)


@pytest.mark.parametrize(
    "second",
    [BROKEN, OVERLOADED, throttle(), quota(), BAD_KEY, NO_MODEL, CUT_STREAM, replace(BAD_REQUEST, status=500)],
    ids=lambda f: f"{f.kind} {f.status}",
)
def test_whatever_else_a_second_route_says_is_no_opinion(second: Failure) -> None:
    """The first answer is shown, unconfirmed; no third route is asked."""
    attempts, verdict = run(CHAIN, [UNPROVEN, second])
    assert tried(attempts) == ["anthropic", "subscription"]
    assert verdict == Verdict("relayed", 1, failure=UNPROVEN)


@pytest.mark.parametrize(
    ("outcomes", "verdict"),
    [
        ([None], Verdict("answered", 3)),
        ([FORBIDDEN], Verdict("relayed", 1, failure=UNPROVEN, confirmed=True)),
        ([STALE], Verdict("relayed", 1, failure=UNPROVEN)),
    ],
    ids=["answers", "refuses", "stale again"],
)
def test_a_second_route_whose_connection_was_stale_is_asked_once_more(
    outcomes: list[Failure | None], verdict: Verdict
) -> None:
    """It has not seen the request."""
    attempts, found = run(CHAIN, [UNPROVEN, STALE, *outcomes])
    assert tried(attempts) == ["anthropic", "subscription", "subscription"]
    assert [attempt.number for attempt in attempts] == [1, 2, 3]
    assert found == verdict


def test_another_vendor_is_never_asked_for_an_opinion() -> None:
    """A client's own mistake is not shipped to whoever else may take it."""
    attempts, verdict = run((FIRST, OTHER_VENDOR), [UNPROVEN, None])
    assert (tried(attempts), verdict) == (["anthropic"], Verdict("relayed", 1, failure=UNPROVEN))


def test_a_clients_own_refusal_is_not_taken_to_the_owners_routes() -> None:
    """What its own account may not do, the owner's shall not do for it."""
    attempts, verdict = run((OWN_KEY, FIRST, SECOND), [UNPROVEN, None])
    assert (tried(attempts), verdict.kind, verdict.number) == ([CLIENT.id], "relayed", 1)


def test_a_proven_fault_needs_no_opinion() -> None:
    """A rule knows it."""
    assert tried(run(CHAIN, [BAD_REQUEST])[0]) == ["anthropic"]


def test_an_opinion_is_asked_of_the_next_route_that_admits_the_request() -> None:
    """One that is full says nothing about the request."""
    third = Candidate(route_of("third"), MODEL)
    plan = failover((FIRST, SECOND, third), POLICY, MODEL)
    next(plan)
    assert plan.send(AttemptResult(NOW_MS, UNPROVEN)).candidate == SECOND
    asked = plan.send(AttemptResult(NOW_MS, refusal=AdmissionDenied("slots", "full")))
    assert (asked.candidate, asked.opinion_on) == (third, 1)


def test_codes_of_the_settings_need_no_opinion() -> None:
    """Who lists the codes to fall over on has said what all others mean."""
    policy = replace(POLICY, fallback_on_codes=frozenset((429,)))
    assert tried(run(CHAIN, [UNPROVEN, None], policy)[0]) == ["anthropic"]


def test_what_an_account_lacks_another_may_have() -> None:
    """A beta that the plan does not have: the next route, of whatever family; without one, the provider's own words."""
    lacks = fault("bad_request", "", 400)
    attempts, verdict = run(CHAIN, [lacks, lacks, None])
    assert (tried(attempts), verdict) == (["anthropic", "subscription", "zai"], Verdict("answered", 3))
    assert run((FIRST,), [lacks])[1] == Verdict("relayed", 1, failure=lacks)


# -- other endpoints


@pytest.mark.parametrize("failure", [BAD_KEY, FORBIDDEN, BROKEN, OVERLOADED, quota(), NO_MODEL], ids=lambda f: f.kind)
def test_other_endpoints_answers_are_relayed_as_they_came(failure: Failure) -> None:
    """From the first route that answers at all."""
    plan = failover(CHAIN, POLICY, "", as_it_came=True)
    next(plan)
    with pytest.raises(StopIteration) as end:
        plan.send(AttemptResult(NOW_MS, failure))
    assert end.value.value == Verdict("relayed", 1, failure=failure)


def test_other_endpoints_go_on_while_nobody_answers() -> None:
    """A connection that breaks is no answer; nor is a 404 while a resource is searched."""
    plan = failover(CHAIN, POLICY, "", as_it_came=True, searching=True)
    next(plan)
    assert plan.send(AttemptResult(NOW_MS, REFUSED)).candidate == SECOND
    assert plan.send(AttemptResult(NOW_MS, fault("bad_request", "request", 404))).candidate == OTHER_VENDOR


# -- once more on the same route


def test_a_stale_connection_is_tried_once_more() -> None:
    """On the same route, without a wait; the second time it is a failure like any other."""
    attempts, _ = run(CHAIN, [STALE, None])
    assert tried(attempts) == ["anthropic", "anthropic"]
    attempts, _ = run(CHAIN, [STALE, STALE, None])
    assert tried(attempts) == ["anthropic", "anthropic", "subscription"]
    attempts, _ = run(CHAIN, [STALE, BROKEN, STALE, None])
    assert tried(attempts) == ["anthropic", "anthropic", "subscription", "subscription"]


def test_a_missing_model_is_asked_for_under_its_other_name() -> None:
    """On the same route first, then on the next one that has it."""
    attempts, _ = run(CHAIN, [NO_MODEL, None])
    assert [(a.candidate.route.id, a.candidate.model) for a in attempts] == [
        ("anthropic", MODEL),
        ("anthropic", "claude-sonnet-5"),
    ]
    attempts, verdict = run(CHAIN, [NO_MODEL, NO_MODEL, NO_MODEL, NO_MODEL, None])
    assert tried(attempts) == ["anthropic", "anthropic", "subscription", "subscription", "zai"]
    assert verdict.kind == "answered"


def test_a_missing_model_without_another_name_goes_elsewhere() -> None:
    """The provider's error is shown when nobody has it."""
    gpt = (Candidate(A, "gpt-4o"), Candidate(Z, "gpt-4o"))
    attempts, verdict = run(gpt, [NO_MODEL], model="gpt-4o")
    assert (tried(attempts), verdict) == (["anthropic", "zai"], Verdict("relayed", 1, failure=NO_MODEL))


def test_a_fallback_map_that_goes_round_ends() -> None:
    """No name is tried twice on a route."""
    provider = replace(A.provider, model_fallback={"a": "b", "b": "a"})
    attempts, _ = run([Candidate(route_of("x", provider), "a")], [NO_MODEL], replace(POLICY, max_retries=9), "a")
    assert [attempt.candidate.model for attempt in attempts] == ["a", "b"]


def test_after_529_the_order_stays_the_users() -> None:
    """Another key of the busy provider is next where the user put it next."""
    chain = (FIRST, SECOND, OTHER_VENDOR)
    assert tried(run(chain, [OVERLOADED])[0]) == ["anthropic", "subscription", "zai"]
    assert tried(run((FIRST, OTHER_VENDOR, SECOND), [OVERLOADED])[0]) == ["anthropic", "zai", "subscription"]


@pytest.mark.parametrize("failure", [BROKEN, REFUSED, throttle()], ids=lambda failure: failure.message)
def test_the_order_stays_after_other_failures(failure: Failure) -> None:
    """Only 529 says something about the provider's other credentials."""
    attempts, _ = run(CHAIN, [failure, BROKEN, BROKEN])
    assert tried(attempts) == ["anthropic", "subscription", "zai"]


@pytest.mark.parametrize("kind", ["timeout", "server_error", "connect", "reset", "overloaded"])
def test_no_paid_request_is_repeated_on_its_route(kind: FailureKind) -> None:
    """A POST that timed out or failed may have been worked on: the route is not asked again."""
    attempts, verdict = run([FIRST], [fault(kind, "route")])
    assert (len(attempts), verdict.kind) == (1, "unreachable")


# -- short waits


def test_a_short_throttle_is_waited_for_when_nothing_else_is_left() -> None:
    """At most two seconds; at least the delay of the settings."""
    attempts, verdict = run([FIRST], [throttle(1_500), None])
    assert ([attempt.wait_ms for attempt in attempts], verdict) == ([0, 1_500], Verdict("answered", 2))
    attempts, _ = run([FIRST], [throttle(10), None])
    assert [attempt.wait_ms for attempt in attempts] == [0, POLICY.retry_delay_ms]
    attempts, _ = run([FIRST], [throttle(), None])
    assert [attempt.wait_ms for attempt in attempts] == [0, POLICY.retry_delay_ms]


def test_the_throttle_that_ends_first_is_waited_for() -> None:
    """Of several routes."""
    attempts, _ = run(CHAIN, [throttle(1_900), throttle(1_200), throttle(5_000), None])
    assert (tried(attempts)[3], attempts[3].wait_ms) == ("subscription", 1_200)


@pytest.mark.parametrize(
    ("outcomes", "policy"),
    [
        ([throttle(SHORT_WAIT_MS + 1)], POLICY),
        ([quota(1_000)], POLICY),
        ([throttle(1_000), BROKEN, BROKEN], POLICY),
        ([throttle(1_000)], replace(POLICY, retry_delay_ms=SHORT_WAIT_MS + 1)),
        ([throttle(1_000)], replace(POLICY, max_retries=0)),
    ],
    ids=["a longer one", "a quota", "another failure", "a longer delay in the settings", "no retries in the settings"],
)
def test_nothing_else_is_waited_for(outcomes: list[Failure], policy: Policy) -> None:
    """The client waits by itself, and knows its own patience."""
    attempts, _ = run(CHAIN, outcomes, policy)
    assert len(attempts) == len(CHAIN)


def test_a_routes_newest_word_on_its_throttle_counts() -> None:
    """A route that asks for longer the second time is not asked a third."""
    attempts, verdict = run([FIRST], [throttle(1_000), throttle(50_000)])
    assert (len(attempts), verdict.until_ms) == (2, NOW_MS + 50_000)


def test_the_clients_own_throttle_is_the_clients_to_wait_for() -> None:
    """It is relayed as it is."""
    attempts, verdict = run([OWN_KEY], [throttle(1_000)])
    assert (len(attempts), verdict.kind, verdict.number) == (1, "relayed", 1)


@pytest.mark.parametrize("wait_ms", [SHORT_WAIT_MS, POLICY.retry_delay_ms, POLICY.retry_delay_ms + 1])
def test_the_longest_wait_that_is_short(wait_ms: int) -> None:
    """Two seconds are; so is a delay of the settings of two seconds."""
    attempts, _ = run([FIRST], [throttle(wait_ms), None])
    assert [attempt.wait_ms for attempt in attempts] == [0, wait_ms]
    attempts, _ = run([FIRST], [throttle(), None], replace(POLICY, retry_delay_ms=SHORT_WAIT_MS))
    assert [attempt.wait_ms for attempt in attempts] == [0, SHORT_WAIT_MS]


def test_after_a_short_wait_another_failure_ends_the_plan() -> None:
    """A route's newest failure counts; a throttle before it is not waited for again."""
    attempts, verdict = run([FIRST], [throttle(1_000), BROKEN])
    assert ([attempt.wait_ms for attempt in attempts], verdict.kind) == ([0, 1_000], "relayed")


# -- the most useful error


@pytest.mark.parametrize(
    ("outcomes", "kind", "number"),
    [
        pytest.param([BROKEN, REFUSED, OVERLOADED], "relayed", 1, id="the first error answer"),
        pytest.param([REFUSED, OVERLOADED, BROKEN], "relayed", 2, id="an answer over a broken connection"),
        pytest.param([REFUSED], "unreachable", 0, id="no answer at all"),
        pytest.param([BAD_KEY, BROKEN, REFUSED], "relayed", 2, id="never the route's own bad credential"),
        pytest.param([BAD_KEY], "unreachable", 0, id="nothing but bad credentials"),
        pytest.param([CUT_STREAM], "unreachable", 0, id="a broken 200 is no answer to show"),
        pytest.param([OVERLOADED_STREAM, BROKEN, REFUSED], "relayed", 2, id="nor is an error inside a 200"),
        pytest.param([quota(9_000), BROKEN, quota(5_000)], "relayed", 2, id="a trouble that may be over before a wait"),
        pytest.param([quota(9_000), REFUSED, REFUSED], "unreachable", 0, id="a trouble without an answer likewise"),
        pytest.param([LONG_BROKEN, BROKEN, LONG_BROKEN], "relayed", 2, id="of troubles the shortest"),
        pytest.param([BROKEN, BROKEN, BAD_REQUEST], "relayed", 1, id="no other vendor's 400 over a trouble"),
        pytest.param([REFUSED, REFUSED, BAD_REQUEST], "unreachable", 0, id="nor over one without an answer"),
        pytest.param([NO_MODEL, BROKEN, REFUSED], "relayed", 2, id="a missing model tells less than a trouble"),
        pytest.param([BAD_KEY, BAD_KEY, BAD_REQUEST], "relayed", 3, id="so does another vendor's 400"),
        pytest.param([REDIRECTED], "unreachable", 0, id="a redirection leads nobody anywhere"),
    ],
)
def test_the_most_useful_error_is_shown(outcomes: list[Failure], kind: str, number: int) -> None:
    """When all failed: an answer that a provider gave, and never one that only tells of the proxy's own key."""
    _, verdict = run(CHAIN, outcomes)
    assert (verdict.kind, verdict.number) == (kind, number)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        pytest.param(fault("server_error", "route", 400), "relayed", id="a trouble from 400 on"),
        pytest.param(fault("server_error", "route", 399), "unreachable", id="below it there is nothing to show"),
        pytest.param(fault("bad_request", "request", 300), "relayed", id="an own fault from 300 on"),
        pytest.param(fault("bad_request", "request", 299), "unreachable", id="below it the answer went well"),
    ],
)
def test_an_error_answer_has_the_status_of_one(failure: Failure, kind: str) -> None:
    _, verdict = run(CHAIN, [failure])
    assert verdict.kind == kind


def test_what_is_unreachable_is_told_by_its_first_trouble() -> None:
    """Not by a credential or a limit that came before it; by the first failure, where there was no trouble."""
    assert run(CHAIN, [BAD_KEY, REFUSED, CUT_STREAM])[1] == Verdict("unreachable", failure=REFUSED)
    assert run(CHAIN, [BAD_KEY])[1] == Verdict("unreachable", failure=BAD_KEY)


def test_a_wait_is_told_with_the_first_failure() -> None:
    assert run(CHAIN, [BAD_KEY, quota(9_000)])[1] == Verdict("throttled", until_ms=NOW_MS + 9_000, failure=BAD_KEY)


@pytest.mark.parametrize(
    ("outcomes", "wait_ms"),
    [
        pytest.param([quota(9_000), quota(5_000), quota(7_000)], 5_000, id="the soonest of quotas"),
        pytest.param([quota(9_000), BAD_KEY, BAD_KEY], 9_000, id="a quota and bad credentials"),
        pytest.param([quota()], POLICY.quota_wait_ms, id="without an end: the policy's"),
        pytest.param(
            [throttle(30_000), throttle(), quota()], POLICY.wait_ms, id="a throttle without an end ends sooner"
        ),
        pytest.param([quota(9_000), quota(), quota(90_000)], 9_000, id="no end is not a sooner end"),
        pytest.param([throttle(30_000), quota(), quota()], 30_000, id="a throttle among quotas"),
        pytest.param([quota(9_000), BAD_KEY, BAD_REQUEST], 9_000, id="others can't take it at all"),
        pytest.param([NO_MODEL, NO_MODEL, quota(9_000)], 9_000, id="the only one that has the model"),
    ],
)
def test_when_all_wait_the_soonest_true_wait_is_told(outcomes: list[Failure], wait_ms: int) -> None:
    """So that a client asks again when it has a chance, and no sooner."""
    _, verdict = run(CHAIN, outcomes)
    assert (verdict.kind, verdict.until_ms) == ("throttled", NOW_MS + wait_ms)


def test_waits_of_routes_that_were_passed_over_count_too() -> None:
    """The soonest may be one that was not even tried."""
    waiting = Candidate(Z, skip_reason="waiting", until_ms=NOW_MS + 100)
    _, verdict = run([FIRST, waiting], [quota(9_000)])
    assert (verdict.kind, verdict.until_ms) == ("throttled", NOW_MS + 100)


def test_an_own_fault_in_a_stream_is_final_but_cannot_be_relayed() -> None:
    """There is no error answer to relay where the status was 200, or where there was none."""
    for status in (200, 0):
        attempts, verdict = run(CHAIN, [fault("bad_request", "request", status)])
        assert (len(attempts), verdict.kind) == (1, "unreachable")


# -- clients' own credentials


@pytest.mark.parametrize("failure", [BAD_KEY, throttle(1_000), quota(1_000)], ids=lambda failure: failure.kind)
def test_the_clients_own_credential_falls_over_to_the_owners(failure: Failure) -> None:
    """Where the chain has any; when they fail as well, its own error is the client's."""
    attempts, verdict = run([OWN_KEY, OTHER_VENDOR], [failure, None])
    assert (tried(attempts), verdict.kind) == (["anthropic:client", "zai"], "answered")
    _, verdict = run([OWN_KEY, OTHER_VENDOR], [failure, quota(9)])
    assert verdict == Verdict("relayed", 1, failure=failure)


def test_a_clients_own_broken_answer_is_not_relayed() -> None:
    """A 200 that broke has no body that could be shown."""
    _, verdict = run([OWN_KEY], [CUT_STREAM])
    assert verdict.kind == "unreachable"


# -- FALLBACK_ON_CODES

CODES = replace(POLICY, fallback_on_codes=(429, 503))


@pytest.mark.parametrize(
    ("failure", "attempts"),
    [
        pytest.param(fault("server_error", "route", 503), 3, id="503 is in the list"),
        pytest.param(quota(), 3, id="429 is in the list"),
        pytest.param(BROKEN, 1, id="500 is not"),
        pytest.param(OVERLOADED, 1, id="529 is not, as was warned at start"),
        pytest.param(BAD_REQUEST, 1, id="400 is not"),
        pytest.param(BAD_KEY, 3, id="the route's own credential is never the client's answer"),
        pytest.param(fault("server_error", "route", 400), 1, id="nor is 400 of a route"),
        pytest.param(fault("server_error", "route", 399), 3, id="399 is no error: the built-in rules"),
        pytest.param(REFUSED, 3, id="no status: the built-in rules"),
        pytest.param(CUT_STREAM, 3, id="a broken 200: the built-in rules"),
        pytest.param(OVERLOADED_STREAM, 3, id="an error inside a 200: the built-in rules"),
    ],
)
def test_the_codes_of_the_settings_decide(failure: Failure, attempts: int) -> None:
    """When they are set, the statuses in the list change the route, and no others."""
    made, _ = run(CHAIN, [failure], CODES)
    assert len(made) == attempts


def test_a_limit_of_the_clients_own_is_none_of_the_owners_routes() -> None:
    """They are tried, whether its code is in the list or not; a limit of an owner's route goes by the list."""
    codes = replace(POLICY, fallback_on_codes=(503,))
    assert tried(run((OWN_KEY, FIRST), [quota(), None], codes)[0]) == [CLIENT.id, "anthropic"]
    assert tried(run((SECOND, FIRST), [quota(), None], codes)[0]) == ["subscription"]


def test_a_listed_400_goes_elsewhere_and_is_shown_at_the_end() -> None:
    """Whoever lists it wants other routes to try; the own family's word is still the most useful."""
    attempts, verdict = run(CHAIN, [BAD_REQUEST, BROKEN], replace(POLICY, fallback_on_codes=(400, 500)))
    assert (len(attempts), verdict) == (3, Verdict("relayed", 1, failure=BAD_REQUEST))


# -- whatever happens

FAILURES = st.sampled_from(
    [
        *(BAD_REQUEST, BROKEN, REFUSED, OVERLOADED, STALE, NO_MODEL, BAD_KEY, CUT_STREAM, OVERLOADED_STREAM),
        *(throttle(), throttle(500), throttle(1_900), throttle(9_000), quota(), quota(10**9)),
    ]
)
CANDIDATES = st.lists(
    st.sampled_from(
        [
            *(FIRST, SECOND, OTHER_VENDOR, OWN_KEY, Candidate(A, "claude-sonnet"), Candidate(Z, "glm-4")),
            Candidate(route_of("waits"), MODEL, "waiting", until_ms=NOW_MS + 7),
            Candidate(route_of("open"), MODEL, "circuit_open", until_ms=NOW_MS + 8),
        ]
    ),
    max_size=6,
    unique_by=lambda candidate: candidate.route.id,
)
POLICIES = st.builds(
    lambda retries, codes: replace(POLICY, max_retries=retries, fallback_on_codes=codes),
    st.integers(0, 10),
    st.sampled_from([(), (429,), (429, 500, 529), (400,)]),
)


@given(CANDIDATES, st.lists(FAILURES, min_size=1, max_size=20), POLICIES, st.integers(0, 9))
def test_the_plan_always_ends(candidates: list[Candidate], outcomes: list[Failure], policy: Policy, over: int) -> None:
    """Within one attempt for each route and `max_retries` more, on usable routes alone, and not after it was over."""
    attempts, verdict = run(candidates, outcomes, policy, over=over)
    usable = [candidate.route for candidate in candidates if candidate.usable]
    assert len(attempts) <= len(usable) + policy.max_retries
    assert [attempt.number for attempt in attempts] == list(range(1, len(attempts) + 1))
    assert all(attempt.candidate.route in usable for attempt in attempts)
    assert not over or len(attempts) <= over
    assert all(attempt.wait_ms <= SHORT_WAIT_MS for attempt in attempts)
    assert (verdict.kind == "answered") == (0 < over <= len(attempts))


@given(CANDIDATES, st.lists(FAILURES, min_size=1, max_size=20), st.integers(0, 10))
def test_a_verdict_names_what_there_is(candidates: list[Candidate], outcomes: list[Failure], retries: int) -> None:
    """What is relayed is an error answer of an attempt, and not the owner's credential; a wait has its end."""
    attempts, verdict = run(candidates, outcomes, replace(POLICY, max_retries=retries))
    if verdict.kind == "relayed":
        shown = attempts[verdict.number - 1]
        assert verdict.failure is not None
        assert verdict.failure.status >= 400
        assert verdict.failure.scope != "credential" or shown.candidate.route.auth == "client"
    elif verdict.kind == "throttled":
        assert verdict.until_ms > NOW_MS
    else:
        assert verdict.number == 0
        assert (verdict.kind == "no_route") == (not attempts)


@given(CANDIDATES, st.lists(FAILURES, min_size=1, max_size=20), st.integers(0, 10))
def test_nothing_is_tried_after_the_requests_own_fault(
    candidates: list[Candidate], outcomes: list[Failure], retries: int
) -> None:
    """Told by a provider of the model's own family."""
    attempts, _ = run(candidates, outcomes, replace(POLICY, max_retries=retries))
    told = [*outcomes, *[outcomes[-1]] * len(attempts)]
    for attempt, failure in zip(attempts[:-1], told, strict=False):
        assert failure.scope != "request" or attempt.candidate.route.provider.id != "anthropic"


# -- refused signatures

SIGNATURE = Failure("bad_request", "request", 0, "messages.1.content.0: Invalid `signature` in `thinking` block", 400)


def test_a_refused_signature_costs_one_more_try_without_the_thoughts() -> None:
    """On the same route, before any other; a second refusal is the answer."""
    attempts, verdict = run(CHAIN, [SIGNATURE, None])
    assert tried(attempts) == ["anthropic", "anthropic"]
    assert [attempt.candidate.without_thinking for attempt in attempts] == [False, True]
    assert verdict.kind == "answered"
    attempts, verdict = run(CHAIN, [SIGNATURE])
    assert tried(attempts) == ["anthropic", "anthropic"]
    assert (verdict.kind, verdict.number) == ("relayed", 1)


MISSED = Failure("bad_request", "request", 0, "m: Expected `thinking` or `redacted_thinking`, but found `text`.", 400)
FOREIGN = replace(SIGNATURE, error_code="organization_binding_mismatch")


def test_a_thought_that_is_missed_costs_one_more_try_without_thinking() -> None:
    """Also after one that was refused: each cure is tried once on a route."""
    attempts, verdict = run(CHAIN, [MISSED, None])
    cures = [(attempt.candidate.without_thinking, attempt.candidate.thinking_off) for attempt in attempts]
    assert (tried(attempts), cures) == (["anthropic", "anthropic"], [(False, False), (False, True)])
    assert verdict.kind == "answered"
    attempts, verdict = run(CHAIN, [SIGNATURE, MISSED, None])
    cures = [(attempt.candidate.without_thinking, attempt.candidate.thinking_off) for attempt in attempts]
    assert cures == [(False, False), (True, False), (True, True)]
    attempts, verdict = run(CHAIN, [MISSED])
    assert (len(attempts), verdict.kind, verdict.number) == (2, "relayed", 1)


def test_who_made_a_foreign_thought_is_asked_first() -> None:
    """Then the same route again, without the thoughts; nobody else made them."""
    chain = [Candidate(S, MODEL), Candidate(Z, "glm-5.2"), Candidate(A, MODEL)]
    attempts, _ = run(chain, [FOREIGN, OVERLOADED, None], thoughts=ThoughtOrigin("anthropic", "anthropic"))
    assert tried(attempts) == ["subscription", "anthropic", "subscription"]
    assert [attempt.candidate.without_thinking for attempt in attempts] == [False, False, True]
    attempts, _ = run(chain, [FOREIGN, None], thoughts=ThoughtOrigin(maker="subscription"))
    assert tried(attempts) == ["subscription", "subscription"]
    attempts, _ = run(chain, [FOREIGN, None])
    assert tried(attempts) == ["subscription", "subscription"]


def test_a_foreign_thought_on_the_sessions_own_route_is_the_answer() -> None:
    """No move of ours has brought it."""
    attempts, verdict = run(CHAIN, [FOREIGN], thoughts=ThoughtOrigin("anthropic", "anthropic"))
    assert (tried(attempts), verdict.kind, verdict.number) == (["anthropic"], "relayed", 1)


def test_a_refused_signature_counts_within_the_bound() -> None:
    """Without further attempts it is the answer at once."""
    attempts, verdict = run([FIRST], [SIGNATURE], replace(POLICY, max_retries=0))
    assert (len(attempts), verdict.kind) == (1, "relayed")


def test_after_the_thoughts_are_out_other_failures_go_their_way() -> None:
    """An overloaded provider is left for the others, whose thoughts stay in."""
    attempts, verdict = run(CHAIN, [SIGNATURE, BROKEN, None])
    assert tried(attempts) == ["anthropic", "anthropic", "subscription"]
    assert not attempts[2].candidate.without_thinking
    assert verdict.kind == "answered"


# -- prompts that no model holds

SMALL = Candidate(Z, "glm-4.5-air", "context_too_small", "prompt is too long")


@pytest.mark.parametrize(
    ("others", "kind"),
    [
        ([], "too_large"),
        ([Candidate(A, skip_reason="off")], "too_large"),
        ([Candidate(A, skip_reason="waiting", until_ms=NOW_MS + 5)], "throttled"),
    ],
)
def test_a_prompt_that_no_model_holds_is_told_so(others: list[Candidate], kind: str) -> None:
    """Unless waiting for another route would help."""
    _, verdict = run([SMALL, *others], [None])
    assert verdict.kind == kind


# -- admission


PROBED, FULL, RESERVED = (AdmissionDenied(kind, kind) for kind in ("probe", "slots", "quota"))


def play(
    candidates: Sequence[Candidate], *results: AttemptResult, budget: bool = True
) -> tuple[list[Attempt], Verdict]:
    """Play a plan against these results, one after the other."""
    plan = failover(candidates, POLICY, MODEL, lambda: budget)
    attempts = [next(plan)]
    try:
        for result in results:
            attempt = plan.send(result)
            attempts.append(attempt)
    except StopIteration as end:
        return attempts, end.value
    raise AssertionError(f"the plan goes on: {attempts}")


def refused(refusal: AdmissionDenied) -> AttemptResult:
    return AttemptResult(NOW_MS, refusal=refusal)


ANSWERED = AttemptResult(NOW_MS)
FAILED = AttemptResult(NOW_MS, BROKEN)


@pytest.mark.parametrize("refusal", [PROBED, FULL, RESERVED], ids=lambda r: r.kind)
def test_a_route_that_does_not_admit_is_passed_over(refusal: AdmissionDenied) -> None:
    """The next one is tried, and that was no attempt."""
    attempts, verdict = play(CHAIN, refused(refusal), ANSWERED)
    assert (tried(attempts), verdict) == (["anthropic", "subscription"], Verdict("answered", 1))


def test_a_slot_is_waited_for_briefly_when_nothing_is_left() -> None:
    """Five times, a second and a half in all; then the client waits better."""
    attempts, verdict = play([FIRST], *[refused(FULL)] * 6)
    assert [attempt.wait_ms for attempt in attempts] == [0, *SLOT_WAITS_MS]
    assert verdict == Verdict("throttled", until_ms=NOW_MS + 1_000)
    attempts, verdict = play([FIRST], refused(FULL), refused(FULL), ANSWERED)
    assert verdict == Verdict("answered", 1)


def test_a_probed_route_is_the_last_hope() -> None:
    """When all others failed it is asked without the lease, once."""
    probe = replace(FIRST, probe=True)
    attempts, verdict = play([probe, SECOND], refused(PROBED), FAILED, FAILED)
    assert [(attempt.candidate.route.id, attempt.candidate.probe) for attempt in attempts] == [
        ("anthropic", True),
        ("subscription", False),
        ("anthropic", False),
    ]
    assert verdict.kind == "relayed"


def test_a_reserved_quota_is_worth_a_few_seconds() -> None:
    """What is under way may leave something: the client is told to come back."""
    _, verdict = play([FIRST], refused(RESERVED))
    assert verdict == Verdict("throttled", until_ms=NOW_MS + RESERVED_WAIT_MS)


def test_a_route_that_has_to_be_passed_over_by_now_is_left_out() -> None:
    """Its wait counts where waiting helps; what opened or was disabled meanwhile promises nothing."""
    spent = AdmissionDenied("passed_over", "weekly limit reached", until_ms=NOW_MS + 9_000)
    opened = AdmissionDenied("passed_over", "5 failures in a row")
    attempts, verdict = play([FIRST, SECOND], refused(FULL), refused(opened), refused(spent))
    assert [attempt.wait_ms for attempt in attempts] == [0, 0, SLOT_WAITS_MS[0]]
    assert verdict == Verdict("throttled", until_ms=NOW_MS + 9_000)
    _, verdict = play([FIRST], refused(opened))
    assert verdict == Verdict("no_route")


def test_a_renewed_credential_is_tried_once() -> None:
    """On the same route; when that is refused as well, the next route's turn has come."""
    renewed = AttemptResult(NOW_MS, BAD_KEY, renewed=True)
    attempts, verdict = play(CHAIN, renewed, renewed, ANSWERED)
    assert tried(attempts) == ["anthropic", "anthropic", "subscription"]
    assert verdict == Verdict("answered", 3)


def test_each_route_may_renew_its_credential_once() -> None:
    renewed = AttemptResult(NOW_MS, BAD_KEY, renewed=True)
    attempts, _ = play([FIRST, SECOND], renewed, renewed, renewed, ANSWERED)
    assert tried(attempts) == ["anthropic", "anthropic", "subscription", "subscription"]


def test_what_is_searched_for_may_live_elsewhere() -> None:
    """A 404 says no more than that it is not here; any other fault of the request's is the answer."""
    missing = fault("bad_request", "request", 404)
    plan = failover(CHAIN, POLICY, MODEL, searching=True)
    next(plan)
    assert plan.send(AttemptResult(NOW_MS, missing)).candidate == SECOND
    with pytest.raises(StopIteration) as end:
        plan.send(AttemptResult(NOW_MS, BAD_REQUEST))
    assert end.value.value == Verdict("relayed", 1, failure=missing)
    assert tried(run(CHAIN, [missing])[0]) == ["anthropic"]


# -- the budget


def test_repeats_are_within_the_budget() -> None:
    """A short throttle is waited for only while few requests need it."""
    short = AttemptResult(NOW_MS, throttle(500))
    attempts, _ = play([FIRST], short, ANSWERED)
    assert tried(attempts) == ["anthropic", "anthropic"]
    attempts, verdict = play([FIRST], short, budget=False)
    assert tried(attempts) == ["anthropic"]
    assert verdict.kind == "throttled"


def test_the_budget_is_a_fifth_of_the_requests() -> None:
    """Ten at once, then one for five requests."""
    budget = RetryBudget()
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(5):
        budget.earn()
    assert [budget.spend(), budget.spend()] == [True, False]
    for _ in range(1_000):
        budget.earn()
    assert [budget.spend() for _ in range(11)] == [True] * 10 + [False]


def test_routes_share_an_account_by_their_key_or_log_in() -> None:
    """Without either, nobody can tell."""
    log_in, other = route_of("s1", api_key=Secret(""), credentials_path="/a"), "/b"
    assert share_account(A, replace(A, id="again"))
    assert not share_account(A, route_of("b"))
    assert not share_account(A, log_in)
    assert share_account(log_in, replace(log_in, id="s2"))
    assert not share_account(log_in, replace(log_in, credentials_path=other))
    assert not share_account(replace(log_in, credentials_path=""), replace(log_in, credentials_path=""))
