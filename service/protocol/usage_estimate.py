"""The least that an answer used where its provider did not say, so that nothing that was served counts as zero.

Limits of keys and routes are only as good as the counts behind them: a client that leaves a stream before its last
event, or finds an endpoint that reports no usage, must not get tokens for free. What the provider reported is kept as
it is; the sides that it left out are estimated, rather too high than too low. Not here: reading reports (`tap`).
"""

from msgspec.structs import replace

from service.ledger.events import TokenCounts
from service.protocol.sse import EventTooLarge
from service.protocol.tap import StreamTap

BYTES_PER_TOKEN = 4
"""English text has about four bytes to a token; code and other scripts have fewer tokens to a byte of UTF-8."""
EVENT_BYTES = 110
"""What a `content_block_delta` has beside its text: name, type, index and braces (113 bytes in recorded streams)."""


def tokens_in(size_bytes: int) -> int:
    """The tokens that a text of this size stands for; at least one."""
    return max(1, -(-size_bytes // BYTES_PER_TOKEN))


def tokens_streamed(size_bytes: int, events: int) -> int:
    """The tokens in events of this size together; each event carries at least one."""
    return max(events, tokens_in(size_bytes - events * EVENT_BYTES))


def at_least(told: TokenCounts, *, request_bytes: int, output: int) -> TokenCounts:
    """What was told, with `output` at least, and with the size of the request where nothing was told of the prompt."""
    has_prompt = told.input or told.cache_read or told.cache_write_5m or told.cache_write_1h
    return replace(
        told,
        input=told.input if has_prompt else tokens_in(request_bytes),
        output=max(told.output, output),
    )


def stream_tokens(tap: StreamTap, request_bytes: int) -> TokenCounts:
    """What a stream of messages has used so far: its final report, else its first one and what has come since."""
    if not tap.content_bytes:
        return tap.tokens
    output = 1 if tap.reported else tokens_streamed(tap.content_bytes, tap.content_events)
    return at_least(tap.tokens, request_bytes=request_bytes, output=output)


class Meter:
    """Reads along while an answer of an endpoint that is not known passes, and never disturbs it."""

    def __init__(self, *, is_stream: bool) -> None:
        self._tap = StreamTap() if is_stream else None
        self._told = TokenCounts()
        self._size_bytes = 0

    def feed(self, chunk: bytes) -> None:
        """A chunk has come."""
        self._size_bytes += len(chunk)
        if self._tap is None:
            return
        try:
            self._tap.feed(chunk)
        except EventTooLarge:
            self._tap = None
        else:
            self._told = self._tap.tokens

    def tokens(self, request_bytes: int, *, generates: bool) -> TokenCounts:
        """What was used so far; by its size if nothing was told and the request may have made a model answer."""
        if self._told != TokenCounts() or not (generates and self._size_bytes):
            return self._told
        return at_least(self._told, request_bytes=request_bytes, output=tokens_in(self._size_bytes))
