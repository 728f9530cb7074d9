"""What is kept of providers' words: enough to know what happened; no key, whole or cut, and nothing of a prompt."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.protocol.redaction import MESSAGE_CHARS, redact

KEY = "sk-ant-api03-aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789-AbCdAA"
ODD_KEY = "Zx9Kq2Lm8Pw4Rt6Yv1Bn3"
PROMPT = "my neighbour is called Ann and her password is a heron"

KEPT = [
    "Overloaded",
    "prompt is too long: 215000 tokens > 200000 maximum",
    "max_tokens: 128000 > 64000, which is the maximum allowed number of output tokens for claude-opus-4-8",
    "messages.1.content.0: Invalid `signature` in `thinking` block",
    "`thinking` or `redacted_thinking` blocks in the latest assistant message cannot be modified. They must remain",
    "messages.2: `tool_use` ids were found without `tool_result` blocks immediately after: toolu_01AbCdEfGhIjKlMnOpQr",
    "model: claude-nothing-4-5-20990101",
    "unknown model 'glm-99', doesn't exist; it's gone",
    "[1308][Usage limit reached for 5 hour. Your limit will reset at 2026-09-12 00:35:41][20260912]",
    'The model "claude-sonnet-4-5-20250929[1m]" isn\'t available',
]


@pytest.mark.parametrize("words", KEPT)
def test_what_says_what_happened_is_kept(words: str) -> None:
    """Names, ids, figures and moments."""
    assert redact(words) == words


@pytest.mark.parametrize(
    "words",
    [
        f"invalid x-api-key: {KEY}",
        f"invalid key {KEY[:14]}",
        f"Incorrect API key provided: {KEY[:10]}...{KEY[-4:]}.",
        f"Incorrect API key provided: {KEY[:7]}…{KEY[-4:]}.",
        f"Incorrect API key provided: {KEY[:7]}****{KEY[-4:]}.",
        f"bad token '{KEY[:7]}\u200b{KEY[7:]}'",
        f"Authorization: Bearer {ODD_KEY} was refused",
        f"api_key={ODD_KEY}",
        f"no such key: {ODD_KEY}",
        f"no such key: {ODD_KEY[:12]}",
        f"no such key: ..{ODD_KEY[-9:]}",
        f"no such key: {ODD_KEY[:5]}...{ODD_KEY[-4:]}",
        "ccp_ann-3f9a2c_5d0c5d0c5d0c5d0c",
        "0123456789abcdef0123456789abcdef.AbCdEfGh",
    ],
)
def test_no_key_is_kept_whole_or_cut(words: str) -> None:
    """By its form, by what stands before it, by being cut, or by having been sent."""
    kept = redact(words, KEY, ODD_KEY)
    assert "***" in kept
    for secret in (KEY, ODD_KEY, "5d0c5d0c", "0123456789abcdef", "AbCdEfGh"):
        assert secret not in kept
        assert secret[:8] not in kept.replace("x-api-key", "")
    for piece in (KEY[-4:], ODD_KEY[-4:], ODD_KEY[:5]):
        assert piece not in kept, kept


@pytest.mark.parametrize(
    "words",
    [
        f'messages.0.content: "{PROMPT}" is not a list',
        f"messages.0.content: '{PROMPT}' is not a list",
        f"can't read `{PROMPT}`",
        f"can't read \u201c{PROMPT}\u201d",
        f'cut off: "{PROMPT}',
        f'cut off within an escape: "{PROMPT}\\',
        f"cut off within an escape: '{PROMPT}\\",
        f"1 validation error: Input should be a valid list [type=list_type, input_value={PROMPT!r}, input_type=str]",
        f"1 validation error: Input should be a valid list [type=list_type, input_value={{'role': {PROMPT}}}",
        f"[{{'type': 'string_type', 'msg': 'Input should be text', 'input': [{{'text': '{PROMPT}'}}]}}]",
        f'bad value "he said \\"{PROMPT}\\" and left"',
        f"don't know '{PROMPT}, isn't it'",
    ],
)
def test_no_prompt_is_kept(words: str) -> None:
    """As far as it is quoted, or shown as a validator shows it."""
    kept = redact(words)
    assert "neighbour" not in kept
    assert "heron" not in kept
    assert kept


@given(st.text() | st.text("\"'`\\ sk-ant.…*:=a\u200b\x1b\n\u201c\u201d").map(lambda text: text * 20))
def test_anything_is_one_bounded_line(words: str) -> None:
    """And what was made once is not changed again."""
    kept = redact(words, KEY)
    assert len(kept) <= MESSAGE_CHARS
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 or char in "\u202e\u200b\u2066" for char in kept)
    assert redact(kept, KEY) == kept


@pytest.mark.parametrize(
    "piece", ["a", "sk-", "'", '"', "`\\", "input_value=", "api_key=", "eyJ", "...", "a'", "bearer "]
)
def test_no_words_take_long(piece: str) -> None:
    """However they are made, and however long."""
    began_s = time.process_time()
    redact(piece * 1_000_000, KEY)
    assert time.process_time() - began_s < 0.1


@pytest.mark.parametrize(("size", "kept"), [(299, 299), (300, 300), (301, 299)])
def test_a_line_of_300_characters_is_kept_whole(size: int, kept: int) -> None:
    """Of a longer one as many, with a sign that it went on."""
    words = ("ab " * 101)[: size - 1] + "z"
    assert redact(words) == words[:kept] + "…" * (size > kept)


@pytest.mark.parametrize("cut", [slice(None, 8), slice(-8, None)], ids=["its beginning", "its end"])
def test_a_piece_of_eight_characters_of_a_key_is_too_much(cut: slice) -> None:
    """One of seven is of no use."""
    shorter = slice(cut.start and cut.start + 1, cut.stop and cut.stop - 1)
    assert redact(f"no such key: {ODD_KEY[cut]}!", ODD_KEY) == "no such key: ***!"
    assert redact(f"no such key: {ODD_KEY[shorter]}!", ODD_KEY) == f"no such key: {ODD_KEY[shorter]}!"


@pytest.mark.parametrize(
    ("text", "kept"),
    [("n" * 64, True), ("n" * 65, False), ("in words " + "n" * 15, True), ("in words " + "n" * 16, False)],
    ids=["a name of 64", "one of 65", "words of 24", "words of 25"],
)
def test_quoted_text_is_kept_where_it_is_short(text: str, kept: bool) -> None:  # noqa: FBT001 - a case
    assert redact(f'field "{text}" is bad') == (f'field "{text}" is bad' if kept else 'field "…" is bad')
