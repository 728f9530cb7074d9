"""Measures how far the estimates of unfinished answers are from what tokenizers count. Part of `make bench-ledger`.

`answers.json` beside this file has answers that were written for it: prose in twelve languages, code, input of tools,
and thinking, cut after a third, two thirds and at the end. They were counted by three public tokenizers: that of
Claude 2, which Anthropic has published in its SDK, and OpenAI's cl100k and o200k. Tokenizers of newer models are not
public, so each of the three stands for a model whose rates have to be learnt: from all other answers, before one is
measured.

What a provider tells of hidden thinking is imitated by its documentation: it tells increments of a fixed quantum, of a
coarse count, seldom. Its quantum, cadence and accuracy are assumptions.
"""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from bench.progress import show_figure
from service.protocol.tap import StreamTap
from service.protocol.usage_estimate import UsageEstimator

CORPUS = Path(__file__).with_name("answers.json")
MODEL = "a-model"
REQUEST = b"{}"
ROUNDS = 1
"""How often the other answers are learnt from; 0 shows the published rates."""
DELTA_CHARS = 12
QUANTUM_TOKENS = 32
COARSE_CHARS = 3.5
"""Characters to a token of the coarse count."""
FRAME_CHARS = 160
PROMPT = {"input_tokens": 100, "output_tokens": 1}

Show = Literal["shown", "counted"]


class Cut(Struct, frozen=True):
    """A beginning of an answer, and its tokens by tokenizer."""

    chars: int
    tokens: dict[str, int]


class Answer(Struct, frozen=True):
    """An answer of the corpus."""

    kind: Literal["text", "input", "thinking"]
    name: str
    cuts: tuple[Cut, ...]
    text: str


class Spread(Struct, frozen=True):
    """Errors in percent: of an answer on average, of the worst tenth, and of the sum of all."""

    mean: float
    p90: float
    total: float


def corpus() -> list[Answer]:
    """All answers."""
    return msgspec.json.decode(CORPUS.read_bytes(), type=list[Answer])


def event(kind: str, **fields: object) -> bytes:
    """An event of a stream."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), msgspec.json.encode({"type": kind, **fields}))


def deltas(answer: Answer, chars: int, show: Show) -> Iterator[dict[str, object]]:
    """The deltas in which the first characters of an answer come."""
    if show == "counted":
        yield from counts(chars)
        return
    kinds = {"text": "text_delta", "input": "input_json_delta", "thinking": "thinking_delta"}
    fields = {"text": "text", "input": "partial_json", "thinking": "thinking"}
    for at in range(0, chars, DELTA_CHARS):
        yield {"type": kinds[answer.kind], fields[answer.kind]: answer.text[at : min(at + DELTA_CHARS, chars)]}


def counts(chars: int) -> Iterator[dict[str, object]]:
    """What is told of hidden thinking: by how many quanta a coarse count has grown."""
    told = 0
    for at in range(FRAME_CHARS, chars + 1, FRAME_CHARS):
        coarse = int(at / COARSE_CHARS) // QUANTUM_TOKENS * QUANTUM_TOKENS
        yield {"type": "thinking_delta", "thinking": "", "estimated_tokens": coarse - told}
        told = coarse


def tap_of(answer: Answer, chars: int, show: Show) -> StreamTap:
    """A tap that has read the first characters of an answer."""
    blocks = {"text": {"type": "text", "text": ""}, "input": {"type": "tool_use", "name": "Edit", "input": {}}}
    tap = StreamTap()
    tap.feed(event("message_start", message={"model": MODEL, "usage": PROMPT, "content": []}))
    block = blocks.get(answer.kind, {"type": "thinking", "thinking": ""})
    tap.feed(event("content_block_start", index=0, content_block=block))
    for delta in deltas(answer, chars, show):
        tap.feed(event("content_block_delta", index=0, delta=delta))
    return tap


def learn(estimator: UsageEstimator, answer: Answer, tokenizer: str, show: Show) -> None:
    """Show an estimator a complete answer, with what a provider would report."""
    cut = answer.cuts[-1]
    tap = tap_of(answer, cut.chars, show)
    thinking = cut.tokens[tokenizer] if answer.kind == "thinking" else 0
    usage = {"output_tokens": cut.tokens[tokenizer], "output_tokens_details": {"thinking_tokens": thinking}}
    tap.feed(event("message_delta", delta={"stop_reason": "end_turn"}, usage=usage))
    tap.feed(event("message_stop"))
    estimator.of_stream(tap, MODEL, REQUEST)


def measured(answers: Sequence[Answer], tokenizer: str, show: Show, is_measured: Callable[[Answer], bool]) -> Spread:
    """The errors over all cuts of some answers, each after the others were learnt from."""
    pairs = [
        (estimate, cut.tokens[tokenizer])
        for answer in filter(is_measured, answers)
        for estimate, cut in estimates(answer, [other for other in answers if other is not answer], tokenizer, show)
    ]
    errors = [abs(estimate / true - 1) * 100 for estimate, true in pairs]
    total = abs(sum(estimate for estimate, _ in pairs) / sum(true for _, true in pairs) - 1) * 100
    return Spread(statistics.mean(errors), statistics.quantiles(errors, n=10)[-1], total)


def estimates(answer: Answer, others: Iterable[Answer], tokenizer: str, show: Show) -> Iterator[tuple[int, Cut]]:
    """The estimates of an answer's cuts, once the others are known."""
    estimator = UsageEstimator()
    known = list(others)
    for _ in range(ROUNDS):
        for other in known:
            learn(estimator, other, tokenizer, show)
    for cut in answer.cuts:
        yield estimator.of_stream(tap_of(answer, cut.chars, show), MODEL, REQUEST).tokens.output, cut


def measure_estimates() -> None:
    """Print the errors, for each tokenizer."""
    answers = corpus()
    for tokenizer in answers[0].cuts[0].tokens:
        visible = measured(answers, tokenizer, "shown", lambda answer: answer.kind != "thinking")
        show_spread(f"estimate of visible text, {tokenizer}", visible, 10)
        thinking = [answer for answer in answers if answer.kind == "thinking"]
        hidden = measured(thinking, tokenizer, "counted", lambda _: True)
        show_spread(f"estimate of hidden thinking, {tokenizer}", hidden, 30)


def show_spread(what: str, spread: Spread, bound: int) -> None:
    """Print errors beside their bound."""
    figure = f"{spread.mean:.1f} % on average, {spread.p90:.0f} % in the worst tenth, {spread.total:.1f} % of the sum"
    show_figure(what, figure, f"at most {bound} %", ok=spread.mean <= bound)


if __name__ == "__main__":
    measure_estimates()
