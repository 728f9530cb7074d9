"""Edges of the readers of usage: totals of resources, items of batches, words that change a price, runs of letters."""

import json
from typing import Any

import pytest

from service.protocol.resource_totals import ToldObject, reading_of, session_of, told_object
from service.protocol.text_tokens import letters_beyond
from service.protocol.usage_reader import UsageReader


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


def test_letters_beyond_the_first_four_are_counted() -> None:
    assert letters_beyond(["four", "fiver", "sevenly"]) == 4
