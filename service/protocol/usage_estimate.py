"""Estimates of usage that a provider has not reported, so that no served request counts as zero.

Limits of keys and routes, and the sums that are set against an invoice, need complete counts: a client that leaves a
stream before its last event, a stream that breaks, or an endpoint that reports no usage. Reported values are kept.

- Of a stream, what has passed is estimated: text, input of tools and thinking, at the rates learnt for the model.
- Thinking that is not shown counts by the provider's own coarse count, or, without one, by the time that it took.
- What was left before anything came counts by its prompt; a whole answer, by the mean of the model's answers too, since
  the provider works on it to its end.

Not here: reading reported usage (`usage_reader`), what the ledger does with estimates.
"""

from collections.abc import Iterator

from msgspec.structs import replace

from service.ledger.events import TokenCounts, UsageLine
from service.ledger.usage_lines import total_tokens
from service.protocol.content_sample import ContentTokens
from service.protocol.sse import EventTooLarge
from service.protocol.tap import StreamTap
from service.protocol.token_estimate import PROMPT, UNREADABLE, estimate_of
from service.protocol.token_rates import ModelRates, TokenRates
from service.protocol.usage_reader import NO_USAGE, UsageReading

BYTES_PER_TOKEN = 4
"""English text has about four bytes per token; code and other scripts have more tokens per byte of UTF-8."""
MOST_PROMPT_BYTES = 8 * 1024 * 1024
"""A larger prompt is not decoded for its estimate."""
LEAST_LEARNT = 32
"""Answers of fewer tokens say little about a rate."""
PURE = 0.9
"""A rate is learnt from answers that have nearly nothing else."""
LEAST_LEARNT_MS = 1_000


def tokens_in(size_bytes: int) -> int:
    """Estimate the tokens of a text of this size; at least one."""
    return max(1, -(-size_bytes // BYTES_PER_TOKEN))


def prompt_tokens(raw: bytes) -> int:
    """Estimate the tokens of a request's prompt; at least one."""
    if len(raw) > MOST_PROMPT_BYTES:
        return tokens_in(len(raw))
    try:
        return max(1, estimate_of(PROMPT.decode(raw)).likely_tokens)
    except UNREADABLE:
        return tokens_in(len(raw))


def at_least(reported: TokenCounts, *, request_bytes: int, output: int) -> TokenCounts:
    """Return the reported usage with at least `output`, and with the request's size if no input was reported."""
    return replace(
        reported,
        input=reported.input if has_prompt(reported) else tokens_in(request_bytes),
        output=max(reported.output, output),
    )


def has_prompt(reported: TokenCounts) -> bool:
    """True if tokens of the prompt were reported."""
    return bool(reported.input or reported.cache_read or reported.cache_write_5m or reported.cache_write_1h)


def with_at_least(usage: UsageReading, *, request_bytes: int, output: int) -> UsageReading:
    """Return a usage whose own line has at least these tokens: see `at_least`."""
    tokens = at_least(usage.tokens, request_bytes=request_bytes, output=output)
    return usage if tokens == usage.tokens else replace(usage, tokens=tokens, estimated=True)


class UsageEstimator:
    """Estimates usage at rates that it learns from complete answers."""

    def __init__(self) -> None:
        self._rates = TokenRates()

    def of_stream(self, tap: StreamTap, model: str, request: bytes, *, took_ms: int = 0) -> UsageReading:
        """Return the usage of a message stream so far: its final report, else its first one and what has been sent
        since. `took_ms` is the time since it began.
        """
        usage = tap.usage
        if tap.reported:
            if tap.complete and not tap.declined:
                self._learn(tap, model, usage.tokens.output, took_ms)
            return usage if has_prompt(usage.tokens) else with_at_least(usage, request_bytes=len(request), output=1)
        if not tap.content_bytes:
            return replace(usage, estimated=True) if has_prompt(usage.tokens) else usage
        declined = tuple(self._declined(tap, usage))
        before = total_tokens(declined).output if declined else 0
        output = max(usage.tokens.output, self._streamed(tap, model, took_ms) - before)
        prompt = usage.tokens.input if has_prompt(usage.tokens) else prompt_tokens(request)
        own = replace(usage.tokens, input=prompt, output=output)
        is_plain = usage.is_plain and not declined
        return replace(usage, tokens=own, more=usage.more + declined, is_plain=is_plain, estimated=True)

    def of_left(self, model: str, request: bytes, *, is_stream: bool, max_tokens: int = 0) -> UsageReading:
        """Return the usage of a request that was left before anything of its answer came. An answer has at most
        `max_tokens`, if that is not 0."""
        answer = 0 if is_stream else round(self._rates.of(model).answer.value)
        tokens = TokenCounts(input=prompt_tokens(request), output=min(answer, max_tokens or answer))
        return UsageReading(tokens, estimated=True)

    def learn_whole(self, model: str, output: int) -> None:
        """Learn from a whole answer how long the model's answers are."""
        if output:
            self._rates.of(model).answer.follow(output)

    def _declined(self, tap: StreamTap, usage: UsageReading) -> Iterator[UsageLine]:
        """Yield a line for each model that has declined in the middle of the answer."""
        before = 0
        for part in tap.declined:
            rates = self._rates.of(part.model)
            so_far = round(visible_tokens(rates, part.content) + thinking_tokens(rates, part.content, 0))
            tokens = replace(part.tokens, output=max(part.tokens.output, so_far - before))
            before = max(before, so_far)
            yield UsageLine(part.model, "declined", tokens, tier=usage.tier, geo=usage.geo)

    def _streamed(self, tap: StreamTap, model: str, took_ms: int) -> int:
        """Estimate the output that has passed; at least one token."""
        rates, content = self._rates.of(model), tap.content.tokens()
        thinking = thinking_tokens(rates, content, tap.content.counted_thinking)
        output = visible_tokens(rates, content) + thinking
        if tap.thinking_blocks and not thinking:
            output = max(output, rates.per_s.value * took_ms / 1_000)
        return max(1, round(output))

    def _learn(self, tap: StreamTap, model: str, output: int, took_ms: int) -> None:
        """Learn from a complete stream, now and then."""
        rates = self._rates.of(model)
        is_due = rates.is_due
        rates.answers += 1
        if not is_due:
            return
        rates.answer.follow(output)
        if output < LEAST_LEARNT:
            return
        if took_ms >= LEAST_LEARNT_MS:
            rates.per_s.follow(output * 1_000 / took_ms)
        content = tap.content.tokens()
        if tap.thinking_tokens:
            learn_thinking(rates, content, tap.content.counted_thinking, tap.thinking_tokens)
        if tap.thinking_tokens is not None or not tap.thinking_blocks:
            learn_visible(rates, content, output - (tap.thinking_tokens or 0))


def visible_tokens(rates: ModelRates, content: ContentTokens) -> float:
    """Estimate the tokens of text and of the input of tools."""
    text, given = content.text, content.input
    return text.tokens * rates.rate(text.script) + given.tokens * rates.rate("input")


def thinking_tokens(rates: ModelRates, content: ContentTokens, counted: int) -> float:
    """Estimate the tokens of thinking: by the provider's count, else by what is shown."""
    return counted * rates.rate("hidden") if counted else content.thinking.tokens * rates.rate("thinking")


def learn_thinking(rates: ModelRates, content: ContentTokens, counted: int, tokens: int) -> None:
    """Learn the rate of thinking from an answer with so many tokens of it."""
    if counted:
        rates.learn("hidden", counted, tokens)
    elif content.thinking.tokens >= LEAST_LEARNT:
        rates.learn("thinking", content.thinking.tokens, tokens)


def learn_visible(rates: ModelRates, content: ContentTokens, tokens: int) -> None:
    """Learn the rate of what nearly all of a visible answer was."""
    text, given = content.text, content.input
    total = text.tokens + given.tokens
    if min(total, tokens) < LEAST_LEARNT:
        return
    if text.tokens >= PURE * total:
        rates.learn(text.script, total, tokens)
    elif given.tokens >= PURE * total:
        rates.learn("input", total, tokens)


class Meter:
    """Reads usage while a response of an unknown endpoint passes; never fails."""

    def __init__(self, *, is_stream: bool) -> None:
        self._tap = StreamTap() if is_stream else None
        self._told = NO_USAGE
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """Read a chunk."""
        self._size_bytes += len(chunk)
        if self._tap is None:
            return
        try:
            self._tap.feed(chunk)
        except EventTooLarge:
            self._tap = None
        else:
            self._told = self._tap.usage

    def usage(self, request_bytes: int, *, generates: bool) -> UsageReading:
        """Return the usage so far; estimated from the size if none was reported and a model may have run."""
        if self._told.tokens != TokenCounts() or not (generates and self._size_bytes):
            return self._told
        return with_at_least(self._told, request_bytes=request_bytes, output=tokens_in(self._size_bytes))
