"""What a failed attempt means: every row of what is known about the providers."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger.events import FailureScope
from service.ledger.fold import CIRCUIT_SCOPES
from service.routing.failure import LONG_WAIT_MS, ZAI_CODES, Facts, Failure, classify, is_signature_refusal
from tests.fakes.zai_codes import ZAI_CODES as RECORDED
from tests.routing.making import NOW_MS


def read(status: int = 0, error_type: str = "", message: str = "", **fields: Any) -> tuple[str, str]:
    """Kind and scope."""
    failure = classify(Facts(status, error_type, message=message, **fields), NOW_MS)
    return failure.kind, failure.scope


ANTHROPIC = [
    (400, "invalid_request_error", "messages: roles must alternate", "bad_request", "request"),
    (400, "invalid_request_error", "Your credit balance is too low to access the API", "billing", "credential"),
    (401, "authentication_error", "invalid x-api-key", "credential", "credential"),
    (402, "billing_error", "", "billing", "credential"),
    (403, "permission_error", "", "credential", "credential"),
    (404, "not_found_error", "model: claude-opus-9", "model_missing", "model"),
    (404, "not_found_error", "Not found", "bad_request", "request"),
    (404, "", "no such model", "bad_request", "request"),
    (405, "", "", "bad_request", "request"),
    (408, "", "", "timeout", "route"),
    (409, "", "", "bad_request", "request"),
    (413, "request_too_large", "", "bad_request", "request"),
    (422, "", "", "bad_request", "request"),
    (429, "rate_limit_error", "Number of requests has exceeded your limit", "throttle", "throttle"),
    (429, "rate_limit_error", "Extra usage is required for long context requests.", "bad_request", "request"),
    (429, "billing_error", "", "quota", "quota"),
    (500, "api_error", "Internal server error", "server_error", "route"),
    (502, "", "Bad Gateway", "server_error", "route"),
    (503, "", "", "server_error", "route"),
    (504, "timeout_error", "", "server_error", "route"),
    (520, "", "", "server_error", "route"),
    (529, "overloaded_error", "Overloaded", "overloaded", "provider"),
    (599, "", "", "server_error", "route"),
    (301, "", "Moved", "bad_answer", "route"),
    (307, "", "", "bad_answer", "route"),
    (304, "", "", "bad_request", "request"),
]


@pytest.mark.parametrize(
    ("status", "error_type", "message", "kind", "scope"),
    ANTHROPIC,
    ids=[f"{row[0]} {row[1] or 'without a type'} {row[2][:24]}".strip() for row in ANTHROPIC],
)
def test_a_status_has_a_meaning(status: int, error_type: str, message: str, kind: str, scope: str) -> None:
    """Client faults are the request's, 401 to 403 the credential's, 429 has its own clock, 5xx are the route's."""
    assert read(status, error_type, message) == (kind, scope)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        pytest.param({}, "throttle", id="no wait is named"),
        pytest.param({"retry_at_ms": NOW_MS + 2_000}, "throttle", id="two seconds"),
        pytest.param({"retry_at_ms": NOW_MS + LONG_WAIT_MS}, "throttle", id="a minute"),
        pytest.param({"retry_at_ms": NOW_MS + LONG_WAIT_MS + 1}, "quota", id="more than a minute"),
        pytest.param({"retry_at_ms": NOW_MS + 121_180_000}, "quota", id="a subscription's week"),
        pytest.param({"error_code": "enforced_spend_limit_reached"}, "quota", id="a spend limit"),
        pytest.param({"should_retry": True}, "throttle", id="no header but should-retry"),
    ],
)
def test_429_is_a_throttle_or_a_quota(facts: dict[str, Any], expected: str) -> None:
    """By the length of the wait, or by what the provider says is spent."""
    assert read(429, "rate_limit_error", **facts) == (expected, expected)


ACCOUNT = dict.fromkeys((1110, 1111, 1112, 1113, 1120, 1121, 1220, 1309, 1313), ("billing", "credential"))
ZAI: dict[int, tuple[str, str]] = {
    **dict.fromkeys((1000, 1001, 1002, 1003, 1004), ("credential", "credential")),
    **ACCOUNT,
    **dict.fromkeys((1210, 1213, 1214, 1261, 1300, 1301), ("bad_request", "request")),
    **dict.fromkeys((1211, 1311), ("model_missing", "model")),
    **dict.fromkeys((1302, 1303), ("throttle", "throttle")),
    **dict.fromkeys((1308, 1310, 1316, 1317, 1318, 1319, 1320, 1321), ("quota", "quota")),
    1234: ("server_error", "route"),
    1305: ("overloaded", "provider"),
}


@pytest.mark.parametrize("code", RECORDED)
def test_a_code_of_zai_tells_more_than_its_status(code: int) -> None:
    """Every code that its users have met has its meaning, with whatever status it comes, in a stream as well."""
    recorded = RECORDED[code]
    for status in (recorded.status, 200, 429, 400, 500):
        assert read(status, recorded.error_type, recorded.message, error_code=str(code)) == ZAI[code]


def test_every_code_in_the_table_was_met() -> None:
    """And the other way round: the two lists are one."""
    assert {str(code) for code in RECORDED} == ZAI_CODES.keys()


@pytest.mark.parametrize(
    ("error_type", "kind", "scope"),
    [
        ("overloaded_error", "overloaded", "provider"),
        ("rate_limit_error", "throttle", "throttle"),
        ("authentication_error", "credential", "credential"),
        ("permission_error", "credential", "credential"),
        ("billing_error", "billing", "credential"),
        ("invalid_request_error", "bad_request", "request"),
        ("request_too_large", "bad_request", "request"),
        ("not_found_error", "bad_request", "request"),
        ("timeout_error", "timeout", "route"),
        ("api_error", "server_error", "route"),
        ("something_new", "stream_error", "route"),
        ("", "stream_error", "route"),
    ],
)
@pytest.mark.parametrize("status", [0, 200])
def test_an_error_inside_a_stream_goes_by_its_type(status: int, error_type: str, kind: str, scope: str) -> None:
    """A 200 that turns out to be an error is one; what nobody knows is the route's."""
    assert read(status, error_type) == (kind, scope)


def test_what_the_provider_said_is_kept() -> None:
    """Its words, its status and the end of the wait go with the failure."""
    facts = Facts(429, "rate_limit_error", message="slow down", retry_at_ms=NOW_MS + 5)
    assert classify(facts, NOW_MS) == Failure("throttle", "throttle", NOW_MS + 5, "slow down", 429)


@given(st.integers(400, 499), st.text(max_size=30), st.text(max_size=30))
def test_no_4xx_of_anthropic_moves_a_circuit(status: int, error_type: str, message: str) -> None:
    """Except 408, which says that the provider waited in vain."""
    _, scope = read(status, error_type, message)
    assert scope not in CIRCUIT_SCOPES or status == 408


@given(st.integers(500, 599), st.text(max_size=30))
def test_a_5xx_is_never_the_requests_fault(status: int, message: str) -> None:
    """Another route may do better."""
    assert read(status, "api_error", message)[1] in CIRCUIT_SCOPES


@pytest.mark.parametrize(
    ("message", "status", "scope", "refused"),
    [
        ("messages.1.content.0: Invalid `signature` in `thinking` block", 400, "request", True),
        ("Invalid signature in thinking block", 400, "request", True),
        ("messages.5.content.0.thinking.signature: Field required", 400, "request", True),
        ("thinking.budget_tokens: Input should be greater than or equal to 1024", 400, "request", False),
        ("invalid request signature", 400, "request", False),
        ("Invalid signature in thinking block", 500, "route", False),
    ],
)
def test_a_refused_signature_is_known_by_its_words(
    message: str, status: int, scope: FailureScope, *, refused: bool
) -> None:
    """Only a 400 that names the signature of a thought: nothing else is cured by leaving the thoughts out."""
    assert is_signature_refusal(Failure("bad_request", scope, message=message, status=status)) == refused
