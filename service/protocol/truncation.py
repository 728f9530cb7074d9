"""Truncates a conversation that exceeds a window by dropping its oldest messages, if the settings enable it.

Rules
- System prompt, tools and every other field stay, and so does the last message; everything kept keeps its bytes.
- As few messages as possible are dropped. The rest begins with a user's message, and roles still alternate.
- Tool results and their calls are kept or dropped together.
- A long run of tool calls contains no user's message except for results. There the latest user text stays, and the cut
  comes after it.
- If no cut fits, nothing is cut: the client can handle the provider's error better.

Sizes come from `token_estimate`, so the threshold of the settings needs a margin.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

import msgspec
from msgspec import Raw

from service.protocol.raw_json import Fields, encoded, fields_of, list_of
from service.protocol.token_estimate import (
    LIKELY_CHARS_PER_TOKEN,
    UNREADABLE,
    PromptBlock,
    likely_tokens_of,
    message_of,
)

NO_IDS: frozenset[str] = frozenset()
MEDIA = (b'"image"', b'"document"')
"""Blocks whose token count may exceed what their bytes suggest."""


class Cut(NamedTuple):
    """A truncated body, or one that could not be truncated (`dropped` 0), with its size before and after."""

    body: bytes
    dropped: int
    tokens_before: int
    tokens_after: int


class Measured(NamedTuple):
    """The properties of a message that matter for a cut."""

    role: str
    tokens: int
    calls: frozenset[str]
    results: frozenset[str]


class Conversation(NamedTuple):
    """A body's fields, its messages with their sizes, and the size of everything else."""

    fields: Fields
    messages: list[Raw]
    measured: list[Measured]
    around_tokens: int

    def tokens_with(self, places: Iterable[int]) -> int:
        """Return the size with these messages alone."""
        return self.around_tokens + sum(self.measured[place].tokens for place in places)


def cut(raw: bytes, most_tokens: int) -> Cut | None:
    """Truncate a body to this many tokens; None if it fits already, or is not a readable conversation."""
    if len(raw) <= most_tokens * LIKELY_CHARS_PER_TOKEN and not any(kind in raw for kind in MEDIA):
        return None
    conversation = read_conversation(raw)
    if conversation is None:
        return None
    fields, messages, measured, around_tokens = conversation
    tokens = conversation.tokens_with(range(len(messages)))
    if tokens <= most_tokens:
        return None
    kept = kept_of(measured, most_tokens - around_tokens)
    if len(kept) == len(messages):
        return Cut(raw, 0, tokens, tokens)
    body = msgspec.json.encode(fields | {"messages": encoded([messages[place] for place in kept])})
    return Cut(body, len(messages) - len(kept), tokens, conversation.tokens_with(kept))


def read_conversation(raw: bytes) -> Conversation | None:
    """Read the conversation in a body; None if it has no messages, or unreadable ones."""
    fields = fields_of(raw) or {}
    messages = list_of(fields.get("messages"))
    if not messages:
        return None
    try:
        around_tokens = likely_tokens_of(fields.get("system"), fields.get("tools"))
        return Conversation(fields, messages, [measure(message) for message in messages], around_tokens)
    except UNREADABLE:
        return None


def measure(raw: Raw) -> Measured:
    """Measure a message. Raises decoder errors."""
    message = message_of(raw)
    blocks: list[PromptBlock] = message.content if isinstance(message.content, list) else []
    return Measured(
        message.role,
        message.likely_tokens,
        frozenset(block.id for block in blocks if block.id) if blocks else NO_IDS,
        frozenset(block.tool_use_id for block in blocks if block.tool_use_id) if blocks else NO_IDS,
    )


def kept_of(messages: list[Measured], most_tokens: int) -> list[int]:
    """Return the indexes of the messages that stay: all of them if no cut fits."""
    behind = list(accumulate((message.tokens for message in reversed(messages)), initial=0))[::-1]
    for head, place in possible_cuts(messages):
        if behind[place] + sum(messages[first].tokens for first in head) <= most_tokens:
            return [*head, *range(place, len(messages))]
    return list(range(len(messages)))


def possible_cuts(messages: list[Measured]) -> Iterator[tuple[list[int], int]]:
    """Yield possible cuts, smallest first: the earlier messages that stay, and the first index that stays after the
    cut."""
    whole = whole_from(messages)
    asked = -1
    for place, message in enumerate(messages):
        if message.role == "user" and not message.results:
            asked = place
        if place == 0 or asked < 0 or not whole[place]:
            continue
        if asked == place:
            yield [], place
        elif message.role == "assistant":
            yield [asked], place


def whole_from(messages: list[Measured]) -> list[bool]:
    """Return for each index if every result from there on has its call there, too.

    A result needs the nearest call before it; a cut must not separate them.
    """
    called: dict[str, int] = {}
    parted = [0] * (len(messages) + 1)
    for place, message in enumerate(messages):
        called.update(dict.fromkeys(message.calls, place))
        for result in message.results:
            parted[called.get(result, -1) + 1] += 1
            parted[place + 1] -= 1
    return [not count for count in accumulate(parted[:-1])]
