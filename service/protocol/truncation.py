"""Cuts a conversation that is too long for a window: its oldest messages go. Only where the settings ask for it.

Rules
- System prompt, tools and every other field stay, and so does the last message; what stays keeps its bytes.
- The fewest messages go that make the rest fit. It begins with a user's message, and roles take turns as before.
- No result is left without its call, and no call without its result.
- Within a long run of tool calls there is no user's message to begin with but results. There the latest words of the
  user stay, and the cut is behind them.
- Where no cut makes it fit, nothing is cut: the provider's refusal lets the client do better.

Sizes are those of `token_estimate`: a guess, so that the threshold of the settings leaves room.
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
"""What may be larger than its bytes say."""


class Cut(NamedTuple):
    """A body that was cut, or could not be (then `dropped` is 0), with its size before and after."""

    body: bytes
    dropped: int
    tokens_before: int
    tokens_after: int


class Measured(NamedTuple):
    """What a message means for a cut."""

    role: str
    tokens: int
    calls: frozenset[str]
    results: frozenset[str]


class Conversation(NamedTuple):
    """A body as far as a cut needs it: fields, messages with their sizes, and the size of what is around them."""

    fields: Fields
    messages: list[Raw]
    measured: list[Measured]
    around_tokens: int

    def tokens_with(self, places: Iterable[int]) -> int:
        """The size with these messages alone."""
        return self.around_tokens + sum(self.measured[place].tokens for place in places)


def cut(raw: bytes, most_tokens: int) -> Cut | None:
    """The body within that many tokens; None when it is, or is no conversation that can be read."""
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
    """The conversation in a body; None when it has no messages, or any that can't be read."""
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
    """One message. Raises what a decoder raises."""
    message = message_of(raw)
    blocks: list[PromptBlock] = message.content if isinstance(message.content, list) else []
    return Measured(
        message.role,
        message.likely_tokens,
        frozenset(block.id for block in blocks if block.id) if blocks else NO_IDS,
        frozenset(block.tool_use_id for block in blocks if block.tool_use_id) if blocks else NO_IDS,
    )


def kept_of(messages: list[Measured], most_tokens: int) -> list[int]:
    """The places of the messages that stay: all of them when no cut fits."""
    behind = list(accumulate((message.tokens for message in reversed(messages)), initial=0))[::-1]
    for head, place in possible_cuts(messages):
        if behind[place] + sum(messages[first].tokens for first in head) <= most_tokens:
            return [*head, *range(place, len(messages))]
    return list(range(len(messages)))


def possible_cuts(messages: list[Measured]) -> Iterator[tuple[list[int], int]]:
    """The ways to cut, those that drop least first: what stays of the messages before, and the first that stays
    behind."""
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
    """Of each place, whether every result from there on has its call there, too.

    A result needs the call before it that is nearest; a cut between the two would part them.
    """
    called: dict[str, int] = {}
    parted = [0] * (len(messages) + 1)
    for place, message in enumerate(messages):
        called.update(dict.fromkeys(message.calls, place))
        for result in message.results:
            parted[called.get(result, -1) + 1] += 1
            parted[place + 1] -= 1
    return [not count for count in accumulate(parted[:-1])]
