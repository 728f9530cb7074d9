"""Edges of the readers of usage: totals of resources, items of batches, words that change a price, runs of letters."""

import json
from typing import Any

import pytest
from msgspec import Raw

from service.ledger.events import TokenCounts
from service.protocol.batch_results import item_usage
from service.protocol.body_survey import survey_messages
from service.protocol.content_sample import ContentSample
from service.protocol.resource_totals import ToldObject, TotalsTap, reading_of, session_of, told_object, totals_in
from service.protocol.tap import has_output, json_usage
from service.protocol.text_tokens import letters_beyond
from service.protocol.usage_reader import MOST_TOOLS, UsageReader


def told(**fields: Any) -> ToldObject:
    found = told_object(json.dumps(fields).encode())
    assert found is not None
    return found


def test_only_resources_with_a_running_total_have_one() -> None:
    """An object of another type has none, whatever its usage says."""
    usage = {"input_tokens": 5}
    session = reading_of("/v1/sessions/sesn_1", told(type="session", id="sesn_1", usage=usage))
    assert session is not None
    assert (session.resource_id, session.tokens.input) == ("sesn_1", 5)
    assert reading_of("/v1/sessions/sesn_1", told(type="message", id="msg_1", usage=usage)) is None
    assert reading_of("/v1/sessions/sesn_1", told(type="session", id="sesn_1")) is None


@pytest.mark.parametrize(
    ("usage", "words"),
    [({}, ("fast", "us")), ({"inference_geo": "eu"}, ("fast", "eu")), ({"speed": "slow"}, ("slow", "us"))],
)
def test_a_session_is_priced_by_the_words_of_its_usage_else_of_its_model(
    usage: dict[str, Any], words: tuple[str, str]
) -> None:
    """Speed and geography, which change a price."""
    agent = {"model": {"id": "claude-opus-5", "speed": "fast", "inference_geo": "us"}}
    fields = {"type": "session", "id": "sesn_1", "agent": agent, "usage": {"input_tokens": 5} | usage}
    session = reading_of("/v1/sessions/sesn_1", told(**fields))
    assert session is not None
    assert (session.model, session.speed, session.geo) == ("claude-opus-5", *words)


@pytest.mark.parametrize(
    ("path", "session"),
    [
        ("/v1/sessions/sesn_1", "sesn_1"),
        ("/v1/sessions/sesn_1/events", "sesn_1"),
        ("/v1/sessions", ""),
        ("/v1/x/y", ""),
    ],
)
def test_a_path_names_its_session(path: str, session: str) -> None:
    assert session_of(path) == session


@pytest.mark.parametrize(
    ("usage", "is_plain"),
    [
        ({"input_tokens": 1}, True),
        ({"input_tokens": 1, "speed": "fast"}, False),
        ({"input_tokens": 1, "server_tool_use": {"web_search_requests": 1}}, False),
    ],
)
def test_an_answer_with_one_special_word_is_not_plain(usage: dict[str, Any], is_plain: bool) -> None:  # noqa: FBT001
    reader = UsageReader()
    reader.merge(usage)
    assert reader.reading("claude-opus-5").is_plain == is_plain


def test_a_refusal_before_output_is_not_plain() -> None:
    reader = UsageReader()
    reader.merge({"input_tokens": 1})
    assert not reader.reading("claude-opus-5", unbilled=True).is_plain


def test_half_a_surrogate_pair_hides_no_total() -> None:
    """Clients give sessions their titles."""
    body = json.dumps({"data": [{"type": "session", "id": "s1", "title": "\ud83d", "usage": PLAIN}]}).encode()
    assert [total.tokens for total in totals_in("/v1/sessions", body)] == [TokenCounts(1, 2)]


def test_an_answer_without_a_model_was_declined_by_nobody() -> None:
    """Its iterations are within its totals, whatever they name."""
    reader = UsageReader()
    reader.merge(PLAIN | {"iterations": [{"type": "message", "model": "claude-opus-5"} | PLAIN]})
    assert reader.reading("").more == ()


PLAIN = {"input_tokens": 1, "output_tokens": 2}


@pytest.mark.parametrize(
    ("usage", "unread"),
    [
        ({"output_tokens": -2}, ["output_tokens"]),
        ({"output_tokens": 2.0}, ["output_tokens"]),
        ({"input_tokens": "9", "output_tokens": [9]}, ["input_tokens", "output_tokens"]),
        ({"cache_read_input_tokens": 10**13}, ["cache_read_input_tokens"]),
        ({"cache_creation_input_tokens": {"a": 1}}, ["cache_creation_input_tokens"]),
        ({"cache_creation": [1]}, ["cache_creation"]),
        (
            {"cache_creation": {"ephemeral_1h_input_tokens": "9", "output_tokens": 9}},
            ["cache_creation.ephemeral_1h_input_tokens", "cache_creation.output_tokens"],
        ),
        ({"speed": {"name": "fast"}, "service_tier": True}, ["speed", "service_tier"]),
        ({"server_tool_use": [1]}, ["server_tool_use"]),
        ({"server_tool_use": {"web_search_requests": "3"}}, ["server_tool_use.web_search_requests"]),
        ({"iterations": {"type": "message"}}, ["iterations"]),
        ({"iterations": [5]}, ["iterations"]),
        ({"iterations": [{"type": "advisor_message", "output_tokens": -1}]}, ["iterations.output_tokens"]),
        (dict.fromkeys(("input_tokens", "cache_creation", "iterations", "server_tool_use", "speed")), []),
        ({"cache_read_input_tokens": 0, "iterations": [], "server_tool_use": {}, "speed": ""}, []),
    ],
)
def test_a_value_that_is_none_is_told(usage: dict[str, Any], unread: list[str]) -> None:
    """It counts nothing, and whoever reads the status learns why."""
    reader = UsageReader()
    reader.merge(PLAIN)
    reader.merge(usage)
    reading = reader.reading("m")
    assert (list(reading.unread), reading.tokens, reading.more) == (unread, TokenCounts(1, 2), ())


def test_a_tool_beyond_those_that_are_kept_is_told() -> None:
    reader = UsageReader()
    reader.merge({"server_tool_use": {f"tool{number}_requests": 1 for number in range(MOST_TOOLS + 1)}})
    reading = reader.reading("m")
    assert (len(reading.tools), reading.unread) == (MOST_TOOLS, (f"server_tool_use.tool{MOST_TOOLS}_requests",))


@pytest.mark.parametrize("word", ["fa\0st", "fast\n", "x" * 33, "f\u200bst", "\x1b[2J"])
def test_a_word_that_is_none_has_no_price_and_is_not_kept(word: str) -> None:
    """Postgres reads no NUL in JSON, and people read words in a terminal."""
    reader = UsageReader()
    reader.merge(PLAIN | {"speed": word, "service_tier": word, "inference_geo": word})
    reading = reader.reading("m")
    assert (reading.speed, reading.tier, reading.geo) == ("other", "other", "other")
    session = told(type="session", id="s1", usage=PLAIN, agent={"model": {"id": "m", "speed": word}})
    total = reading_of("/v1/sessions/s1", session)
    assert total is not None
    assert total.speed == "other"


def test_letters_beyond_the_first_four_are_counted() -> None:
    assert letters_beyond(["four", "fiver", "sevenly"]) == 4


@pytest.mark.parametrize(
    ("path", "fields", "found"),
    [
        pytest.param("/v1/sessions/s1", {"type": "session", "id": "s1"}, ("s1", ""), id="a session"),
        pytest.param(
            "/v1/sessions/s1/threads/t1",
            {"type": "session_thread", "id": "t1", "session_id": "s1"},
            ("s1", "t1"),
            id="a thread of it",
        ),
        pytest.param("/v1/sessions/s1/events", {"type": "session.usage", "id": "e1"}, ("s1", ""), id="an event of it"),
        pytest.param("/v1/dreams/d1", {"type": "dream", "id": "d1", "session_id": "s1"}, ("s1", "d1"), id="a dream"),
        pytest.param("/v1/dreams/d1", {"type": "dream", "id": "d1"}, ("d1", ""), id="a dream of no session"),
        pytest.param("/v1/x", {"type": "session_thread", "id": "t1"}, None, id="a thread of no session"),
        pytest.param("/v1/x", {"type": "session_thread", "id": "", "session_id": "s1"}, None, id="no id"),
        pytest.param("/v1/x", {"type": "session", "session_id": "s1"}, None, id="no id of its own"),
        pytest.param("/v1/x", {"type": "dream", "id": "d1", "session_id": "s" * 999}, None, id="no id of the whole"),
        pytest.param("/v1/x", {"type": "session.usage", "id": "e1"}, None, id="an event of no session"),
    ],
)
def test_a_total_belongs_to_its_resource(path: str, fields: dict[str, Any], found: tuple[str, str] | None) -> None:
    """A part's, to the whole as well; without their ids it can't be told whether it was booked."""
    reading = reading_of(path, told(**fields, usage={"input_tokens": 5}))
    assert (reading and (reading.resource_id, reading.part)) == found


@pytest.mark.parametrize(
    ("created_at", "made_ms"),
    [("1970-01-01T00:00:02Z", 2_000), ("1960-01-01T00:00:02Z", 0), ("soon", 0), (7, 0)],
)
def test_when_a_resource_was_made(created_at: object, made_ms: int) -> None:
    reading = reading_of("/v1/x", told(type="session", id="s1", usage={}, created_at=created_at))
    assert reading is not None
    assert reading.made_at_ms == made_ms
    part = told(type="session_thread", id="t1", session_id="s1", usage={}, created_at=created_at)
    assert (found := reading_of("/v1/x", part)) is not None
    assert found.made_at_ms == 0, "a part is younger than the whole"


def test_a_sessions_stream_tells_its_totals() -> None:
    """In the events that carry one; after an event that is too large, nothing is read any more."""
    tap = TotalsTap("/v1/sessions/s1/events/stream")
    usage = b'event: session.usage\ndata: {"type": "session.usage", "usage": {"input_tokens": 5}}\n\n'
    other = b'event: session\ndata: {"type": "session", "id": "s1", "usage": {"input_tokens": 9}}\n\n'
    assert [reading.tokens.input for reading in tap.feed(other + usage + other)] == [5]
    for _ in range(40):
        tap.feed(b"x" * 1_000_000)
    assert tap.feed(b"\n\n" + usage) == []


def test_a_chunk_with_no_more_content_adds_nothing() -> None:
    """Such as one of heartbeats."""
    sample = ContentSample()
    chunk = b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"hello there"}}\n\n'
    sample.add(chunk, len(chunk))
    before = sample.tokens()
    sample.add(chunk, len(chunk))
    assert sample.tokens() == before != ContentSample().tokens()


@pytest.mark.parametrize(
    ("active", "cost", "found"),
    [
        (1.5, {"amount": "12", "currency": "USD"}, (1_500, 12 * 10**7)),
        (1, {"amount": "999999999", "currency": "USD"}, (1_000, 999_999_999 * 10**7)),
        (0, {"amount": "1000000000", "currency": "USD"}, (0, None)),
        (-1, {"amount": "12", "currency": "EUR"}, (0, None)),
        (10**9 - 1, {"amount": "1.5", "currency": "USD"}, ((10**9 - 1) * 1_000, None)),
        (10**9, {"amount": 12, "currency": "USD"}, (0, None)),
        (True, "12", (0, None)),
        ("7", None, (0, None)),
    ],
)
def test_how_long_it_worked_and_what_it_cost(active: Any, cost: Any, found: tuple[int, int | None]) -> None:
    """In milliseconds and nano-dollars; the sum is of the whole, not of a part."""
    usage = {"active_seconds": active, "list_cost": cost}
    whole = reading_of("/v1/x", told(type="session", id="s1", usage=usage))
    part = reading_of("/v1/x", told(type="session_thread", id="t1", session_id="s1", usage=usage))
    assert whole is not None
    assert part is not None
    assert (whole.active_ms, whole.cost_nusd) == found
    assert (part.active_ms, part.cost_nusd) == (found[0], None)


def test_a_batchs_own_tier_is_left_out() -> None:
    """All of its items have it; another one is told."""
    for tier, told_tier in (("batch", ""), ("priority", "priority")):
        usage = {"input_tokens": 1, "output_tokens": 2, "service_tier": tier}
        body = {"type": "message", "model": "m", "content": [], "usage": usage, "stop_reason": "end_turn"}
        answer = json_usage(json.dumps(body).encode())
        assert answer is not None
        assert item_usage(answer).tier == told_tier


def test_messages_of_another_shape_have_no_survey() -> None:
    """Nor do missing ones."""
    assert survey_messages(None) == survey_messages(Raw(b"7")) == []
    assert [one.role for one in survey_messages(Raw(b'[{"role": "user"}]'))] == ["user"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([], False),
        ([{"type": "text", "text": "a"}], True),
        ([{"type": "fallback"}], False),
        ([{"type": "text", "text": "a"}, {"type": "fallback"}], False),
        ([{"type": "fallback"}, {"type": "text", "text": "a"}], True),
        ("text", True),
        (["fallback"], True),
    ],
)
def test_the_model_that_is_named_has_content_behind_the_last_fallback(content: Any, *, expected: bool) -> None:
    assert has_output(Raw(json.dumps(content).encode())) is expected
