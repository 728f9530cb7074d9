"""What an answer used at least where its provider did not say: never nothing for what was served."""

import msgspec
import pytest

from service.ledger.events import TokenCounts
from service.protocol.sse import EVENT_BYTES_LIMIT
from service.protocol.tap import StreamTap
from service.protocol.usage_estimate import Meter, at_least, stream_usage, tokens_in, tokens_streamed


def event(kind: str, **fields: object) -> bytes:
    """One event of a stream."""
    return f"event: {kind}\n".encode() + b"data: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"


@pytest.mark.parametrize(("size", "tokens"), [(0, 1), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (4_000, 1_000)])
def test_four_bytes_are_a_token_rounded_up(size: int, tokens: int) -> None:
    """At least one."""
    assert tokens_in(size) == tokens


@pytest.mark.parametrize(
    ("size", "events", "tokens"),
    [
        pytest.param(10 * 110 + 400, 10, 100, id="the text beside the frames of ten events"),
        pytest.param(10 * 110 + 40, 10, 10, id="a token for each event, and that much text"),
        pytest.param(10 * 110 + 41, 10, 11, id="a byte more"),
        pytest.param(10 * 110, 10, 10, id="frames alone, a token each"),
        pytest.param(0, 0, 1, id="nothing"),
    ],
)
def test_each_event_of_a_stream_is_a_token_at_least(size: int, events: int, tokens: int) -> None:
    """What frames the text is not counted as text."""
    assert tokens_streamed(size, events) == tokens


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        pytest.param(TokenCounts(), TokenCounts(input=10, output=5), id="nothing was told"),
        pytest.param(TokenCounts(input=3), TokenCounts(input=3, output=5), id="the prompt was told"),
        pytest.param(TokenCounts(cache_read=3), TokenCounts(cache_read=3, output=5), id="all of it came from a cache"),
        pytest.param(TokenCounts(cache_write_5m=3), TokenCounts(cache_write_5m=3, output=5), id="or went into one"),
        pytest.param(TokenCounts(cache_write_1h=3), TokenCounts(cache_write_1h=3, output=5), id="for an hour"),
        pytest.param(TokenCounts(output=4), TokenCounts(input=10, output=5), id="less was told than came"),
        pytest.param(TokenCounts(output=6), TokenCounts(input=10, output=6), id="more was told than came"),
    ],
)
def test_what_was_told_is_kept_and_the_rest_estimated(told: TokenCounts, expected: TokenCounts) -> None:
    assert at_least(told, request_bytes=40, output=5) == expected


START = event("message_start", message={"usage": {"input_tokens": 7, "output_tokens": 1}})
BLOCK = event("content_block_start", content_block={"type": "text", "text": ""})
DELTA = event("content_block_delta", delta={"type": "text_delta", "text": "x" * 400})


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param(START, TokenCounts(input=7, output=1), id="no content has come"),
        pytest.param(event("ping"), TokenCounts(), id="nor a word of usage"),
        pytest.param(
            START + BLOCK + DELTA * 3,
            TokenCounts(input=7, output=-(-len(BLOCK + DELTA * 3) // 4) - 110),
            id="it was left in the middle",
        ),
        pytest.param(
            BLOCK + DELTA,
            TokenCounts(input=10, output=-(-len(BLOCK + DELTA) // 4) - 55),
            id="nothing was told of the prompt either",
        ),
        pytest.param(
            START + BLOCK + DELTA * 3 + event("message_delta", usage={"output_tokens": 1}),
            TokenCounts(input=7, output=1),
            id="the last report counts, however little it is",
        ),
        pytest.param(
            BLOCK + DELTA + event("message_delta", usage={"output_tokens": 2}),
            TokenCounts(input=10, output=2),
            id="a last report that says nothing of the prompt",
        ),
    ],
)
def test_a_stream_that_ends_early_is_counted_by_its_size(stream: bytes, expected: TokenCounts) -> None:
    """Four bytes to a token, without the 110 that frame each event; here each comes in a chunk of its own."""
    tap = StreamTap()
    for part in stream.split(b"\n\n")[:-1]:
        tap.feed(part + b"\n\n")
    assert stream_usage(tap, 40).total == expected


def metered(*chunks: bytes, is_stream: bool, generates: bool = True) -> TokenCounts:
    """What an answer of these chunks used, for a request of 40 bytes."""
    meter = Meter(is_stream=is_stream)
    for chunk in chunks:
        meter.feed(chunk)
    return meter.usage(40, generates=generates).total


@pytest.mark.parametrize("is_stream", [True, False])
def test_an_unknown_answer_counts_by_its_size(is_stream: bool) -> None:  # noqa: FBT001 - a case
    """Unless it is empty, or its request made no model answer."""
    assert metered(b": " + b"x" * 38, b"y" * 4, is_stream=is_stream) == TokenCounts(input=10, output=11)
    assert metered(b"x" * 40, is_stream=is_stream, generates=False) == TokenCounts()
    assert metered(is_stream=is_stream) == TokenCounts()


@pytest.mark.parametrize("generates", [True, False])
def test_an_unknown_stream_that_tells_its_usage_is_believed(generates: bool) -> None:  # noqa: FBT001 - a case
    assert metered(START, DELTA, is_stream=True, generates=generates) == TokenCounts(input=7, output=1)


def test_an_unknown_stream_of_too_large_an_event_counts_what_was_told() -> None:
    """It is not read any further, and passes."""
    meter = Meter(is_stream=True)
    meter.feed(START)
    for _ in range(2):
        meter.feed(b"data: " + b"x" * (EVENT_BYTES_LIMIT + 1) + b"\n\n")
    assert meter.usage(40, generates=True).total == TokenCounts(input=7, output=1)
