"""Bodies that are nested too deep or have too many values are refused before anything is made of them."""

import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ClientError
from service.protocol.json_shape import check_shape, end_of_text, is_in_doubt
from service.settings import BodyLimits

LIMITS = BodyLimits(json_depth=20, content_blocks=100)


def nested(levels: int, opening: bytes = b'{"a":', closing: bytes = b"}") -> bytes:
    """A body of that many levels, itself among them."""
    return opening * levels + b"1" + closing * levels


@pytest.mark.parametrize(
    ("opening", "closing", "most"),
    [
        (b'{"a":', b"}", 20),
        (b"[", b"]", 20),
        (b"[1,", b",1]", 20),
        (b' [ \n{"a" : ', b" } ]\t", 10),
        (b'{"z":[],"a":', b',"y":{}}', 19),
        (b'{"z":[{}],"a":', b',"y":{"x":{}}}', 18),
        (b'["a \\" [[ \\\\",', b',"\\\\"]', 20),
    ],
)
def test_depth_is_bounded(opening: bytes, closing: bytes, most: int) -> None:
    """Whatever stands between the brackets; the last level that is allowed passes."""
    check_shape(nested(most, opening, closing), LIMITS)
    with pytest.raises(ClientError, match="MAX_JSON_DEPTH"):
        check_shape(nested(most + 1, opening, closing), LIMITS)


@pytest.mark.parametrize(
    "part", [b"{},", b"[],", b"0,", b'{"type":"text","text":"a"},', b'"",', b'{"a":[{},{}]},', b'"\\"",'], ids=repr
)
def test_values_are_counted(part: bytes) -> None:
    """Blocks, lists, numbers and texts alike: each of them is an object for whoever decodes it."""
    most = 600
    with pytest.raises(ClientError, match="MAX_CONTENT_BLOCKS"):
        check_shape(b"[" + part * most + b"0]", LIMITS)
    check_shape(b"[" + part * 20 + b"0]", LIMITS)


def test_an_object_has_a_bounded_number_of_keys() -> None:
    """All of an object is decoded in one go, during which nothing else runs."""
    keys = b",".join(b'"k%d":0' % number for number in range(60_000))
    for raw in (b"{" + keys + b"}", b'{"a":[[1,{' + keys + b"}]]}"):
        with pytest.raises(ClientError, match="MAX_CONTENT_BLOCKS"):
            check_shape(raw, BodyLimits())
    check_shape(b'{"a":[' + b"0," * 60_000 + b"0]}", BodyLimits())


@pytest.mark.parametrize(
    "text", ["[" * 5_000, "]" * 5_000, "{" * 900 + "}" * 900, "a," * 9_000, '\\"{[,' * 900, "\\" * 9_001, '"' * 500]
)
def test_what_stands_in_texts_does_not_count(text: str) -> None:
    """Code, tables and brackets as they come: such bodies are scanned, and pass."""
    raw = msgspec.json.encode({"messages": [{"role": "user", "content": text}]})
    check_shape(raw, LIMITS)


def test_usual_bodies_are_cleared_at_sight() -> None:
    """Nothing is scanned of them."""
    tool = {"name": "t", "input_schema": {"type": "object", "properties": {"a": {"type": "array", "items": {}}}}}
    block = {"type": "text", "text": "if (a[1]) { return {b: [2]}; }" * 20}
    body = {"tools": [tool] * 40, "messages": [{"role": "user", "content": [block] * 5}] * 50}
    assert not is_in_doubt(msgspec.json.encode(body), BodyLimits())


@given(st.text(alphabet='a"\\\n[', max_size=40), st.sampled_from([b"", b',"x"', b'\\"']))
def test_the_end_of_a_text_is_found(text: str, behind: bytes) -> None:
    """Whatever is escaped in it."""
    raw = msgspec.json.encode(text)
    assert end_of_text(raw + behind, 1) == len(raw) - 1


@pytest.mark.parametrize("unit", ["\\\\", '\\"', "\\n"])
@pytest.mark.parametrize("ends", [True, False])
def test_escapes_take_linear_time(unit: str, ends: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """16 MB of them; a step for each took four seconds."""
    raw = b'"' + unit.encode() * 8_000_000 + b'"' * ends
    began_s = time.process_time()
    assert end_of_text(raw, 1) == len(raw) - 1
    assert time.process_time() - began_s < 1
