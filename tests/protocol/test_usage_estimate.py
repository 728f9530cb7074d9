"""What an answer used at least where its provider did not say: never nothing for what was served."""

import msgspec
import pytest

from service.ledger.events import TokenCounts
from service.protocol.content_sample import FRAME_BYTES, PART_BYTES, ContentSample, ContentTokens
from service.protocol.sse import EVENT_BYTES_LIMIT
from service.protocol.tap import StreamTap
from service.protocol.text_tokens import TextTokens
from service.protocol.token_rates import MOST_MODELS, PUBLISHED, TokenRates
from service.protocol.usage_estimate import (
    MOST_PROMPT_BYTES,
    Meter,
    UsageEstimator,
    at_least,
    learn_visible,
    prompt_tokens,
    tokens_in,
)
from service.protocol.usage_reader import UsageReading


def event(kind: str, **fields: object) -> bytes:
    """One event of a stream."""
    return f"event: {kind}\n".encode() + b"data: " + msgspec.json.encode({"type": kind, **fields}) + b"\n\n"


@pytest.mark.parametrize(("size", "tokens"), [(0, 1), (1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (4_000, 1_000)])
def test_four_bytes_are_a_token_rounded_up(size: int, tokens: int) -> None:
    """At least one."""
    assert tokens_in(size) == tokens


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


MODEL = "claude-sonnet-5-5"
START = event("message_start", message={"usage": {"input_tokens": 7, "output_tokens": 1}})
PROMPT = event("message_start", message={"usage": {"input_tokens": 7}})
BLOCK = event("content_block_start", content_block={"type": "text", "text": ""})
DELTA = event("content_block_delta", delta={"type": "text_delta", "text": " word" * 100})
THINKING = event("content_block_start", content_block={"type": "thinking", "thinking": ""})
FALLBACK = event("content_block_start", content_block={"type": "fallback", "to": {"model": "claude-opus-4-8"}})
SO_FAR = event("message_delta", delta={}, usage={"output_tokens": 3})
STOP = event("message_stop")
REQUEST = msgspec.json.encode({"messages": [{"role": "user", "content": "x" * 400}]})


def counted(tokens: int) -> bytes:
    """A frame of hidden thinking, by which its count has grown by so much."""
    delta = {"type": "thinking_delta", "thinking": "", "estimated_tokens": tokens}
    return event("content_block_delta", index=0, delta=delta)


def thought(text: str) -> bytes:
    """A piece of thinking that is shown."""
    return event("content_block_delta", delta={"type": "thinking_delta", "thinking": text})


def reported(output: object, thinking: int | None = None) -> bytes:
    """The last report of a stream."""
    details = {} if thinking is None else {"output_tokens_details": {"thinking_tokens": thinking}}
    return event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": output, **details})


def tap_of(*parts: bytes) -> StreamTap:
    """A tap that has read these parts, a chunk each."""
    tap = StreamTap()
    for part in parts:
        tap.feed(part)
    return tap


def read(*parts: bytes, estimator: UsageEstimator | None = None, took_ms: int = 0) -> UsageReading:
    """The usage of a stream of these parts, as far as it came."""
    return (estimator or UsageEstimator()).of_stream(tap_of(*parts), MODEL, REQUEST, took_ms=took_ms)


@pytest.mark.parametrize(
    ("parts", "tokens", "estimated"),
    [
        pytest.param([event("ping")], TokenCounts(), False, id="nothing has come"),
        pytest.param([START], TokenCounts(input=7, output=1), True, id="the start alone"),
        pytest.param([START, BLOCK, *[DELTA] * 3], TokenCounts(input=7, output=234), True, id="left in the middle"),
        pytest.param([START, BLOCK + DELTA * 3], TokenCounts(input=7, output=234), True, id="all of it in one chunk"),
        pytest.param([BLOCK, DELTA], TokenCounts(input=100, output=78), True, id="nothing was told of the prompt"),
        pytest.param(
            [START, BLOCK, DELTA, reported(1), STOP], TokenCounts(input=7, output=1), False, id="reported, as it is"
        ),
        pytest.param(
            [PROMPT, reported(0), STOP], TokenCounts(input=7, output=0), False, id="reported that nothing was written"
        ),
        pytest.param(
            [BLOCK, DELTA, reported(5), STOP], TokenCounts(input=111, output=5), True, id="reported but for the prompt"
        ),
        pytest.param([BLOCK, DELTA, STOP], TokenCounts(input=100, output=78), True, id="an end without a report"),
        pytest.param(
            [START, BLOCK, SO_FAR, DELTA], TokenCounts(input=7, output=78), True, id="left behind a report of a part"
        ),
        pytest.param(
            [START, BLOCK, SO_FAR, DELTA, STOP], TokenCounts(input=7, output=3), False, id="complete, as it is"
        ),
        *(
            pytest.param(
                [START, BLOCK, DELTA, reported(invalid), STOP], TokenCounts(input=7, output=78), True, id=f"{invalid!r}"
            )
            for invalid in (-5, 9.5, "9", [9], 10**13)
        ),
    ],
)
def test_what_a_stream_has_not_reported_is_estimated(parts: list[bytes], tokens: TokenCounts, estimated: bool) -> None:  # noqa: FBT001 - a case
    """From what has passed: 0.78 tokens for a short English word, and the prompt where nothing was told of it."""
    usage = read(*parts)
    assert (usage.tokens, usage.estimated) == (tokens, estimated)


def test_models_that_decline_and_go_on_serve_one_request() -> None:
    """Its geography is told once, at the beginning, and has a price."""
    began = event("message_start", message={"model": MODEL, "usage": {"input_tokens": 7, "inference_geo": "us"}})
    usage = read(began, BLOCK, DELTA, FALLBACK, BLOCK, DELTA)
    assert [(line.model, line.geo) for line in usage.lines("claude-opus-4-8")] == [
        ("claude-opus-4-8", "us"),
        (MODEL, "us"),
    ]


def test_a_long_answer_is_sampled_and_counted_whole() -> None:
    """However long it is, and however its events are cut into chunks."""
    stream = START + BLOCK + DELTA * 2_000
    for size in (100, 613, 9_999):
        tap = tap_of(*(stream[at : at + size] for at in range(0, len(stream), size)))
        estimate = UsageEstimator().of_stream(tap, MODEL, REQUEST).tokens.output
        assert estimate == pytest.approx(156_000, rel=0.1)
        kept = sum(len(part) for _, part in tap.content._parts)
        assert kept < 800_000  # memory is bounded


def test_a_delta_too_large_to_keep_counts_by_its_size() -> None:
    huge = event("content_block_delta", delta={"type": "text_delta", "text": "x" * 40_000})
    assert read(START, BLOCK, huge).tokens.output == pytest.approx(10_000, rel=0.02)


@pytest.mark.parametrize("size", [9, *range(3_930, 4_020, 3), 40_000])
def test_results_of_the_providers_tools_are_no_output(size: int) -> None:
    """Whether they are kept whole, or are too large for that."""
    result = event("content_block_start", content_block={"type": "web_search_tool_result", "content": "x" * size})
    assert read(START, result).tokens.output == 1


def test_a_result_that_is_kept_whole_takes_nothing_from_what_is_not() -> None:
    """Of the largest that is."""
    block = {"type": "web_search_tool_result", "content": ""}
    frame = len(event("content_block_start", content_block=block)) + FRAME_BYTES - 35  # 35 are its lines without data
    result = event("content_block_start", content_block=block | {"content": "x" * (PART_BYTES - frame)})
    huge = event("content_block_delta", delta={"type": "text_delta", "text": "x" * 40_000})
    assert read(START, result, huge).tokens.output == read(START, huge).tokens.output


def test_content_that_can_not_be_read_is_like_the_rest() -> None:
    """As many bytes of it have as many tokens."""
    sample, chunk = ContentSample(), DELTA * 4
    sample.add(chunk, len(chunk))
    alone = sample.tokens().text.tokens
    sample.add(b"x" * len(chunk), 2 * len(chunk))
    assert sample.tokens().text.tokens == 2 * alone
    least = ContentSample()
    least.add(b"x", 1)
    assert least.tokens().text.tokens == 1 / 4


def test_an_event_that_comes_in_two_chunks_is_read_whole() -> None:
    """The largest that is kept."""
    frame = len(event("content_block_delta", delta={"type": "text_delta", "text": ""}))
    whole = event(
        "content_block_delta", delta={"type": "text_delta", "text": ("a " * PART_BYTES)[: PART_BYTES - frame]}
    )
    sample, half = ContentSample(), PART_BYTES // 2
    sample.add(whole[:half], half)
    sample.add(b": heartbeat\n\n", half)  # a chunk without content comes between
    sample.add(whole[half:], PART_BYTES)
    assert sample.tokens().text.tokens == pytest.approx(0.78 * (PART_BYTES - frame + 1) // 2, rel=0.01)


def test_rates_are_learnt_from_complete_answers() -> None:
    """Of a model whose tokens are smaller than most; of no other model."""
    estimator = UsageEstimator()
    for _ in range(8):
        read(START, BLOCK, DELTA, reported(156), STOP, estimator=estimator)
    assert read(START, BLOCK, *[DELTA] * 3, estimator=estimator).tokens.output == 468
    other = estimator.of_stream(tap_of(START, BLOCK, DELTA), "another", REQUEST)
    assert other.tokens.output == 78


def test_the_rate_of_the_input_of_tools_is_learnt_too() -> None:
    """A tool's arguments have more tokens than text of their length."""
    estimator, call = UsageEstimator(), event("content_block_start", content_block={"type": "tool_use", "id": "t"})
    argument = event("content_block_delta", delta={"type": "input_json_delta", "partial_json": " word" * 100})
    before = read(START, call, argument, estimator=estimator).tokens.output
    for _ in range(8):
        read(START, call, argument, reported(2 * before), STOP, estimator=estimator)
    assert read(START, call, *[argument] * 3, estimator=estimator).tokens.output == pytest.approx(6 * before, abs=3)


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([BLOCK, DELTA, reported(156)], id="the client left before its end"),
        pytest.param([BLOCK, DELTA, FALLBACK, BLOCK, DELTA, reported(312), STOP], id="several models wrote it"),
    ],
)
def test_an_answer_that_is_not_one_models_or_not_whole_teaches_nothing(parts: list[bytes]) -> None:
    """Its count may be of more or less than what has passed."""
    estimator = UsageEstimator()
    for _ in range(8):
        read(START, *parts, estimator=estimator)
    assert read(START, BLOCK, DELTA, estimator=estimator).tokens.output == 78


def test_an_answer_whose_count_is_of_something_else_teaches_nothing() -> None:
    """What a provider's own tool wrote, say, is not in the stream."""
    estimator = UsageEstimator()
    for _ in range(8):
        read(START, BLOCK, DELTA, reported(9_000), STOP, estimator=estimator)
    assert read(START, BLOCK, DELTA, estimator=estimator).tokens.output == 78


def test_hidden_thinking_counts_as_the_provider_counts_it() -> None:
    """By the sum of its coarse counts, and their rate to what it bills."""
    frames = [counted(0), counted(50), counted(150)]
    assert read(START, THINKING, *frames).tokens.output == 200
    assert read(START, THINKING + b"".join(frames)).tokens.output == 200
    estimator = UsageEstimator()
    for _ in range(8):
        read(START, THINKING, *frames, BLOCK, DELTA, reported(378, 300), STOP, estimator=estimator)
    assert read(START, THINKING, *frames, estimator=estimator).tokens.output == 300
    assert read(START, BLOCK, DELTA, estimator=estimator).tokens.output == 78


def test_what_was_thought_says_nothing_about_the_rate_of_text() -> None:
    """Billed are 300 tokens of thinking and 156 of text, of which 78 were expected."""
    estimator = UsageEstimator()
    for _ in range(8):
        read(START, THINKING, counted(300), BLOCK, DELTA, reported(456, 300), STOP, estimator=estimator)
    assert read(START, BLOCK, DELTA, estimator=estimator).tokens.output == 156


@pytest.mark.parametrize(
    ("text", "argument", "taught"),
    [(100, 0, {"ascii"}), (90, 10, {"ascii"}), (89, 11, set()), (11, 89, set()), (10, 90, {"input"})],
)
def test_an_answer_teaches_the_rate_of_what_nine_tenths_of_it_are(text: int, argument: int, taught: set[str]) -> None:
    """Text, or the input of tools; of a mixture nobody knows which of them had more tokens than expected."""
    rates = TokenRates().of(MODEL)
    learn_visible(rates, ContentTokens(TextTokens(text), TextTokens(argument), TextTokens()), 200)
    assert {kind for kind in rates.rates if rates.rate(kind) != PUBLISHED[kind]} == taught


def test_each_model_of_an_answer_counts_for_what_it_wrote() -> None:
    """The one that declined in the middle, and the one that went on until the client left."""
    usage = read(START, BLOCK, *[DELTA] * 3, FALLBACK, BLOCK, DELTA)
    assert usage.tokens.output == pytest.approx(78, rel=0.2)
    assert [(line.kind, line.tokens.output) for line in usage.more] == [("declined", 234)]
    assert (usage.is_plain, read(START, BLOCK, DELTA).is_plain) == (False, True)


def test_a_summary_of_thinking_counts_for_what_it_stands_for() -> None:
    """Billed is what was thought, not what is shown."""
    estimator = UsageEstimator()
    summary = thought(" word" * 100)
    assert read(START, THINKING, summary, estimator=estimator).tokens.output == 78
    for _ in range(8):
        read(START, THINKING, summary, BLOCK, DELTA, reported(312, 234), STOP, estimator=estimator)
    assert read(START, THINKING, summary, estimator=estimator).tokens.output == 234


def test_thinking_that_nobody_counts_is_estimated_by_the_time_that_it_took() -> None:
    """At the model's learnt speed."""
    estimator = UsageEstimator()
    assert read(START, THINKING, estimator=estimator, took_ms=10_000).tokens.output == 600
    for _ in range(8):
        read(START, BLOCK, DELTA, reported(78), STOP, estimator=estimator, took_ms=2_000)
    assert read(START, THINKING, estimator=estimator, took_ms=10_000).tokens.output == 390
    assert read(START, BLOCK, DELTA, estimator=estimator, took_ms=10_000).tokens.output == 78


def test_what_was_left_before_anything_came_counts_by_its_prompt() -> None:
    """A whole answer by the mean of the model's answers too: its provider works on it to the end."""
    estimator = UsageEstimator()
    assert estimator.of_left(MODEL, REQUEST, is_stream=True).tokens == TokenCounts(input=100)
    assert estimator.of_left(MODEL, REQUEST, is_stream=False).tokens == TokenCounts(input=100, output=500)
    for _ in range(4):
        estimator.learn_whole(MODEL, 60)
    left = estimator.of_left(MODEL, REQUEST, is_stream=False)
    assert (left.tokens, left.estimated) == (TokenCounts(input=100, output=60), True)
    assert estimator.of_left(MODEL, REQUEST, is_stream=False, max_tokens=20).tokens.output == 20


@pytest.mark.parametrize(
    ("raw", "tokens"),
    [
        pytest.param(b"no JSON at all, 40 characters in length..", 11, id="what can't be read, by its size"),
        pytest.param(b"x" * (MOST_PROMPT_BYTES + 4), MOST_PROMPT_BYTES // 4 + 1, id="what is too large to be read"),
        pytest.param(msgspec.json.encode({"messages": []}), 1, id="an empty prompt"),
    ],
)
def test_a_prompt_is_estimated_whatever_it_is(raw: bytes, tokens: int) -> None:
    assert prompt_tokens(raw) == tokens


def test_rates_of_few_models_are_kept() -> None:
    """Clients may send any model name."""
    rates = TokenRates()
    first = rates.of("first")
    for number in range(MOST_MODELS - 1):
        rates.of(f"model-{number}")
    assert rates.of("first") is first
    rates.of("one more")
    rates.of("and another")
    assert rates.of("first") is first
    for number in range(MOST_MODELS):
        rates.of(f"new-{number}")
    assert rates.of("first") is not first


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
