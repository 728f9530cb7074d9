"""What answers say about errors and limits."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger.events import Window
from service.providers.error_facts import ErrorFacts, error_facts, windows_of
from tests.fakes.zai_codes import ZAI_CODES

NOW_MS = 1_793_000_000_000  # 2026-10-26T07:33:20Z
STAMP_MS = 1_789_144_541_000  # 2026-09-11T16:35:41Z, which is 2026-09-12 00:35:41 in Beijing


def read(body: Any = b"", status: int = 429, **headers: str) -> ErrorFacts:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    items = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return error_facts(status, items, raw, NOW_MS)


def headers_of(values: dict[str, str]) -> list[tuple[bytes, bytes]]:
    names = {name: name if name.startswith("anthropic-") else name.replace("_", "-") for name in values}
    return [(names[name].encode(), value.encode()) for name, value in values.items()]


ERRORS = [
    pytest.param(
        {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}, "request_id": "req_1"},
        ("overloaded_error", "", "Overloaded"),
        id="Anthropic's",
    ),
    pytest.param(
        {
            "error": {
                "type": "rate_limit_error",
                "message": "No",
                "details": {"error_code": "enforced_spend_limit_reached"},
            }
        },
        ("rate_limit_error", "enforced_spend_limit_reached", "No"),
        id="Anthropic's with details",
    ),
    pytest.param({"error": {"code": "1302", "message": "Rate"}}, ("", "1302", "Rate"), id="Z.AI's code as text"),
    pytest.param({"error": {"code": 1302, "message": "Rate"}}, ("", "1302", "Rate"), id="Z.AI's code as number"),
    pytest.param({"error": {"type": "1113", "message": "Pay"}}, ("", "1113", "Pay"), id="Z.AI's code as type"),
    pytest.param({"error": {"type": 1113, "message": "Pay"}}, ("", "1113", "Pay"), id="Z.AI's code as number in type"),
    pytest.param(
        {"error": {"type": "rate_limit_error", "message": "[1308][Usage limit reached][abc]"}},
        ("rate_limit_error", "1308", "[1308][Usage limit reached][abc]"),
        id="Z.AI's code in the message alone",
    ),
    pytest.param({"error": "no key"}, ("", "", "no key"), id="a text"),
    pytest.param({"message": "not found"}, ("", "", "not found"), id="a message alone"),
    pytest.param(b"upstream connect error\n or reset", ("", "", "upstream connect error or reset"), id="plain text"),
    pytest.param(
        b"<html><title>502 Bad\nGateway &amp; co</title><p>x</html>",
        ("", "", "502 Bad Gateway & co"),
        id="a page's title",
    ),
    pytest.param(b"<h1>Bad</h1> gateway", ("", "", "Bad gateway"), id="a page without a title"),
    pytest.param(b"", ("", "", ""), id="nothing"),
    pytest.param([1], ("", "", "[1]"), id="a list"),
    pytest.param({"error": {"type": None, "message": 7, "code": True, "details": []}}, ("", "", ""), id="odd values"),
]


@pytest.mark.parametrize(("body", "expected"), ERRORS)
def test_every_shape_of_error_is_understood(body: Any, expected: tuple[str, str, str]) -> None:
    """Type, code and words are found wherever a provider puts them."""
    facts = read(body)
    assert (facts.error_type, facts.error_code, facts.message) == expected


@pytest.mark.parametrize("code", ZAI_CODES)
@pytest.mark.parametrize("shape", ["text", "number", "type", "message"])
def test_every_code_of_zai_is_found_in_every_place(code: int, shape: str) -> None:
    """Z.AI's codes come as text, number, type or in the message alone."""
    words = ZAI_CODES[code].message
    errors: dict[str, dict[str, Any]] = {
        "text": {"code": str(code), "message": words},
        "number": {"code": code, "message": words},
        "type": {"type": str(code), "message": words},
        "message": {"type": "rate_limit_error", "message": f"[{code}][{words}][20260911]"},
    }
    facts = read({"type": "error", "error": errors[shape]})
    assert facts.error_code == str(code)
    assert facts.reset_at_ms == (STAMP_MS if "reset at" in words else None)


@pytest.mark.parametrize(
    ("words", "reset_at_ms"),
    [
        ("Your limit will reset at 2026-09-12 00:35:41", STAMP_MS),
        ("[1308][Usage limit reached for 5 hour. Your limit will reset at 2026-09-12 00:35:41][x]", STAMP_MS),
        ("It resets at 2026-09-12T00:35:41.", STAMP_MS),
        ("reset at 2026-09-11 16:35:41 UTC", STAMP_MS),
        ("reset at 2026-09-11T16:35:41Z", STAMP_MS),
        ("reset at 2026-09-11T16:35:41.250+00:00", STAMP_MS),
        ("reset at 2026-09-12 02:35:41+1000", STAMP_MS),
        ("You will regain access on 2026-09-11 at 16:35 UTC.", STAMP_MS - 41_000),
        ("reset at 2026-13-45 99:99:99", None),
        ("reset at ${next_flush_time}", None),
        ("已达到使用上限,将在 2026-09-12 00:35:41 重置", STAMP_MS),
        ("本周限额已用完,2026-09-12 00:35:41 恢复", STAMP_MS),
        ("Again from 2026-09-12 00:35:41 on", STAMP_MS),
        ("reset at 1066-09-12 00:35:41", None),
    ],
)
def test_a_stamp_without_offset_is_beijing_time(words: str, reset_at_ms: int | None) -> None:
    """Z.AI's stamps are eight hours ahead of UTC and do not say so; a stamp that says so is believed."""
    assert read({"error": {"code": "1308", "message": words}}).reset_at_ms == reset_at_ms


@pytest.mark.parametrize(
    ("words", "reset_at_ms"),
    [
        ("at 2026-09-12 00:35:41 something happened", None),
        ("preset at 2026-09-12 00:35:41", None),
        ("resets at 2026-09-12 00:35:41", STAMP_MS),
        ("将在 2026-09-12 00:35:41 重置", STAMP_MS),
    ],
)
def test_without_a_code_a_stamp_needs_words_that_say_what_it_is(words: str, reset_at_ms: int | None) -> None:
    """In English; Chinese words are Z.AI's, whose stamps are resets."""
    assert read({"error": {"message": words}}).reset_at_ms == reset_at_ms


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry_after": "2094"}, 2_094_000),
        ({"retry_after": "0"}, 0),
        ({"retry_after": "1.5"}, 1_500),
        ({"retry_after_ms": "250", "retry_after": "9"}, 250),
        ({"retry_after_ms": "soon", "retry_after": "9"}, 9_000),
        ({"retry_after": "Mon, 26 Oct 2026 07:34:20 GMT"}, 60_000),
        ({"retry_after": "Mon, 26 Oct 2026 07:32:20 GMT"}, None),
        ({"retry_after": "99999999999999"}, 366 * 86_400_000),
        ({"retry_after": "-5"}, None),
        ({"retry_after": "nan"}, None),
        ({"retry_after": "inf"}, None),
        ({"retry_after": "tomorrow"}, None),
        ({"retry_after": ""}, None),
    ],
)
def test_the_wait_is_read_from_every_form(headers: dict[str, str], expected: int | None) -> None:
    """Milliseconds, seconds and dates; never negative, never over a year, garbage is nothing."""
    assert error_facts(429, headers_of(headers), b"", NOW_MS).retry_after_ms == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("true", True), ("FALSE", False), ("", None), ("1", None), ("maybe", None)]
)
def test_should_retry_is_told_as_it_came(value: str, expected: bool | None) -> None:  # noqa: FBT001 - a table's column
    """Only the two words that the API uses mean something."""
    assert read(x_should_retry=value).should_retry is expected


UNIFIED = {
    "anthropic_ratelimit_unified_status": "rejected",
    "anthropic_ratelimit_unified_reset": "1774472400",
    "anthropic_ratelimit_unified_5h-status": "rejected",
    "anthropic_ratelimit_unified_5h-reset": "1774472400",
    "anthropic_ratelimit_unified_5h-utilization": "1.0",
    "anthropic_ratelimit_unified_7d-status": "allowed",
    "anthropic_ratelimit_unified_7d-reset": "1774900000",
    "anthropic_ratelimit_unified_7d-utilization": "0.59",
    "anthropic-ratelimit-unified-7d_oi-utilization": "0.2",
    "anthropic_ratelimit_unified_representative_claim": "five_hour",
    "anthropic_ratelimit_unified_fallback_percentage": "0.5",
    "retry_after": "2094",
    "request_id": "req_9",
}


def test_a_subscription_tells_its_windows() -> None:
    """A recorded 429 of a subscription is read whole."""
    facts = error_facts(429, headers_of(UNIFIED), b"", NOW_MS)
    assert facts.windows == {
        "5h": Window(used_ratio=1.0, resets_at_ms=1_774_472_400_000, status="rejected"),
        "7d": Window(used_ratio=0.59, resets_at_ms=1_774_900_000_000, status="allowed"),
        "7d_oi": Window(used_ratio=0.2),
    }
    assert (facts.unified_status, facts.claim, facts.reset_at_ms) == ("rejected", "five_hour", 1_774_472_400_000)
    assert (facts.retry_after_ms, facts.request_id, facts.status) == (2_094_000, "req_9", 429)


def test_an_api_key_tells_its_limits() -> None:
    """Limits of a key become windows by what is left of them."""
    values = {
        "anthropic-ratelimit-requests-limit": "4000",
        "anthropic-ratelimit-requests-remaining": "1000",
        "anthropic-ratelimit-requests-reset": "2026-10-26T07:34:20Z",
        "anthropic-ratelimit-input-tokens-limit": "0",
        "anthropic-ratelimit-input-tokens-remaining": "0",
        "anthropic-ratelimit-tokens-reset": "soon",
    }
    assert windows_of(headers_of(values)) == {
        "requests": Window(used_ratio=0.75, resets_at_ms=NOW_MS + 60_000),
        "input-tokens": Window(),
        "tokens": Window(),
    }


def test_names_of_headers_may_be_capital() -> None:
    """HTTP/1 upstreams write names as they like."""
    assert windows_of([(b"Anthropic-RateLimit-Unified-5h-Utilization", b"0.5")]) == {"5h": Window(used_ratio=0.5)}


def test_most_answers_tell_of_no_window() -> None:
    """Without such headers there is nothing to read."""
    assert windows_of([(b"content-type", b"application/json"), (b"anthropic-organization-id", b"o")]) == {}


@pytest.mark.parametrize(
    "secret",
    ["sk-ant-api03-AbC_dEf-123456", "Bearer abc.def", "0123456789abcdef0123456789abcdef.AbCdEfGh12345678",
     "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc"],
)  # fmt: skip
def test_no_message_holds_a_key(secret: str) -> None:
    """What looks like a credential is blotted out."""
    message = read({"error": {"message": f"Your key {secret} is wrong"}}).message
    assert secret.rpartition(" ")[2] not in message
    assert message.endswith("is wrong")


@given(st.text(max_size=900))
def test_messages_are_one_short_line(words: str) -> None:
    """At most 300 characters, and no line ends or control characters."""
    message = read({"error": {"message": words}}).message
    assert len(message) <= 300
    assert not any(char < " " or char == "\x7f" for char in message)


WINDOW_HEADERS = ["unified-reset", "unified-5h-utilization", "unified-7d-reset", "unified-7d_x-status", "tokens-limit",
                  "tokens-remaining", "requests-reset"]  # fmt: skip
HEADER_NAMES = st.sampled_from([
    b"retry-after", b"retry-after-ms", b"x-should-retry", b"request-id",
    *(f"anthropic-ratelimit-{name}".encode() for name in WINDOW_HEADERS),
])  # fmt: skip
HEADER_VALUES = st.binary(max_size=12) | st.sampled_from([
    b"nan", b"-inf", b"1e400", b"9" * 400, b"0x10", b"1_000", b"9999-12-31T23:59:59Z", b"0001-01-01T00:00:00+14:00",
    b"Mon, 99", b"Fri, 31 Dec 9999 23:59:59 -9999", b"\xff",
])  # fmt: skip


@given(st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=6), st.binary(max_size=40), st.integers(100, 599))
def test_garbage_never_raises(headers: list[tuple[bytes, bytes]], body: bytes, status: int) -> None:
    """Whatever a provider sends, facts come of it, within their bounds."""
    facts = error_facts(status, headers, body, NOW_MS)
    assert facts.windows == windows_of(headers)
    assert facts.retry_after_ms is None or 0 <= facts.retry_after_ms <= 366 * 86_400_000
    for window in facts.windows.values():
        assert window.used_ratio is None or window.used_ratio >= 0
        assert window.resets_at_ms >= 0


@given(st.recursive(st.none() | st.integers() | st.text(max_size=6), lambda inner: st.dictionaries(
    st.sampled_from(["error", "type", "message", "code", "details", "error_code", "request_id"]), inner)))  # fmt: skip
def test_no_json_raises(body: Any) -> None:
    """Objects of any shape are read."""
    read(body)
