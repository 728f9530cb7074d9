"""Lists of models: read from whatever provider, joined, cut into pages as Anthropic does."""

import msgspec
import pytest

from service.errors import ClientError
from service.protocol.model_list import LONG_AGO, completed, display_name, entries_in, joined, known_entry, page_of

FIVE = [known_entry(f"claude-{number}") for number in range(5)]


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("claude-opus-4-8", "Claude Opus 4.8"),
        ("claude-haiku-4-5-20251001", "Claude Haiku 4.5"),
        ("claude-sonnet-5", "Claude Sonnet 5"),
        ("claude-3-7-sonnet", "Claude 3.7 Sonnet"),
        ("glm-5.2", "GLM 5.2"),
        ("glm-4.5-air", "GLM 4.5 Air"),
        ("claude-opus-4-1234567", "Claude Opus 4.1234567"),
        ("house-4-12345678-x", "House 4 12345678 X"),
    ],
)
def test_a_model_has_a_name_for_people(model: str, shown: str) -> None:
    """Where its provider gives none."""
    assert display_name(model) == shown


def test_what_a_provider_says_stays() -> None:
    """Every field of an entry; what is missing is added."""
    given = {"id": "claude-a", "display_name": "A", "capabilities": {"x": 1}, "description": "d"}
    [first, second] = entries_in(msgspec.json.encode({"data": [given, {"id": "b"}]})) or []
    assert first == {**given, "type": "model", "created_at": "1970-01-01T00:00:00Z"}
    assert second == {"type": "model", "id": "b", "display_name": "B", "created_at": "1970-01-01T00:00:00Z"}


def test_openais_shape_is_read() -> None:
    """As compatible providers have it."""
    body = b'{"object":"list","data":[{"id":"glm-5","object":"model","created":1767225600,"owned_by":"z"},{"id":7},3]}'
    assert entries_in(body) == [
        {"type": "model", "id": "glm-5", "created": 1767225600, "owned_by": "z", "display_name": "GLM 5",
         "created_at": "2026-01-01T00:00:00Z"}
    ]  # fmt: skip


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"data":{}}', b"<html>", b'{"data":' + b"[" * 100_000, b"\xff"])
def test_what_is_no_list_is_none(body: bytes) -> None:
    """Whatever a provider answers."""
    assert entries_in(body) is None


def test_the_first_list_has_a_models_say() -> None:
    """Each model stands there once."""
    lists = [[{"id": "a", "n": 1}], [{"id": "b", "n": 2}, {"id": "a", "n": 2}]]
    assert [(entry["id"], entry["n"]) for entry in joined(lists)] == [("a", 1), ("b", 2)]


@pytest.mark.parametrize(
    ("query", "numbers", "has_more"),
    [
        ("", "01234", False),
        ("limit=1000", "01234", False),
        ("limit=2", "01", True),
        ("limit=2&after_id=claude-1", "23", True),
        ("limit=2&after_id=claude-2", "34", False),
        ("after_id=claude-4", "", False),
        ("limit=2&before_id=claude-3", "12", True),
        ("limit=3&before_id=claude-3", "012", False),
        ("before_id=claude-0", "", False),
    ],
)
def test_a_page_is_what_was_asked_for(query: str, numbers: str, has_more: bool) -> None:  # noqa: FBT001 - a row
    """By its size, and by the model behind or before it."""
    page = page_of(FIVE, query)
    ids = [f"claude-{number}" for number in numbers]
    assert [entry["id"] for entry in page["data"]] == ids
    assert (page["first_id"], page["last_id"]) == ((ids[0], ids[-1]) if ids else (None, None))
    assert page["has_more"] == has_more


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=-1", "after_id=x", "before_id=x"])
def test_a_page_that_there_is_not(query: str) -> None:
    """The client is told what is wrong."""
    with pytest.raises(ClientError):
        page_of(FIVE, query)


@pytest.mark.parametrize("limit", [1, 2, 5])
def test_a_page_has_as_many_as_are_asked_for(limit: int) -> None:
    """One at least."""
    page = page_of(FIVE, f"limit={limit}")
    assert (len(page["data"]), page["has_more"]) == (limit, limit < 5)


@pytest.mark.parametrize(
    ("created", "told"),
    [
        (1, "1970-01-01T00:00:01Z"),
        (2**32 - 1, "2106-02-07T06:28:15Z"),
        (2**32, LONG_AGO),
        (0, LONG_AGO),
        ("1", LONG_AGO),
    ],
)
def test_when_a_model_was_made_is_told_if_that_is_a_time(created: object, told: str) -> None:
    """In seconds, as other providers write it; milliseconds are none."""
    assert completed({"id": "m", "created": created})["created_at"] == told
