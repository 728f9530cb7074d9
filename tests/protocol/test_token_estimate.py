"""The least that a prompt can have: never more than any tokenizer makes of it."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from service.protocol.token_estimate import (
    PIECE_BYTES,
    is_short,
    json_chars,
    least_tokens,
    likely_tokens_of,
    message_of,
    repeats,
)


def ask(content: Any, **fields: Any) -> bytes:
    return msgspec.json.encode({"messages": [{"role": "user", "content": content}], **fields})


PROSE = "The quick brown foxes jumped over several extraordinarily lazy dogs, unfortunately. " * 100


def test_short_bodies_are_not_even_read() -> None:
    """Six bytes for each token of the smallest window can't exceed it, whatever they are."""
    assert is_short(b"x" * 6_000, 1_000)
    assert not is_short(b"x" * 6_001, 1_000)
    assert is_short(b"x" * 6_001, 0), "no limit is known"
    assert least_tokens(ask(PROSE), len(PROSE) // 6 + 100) == 0


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        pytest.param({"system": PROSE}, "", id="system"),
        pytest.param({"system": [{"type": "text", "text": PROSE}]}, "", id="system in blocks"),
        pytest.param({"tools": [{"name": "t", "input_schema": {"description": PROSE}}]}, "", id="tools"),
        pytest.param({}, [{"type": "tool_use", "id": "t", "input": {"a": PROSE}}], id="arguments"),
        pytest.param({}, [{"type": "tool_result", "tool_use_id": "t", "content": [{"text": PROSE}]}], id="results"),
    ],
)
def test_all_but_media_and_thoughts_counts(fields: dict[str, Any], content: Any) -> None:
    """Wherever the words stand."""
    assert least_tokens(ask(content, **fields), 1_000) == pytest.approx(len(PROSE) / 6, rel=0.1)


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "source": {"type": "base64", "data": "QUJD" * 100_000}},
        {"type": "document", "source": {"type": "base64", "data": "QUJD" * 100_000}},
        {"type": "thinking", "thinking": PROSE * 10, "signature": "QUJD" * 100_000},
        {"type": "redacted_thinking", "data": "QUJD" * 100_000},
        {"type": "web_search_result", "encrypted_content": "QUJD" * 100_000},
    ],
    ids=lambda block: str(block["type"]),
)
def test_what_may_cost_next_to_nothing_counts_nothing(block: dict[str, Any]) -> None:
    """Base64 is no text, and thoughts may be left out by the provider."""
    assert least_tokens(ask([block]), 10) == 0


@pytest.mark.parametrize("run", [" " * 100_000, "=" * 100_000, "\n" * 100_000, "a" + " " * 40, "-" * 72 + "\n"])
def test_runs_count_once(run: str) -> None:
    """Tokenizers know long runs of a character whole: an indented table is not that large."""
    text = (run * (100_000 // len(run) + 1))[:100_000]
    assert least_tokens(ask(text), 10) <= 1_500


def test_escapes_count_like_what_they_stand_for() -> None:
    """Arguments that were written with escapes are no larger for it."""
    raw = rb'{"messages": [{"role": "user", "content": [{"type": "tool_use", "input": {"a": "%s"}}]}]}'
    assert least_tokens(raw % (rb"\u4e2d" * 6_000), 10) <= 1_010
    assert least_tokens(raw % (rb"\n" * 6_000), 10) <= 1_010


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b'{"messages": 5}', b'{"messages": [{"content": [{"text": 5}]}]}', b"\xff"]
)
def test_what_cannot_be_read_is_not_refused(raw: bytes) -> None:
    """The provider does that better."""
    assert least_tokens(raw + b" " * 100_000, 10) == 0


@given(st.text(alphabet="ab\u4e2d \n\0", max_size=50))
@example("\0")
def test_repeats_are_counted_in_one_go(text: str) -> None:
    """As a loop over the bytes would."""
    data = text.encode()
    assert repeats(text) == sum(one == other for one, other in pairwise(data))


ROOT = Path(__file__).resolve().parents[2]
TEXTS = [
    "README.md",
    "docs/routing.md",
    "CHANGELOG.md",
    "LICENSE",
    "requirements.lock",
    "service/settings/values.py",
    "tests/fakes/language.py",
]
PIECE = re.compile(r"[^\W\d_]+|\d{1,3}|[^\w\s]+|_+|\s{2,}")


@pytest.mark.parametrize("name", TEXTS)
def test_real_texts_have_more_tokens_than_that(name: str) -> None:
    """No tokenizer joins words, numbers, signs and runs of blanks into less than one token each."""
    text = (ROOT / name).read_text(encoding="utf-8")
    assert 0 < least_tokens(ask(text), 10) < len(PIECE.findall(text))


def likely(*blocks: dict[str, Any]) -> int:
    """What the blocks of one message may well be; 4 more stand around it."""
    return message_of(msgspec.Raw(msgspec.json.encode({"content": list(blocks)}))).likely_tokens - 4


@pytest.mark.parametrize(
    ("blocks", "tokens"),
    [
        pytest.param([{"type": "text", "text": "x" * 8}], 2, id="four characters are a token"),
        pytest.param([{"type": "text", "text": "x" * 11}], 2, id="rounded down"),
        pytest.param([{"type": "text", "text": "x" * 6}] * 2, 3, id="all texts together"),
        pytest.param([{"type": "thinking", "thinking": "x" * 8}], 2, id="a thought"),
        pytest.param([{"type": "tool_use", "input": {"a": "xx"}}], 2, id="arguments as they are written"),
        pytest.param([{"stdout": "x" * 4, "stderr": "x" * 8, "title": "x" * 12}], 6, id="outputs and titles"),
        pytest.param([{"type": "image", "source": {"type": "base64", "data": "x" * 8}}] * 2, 3_200, id="two images"),
        pytest.param([{"type": "document", "source": {"type": "base64", "data": "x"}}], 1_600, id="a document"),
        pytest.param([{"type": "document"}] * 2, 3_200, id="documents of which nothing is known"),
        pytest.param([{"type": "document", "source": {"type": "text", "data": "x" * 8}}], 2, id="a text document"),
        pytest.param(
            [{"type": "document", "source": {"type": "content", "content": [{"text": "x" * 8}, {"type": "image"}]}}],
            1_602,
            id="a document of blocks",
        ),
        pytest.param(
            [{"type": "tool_result", "content": [{"text": "x" * 4}, {"type": "image"}]}], 1_601, id="a result of blocks"
        ),
    ],
)
def test_what_a_message_may_well_be(blocks: list[dict[str, Any]], tokens: int) -> None:
    """Everything that a model reads, images and documents by a figure."""
    assert likely(*blocks) == tokens


@pytest.mark.parametrize(
    ("system", "tools", "tokens"),
    [
        (None, None, 0),
        (b'"12345678"', None, 2),
        (b'"1234567"', None, 1),
        (None, b'["12"]', 1),
        (b'"12345678"', b"[1,2,3]  ", 4),
    ],
)
def test_what_stands_around_the_messages(system: bytes | None, tools: bytes | None, tokens: int) -> None:
    parts = [None if part is None else msgspec.Raw(part) for part in (system, tools)]
    assert likely_tokens_of(*parts) == tokens


@pytest.mark.parametrize(("chars", "tokens"), [(60, 0), (65, 0), (66, 11), (71, 11), (72, 12)])
def test_the_least_is_told_above_the_floor_alone(chars: int, tokens: int) -> None:
    """Six characters to a token, rounded down; one more token than the floor of 10 has to be."""
    assert least_tokens(ask(("ab" * 100)[:chars]), 10) == tokens


@pytest.mark.parametrize(
    ("raw", "chars"), [(b'"ab"', 4), (rb'"\u00e4"', 3), (rb'"\n"', 0), (rb'"abcd\n"', 3), (b"", 0)]
)
def test_an_escape_counts_as_one_character_of_the_longest(raw: bytes, chars: int) -> None:
    """So that arguments are never taken for larger than they are."""
    assert json_chars(msgspec.Raw(raw)) == chars


@pytest.mark.parametrize("size", [1, 2, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 2_500_000])
def test_repeats_of_long_texts_are_counted_in_pieces(size: int) -> None:
    """None is left out where two of them meet, and none counts twice."""
    assert repeats("a" * size) == size - 1
    assert repeats("a" * (size - 1) + "b") == max(0, size - 2)
    assert repeats("b" + "a" * (size - 1)) == max(0, size - 2)
