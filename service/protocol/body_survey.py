"""What must be known of a body's content blocks to see whether it needs a change: read in one pass over the bytes.

Not here: what is changed (`bodies`), or which files the blocks name (`file_refs`).
"""

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import msgspec
from msgspec import Struct

from service.protocol.raw_json import UNREADABLE

LARGE_BYTES: Final = 256 * 1024
"""What is done with a larger body may take longer than other requests should wait: it belongs into a thread."""


class BlockSurvey(Struct, gc=False):
    """What must be known of a content block to see whether it needs a change."""

    type: str = ""
    id: str = ""
    tool_use_id: str = ""
    signature: str | None = None


Block = TypeVar("Block", bound=BlockSurvey)


class MessageSurvey(Struct, Generic[Block]):
    """Likewise of a message."""

    content: str | list[Block] = ""


class BodySurvey(Struct):
    """Likewise of a body."""

    messages: list[MessageSurvey[BlockSurvey]] = []


SURVEY = msgspec.json.Decoder(BodySurvey)


def survey(raw: bytes) -> list[BlockSurvey]:
    """The content blocks of all messages; none where the body is not of the expected shape.

    One pass over the bytes: looking for a few of them by `in` takes as long (30 microseconds for 60 KB).
    """
    try:
        return blocks_of(SURVEY.decode(raw).messages)
    except UNREADABLE:
        return []


def blocks_of(messages: Sequence[MessageSurvey[Block]]) -> list[Block]:
    """The content blocks of messages; a text in place of blocks is none."""
    return [block for message in messages if isinstance(message.content, list) for block in message.content]
