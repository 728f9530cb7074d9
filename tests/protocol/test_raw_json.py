"""A body's JSON in parts: what is not changed keeps its bytes, and what can't be read is left as it is."""

import pytest
from msgspec import Raw

from service.protocol.raw_json import (
    Fields,
    clean_messages,
    fields_of,
    is_stripped,
    list_of,
    objects_of,
    text_of,
    value_of,
    with_changed,
    with_model,
)
from service.settings import StripThinking

ODD = b'{"role" : "user",  "content" :[ {"type":"text"} ]}'
"""A message with blanks that no encoder writes."""
THOUGHT = b'{"type":"thinking"}'


def without_thoughts(block: Fields) -> Fields | None:
    """Drops thoughts, writes `long` texts anew, and leaves all else alone."""
    kind = text_of(block.get("type"))
    if kind == "thinking":
        return None
    return {"type": Raw(b'"short"')} if kind == "long" else block


def cleaned(messages: bytes) -> bytes | None:
    """The messages after cleaning; None when the body is the very same object."""
    fields: Fields = {"messages": Raw(messages)}
    after = clean_messages(fields, without_thoughts)
    return None if after is fields else bytes(after["messages"])


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param(b"[" + ODD + b"]", None, id="nothing to clean"),
        pytest.param(b'"text"', None, id="no list"),
        pytest.param(b'[1,{"content":"text"},{"content":[]},{"content":[7]}]', None, id="what holds no blocks"),
        pytest.param(
            b"[" + ODD + b',{"content":[{"type":"long"}]}]',
            b"[" + ODD + b',{"content":[{"type":"short"}]}]',
            id="a block that changes, among messages that keep their bytes",
        ),
        pytest.param(
            b'[{"content":[ ' + THOUGHT + b', {"a" : 1} , 7 ]}]', b'[{"content":[{"a" : 1},7]}]', id="a block that goes"
        ),
        pytest.param(
            b'[{"role":"assistant","content":[' + THOUGHT + b"]}," + ODD + b"]",
            b"[" + ODD + b"]",
            id="an assistant's message goes with its last block",
        ),
        pytest.param(
            b'[{"role":"user","content":[' + THOUGHT + b"]}]",
            b'[{"role":"user","content":[]}]',
            id="a user's message stays without any",
        ),
    ],
)
def test_messages_are_cleaned_block_by_block(messages: bytes, expected: bytes | None) -> None:
    """Where nothing changes the body is the very same object, so that its bytes are sent as they came."""
    assert cleaned(messages) == expected


def test_a_body_without_messages_is_the_same() -> None:
    fields: Fields = {"model": Raw(b'"m"')}
    assert clean_messages(fields, without_thoughts) is fields


@pytest.mark.parametrize(
    ("strip", "stripped"),
    [
        ("off", ["refused", "redacted"]),
        ("unsigned", ["unsigned", "empty", "refused", "redacted"]),
        ("all", ["unsigned", "empty", "signed", "refused", "redacted"]),
    ],
)
def test_the_thoughts_that_go(strip: StripThinking, stripped: list[str]) -> None:
    """A thought whose signature or data was refused always goes; nothing but a thought ever does."""
    blocks = {
        "unsigned": ("thinking", None),
        "empty": ("thinking", ""),
        "signed": ("thinking", "s"),
        "refused": ("thinking", "r"),
        "redacted": ("redacted_thinking", "r"),
        "text": ("text", "r"),
        "unsigned text": ("text", None),
    }
    found = [name for name, (kind, signature) in blocks.items() if is_stripped(kind, signature, strip, {"r", ""})]
    assert found == stripped


@pytest.mark.parametrize(
    ("model", "expected"),
    [(None, None), (b'"old"', b'"new"'), (b'"new"', None), (b'""', None), (b"7", None)],
    ids=["none named", "another one", "the same", "an empty one", "no text"],
)
def test_another_model_is_put_in_place_of_one_that_is_named(model: bytes | None, expected: bytes | None) -> None:
    fields: Fields = {"a": Raw(b"1")} | ({"model": Raw(model)} if model else {})
    after = with_model(fields, "new")
    assert (after is fields) is (expected is None)
    assert expected is None or after == fields | {"model": Raw(expected)}


@pytest.mark.parametrize(
    ("new", "expected"),
    [(Raw(b"2"), {"a": Raw(b"2"), "b": Raw(b"1")}), (None, {"b": Raw(b"1")}), (Raw(b"null"), {"b": Raw(b"1")})],
    ids=["another value", "none", "null"],
)
def test_a_field_is_changed_or_left_out(new: Raw | None, expected: Fields) -> None:
    fields: Fields = {"a": Raw(b"1"), "b": Raw(b"1")}
    assert with_changed(fields, "a", lambda _: new) == expected
    assert with_changed(fields, "a", lambda value: value) is fields
    assert with_changed(fields, "c", lambda _: new) is fields


@pytest.mark.parametrize("raw", [None, b"[1]", b'"a"', b"{", b"\xff", b"[" * 5_000], ids=repr)
def test_what_is_no_object_has_no_fields(raw: bytes | None) -> None:
    assert fields_of(raw) is None
    assert fields_of(b'{"a": [1]}') == {"a": Raw(b"[1]")}


@pytest.mark.parametrize("raw", [None, b"{}", b'"a"', b"[", b"[" * 5_000], ids=repr)
def test_what_is_no_list_has_no_parts(raw: bytes | None) -> None:
    assert list_of(None if raw is None else Raw(raw)) is None
    assert list_of(Raw(b"[1, {}]")) == [Raw(b"1"), Raw(b"{}")]


def test_objects_are_those_of_a_list_of_nothing_else() -> None:
    assert objects_of(Raw(b'[{"a":1},{}]')) == [{"a": Raw(b"1")}, {}]
    assert objects_of(Raw(b'[{"a":1},2]')) == objects_of(Raw(b"{}")) == objects_of(None) == []


def test_a_value_that_cannot_be_read_is_none() -> None:
    assert (value_of(Raw(b"[1]")), value_of(Raw(b"[1"))) == ([1], None)
    assert (text_of(Raw(b'"a"')), text_of(Raw(b"1")), text_of(None)) == ("a", "", "")
