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


DOUBTFUL = b'"' + b"]," * 30_000 + b'"'
"""A text that leaves any body in doubt, so that it is scanned: brackets and commas in it do not count."""


@pytest.mark.parametrize(
    ("raw", "passes"),
    [
        pytest.param(b"[" + b"0," * 300 + b"0]", True, id="as many values as fit"),
        pytest.param(b"[" + b"0," * 301 + b"0]", False, id="one more value"),
        pytest.param(b"[" + b"[] " * 199 + b"]", True, id="as many containers as fit"),
        pytest.param(b"[" + b"[] " * 200 + b"]", False, id="one more container"),
        pytest.param(b"[" + b"{} " * 200 + b"]", False, id="one more object"),
    ],
)
@pytest.mark.parametrize("doubt", [b"", DOUBTFUL], ids=["cleared or scanned", "scanned"])
def test_the_last_value_that_is_allowed_passes(raw: bytes, doubt: bytes, passes: bool) -> None:  # noqa: FBT001 - a case
    """Three values and two containers for each of 100 blocks, however they were counted."""
    if passes:
        check_shape(doubt + raw, LIMITS)
    else:
        with pytest.raises(ClientError, match="MAX_CONTENT_BLOCKS"):
            check_shape(doubt + raw, LIMITS)


@pytest.mark.parametrize(("keys", "passes"), [(10_001, True), (10_002, False)])
def test_keys_are_counted_for_each_object(keys: int, passes: bool) -> None:  # noqa: FBT001 - a case
    """10,000 commas of one object are no more than that, whatever else stands in the list that holds it."""
    one = b"{" + b",".join([b'"k":0'] * keys) + b"}"
    raw = b"[" + b"0," * 9_000 + one + b",{" + b'"k":0,' * 9_000 + b'"k":0}' + DOUBTFUL + b"]"
    if passes:
        check_shape(raw, BodyLimits())
    else:
        with pytest.raises(ClientError, match="MAX_CONTENT_BLOCKS"):
            check_shape(raw, BodyLimits())


def test_keys_outside_of_any_bracket_are_counted_as_those_of_an_object() -> None:
    """It is no JSON, and the decoder's to refuse; until then it is bounded like any other body."""
    check_shape(DOUBTFUL + b"," * 10_000, BodyLimits())
    with pytest.raises(ClientError, match="MAX_CONTENT_BLOCKS"):
        check_shape(DOUBTFUL + b"," * 10_001, BodyLimits())


def test_brackets_that_close_nothing_are_the_decoders_to_refuse() -> None:
    """They make nothing deeper, and nothing less deep."""
    check_shape(b"]" * 500 + b"," + nested(20), LIMITS)
    check_shape(b"]" * 500 + b"[]" + nested(20), LIMITS)
    with pytest.raises(ClientError, match="MAX_JSON_DEPTH"):
        check_shape(b"]" * 500 + b"[]" + nested(21), LIMITS)


@pytest.mark.parametrize(
    ("raw", "in_doubt"),
    [
        pytest.param(b"," * 300 + b" " * 100, False, id="as many commas as fit"),
        pytest.param(b"," * 301, True, id="one more comma"),
        pytest.param(b"]" * 40, False, id="fewer brackets than a body of that depth has"),
        pytest.param(b"]" * 41, True, id="enough brackets, and they close one another"),
        pytest.param(b"[]" * 200, False, id="as many brackets as fit"),
        pytest.param(b"[]" * 201, True, id="one more pair of brackets"),
        pytest.param(b"[" * 30 + b"]" * 20, False, id="18 in a row besides the empty ones"),
        pytest.param(b"[" * 30 + b"]" * 21, True, id="19 in a row besides the empty ones"),
    ],
)
def test_a_body_is_in_doubt_from_there_on(raw: bytes, in_doubt: bool) -> None:  # noqa: FBT001 - a case
    """What stands in texts counts as well, so that no body is cleared that should not be."""
    assert is_in_doubt(raw, LIMITS) is in_doubt


def test_large_limits_clear_no_body_of_many_commas() -> None:
    """One object might have them all as its keys."""
    assert not is_in_doubt(b"," * 50_000 + b" " * 100, BodyLimits())
    assert is_in_doubt(b"," * 50_001, BodyLimits())


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


@pytest.mark.parametrize(
    "raw",
    [b'"abc', b'"a\\"', b'"\\', b'"', b'"' + b'\\"' * 5_000, b'"' + b'\\"' * 4_096 + b"\\"],
    ids=lambda raw: repr(raw[:9]),
)
def test_a_text_that_does_not_end_goes_to_the_last_byte(raw: bytes) -> None:
    assert end_of_text(raw, 1) == len(raw) - 1


@pytest.mark.parametrize("escapes", [1, 4_095, 4_096, 4_097, 8_192])
def test_many_escapes_are_passed_over_in_steps(escapes: int) -> None:
    """A quote behind them ends the text, wherever the steps end; another one behind that does not."""
    raw = b'"' + b'\\"' * escapes + b'","'
    assert end_of_text(raw, 1) == 2 * escapes + 1


@pytest.mark.parametrize("unit", ["\\\\", '\\"', "\\n"])
@pytest.mark.parametrize("ends", [True, False])
def test_escapes_take_linear_time(unit: str, ends: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """16 MB of them; a step for each took four seconds."""
    raw = b'"' + unit.encode() * 8_000_000 + b'"' * ends
    began_s = time.process_time()
    assert end_of_text(raw, 1) == len(raw) - 1
    assert time.process_time() - began_s < 1
