"""A bounded sample of the events in which an answer is streamed, from which its tokens can be estimated.

The events of an answer pass unparsed. Of a short one all chunks are kept, of a longer one ever fewer, each standing for
the bytes since the one before; so an answer of any length has a few hundred parts.

Not here: what the estimate is used for (`usage_estimate`).
"""

import re

import msgspec
from msgspec import Struct

from service.protocol.text_tokens import TextTokens

SPACING = 16
"""A chunk is kept whenever the content has grown by this fraction."""
PART_BYTES = 4_096
"""Maximum of a chunk that is kept."""
FRAME_BYTES = 40
"""What an event has beside its data."""
BYTES_PER_TOKEN = 4
"""Of content of which nothing can be read."""
DATA_LINE = re.compile(rb"(?:event: ?[^\r\n]*\r?\n)?data: ?(\{[^\r\n]*\})\r?\n\r?\n?")
COUNTED = re.compile(rb'"estimated_tokens": ?(\d{1,9})')
"""The provider's coarse count of thinking that it does not show, by which it has grown since the event before. Quotes
within texts are escaped, so that a text can't have it."""


class Delta(Struct, frozen=True):
    """The texts that a delta may carry."""

    text: str = ""
    thinking: str = ""
    partial_json: str = ""
    content: str | None = None


class Streamed(Struct, frozen=True):
    """An event of the stream."""

    delta: Delta = Delta()


_decoder = msgspec.json.Decoder(Streamed)


class ContentTokens(Struct):
    """Estimated tokens by kind of content, before any rate of the model."""

    text: TextTokens
    input: TextTokens
    thinking: TextTokens


class ContentSample:
    """Add chunks of the content when they are due."""

    __slots__ = ("_left_out_bytes", "_parts", "_seen_bytes", "counted_thinking", "due_bytes")

    def __init__(self) -> None:
        self._parts: list[tuple[int, bytes]] = []
        self._seen_bytes = 0
        self._left_out_bytes = 0
        self.due_bytes = 0
        """A chunk is to be added when the content has reached this size."""
        self.counted_thinking = 0
        """Thinking tokens that the provider has counted and not shown, so far."""

    def add(self, chunk: bytes, content_bytes: int) -> None:
        """Keep a chunk that is due; `content_bytes` is the size of the content with it."""
        size_bytes = content_bytes - self._seen_bytes
        if size_bytes <= 0:
            return
        chunk = chunk[-size_bytes:]  # content may begin within the first one
        if self._parts and size_bytes == len(chunk) and len(self._parts[-1][1]) + size_bytes <= PART_BYTES:
            before_bytes, before = self._parts.pop()  # an event may be in both
            size_bytes, chunk = before_bytes + size_bytes, before + chunk
        self._parts.append((size_bytes, chunk[:PART_BYTES]))
        self._seen_bytes = content_bytes
        self.due_bytes = content_bytes + content_bytes // SPACING

    def note_thinking(self, chunk: bytes) -> None:
        """Add what the provider counts in a chunk of hidden thinking."""
        self.counted_thinking += sum(map(int, COUNTED.findall(chunk)))

    def leave_out(self, size_bytes: int) -> None:
        """Take an event that is no output, and too large to be kept whole, out of what can't be read."""
        if size_bytes + FRAME_BYTES > PART_BYTES:
            self._left_out_bytes += size_bytes + FRAME_BYTES

    def tokens(self) -> ContentTokens:
        """Estimate the tokens of all content so far. Parts that hold no whole event are taken to be like the others."""
        found = ContentTokens(TextTokens(), TextTokens(), TextTokens())
        known_bytes, unknown_bytes = 0, -self._left_out_bytes
        for size_bytes, part in self._parts:
            events = list(DATA_LINE.finditer(part))
            known_bytes += size_bytes if events else 0
            unknown_bytes += 0 if events else size_bytes
            read_bytes = sum(len(event.group()) for event in events)
            for event in events:
                add_event(found, event.group(1), size_bytes / read_bytes)
        if unknown_bytes > 0:
            add_unknown(found, known_bytes, unknown_bytes)
        return found


def add_unknown(found: ContentTokens, known_bytes: int, unknown_bytes: int) -> None:
    """Add the tokens of content that can't be read: as many as in the rest, or by its size if there is no other."""
    kinds = (found.text, found.input, found.thinking)
    if not any(kind.tokens for kind in kinds):
        found.text.tokens += unknown_bytes / BYTES_PER_TOKEN
        return
    for kind in kinds:
        kind.tokens *= 1 + unknown_bytes / known_bytes


def add_event(found: ContentTokens, data: bytes, weight: float) -> None:
    """Count the texts of an event."""
    try:
        delta = _decoder.decode(data).delta
    except (msgspec.DecodeError, UnicodeDecodeError):
        return
    if delta.text:
        found.text.add(delta.text, weight)
    elif delta.thinking:
        found.thinking.add(delta.thinking, weight)
    elif delta.partial_json:
        found.input.add(unescaped(delta.partial_json), weight)
    elif delta.content:
        found.text.add(delta.content, weight)


def unescaped(json: str) -> str:
    """Return JSON with its most frequent escapes as the signs that they stand for: tokenizers take them as one."""
    return json.replace("\\n", "\n").replace('\\"', '"')
