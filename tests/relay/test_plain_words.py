"""The sentence that a client reads when no route has answered: names, reasons, times, and nothing technical."""

import re
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.ledger.events import FailureKind, FailureScope
from service.relay.attempt import AttemptOutcome, AttemptPlan
from service.relay.client import ClientRequest
from service.relay.client_errors import is_in_shape, provider_error
from service.relay.plain_words import (
    PASSING,
    Reason,
    format_wait,
    is_technical,
    name_of,
    reasons_of,
    sentence,
    when_to_retry,
)
from service.routing.failover import AdmissionDenied, Attempt, RefusalKind
from service.routing.failure import Failure
from service.routing.rank import Candidate, SkipReason
from service.settings import Route
from tests.support.routing_factories import CLIENT, NOW_MS, A, S, Z, route_of

REQUEST = ClientRequest(
    request_id="req_1", method="POST", path="/v1/messages", endpoint="messages", model="claude-opus-5-5"
)
TITLED = [route_of("anthropic"), route_of("subscription", auth="oauth", title="Claude subscription"), Z]
LONG_MS = 3 * 3_600_000
TECHNICAL = [
    "[Errno 111] Connect call failed ('127.0.0.1', 38211)",
    "dial tcp 10.0.0.7:443: connect: connection refused",
    "api.example.com:8443 is down",
    "set ANTHROPIC_API_KEY",
    "https://gateway.internal/v1 failed",
    "<h1>Bad Gateway</h1>",
]


def failed(route: Route, failure: Failure, status: int = 0, body: bytes = b"") -> AttemptOutcome:
    """A route that was tried."""
    plan = AttemptPlan(attempt=Attempt(Candidate(route), 1), route=route, model="m", attempt_id="a", started_ms=1)
    return AttemptOutcome(plan=plan, result="failed", failure=failure, status=status, body=body)


def told(*outcomes: AttemptOutcome, skipped: Any = (), denied: Any = None, until_ms: int = 0) -> str:
    """The sentence."""
    reasons = reasons_of(REQUEST, outcomes, skipped, denied or {}, NOW_MS)
    return sentence(REQUEST, reasons, until_ms, NOW_MS)


def test_each_provider_is_named_once_with_its_reason() -> None:
    """The last failure of a route counts; one without a credential is not mentioned."""
    found = told(
        failed(Z, Failure("stale_socket", "", message="[Errno 104] 127.0.0.1:1")),
        failed(Z, Failure("connect", "route", message="[Errno 111] 127.0.0.1:1")),
        failed(A, Failure("overloaded", "provider", message="Overloaded", status=529)),
        skipped=[Candidate(S, skip_reason="off", reason="opt-in; set CLAUDE_SUBSCRIPTION_ENABLED=true")],
    )
    assert found == (
        "No provider can answer this request: Zai could not be reached and Anthropic is overloaded; "
        "try again in a moment (request id req_1)"
    )


@pytest.mark.parametrize(
    ("candidate", "words"),
    [
        (Candidate(S, "", "waiting", "credential refused 401", NOW_MS + 9, wait_kind="credential", wait_status=401),
         "Subscription can't be used because its login has expired"),
        (Candidate(S, "", "waiting", "credential 400", NOW_MS + 9, wait_kind="credential", wait_status=400),
         "Subscription refuses this account"),
        (Candidate(A, "", "waiting", "credential refused 401", NOW_MS + 9, wait_kind="credential", wait_status=401),
         "Anthropic does not accept the API key"),
        (Candidate(A, "", "waiting", "payment refused 402", NOW_MS + 9, wait_kind="billing"),
         "Anthropic is out of credit"),
        (Candidate(A, "", "waiting", "quota 429", NOW_MS + LONG_MS, wait_kind="quota"),
         "Anthropic has reached its limit until Wed 2026-09-16 15:00 UTC"),
        (Candidate(A, "", "waiting", "throttle 429", NOW_MS + 11_500, wait_kind="throttle"),
         "Anthropic is limiting requests for 12 seconds"),
        (Candidate(A, "", "quota_spent", "weekly limit reached", NOW_MS + LONG_MS),
         "Anthropic has reached its weekly limit until Wed 2026-09-16 15:00 UTC"),
        (Candidate(A, "", "circuit_open", "5 failures in a row", NOW_MS + 9), "Anthropic has been failing for a while"),
        (Candidate(A, "", "model_missing"), "Anthropic does not offer the model claude-opus-5-5"),
        (Candidate(A, "", "disabled", "disabled: the key of 10.0.0.1:80"), "Anthropic is switched off"),
    ],
)  # fmt: skip
def test_a_route_that_was_not_tried_has_its_reason(candidate: Candidate, words: str) -> None:
    """In words that need no knowledge of the proxy."""
    assert told(skipped=[candidate]).startswith(f"No provider can answer this request: {words}; ")


def test_ids_stand_where_two_routes_share_a_title() -> None:
    """And only where they fail in different ways."""
    one, two = route_of("team-a", title="team-a"), route_of("team-b", title="team-b")
    assert name_of(one) == "Anthropic"
    busy, gone = Failure("overloaded", "provider"), Failure("connect", "route")
    assert "Anthropic (team-a) is overloaded and Anthropic (team-b) could not" in told(
        failed(one, busy), failed(two, gone)
    )
    assert ": Anthropic is overloaded; " in told(failed(one, busy), failed(two, busy))


def test_the_time_is_relative_and_absolute() -> None:
    """Rounded up, from the verdict's wait, or the soonest that is known."""
    waiting = [Reason(A, "", NOW_MS + LONG_MS), Reason(Z, "", NOW_MS + 12_000)]
    assert when_to_retry(waiting, 0, NOW_MS) == "try again in 12 seconds, at 12:00:12 UTC"
    assert when_to_retry(waiting, NOW_MS + LONG_MS, NOW_MS) == "try again in 3 hours, at Wed 2026-09-16 15:00 UTC"
    assert when_to_retry([*waiting, Reason(S, "", is_passing=True)], 0, NOW_MS) == "try again in a moment"
    assert when_to_retry([Reason(S, "")], 0, NOW_MS) == "trying again won't help until that changes"
    waits = [0, 1, 1_000, 1_001, 119_999, 120_000, 7_199_999, 7_200_000, 172_800_000]
    assert [format_wait(wait_ms) for wait_ms in waits] == [
        "1 second", "1 second", "1 second", "2 seconds", "120 seconds", "2 minutes", "120 minutes", "2 hours", "2 days",
    ]  # fmt: skip


NOISE = st.sampled_from(TECHNICAL)
FAILURES = st.builds(
    Failure,
    st.sampled_from([kind for kind in get_args(FailureKind) if kind]),
    st.sampled_from(get_args(FailureScope)),
    st.sampled_from([0, NOW_MS + 5_000, NOW_MS + LONG_MS]),
    message=NOISE,
    status=st.sampled_from([0, 400, 401, 404, 429, 500, 529]),
    refresh=st.booleans(),
)
SKIPPED = st.builds(
    Candidate,
    st.sampled_from(TITLED),
    st.just("m"),
    st.sampled_from([reason for reason in get_args(SkipReason) if reason]),
    NOISE,
    st.sampled_from([0, NOW_MS + 5_000, NOW_MS + LONG_MS]),
    wait_kind=st.sampled_from([kind for kind in get_args(FailureKind) if kind]),
    wait_status=st.sampled_from([0, 400, 401]),
)
DENIED = st.dictionaries(
    st.sampled_from([route.id for route in TITLED]),
    st.builds(AdmissionDenied, st.sampled_from(get_args(RefusalKind)), NOISE),
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from([*TITLED, CLIENT]), FAILURES), max_size=4),
    st.lists(SKIPPED, max_size=3),
    DENIED,
    st.sampled_from([0, NOW_MS + 5_000, NOW_MS + LONG_MS]),
)
def test_nothing_technical_is_ever_told(
    tried: list[tuple[Route, Failure]], skipped: list[Candidate], denied: dict[str, AdmissionDenied], until_ms: int
) -> None:
    """Whatever failed, and however: no system error, address, port or setting; one line, with the request's id."""
    usable = [Candidate(route) for route in TITLED]
    found = told(*(failed(*one) for one in tried), skipped=[*skipped, *usable], denied=denied, until_ms=until_ms)
    assert not is_technical(found)
    assert not re.search(r"circuit|cooldown|cool-down|scope|status|route", found)
    assert "\n" not in found
    assert found.endswith("(request id req_1)")
    for title in ("Claude subscription", "Zai"):
        assert found.count(title) <= 1


@pytest.mark.parametrize("words", TECHNICAL)
def test_what_is_technical_is_known(words: str) -> None:
    assert is_technical(words)


@pytest.mark.parametrize(
    "words", ["Network error", "max_tokens: 1 is too small", "messages.0.content.1: no", "at 12:30"]
)
def test_what_is_plain_may_be_quoted(words: str) -> None:
    assert not is_technical(words)


def test_every_kind_that_passes_is_a_kind() -> None:
    assert set(get_args(FailureKind)) >= PASSING


# -- errors in another shape


@pytest.mark.parametrize(
    ("body", "is_shape"),
    [
        (b'{"type":"error","error":{"type":"api_error","message":"no"}}', True),
        (b'{"type":"error","error":{"type":"1234","message":"no"}}', False),
        (b'{"type":"error","error":{"type":"api_error","message":""}}', False),
        (b'{"type":"error","error":{"type":"api_error"}}', False),
        (b'{"type":"error","error":{"type":7,"message":"no"}}', False),
        (b'{"type":"error","error":"no"}', False),
        (b'{"error":{"type":"api_error","message":"no"}}', False),
        (b"[]", False),
        (b"", False),
        (b"<html>", False),
    ],
)
def test_anthropics_shape_has_a_type_and_a_message(body: bytes, is_shape: bool) -> None:  # noqa: FBT001
    assert is_in_shape(body) is is_shape


@pytest.mark.parametrize(
    ("status", "body", "message", "words"),
    [
        (404, b"", "", "Anthropic found nothing at this path, with status 404"),
        (401, b"<html>no</html>", "no", "Anthropic rejected the credential, with status 401"),
        (405, b"no such method", "no such method", "Anthropic refused the request, with status 405"),
        (400, b'{"detail":"too long"}', "too long", 'Anthropic answered "too long", with status 400'),
        (
            503,
            b'{"error":"dial tcp 10.0.0.7:443"}',
            "dial tcp 10.0.0.7:443",
            "Anthropic is not available, with status 503",
        ),
    ],
)
def test_an_error_in_another_shape_has_words_and_its_status(status: int, body: bytes, message: str, words: str) -> None:
    """A page is never quoted; another provider's JSON is, unless it is technical."""
    error = provider_error(REQUEST, failed(A, Failure("bad_request", "request", message=message), status, body))
    assert (error.status, error.message) == (status, f"{words} (request id req_1)")


def test_a_redirection_is_no_error_of_the_client() -> None:
    """Its status would mean something to a client."""
    error = provider_error(REQUEST, failed(A, Failure("bad_answer", "route"), 302))
    assert (error.status, error.type) == (502, "api_error")
