"""What a survey of a body tells about its messages and blocks; and texts of nothing but blanks."""

import json
from typing import Any

import pytest
from msgspec import Raw

from service.protocol.body_survey import BlockSurvey, blocks_of, is_blank, is_mid_turn, survey
from service.protocol.raw_json import is_blank_text

RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "ok"}
TEXT = {"type": "text", "text": "hello"}


def message(role: str, *blocks: dict[str, Any]) -> dict[str, Any]:
    """A message with blocks."""
    return {"role": role, "content": list(blocks)}


def mid_turn(*messages: dict[str, Any]) -> bool:
    """Whether a body with these messages goes on with a turn."""
    return is_mid_turn(survey(json.dumps({"messages": messages}).encode()))


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param((), False, id="no message"),
        pytest.param(({"role": "user", "content": "tool_result"},), False, id="a text"),
        pytest.param((message("user", TEXT),), False, id="a block of text"),
        pytest.param((message("user", RESULT),), True, id="a result"),
        pytest.param((message("user", TEXT, RESULT),), True, id="a result behind a text"),
        pytest.param((message("user", RESULT), message("system", TEXT)), True, id="a system message behind it"),
        pytest.param((message("user", RESULT), message("assistant", TEXT)), False, id="an answer behind it"),
        pytest.param((message("system", TEXT),), False, id="system messages alone"),
    ],
)
def test_results_of_tools_go_on_with_a_turn(messages: tuple[dict[str, Any], ...], *, expected: bool) -> None:
    """In the last message that is not the system's."""
    assert mid_turn(*messages) is expected


@pytest.mark.parametrize(
    ("block", "mark"),
    [
        ({"type": "thinking", "signature": "sig"}, "sig"),
        ({"type": "redacted_thinking", "data": "enc"}, "enc"),
        ({"type": "thinking", "signature": "sig", "data": "enc"}, "sig"),
        ({"type": "text"}, ""),
    ],
)
def test_a_thoughts_mark_is_what_its_provider_verifies(block: dict[str, Any], mark: str) -> None:
    [found] = blocks_of(survey(json.dumps({"messages": [message("assistant", block)]}).encode()))
    assert found.mark == mark


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        ("text", b'""', True),
        ("text", b'" \\n\\t"', True),
        ("text", b'" a "', False),
        ("text", b"7", False),
        ("thinking", b'" "', False),
    ],
)
def test_only_a_text_of_blanks_is_blank(kind: str, text: bytes, *, expected: bool) -> None:
    """By either reading of a block."""
    assert is_blank(BlockSurvey(type=kind, text=Raw(text))) is expected
    assert is_blank_text({"type": Raw(json.dumps(kind).encode()), "text": Raw(text)}) is expected


def test_a_block_without_a_text_is_not_blank() -> None:
    """A provider may refuse it, but not as an empty text."""
    assert not is_blank_text({"type": Raw(b'"text"')})
    assert not is_blank(BlockSurvey(type="text"))
