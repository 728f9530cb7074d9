"""Reading along while an answer passes."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.ledger.events import TokenCounts
from service.protocol.tap import StreamError, StreamTap, count_in, json_usage


def event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\n".encode() + b"data: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"


def start(usage: dict[str, Any], **message: Any) -> bytes:
    return event("message_start", message={"id": "msg_1", "type": "message", "model": "m", "usage": usage, **message})


def block(**fields: Any) -> bytes:
    return event("content_block_start", index=0, content_block=fields)


PING = event("ping")
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "message_stop \n\n error"})
STOP = event("message_stop")
ANTHROPIC_USAGE = {
    "input_tokens": 12,
    "cache_creation_input_tokens": 500,
    "cache_read_input_tokens": 4_000,
    "cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 400},
    "output_tokens": 1,
    "service_tier": "standard",
}
ANSWER = (
    start(ANTHROPIC_USAGE, container={"id": "container_1"})
    + PING
    + block(type="text", text="")
    + DELTA
    + DELTA
    + event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 533})
    + STOP
)


def tapped(*chunks: bytes) -> StreamTap:
    tap = StreamTap()
    for chunk in chunks:
        tap.feed(chunk)
    return tap


def facts(tap: StreamTap) -> tuple[Any, ...]:
    return (tap.tokens, tap.started, tap.has_content, tap.complete, tap.error, tap.message_id, tap.model,
            tap.container_id, tap.stop_reason, tap.garbage)  # fmt: skip


def test_an_answer_is_read_along() -> None:
    """One answer of Anthropic's shape tells all its facts."""
    tap = tapped(ANSWER)
    assert tap.tokens == TokenCounts(input=12, output=533, cache_read=4_000, cache_write_5m=100, cache_write_1h=400)
    assert (tap.started, tap.has_content, tap.complete, tap.error) == (True, True, True, None)
    assert (tap.message_id, tap.model, tap.container_id, tap.stop_reason) == ("msg_1", "m", "container_1", "end_turn")
    assert not tap.garbage


@given(st.lists(st.integers(0, len(ANSWER)), max_size=10), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_splitting_an_answer_changes_no_fact(places: list[int], line_end: bytes) -> None:
    """Any split of a stream, with any line ends, gives the same facts as the whole."""
    stream = ANSWER.replace(b"\n", line_end)
    ends = [*sorted(places), len(stream)]
    chunks = [stream[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)]
    assert facts(tapped(*chunks)) == facts(tapped(ANSWER))


def test_single_bytes_change_no_fact() -> None:
    """A stream that comes byte by byte gives the same facts as the whole."""
    assert facts(tapped(*(ANSWER[place : place + 1] for place in range(len(ANSWER))))) == facts(tapped(ANSWER))


@pytest.mark.parametrize(
    ("first", "last", "tokens"),
    [
        pytest.param(
            {"input_tokens": 0, "output_tokens": 0},
            {"input_tokens": 70, "output_tokens": 9, "cache_read_input_tokens": 30},
            TokenCounts(input=70, output=9, cache_read=30),
            id="Z.AI tells all at the end",
        ),
        pytest.param(
            ANTHROPIC_USAGE,
            {"input_tokens": 0, "cache_read_input_tokens": 0, "cache_creation_input_tokens": 0, "output_tokens": 9},
            TokenCounts(input=12, output=9, cache_read=4_000, cache_write_5m=100, cache_write_1h=400),
            id="a late zero replaces nothing",
        ),
        pytest.param(
            ANTHROPIC_USAGE,
            {"cache_creation_input_tokens": 500, "output_tokens": 9},
            TokenCounts(input=12, output=9, cache_read=4_000, cache_write_5m=100, cache_write_1h=400),
            id="a late sum does not undo the split",
        ),
        pytest.param(
            {"input_tokens": 1, "cache_creation_input_tokens": 50},
            {"output_tokens": 2},
            TokenCounts(input=1, output=2, cache_write_5m=50),
            id="a sum without a split was written for 5 minutes",
        ),
        pytest.param(
            {"cache_creation_input_tokens": 80, "cache_creation": {"ephemeral_1h_input_tokens": 30}},
            {"output_tokens": 2},
            TokenCounts(output=2, cache_write_5m=50, cache_write_1h=30),
            id="what the sum has beyond the split was written for 5 minutes",
        ),
        pytest.param(
            {"input_tokens": 10, "output_tokens": 1},
            {"input_tokens": 12, "output_tokens": 700},
            TokenCounts(input=12, output=700),
            id="later figures replace earlier ones",
        ),
        pytest.param(
            {"input_tokens": 23_000},
            {
                "output_tokens": 1_000,
                "iterations": [
                    {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3_500},
                    {"type": "message", "input_tokens": 23_000, "output_tokens": 1_000},
                ],
            },
            TokenCounts(input=203_000, output=4_500),
            id="a compaction is added, for the totals leave it out",
        ),
        pytest.param(
            {"input_tokens": "12", "output_tokens": None, "cache_creation": 7, "cache_read_input_tokens": -4},
            {"input_tokens": True, "output_tokens": 1.5, "iterations": ["x", {"type": ["y"]}, {"type": "compaction"}]},
            TokenCounts(),
            id="what is no figure counts nothing",
        ),
        pytest.param({"input_tokens": 10**15}, {"output_tokens": 3}, TokenCounts(output=3), id="no absurd figures"),
    ],
)
def test_usage_is_merged_by_kind(first: dict[str, Any], last: dict[str, Any], tokens: TokenCounts) -> None:
    """For each kind of token the later positive figure counts."""
    assert tapped(start(first), event("message_delta", delta={}, usage=last)).tokens == tokens


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(start({}), False, id="the message has begun"),
        pytest.param(PING + b": ping\n\n", False, id="pings and comments"),
        pytest.param(block(type="text", text=""), False, id="an empty text begins"),
        pytest.param(block(type="thinking", thinking="", signature=""), False, id="an empty thought begins"),
        pytest.param(block(type="tool_use", id="t", name="Bash", input={}), False, id="a call without input begins"),
        pytest.param(block(type="text", text="Hi"), True, id="a text begins with words"),
        pytest.param(block(type="tool_use", id="t", name="Bash", input={"a": 1}), True, id="a call comes whole"),
        pytest.param(block(type="redacted_thinking", data="x"), True, id="a redacted thought comes whole"),
        pytest.param(block(type="web_search_tool_result", tool_use_id="s", content=[]), True, id="a result"),
        pytest.param(block(type="new_kind"), True, id="an unknown kind comes whole"),
        pytest.param(DELTA, True, id="the first delta"),
        pytest.param(start({}, content=[{"type": "text", "text": "x"}]), True, id="the message begins with content"),
    ],
)
def test_content_begins_with_the_first_thing_a_reader_could_see(stream: bytes, expected: bool) -> None:  # noqa: FBT001
    """What carries nothing yet can still be thrown away."""
    assert tapped(stream).has_content is expected


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        pytest.param(
            b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}\n\n',
            ("overloaded_error", "Overloaded"),
            id="Anthropic's",
        ),
        pytest.param(b'data: {"type":"error","error":{"type":"x","message":"no"}}\n\n', ("x", "no"), id="no name"),
        pytest.param(b'data: {"error": {"message": "no", "code": 5}}\n\n', ("api_error", "no"), id="OpenAI's"),
        pytest.param(b'data: {"error": "no"}\n\n', ("api_error", "no"), id="a text"),
        pytest.param(b"event: error\ndata: <html>\n\n", ("api_error", ""), id="no JSON"),
        pytest.param(b'event: other\ndata: {"type":"error","error":{"type":"x"}}\n\n', ("x", ""), id="wrong name"),
    ],
)
def test_errors_in_a_stream_are_told_as_they_came(stream: bytes, error: tuple[str, str]) -> None:
    """An error's type, words and raw data are kept, before and after content."""
    data = stream.partition(b"data: ")[2].rstrip(b"\n")
    assert tapped(stream).error == tapped(ANSWER[: -len(STOP)], stream).error == StreamError(*error, data)


def test_the_first_error_stays() -> None:
    """Later errors do not hide the first."""
    first, second = (event("error", error={"type": kind, "message": ""}) for kind in ("one", "two"))
    error = tapped(first, second).error
    assert error is not None
    assert error.type == "one"


def test_an_empty_error_field_is_none() -> None:
    """`"error": null` in a nameless event is no error."""
    assert tapped(b'data: {"error": null}\n\n').error is None


def test_whole_events_may_leave_until_the_stop() -> None:
    """Up to the last whole event bytes may leave; `message_stop`, and what follows it, may not."""
    tap, before = StreamTap(), ANSWER[: -len(STOP)]
    cut = len(before) - 3
    assert tap.feed(before[:cut]) == before[:cut].rindex(b"\n\n") + 2
    assert tap.feed(before[cut:] + STOP + PING) == 3
    assert tap.feed(PING) == 0


def test_an_error_is_held_back() -> None:
    """What precedes an error may leave, the error itself waits for the ledger."""
    tap = StreamTap()
    assert tap.feed(DELTA + event("error", error={"type": "overloaded_error", "message": "m"}) + PING) == len(DELTA)
    assert tap.ended
    assert not tap.complete


@pytest.mark.parametrize("place", range(1, len(STOP)))
def test_a_stop_cut_in_two_never_leaves_whole(place: int) -> None:
    """However `message_stop` is cut, its last part is held back."""
    tap, before = StreamTap(), ANSWER[: -len(STOP)]
    tap.feed(before)
    tap.feed(STOP[:place])
    assert not tap.complete
    assert tap.feed(STOP[place:]) == 0
    assert tap.complete


@pytest.mark.parametrize("name", [b"", b"event: message_stop\n"])
def test_a_stop_is_known_by_name_or_type(name: bytes) -> None:
    """Providers that leave names out are understood."""
    tap = StreamTap()
    assert tap.feed(DELTA + name + b'data: {"type": "message_stop"}\n\n') == len(DELTA)
    assert tap.complete


def test_words_in_the_content_mean_nothing() -> None:
    """Content that speaks of stops and errors is content."""
    tap = tapped(DELTA.replace(b"error", b"event: error"))
    assert (tap.complete, tap.error) == (False, None)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([b"<html>data: x"], True, id="HTML"),
        pytest.param([b"\n  <", b"!doctype html>"], True, id="HTML after blanks"),
        pytest.param([b'{"type":"error"}'], True, id="JSON"),
        pytest.param([b"upstream connect error\n" * 200], True, id="4 KB of words"),
        pytest.param([b"upstream connect error"], False, id="words, may still become a stream"),
        pytest.param([b"eve", b"nt: x\n"], False, id="a field in two parts"),
        pytest.param([b": ping\n\n"], False, id="a comment"),
        pytest.param([b"\xef\xbb\xbfdata: x\n\n"], False, id="a byte order mark"),
        pytest.param([b"\r\n\r\ndata\r\n"], False, id="a field without a value"),
        pytest.param([b"data: <html>\n\n" + b"<" * 5_000], False, id="a stream whose data is HTML"),
        pytest.param([b""], False, id="nothing"),
    ],
)
def test_what_is_no_stream_is_garbage(chunks: list[bytes], expected: bool) -> None:  # noqa: FBT001 - a table's column
    """A body that can't be a stream of events is known as soon as possible."""
    assert tapped(*chunks).garbage is expected


@given(st.lists(st.binary(max_size=60), max_size=8))
def test_nothing_makes_the_tap_raise(chunks: list[bytes]) -> None:
    """Any bytes pass, and never more of them than came."""
    tap = StreamTap()
    for chunk in chunks:
        assert 0 <= tap.feed(chunk) <= len(chunk)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["type", "message", "usage", "delta", "error", "id", "container", "content_block", "iterations",
                         "cache_creation", "output_tokens", "input_tokens"]),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
KINDS = ("message_start", "message_delta", "content_block_start", "error", "message_stop", "other")


@given(st.sampled_from(KINDS), JSON_VALUES)
def test_no_json_makes_the_tap_raise(kind: str, value: Any) -> None:
    """Events of any shape are read without an exception, and counts are never negative."""
    body = msgspec.json.encode(value)
    tap = tapped(f"event: {kind}\ndata: ".encode() + body + b"\n\n", b"data: " + body + b"\n\n")
    answer = json_usage(body)
    assert min(msgspec.structs.astuple(tap.tokens)) >= 0
    assert (answer is None) == (not isinstance(value, dict))


def test_a_json_answer_tells_its_usage() -> None:
    """A whole answer tells what a stream does."""
    body = {"type": "message", "id": "msg_1", "model": "m", "container": {"id": "c"}, "usage": ANTHROPIC_USAGE,
            "content": [{"type": "text", "text": "Hi"}]}  # fmt: skip
    answer = json_usage(msgspec.json.encode(body))
    assert answer is not None
    assert answer.tokens == TokenCounts(input=12, output=1, cache_read=4_000, cache_write_5m=100, cache_write_1h=400)
    assert (answer.is_message, answer.id, answer.model, answer.container_id) == (True, "msg_1", "m", "c")
    assert (answer.content_bytes, answer.error) == (29, None)


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"type": "mess', b"[1]", b'"x"', b"null", b"{} {}", b"\xff"])
def test_what_is_no_json_object_tells_nothing(body: bytes) -> None:
    """Empty, cut off and foreign bodies are told apart from answers."""
    assert json_usage(body) is None


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b'{"type":"error","error":{"type":"overloaded_error","message":"no"}}', ("overloaded_error", "no")),
        (b'{"error":{"code":"1302","message":"no"},"request_id":"r"}', ("api_error", "no")),
        (b'{"type":"error"}', ("api_error", "")),
    ],
)
def test_an_error_with_status_200_is_seen(body: bytes, error: tuple[str, str]) -> None:
    """A JSON error is no message, whatever its status."""
    answer = json_usage(body)
    assert answer is not None
    assert not answer.is_message
    assert answer.error == StreamError(*error, body)


def test_figures_of_millions_of_values_are_none() -> None:
    """What is decoded whole while other requests wait is bounded; the answer is whole all the same."""
    many = b"[" + b"[]," * 400_000 + b"[]]"
    usage = b'{"type":"message","model":"m","content":"hello","usage":{"output_tokens":7,"x":' + many + b"}}"
    answer = json_usage(usage)
    assert answer is not None
    assert (answer.is_message, answer.model, answer.content_bytes, answer.tokens.output) == (True, "m", 7, 0)
    tap = StreamTap()
    tap.feed(
        start({"input_tokens": 3}) + b'event: content_block_start\ndata: {"content_block":' + many + b"}\n\n" + STOP
    )
    assert (tap.has_content, tap.complete, tap.tokens.input) == (True, True, 3)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_content_is_measured_from_its_first_block_on(line_end: bytes) -> None:
    """In bytes and events, whether the tap looks into a chunk or passes it: what a stream used that never says so."""
    tap = StreamTap()
    assert (tap.content_bytes, tap.content_events) == (0, 0)
    tap.feed((start({}) + PING).replace(b"\n", line_end))
    assert (tap.content_bytes, tap.content_events) == (0, 0)
    sizes, counts = 0, 0
    for part in [block(type="text", text=""), DELTA, DELTA, DELTA + DELTA, event("new_kind"), DELTA[:9], DELTA[9:]]:
        sent = part.replace(b"\n", line_end)
        tap.feed(sent)
        sizes, counts = sizes + len(sent), counts + part.count(b"\n\n")
        assert (tap.content_bytes, tap.content_events) == (sizes, counts)


def test_content_in_the_chunk_of_the_start_is_measured_without_the_start() -> None:
    """Whatever else of the content is in that chunk."""
    content = block(type="text", text="") + event("new_kind") + DELTA
    assert tapped(start({}) + content).content_bytes == len(content)


def test_an_event_behind_further_empty_lines_is_one() -> None:
    """A provider may send more of them than one."""
    tap = tapped(start({}), DELTA, b"\n" + DELTA, b"\n\n" + DELTA)
    assert tap.content_events == 3


@pytest.mark.parametrize("beat", [PING, b": ping\n\n", b'data: {"type":"ping"}\n\n', b"event: ping\n\n"])
@pytest.mark.parametrize("behind", [b"", DELTA])
def test_heartbeats_are_counted_and_no_content(beat: bytes, behind: bytes) -> None:
    """However many come, alone, with content in one chunk, or cut."""
    tap = StreamTap()
    tap.feed(start({}) + DELTA)
    size, count = tap.content_bytes, tap.content_events
    for _ in range(3):
        tap.feed(beat + behind)
        tap.feed(beat[:5])
        tap.feed(beat[5:])
    assert tap.heartbeats == 9 - 3
    assert tap.content_bytes == size + 3 * len(behind)
    assert tap.content_events == count + 3 * bool(behind)


def test_a_thought_is_told_from_what_follows_it() -> None:
    tap = StreamTap()
    seen = []
    for part in (start({}), block(type="thinking", thinking=""), PING, DELTA, block(type="text", text="")):
        tap.feed(part)
        seen.append(tap.is_thinking)
    assert seen == [False, True, True, True, False]


@pytest.mark.parametrize(
    ("parts", "unbilled"),
    [
        pytest.param([start({})], True, id="at once"),
        pytest.param([start({}), block(type="text", text=""), DELTA], False, id="behind output"),
        pytest.param([start({}, content=[{"type": "text", "text": "x"}])], False, id="the message began with output"),
        pytest.param([start({}), DELTA, block(type="fallback")], True, id="the model that went on, at once"),
        pytest.param([start({}), DELTA, block(type="fallback"), block(type="text")], False, id="behind its own output"),
    ],
)
def test_who_refuses_before_any_output_is_not_billed(parts: list[bytes], unbilled: bool) -> None:  # noqa: FBT001 - a case
    """Each model for itself."""
    refusal = event("message_delta", delta={"stop_reason": "refusal"}, usage={"output_tokens": 3})
    assert tapped(*parts, refusal).usage.unbilled is unbilled


@pytest.mark.parametrize(
    ("content", "unbilled"),
    [
        pytest.param([], True, id="at once"),
        pytest.param([{"type": "text", "text": "x"}], False, id="behind output"),
        pytest.param([{"type": "text", "text": "x"}, {"type": "fallback"}], True, id="the model that went on, at once"),
    ],
)
def test_a_whole_answer_that_is_refused_before_any_output_is_not_billed(content: list[Any], unbilled: bool) -> None:  # noqa: FBT001 - a case
    body = {"type": "message", "model": "m", "stop_reason": "refusal", "usage": {"output_tokens": 3}}
    answer = json_usage(msgspec.json.encode(body | {"content": content}))
    assert answer is not None
    assert answer.usage.unbilled is unbilled
    answered = json_usage(msgspec.json.encode(body | {"content": content, "stop_reason": "end_turn"}))
    assert answered is not None
    assert not answered.usage.unbilled


@pytest.mark.parametrize(("to", "model"), [({"model": "n"}, "n"), ({}, "m")])
def test_an_answer_is_of_the_model_that_went_on(to: dict[str, str], model: str) -> None:
    """If the stream names it; what came before is of the one that declined."""
    tap = tapped(start({"input_tokens": 7}), DELTA, block(type="fallback", to=to))
    assert tap.model == model
    assert [(part.model, part.tokens) for part in tap.declined] == [("m", TokenCounts(input=7))]


def test_what_was_told_of_the_request_holds_for_the_model_that_went_on() -> None:
    """A `message_delta` tells neither tier nor geography; the whole answer of the same request does."""
    words = {"service_tier": "priority", "inference_geo": "us"}
    counts = {"input_tokens": 5, "output_tokens": 9}
    declined = {"type": "message", "model": "m", "input_tokens": 7, "output_tokens": 3}
    iterations = [declined, {"type": "fallback_message", "model": "n", **counts}]
    handed_over = block(type="fallback", to={"model": "n"})
    began = start({"input_tokens": 7, "speed": "fast", "unheard_of": 1, **words})
    ended = event("message_delta", delta={"stop_reason": "end_turn"}, usage={**counts, "iterations": iterations})
    streamed = tapped(began, DELTA, handed_over, block(type="text", text=""), DELTA, ended, STOP).usage
    whole = json_usage(msgspec.json.encode({"model": "n", "usage": {**counts, **words, "iterations": iterations}}))
    assert whole is not None
    assert streamed == msgspec.structs.replace(whole.usage, unread=("unheard_of",))
    assert {(line.model, line.tier, line.geo) for line in streamed.lines("n")} == {
        ("m", "priority", "us"),
        ("n", "priority", "us"),
    }


def test_only_thinking_is_counted_as_thinking() -> None:
    """A field of that name in a tool's result is no count of it."""
    result = block(type="web_fetch_tool_result", content={"estimated_tokens": 900})
    assert tapped(start({}), result, DELTA).content.counted_thinking == 0
    thought = event("content_block_delta", delta={"type": "thinking_delta", "thinking": "", "estimated_tokens": 40})
    assert tapped(start({}), block(type="thinking", thinking=""), thought).content.counted_thinking == 40


def test_a_new_tap_has_seen_nothing() -> None:
    tap = StreamTap()
    assert (tap.reported, tap.started, tap.has_content, tap.complete, tap.ended) == (False,) * 5
    assert tapped(event("ping")).started is False
    assert tapped(start({"output_tokens": 9})).reported is False


@pytest.mark.parametrize(
    ("usage", "reported"),
    [
        ({"output_tokens": 1}, True),
        ({"output_tokens": 0}, False),
        ({"input_tokens": 5}, False),
        ({}, False),
        ({"output_tokens": -9}, False),
        ({"output_tokens": 9.0}, False),
        ({"output_tokens": "9"}, False),
        ({"output_tokens": 10**12 - 1}, True),
        ({"output_tokens": 10**12}, False),
    ],
)
def test_the_whole_use_is_reported_with_an_output(usage: dict[str, Any], reported: bool) -> None:  # noqa: FBT001 - a case
    """Providers that report as they go begin with zeros; a report stays one, whatever follows."""
    last = event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage)
    assert tapped(start({}), DELTA, last).reported is reported
    assert tapped(start({}), DELTA, event("message_delta", usage={"output_tokens": 3}), last).reported is True


def test_an_answer_without_content_may_have_no_output() -> None:
    """Then a zero is a report, and nothing is estimated; what has content never has none."""
    last = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 0})
    assert tapped(start({}), last).reported is True
    assert tapped(start({}), DELTA, last).reported is False
    assert tapped(start({}), event("message_delta", delta={"stop_reason": "end_turn"})).reported is False


def test_a_figure_in_the_middle_is_not_of_the_whole() -> None:
    """Until the stream says why it has stopped, or is complete."""
    part = event("message_delta", delta={}, usage={"output_tokens": 3})
    assert tapped(start({}), part, DELTA).reported is False
    assert tapped(start({}), part, DELTA, event("message_stop")).reported is True


@pytest.mark.parametrize(("figure", "counted"), [(10**12 - 1, 10**12 - 1), (10**12, 0), (1, 1), (0, 0), (-1, 0)])
def test_a_figure_is_above_zero_and_below_a_million_millions(figure: int, counted: int) -> None:
    assert tapped(start({"input_tokens": figure})).tokens.input == counted


def test_every_split_of_cache_writes_is_told() -> None:
    """The two kinds beside their sum, and what only the sum has."""
    for total, five, hour, expected in [(0, 7, 0, (7, 0)), (0, 0, 7, (0, 7)), (20, 7, 5, (15, 5)), (9, 7, 5, (7, 5))]:
        split = {"ephemeral_5m_input_tokens": five, "ephemeral_1h_input_tokens": hour}
        told = tapped(start({"cache_creation_input_tokens": total, "cache_creation": split})).tokens
        assert (told.cache_write_5m, told.cache_write_1h) == expected


def test_a_compaction_adds_every_kind_of_token() -> None:
    """To what the totals have of the kind."""
    kinds = ("input_tokens", "output_tokens", "cache_read_input_tokens", "ephemeral_5m_input_tokens",
             "ephemeral_1h_input_tokens")  # fmt: skip
    own = {name: 10 * number for number, name in enumerate(kinds, start=1)}
    compaction = {"type": "compaction"} | {name: number for number, name in enumerate(kinds, start=1)}
    told = tapped(start(own | {"iterations": [compaction, compaction]})).tokens
    assert told == TokenCounts(input=12, output=24, cache_read=36, cache_write_5m=48, cache_write_1h=60)


RESULT = "bash_code_execution_tool_result"


@pytest.mark.parametrize(
    ("fields", "files"),
    [
        pytest.param({"type": RESULT, "content": {"content": [{"file_id": "file_1"}]}}, ["file_1"], id="a file"),
        pytest.param({"type": RESULT, "content": {"content": [1, {}, {"file_id": 7}]}}, [], id="none among the rest"),
        pytest.param({"type": RESULT, "content": {"content": {"file_id": "file_1"}}}, [], id="no list"),
        pytest.param({"type": RESULT, "content": "text"}, [], id="no object"),
        pytest.param({"type": "tool_result", "content": {"content": [{"file_id": "f"}]}}, [], id="another's word"),
    ],
)
def test_files_that_the_providers_tools_made_are_told(fields: dict[str, Any], files: list[str]) -> None:
    """By a stream, and by a whole answer."""
    assert tapped(start({}), block(**fields)).file_ids == files
    answer = json_usage(msgspec.json.encode({"type": "message", "content": [fields, {"type": "text"}, 7]}))
    assert answer
    assert list(answer.file_ids) == files


def test_of_many_files_the_first_are_told() -> None:
    """64, from however many blocks."""
    blocks = [
        {"type": RESULT, "content": {"content": [{"file_id": f"file_{40 * number + place}"} for place in range(40)]}}
        for number in range(3)
    ]
    first = [f"file_{number}" for number in range(64)]
    assert tapped(start({}), *(block(**fields) for fields in blocks)).file_ids == first
    answer = json_usage(msgspec.json.encode({"type": "message", "content": blocks}))
    assert answer
    assert list(answer.file_ids) == first


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (b'{"content": []}', 0),
        (b'{"content": null, "completion": ""}', 0),
        (b'{"content": "ab"}', 4),
        (b'{"completion": "abc"}', 5),
        (b'{"content": [1], "completion": "abc"}', 3),
    ],
)
def test_the_size_of_a_whole_answers_content(body: bytes, size: int) -> None:
    """Of its content, or of an old completion; what is empty has none."""
    answer = json_usage(body)
    assert answer
    assert answer.content_bytes == size


@pytest.mark.parametrize(
    ("body", "count"),
    [(b'{"input_tokens": 7}', 7), (b"{}", 0), (b"[]", 0), (b"\xff", 0), (b'{"input_tokens": "7"}', 0)],
)
def test_what_count_tokens_counted(body: bytes, count: int) -> None:
    """0 where it counted nothing."""
    assert count_in(body) == count


@pytest.mark.parametrize(("size", "garbage"), [(4_095, False), (4_096, True)])
def test_words_are_garbage_from_4096_bytes_on(size: int, garbage: bool) -> None:  # noqa: FBT001 - a case
    """However they come: what came before is looked at again."""
    assert tapped(b"x" * size).garbage is garbage
    assert tapped(b"x" * (size - 5), b"x" * 5).garbage is garbage
    tap = tapped(b"da", b"ta", b": x\n\n")
    assert not tap.garbage


def test_a_nameless_event_is_known_by_its_type_alone() -> None:
    """Also a delta, which begins the content; an event without data is nothing."""
    tap = tapped(DELTA.partition(b"\n")[2])
    assert tap.has_content
    assert facts(tapped(b"event: message_start\n\n", b"event: ping\ndata: x\n\n")) == facts(tapped())


def test_what_passes_unread_ends_nothing() -> None:
    """Once content has begun, deltas and pings are not looked into, however many come in one chunk."""
    tap = tapped(DELTA)
    assert tap.feed(DELTA + PING + event("content_block_stop", index=0) + block(type="text", text="")) > 0
    more = DELTA + b"\n" + PING + b"\n" + DELTA
    assert tap.feed(more) == len(more), "also behind an empty line more than there has to be"
    assert not tap.ended
    assert tap.feed(DELTA + DELTA + STOP) == 2 * len(DELTA)
    assert tap.complete


def test_many_values_are_decoded_up_to_a_bound() -> None:
    """250,000 commas and brackets, those in texts among them; a long text of other characters does not matter."""
    for many, read in [(b"," * 249_998, True), (b"," * 249_999, False), (b"x" * 300_000, True)]:
        answer = json_usage(b'{"usage": {"output_tokens": 7, "x": "' + many + b'"}}')
        assert answer
        assert (answer.tokens.output == 7) is read


def test_half_a_surrogate_pair_hides_no_usage() -> None:
    """Models write it into the inputs of tools, and providers pass it on as an escape."""
    body = rb'{"type":"message","model":"m","content":[{"type":"text","text":"\ud83d"}],"usage":{"output_tokens":3}}'
    answer = json_usage(body)
    assert answer is not None
    assert (answer.is_message, answer.usage.tokens.output, answer.content_bytes) == (True, 3, 33)
    assert json_usage(rb'{"text":"\ud83d"') is None
    end = rb'{"delta":{"stop_reason":"stop_sequence","stop_sequence":"\ud83d"},"usage":{"output_tokens":3}}'
    assert tapped(start({}), DELTA, b"event: message_delta\ndata: " + end + b"\n\n").reported is True
