"""Lower estimates of usage that a provider did not report, so that no served request counts as zero.

Limits of keys and routes need complete counts: a client that disconnects before the last event of a stream, or uses an
endpoint that reports no usage, must not get tokens for free. Reported values are kept; missing ones are estimated,
rather too high than too low. Not here: reading reported usage (`tap`).
"""

from msgspec.structs import replace

from service.ledger.events import TokenCounts
from service.protocol.sse import EventTooLarge
from service.protocol.tap import StreamTap
from service.protocol.usage_reader import NO_USAGE, UsageReading

BYTES_PER_TOKEN = 4
"""English text has about four bytes per token; code and other scripts have more tokens per byte of UTF-8."""
EVENT_BYTES = 110
"""Overhead of a `content_block_delta` beside its text: name, type, index and braces (113 bytes in recorded streams)."""


def tokens_in(size_bytes: int) -> int:
    """Estimate the tokens of a text of this size; at least one."""
    return max(1, -(-size_bytes // BYTES_PER_TOKEN))


def tokens_streamed(size_bytes: int, events: int) -> int:
    """Estimate the tokens of events of this total size; each event carries at least one."""
    return max(events, tokens_in(size_bytes - events * EVENT_BYTES))


def at_least(reported: TokenCounts, *, request_bytes: int, output: int) -> TokenCounts:
    """Return the reported usage with at least `output`, and with the request's size if no input was reported."""
    has_prompt = reported.input or reported.cache_read or reported.cache_write_5m or reported.cache_write_1h
    return replace(
        reported,
        input=reported.input if has_prompt else tokens_in(request_bytes),
        output=max(reported.output, output),
    )


def stream_usage(tap: StreamTap, request_bytes: int) -> UsageReading:
    """Return the usage of a message stream so far: its final report, else its first one plus what has been sent
    since."""
    if not tap.content_bytes:
        return tap.usage
    output = 1 if tap.reported else tokens_streamed(tap.content_bytes, tap.content_events)
    return with_at_least(tap.usage, request_bytes=request_bytes, output=output)


def with_at_least(usage: UsageReading, *, request_bytes: int, output: int) -> UsageReading:
    """Return a usage whose own line has at least these tokens: see `at_least`."""
    tokens = at_least(usage.tokens, request_bytes=request_bytes, output=output)
    return usage if tokens == usage.tokens else replace(usage, tokens=tokens)


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
