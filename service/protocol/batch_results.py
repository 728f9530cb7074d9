"""Reads the usage of each item while a message batch's results pass: one JSON object per line.

The bytes are never changed. A line is held back until it is whole, so that nobody has an item that is not recorded.
Not here: recording the usage (`relay`).
"""

import msgspec
from msgspec import Raw, Struct

from service.protocol.tap import JsonAnswer, decode_tolerantly, json_usage
from service.protocol.usage_estimate import tokens_in, with_at_least
from service.protocol.usage_reader import UsageReading

BATCH_TIER = "batch"
LINE_BYTES = 32 * 1024 * 1024
"""Maximum length of a parsed line: a response of the largest size; longer ones pass uncounted."""


class BatchItem(Struct, frozen=True):
    """Usage of one item of a batch."""

    custom_id: str
    usage: UsageReading


class BatchResult(Struct):
    """`result` of a line; only a succeeded item has a message."""

    type: str = ""
    message: Raw = Raw(b"null")


class BatchLine(Struct):
    """A line of results."""

    custom_id: str
    result: BatchResult


_line_decoder = msgspec.json.Decoder(BatchLine)


class BatchTap:
    """Feed it the chunks of the results; it returns the items whose lines they complete, and those lines."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._too_long = False

    def feed(self, chunk: bytes) -> tuple[list[BatchItem], bytes]:
        """Return the items of the lines that end in this chunk, and the bytes that may be sent with them."""
        *whole, rest = chunk.split(b"\n")
        items, ready = [], bytearray()
        for part in whole:
            line = bytes(self._rest) + part
            self._rest.clear()
            if not self._too_long and (item := item_of(line)):
                items.append(item)
            self._too_long = False
            ready += line + b"\n"
        self._rest += rest
        if self._too_long or len(self._rest) > LINE_BYTES:
            ready += self._rest
            self._rest.clear()
            self._too_long = True
        return items, bytes(ready)

    def finish(self) -> tuple[list[BatchItem], bytes]:
        """Return the item of a last line without a line break, and that line."""
        line = bytes(self._rest)
        item = None if self._too_long else item_of(line)
        return [item] if item else [], line


def item_of(line: bytes) -> BatchItem | None:
    """Return a line's item; None if it has no usage or can't be decoded."""
    read = decode_tolerantly(_line_decoder, line)
    answer = json_usage(bytes(read.result.message)) if read and read.result.type == "succeeded" else None
    return BatchItem(read.custom_id, item_usage(answer)) if read and answer else None


def item_usage(answer: JsonAnswer) -> UsageReading:
    """Return an item's usage; estimated from its size if it has content but no usage. Its request is not known here."""
    usage = answer.usage
    if usage.tier == BATCH_TIER:
        usage = msgspec.structs.replace(usage, tier="")  # that of all items
    if usage.unbilled or not answer.content_bytes:
        return usage
    output = 1 if usage.tokens.output else tokens_in(answer.content_bytes)
    return with_at_least(usage, request_bytes=0, output=output)
