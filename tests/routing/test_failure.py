"""What a failed attempt means: every row of what is known about the providers."""

import tomllib
from importlib import resources
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger.events import FailureScope, Window
from service.ledger.fold import CIRCUIT_SCOPES
from service.routing.failure import LONG_WAIT_MS, Facts, Failure, FailureTable, classify, is_thought_refusal
from service.settings.failure_rules import FailureRule, Rules, WindowRule, packaged_rules
from tests.fakes.zai_codes import ZAI_CODES as RECORDED
from tests.support.routing_factories import NOW_MS

TABLE = FailureTable(packaged_rules())
ZAI_RULES = [rule for rule in packaged_rules().failures if "".join(rule.codes).isdigit()]


def read(status: int = 0, error_type: str = "", message: str = "", **fields: Any) -> tuple[str, str]:
    """Kind and scope."""
    failure = classify(Facts(status, error_type, message=message, **fields), NOW_MS, TABLE)
    return failure.kind, failure.scope


ANTHROPIC = [
    (400, "invalid_request_error", "messages: roles must alternate", "bad_request", "request"),
    (400, "invalid_request_error", "You have reached your specified API usage limits.", "quota", "quota"),
    (400, "invalid_request_error", "You have reached your specified workspace API usage limits", "quota", "quota"),
    (
        400,
        "invalid_request_error",
        "This credential is only authorized for use with Claude Code",
        "credential",
        "credential",
    ),
    (
        429,
        "rate_limit_error",
        "This credential is only authorized for use with Claude Code",
        "credential",
        "credential",
    ),
    (429, "rate_limit_error", "Usage credits are required for long context requests.", "bad_request", ""),
    (400, "invalid_request_error", "Your credit balance is too low to access the API", "billing", "credential"),
    (401, "authentication_error", "invalid x-api-key", "credential", "credential"),
    (402, "billing_error", "", "billing", "credential"),
    (403, "permission_error", "", "bad_request", "request"),
    (404, "", "", "model_missing", "model"),
    (404, "not_found_error", "model: claude-opus-9", "model_missing", "model"),
    (404, "not_found_error", "Not found", "bad_request", "request"),
    (404, "", "no such model", "bad_request", "request"),
    (405, "", "", "bad_request", "request"),
    (408, "", "", "timeout", "route"),
    (409, "", "", "bad_request", "request"),
    (413, "request_too_large", "", "bad_request", "request"),
    (422, "", "", "bad_request", "request"),
    (429, "rate_limit_error", "Number of requests has exceeded your limit", "throttle", "throttle"),
    (429, "rate_limit_error", "Extra usage is required for long context requests.", "bad_request", ""),
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
        pytest.param({"should_retry": False}, "throttle", id="no header, and should-retry: false"),
        pytest.param({"reset_at_ms": NOW_MS + 9_000_000}, "quota", id="a reset in the message"),
        *(
            pytest.param({"unified_status": word}, "quota", id=f"a window is {word}")
            for word in ("rejected", "rate_limited", "blocked", "queueing_hard", "payment_required")
        ),
        *(
            pytest.param({"unified_status": word, "reset_at_ms": NOW_MS + 9_000_000}, "throttle", id=f"it is {word}")
            for word in ("allowed", "allowed_warning", "queueing_soft")
        ),
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
    codes = [code for rule in ZAI_RULES for code in rule.codes]
    assert sorted(codes) == sorted(str(code) for code in RECORDED)


@pytest.mark.parametrize(
    ("error_type", "kind", "scope"),
    [
        ("overloaded_error", "overloaded", "provider"),
        ("rate_limit_error", "throttle", "throttle"),
        ("authentication_error", "credential", "credential"),
        ("permission_error", "bad_request", "request"),
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
    assert classify(facts, NOW_MS, TABLE) == Failure(
        "throttle", "throttle", NOW_MS + 5, "slow down", 429, error_type="rate_limit_error"
    )


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
    assert is_thought_refusal(Failure("bad_request", scope, message=message, status=status)) == refused


# -- the end of a wait, and whom it holds

RETRY_MS, RESET_MS = NOW_MS + 2_094_000, NOW_MS + 4_000_000


@pytest.mark.parametrize(
    ("facts", "until_ms"),
    [
        pytest.param({"unified_status": "rejected"}, RESET_MS, id="a quota: the later of the two"),
        pytest.param({"unified_status": "allowed"}, RETRY_MS, id="a throttle: the wait alone"),
        pytest.param({"unified_status": "allowed", "retry_at_ms": 0}, 0, id="a throttle that names no wait"),
        pytest.param({"retry_at_ms": 0}, RESET_MS, id="a reset in the message"),
    ],
)
def test_a_reset_is_the_end_of_a_quota_and_of_no_throttle(facts: dict[str, Any], until_ms: int) -> None:
    """A subscription names its windows' resets with every answer."""
    named = Facts(429, "rate_limit_error", **{"retry_at_ms": RETRY_MS, "reset_at_ms": RESET_MS} | facts)
    assert classify(named, NOW_MS, TABLE).retry_at_ms == until_ms


@pytest.mark.parametrize(
    ("claim", "model", "holds"),
    [
        ("five_hour", "claude-opus-4-8", ""),
        ("seven_day", "claude-opus-4-8", ""),
        ("", "claude-opus-4-8", ""),
        ("seven_day_opus", "claude-opus-4-8", "opus"),
        ("seven_day_opus", "claude-3-opus-20240229", "opus"),
        ("seven_day_sonnet", "claude-sonnet-4-6", "sonnet"),
        ("seven_day_overage_included", "claude-fable-5", "fable"),
        ("seven_day_overage_included", "claude-opus-4-8", "opus"),  # whatever it is about, this model was refused
        ("seven_day_new", "claude-haiku-4-6", "haiku"),
        ("seven_day_new", "best", "best"),
    ],
)
def test_a_claim_says_which_models_a_quota_holds(claim: str, model: str, holds: str) -> None:
    """A window of some models holds those; the one that was refused is always among them."""
    facts = Facts(429, "rate_limit_error", unified_status="rejected", claim=claim, model=model)
    assert classify(facts, NOW_MS, TABLE).holds == holds


def test_a_throttle_holds_all_models() -> None:
    """The claim is about a window, which a throttle has nothing to do with."""
    facts = Facts(429, unified_status="allowed", claim="seven_day_opus", model="claude-opus-4-8")
    assert classify(facts, NOW_MS, TABLE).holds == ""


@pytest.mark.parametrize(("code", "window"), [("1308", "5h"), ("1310", "7d"), ("1316", ""), ("1302", "")])
def test_zai_tells_its_windows_in_its_codes(code: str, window: str) -> None:
    """Spent until the stamp in the message."""
    failure = classify(Facts(429, error_code=code, reset_at_ms=RESET_MS, dialect="zai"), NOW_MS, TABLE)
    spent = {window: Window(used_ratio=1.0, resets_at_ms=RESET_MS, status="rejected")} if window else {}
    assert failure.windows == spent


# -- the rules themselves


def test_every_rule_names_its_source() -> None:
    """And what kind of source it is."""
    rules = packaged_rules()
    for source in [rule.source for rule in rules.failures] + [window.source for window in rules.windows]:
        assert source.startswith(("[doc] ", "[issue] ", "[src] ", "[house] "))


def example(rule: FailureRule) -> Facts:
    """The plainest answer that meets a rule's conditions."""
    first = rule.status[0] if rule.status else 999 if rule.codes else 100
    return Facts(
        status=int(str(first).partition("-")[0]),
        error_type=rule.types[0] if rule.types else "",
        error_code=rule.codes[0] if rule.codes else "",
        message="a page" if rule.page else " ".join((*rule.words[:1], *rule.also[:1])),
        retry_at_ms=NOW_MS + LONG_WAIT_MS + 1 if rule.wait == "long" else 0,
        should_retry=rule.should_retry,
        unified_status={"": "", "spent": "rejected", "open": "allowed"}[rule.unified],
        is_page=rule.page,
        dialect=rule.dialects[0] if rule.dialects else "anthropic",
    )


@pytest.mark.parametrize("rule", packaged_rules().failures, ids=lambda rule: f"{rule.source[:60]} {rule.types}")
def test_no_rule_is_hidden_by_those_before_it(rule: FailureRule) -> None:
    """Each has an answer that it is the first for."""
    assert TABLE.first(example(rule), NOW_MS) is rule


@given(
    st.builds(
        Facts,
        status=st.integers(0, 999),
        error_type=st.sampled_from(["", "rate_limit_error", "x"]),
        error_code=st.sampled_from(["", "1308", "zz"]),
        unified_status=st.sampled_from(["", "allowed", "rejected", "zz"]),
        claim=st.sampled_from(["", "five_hour", "seven_day_x"]),
        model=st.text(max_size=5),
        dialect=st.sampled_from(["anthropic", "zai", "compatible"]),
    )
)
def test_every_answer_means_something(facts: Facts) -> None:
    """Whatever a provider sends."""
    failure = classify(facts, NOW_MS, TABLE)
    assert failure.kind
    assert failure.scope


# -- an account's state, by its words

CLOSED = ("credential", "credential")
EMPTY = ("billing", "credential")
LACKS = ("bad_request", "")
SPENT = ("quota", "quota")
WORDS = [
    ("This organization has been disabled.", CLOSED),
    ("Your organization has been disabled. Contact support.", CLOSED),
    ("Your account has been suspended for violating our usage policies", CLOSED),
    ("This workspace has been archived", CLOSED),
    ("Your subscription is expired", CLOSED),
    ("This API key has been disabled", CLOSED),
    ("Third-party apps now draw from your extra usage, not your plan limits.", CLOSED),
    ("This credential is only authorized for use with Claude Code and cannot be used for other API requests.", CLOSED),
    ("OAuth token has been revoked. Please obtain a new token.", CLOSED),
    ("Your API key does not have permission to use the specified resource", CLOSED),
    ("OAuth authentication is currently not allowed for this organization.", CLOSED),
    ("您的账户已被锁定,请联系客服", CLOSED),
    ("您的套餐已到期", CLOSED),
    ("Your credit balance is too low to access the Anthropic API.", EMPTY),
    ("余额不足或无可用资源包,请充值。", EMPTY),
    ("The long context beta is not yet available for this subscription.", LACKS),
    ("long context beta: not available for this subscription", LACKS),
    ("Extra usage is required for long context requests.", LACKS),
    ("The 1M context window is not included in your plan", LACKS),
    ("This beta feature is not part of your plan", LACKS),
    ("You're out of extra usage. Add more to continue.", SPENT),
    ("Extra usage is disabled for your organization", SPENT),
    ("You have reached your specified API usage limits.", SPENT),
    ("已达到使用上限,将在 2026-09-12 00:35:41 重置", SPENT),
    ("当前并发数过高", ("throttle", "throttle")),
    ("该模型当前访问量过大,请您稍后再试", ("overloaded", "provider")),
]


@pytest.mark.parametrize("status", [400, 402, 403, 429, 200])
@pytest.mark.parametrize(("message", "expected"), WORDS, ids=[row[0][:40] for row in WORDS])
def test_an_accounts_state_is_known_by_its_words(status: int, message: str, expected: tuple[str, str]) -> None:
    """With whatever status it is told, and inside a stream (200): never as the fault of the request."""
    assert read(status, "invalid_request_error", message) == expected


@pytest.mark.parametrize(
    "message",
    [
        'messages.0.content.0: unexpected value "organization has been disabled"',
        "messages.3.content.1.text: your account has been suspended",
        "metadata.user_id: your credit balance is too low",
        "tools[2]: your subscription is expired",
        "tool_choice: `organization has been disabled` is no such tool",
        "unknown field 'your account has been suspended'",
    ],
)
def test_words_that_a_client_may_have_written_say_nothing_about_an_account(message: str) -> None:
    """A validator quotes the request, so that whoever writes it could rest the route for everybody."""
    assert read(400, "invalid_request_error", message) == ("bad_request", "request")


@pytest.mark.parametrize("status", [403, 200])
@pytest.mark.parametrize(
    "message",
    [
        "Your organization does not have access to the model claude-opus-5-5",
        "This model is not available for your account",
        "You do not have permission to use model: claude-fable-5-2",
    ],
)
def test_an_account_without_a_model_is_not_the_requests_fault(status: int, message: str) -> None:
    """Its fallback is asked for, then routes that have the model."""
    assert read(status, "permission_error", message) == ("model_missing", "model")


@pytest.mark.parametrize("status", [400, 402, 403, 404, 409, 200])
@pytest.mark.parametrize(
    "error_type",
    ["user_profile_suspended", "user_profile_not_found", "linked_organization_billing", "linked_organization_closed"],
)
def test_what_is_about_one_user_or_link_is_the_requests(status: int, error_type: str) -> None:
    """Whatever its words are."""
    failure = classify(Facts(status, error_type, message="your account has been suspended"), NOW_MS, TABLE)
    assert (failure.scope, failure.proven) == ("request", True)


@pytest.mark.parametrize("status", [400, 402, 403, 405, 409, 418, 422, 451, 499])
def test_a_4xx_without_a_rule_is_not_proven(status: int) -> None:
    """Nobody has said whose fault it is."""
    failure = classify(Facts(status, "some_error", message="no"), NOW_MS, TABLE)
    assert not failure.proven or status == 402
    assert not classify(Facts(200, "invalid_request_error", message="no"), NOW_MS, TABLE).proven


@pytest.mark.parametrize(
    ("status", "error_type", "message", "expected"),
    [
        (401, "authentication_error", "invalid bearer token", True),
        (403, "permission_error", "OAuth token has been revoked", True),
        (400, "invalid_request_error", "This token has been revoked", True),
        (200, "authentication_error", "no", True),
        (403, "permission_error", "Your organization has been disabled", False),
        (429, "rate_limit_error", "slow down", False),
    ],
)
def test_a_refused_token_is_worth_renewing(status: int, error_type: str, message: str, *, expected: bool) -> None:
    """By its status, or by the words in which it is told."""
    assert classify(Facts(status, error_type, message=message), NOW_MS, TABLE).refresh == expected


def own(**fields: Any) -> FailureTable:
    """The packaged rules behind one of the user's."""
    rule = FailureRule(**({"kind": "throttle", "scope": "throttle"} | fields))
    return FailureTable(packaged_rules().behind((rule,), ()))


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        pytest.param({}, True, id="without a condition"),
        pytest.param({"status": (500,)}, True, id="its status"),
        pytest.param({"status": (501, "502-599")}, False, id="other statuses"),
        pytest.param({"status": ("490-510",)}, True, id="a range"),
        pytest.param({"types": ("api_error",)}, True, id="its type"),
        pytest.param({"types": ("x",)}, False, id="another type"),
        pytest.param({"codes": ("c7",)}, True, id="its code"),
        pytest.param({"codes": ("c8",)}, False, id="another code"),
        pytest.param({"words": ("nothing", "Try AGAIN")}, True, id="one of its words"),
        pytest.param({"words": ("nothing",)}, False, id="other words"),
        pytest.param({"providers": ("house",)}, True, id="its provider"),
        pytest.param({"providers": ("anthropic",)}, False, id="another provider"),
        pytest.param({"dialects": ("zai",)}, False, id="another dialect"),
        pytest.param({"claims": ("five_hour",)}, False, id="no claim"),
        pytest.param({"should_retry": True}, False, id="no word on retrying"),
        pytest.param({"unified": "open"}, False, id="no subscription"),
        pytest.param({"wait": "none"}, True, id="no wait"),
    ],
)
def test_a_rule_of_ones_own_goes_first_where_it_fits(fields: dict[str, Any], *, fits: bool) -> None:
    """All conditions that it has must be met."""
    facts = Facts(500, "api_error", "c7", "please try again", dialect="compatible", provider="house")
    assert (classify(facts, NOW_MS, own(**fields)).kind == "throttle") == fits


@pytest.mark.parametrize(
    ("fields", "fits"),
    [
        pytest.param({"words": ("my own words",)}, False, id="of an account"),
        pytest.param({}, True, id="without words"),
        pytest.param({"words": ("my own words",), "scope": "request"}, True, id="of the request"),
        pytest.param({"scope": "request"}, True, id="of the request, without words"),
    ],
)
def test_what_a_client_wrote_matches_what_is_about_its_request(fields: dict[str, Any], *, fits: bool) -> None:
    """A rule's words that only repeat a text of the request say nothing about anybody else."""
    facts = Facts(500, "api_error", message="refused: my own words")
    failure = classify(facts, NOW_MS, own(**fields), lambda: ["my own words, and more"])
    assert (failure.kind == "throttle") == fits


def test_a_window_that_is_named_again_is_replaced() -> None:
    """So that a wrong guess of ours is one line of the user's."""
    mended = packaged_rules().behind((), (WindowRule("7d_oi", ("seven_day_overage_included",), "opus"),))
    facts = Facts(429, unified_status="rejected", claim="seven_day_overage_included", model="claude-opus-4-8")
    assert FailureTable(mended).held_by["seven_day_overage_included"] == "opus"
    assert classify(facts, NOW_MS, FailureTable(mended)).holds == "opus"
    assert len(mended.windows) == len(packaged_rules().windows)


def test_the_packaged_file_has_nothing_but_rules() -> None:
    """What it says is what is read."""
    content = resources.files("service.routing").joinpath("failures.toml").read_text(encoding="utf-8")
    assert set(tomllib.loads(content)) == set(Rules.__struct_fields__)
