"""The least that a prompt can have: never more than any tokenizer makes of it."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.token_estimate import is_short, least_tokens, repeats


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
    text = (run * 10_000)[:100_000]
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


@given(st.text(alphabet="ab\u4e2d \n", max_size=50))
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
