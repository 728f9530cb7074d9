"""Splits a byte stream into server-sent events. Not here: what the events mean (`tap`), and I/O.

The rules, from the WHATWG standard (HTML, section 9.2), as far as a proxy needs them:

- A line ends with LF, CR LF or CR. An event ends with an empty line; further empty lines are ignored.
- `field: value`: one space after the colon is ignored. A line that begins with a colon is a comment.
- Several `data` lines are joined with LF. Of several `event` lines the last one counts. Other fields are ignored here.
- A byte order mark before the first line is skipped.
- What follows the last empty line is an incomplete event.

Unlike the standard's parser, this one also returns events without data (a comment such as `: ping`), because it also
determines where in the stream events end. An event is returned unparsed: name and data are extracted on access, since
nearly all events pass without it.

Chunk boundaries never change the events. A CR that ends a chunk ends its line at once; if the next chunk begins with
LF, that LF is one more empty line between events, or the regular end of a line, never both.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import repeat
from typing import NamedTuple

EVENT_BYTES_LIMIT = 16 * 1024 * 1024
"""Largest event, since an incomplete one is buffered. The largest that providers send are results of their own tools (a
few MB of base64); 16 MB is half of the maximum request."""

MOST_LINES = 10_000
"""Maximum lines of a parsed event; 16 MB of lines would block the event loop for half a second."""
BOM = b"\xef\xbb\xbf"
EMPTY_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
LINE_END_STARTS = (b"\n", b"\r", b"")
LINE_END = re.compile(rb"\r\n|\n|\r")
OVERLAP_BYTES = 3
"""Length of the longest empty line, CR LF CR LF, minus one: a search must overlap the previous one by this much."""


class EventTooLarge(ValueError):
    """An event exceeds `EVENT_BYTES_LIMIT`; the stream can't be parsed any further."""


class SseEvent(NamedTuple):
    """An event, unparsed.

    `block` holds its lines without the empty one. `start` and `end` are offsets into the chunk that completed it: `end`
    is just after its empty line; `start` is 0 if the event began in an earlier chunk.
    """

    block: bytes
    start: int
    end: int

    @property
    def name(self) -> bytes:
        """The value of its last `event` line, b"" if there is none."""
        return self.fields[0]

    @property
    def data(self) -> bytes:
        """The values of its `data` lines, joined with LF."""
        return self.fields[1]

    @property
    def fields(self) -> tuple[bytes, bytes]:
        """Its name and its data."""
        if self.block.count(b"\n") + self.block.count(b"\r") > MOST_LINES:
            raise EventTooLarge(f"an event of the stream has more than {MOST_LINES} lines")
        name, data = b"", []
        lines = LINE_END.split(self.block) if b"\r" in self.block else self.block.split(b"\n")
        for line in lines:
            field, _, value = line.partition(b":")
            if field == b"data":
                data.append(value.removeprefix(b" "))
            elif field == b"event":
                name = value.removeprefix(b" ")
        return name, b"\n".join(data)


class SseReader:
    """Feed it chunks; it returns the events that they complete."""

    __slots__ = ("_limit", "_other_line_ends", "_rest", "_searched", "_started", "free", "passed", "passed_count")

    def __init__(self, limit_bytes: int = EVENT_BYTES_LIMIT) -> None:
        self._limit = limit_bytes
        self._rest = bytearray()
        self._searched = 0
        self._other_line_ends = False
        self._started = False
        self.passed: tuple[bytes, ...] = ()
        """Events with one of these prefixes are not returned."""
        self.passed_count = 0
        """Number of those in the last chunk."""
        self.free = 0
        """Number of leading bytes of the last chunk that belong to complete events."""

    def is_passed(self, chunk: bytes) -> bool:
        """True if a chunk is exactly one event that would not be returned, and need not be fed: most chunks are."""
        size = len(chunk) - 2
        return (
            chunk.startswith(self.passed)
            and chunk.find(b"\n\n") == size <= self._limit
            and not (self._rest or self._other_line_ends or b"\r" in chunk)
            and self._started
        )

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """Return the events that `chunk` completes. Raises EventTooLarge."""
        return list(self.events(chunk))

    def events(self, chunk: bytes) -> Iterator[SseEvent]:
        """Yield the events that `chunk` completes; if the caller stops early, the others are lost. Raises
        EventTooLarge."""
        if b"\r" in chunk:
            self._other_line_ends = True
        self.free = passed_count = 0
        buffer, carried = self._with_rest(chunk)
        blocks, empty_lines = self._blocks(buffer)
        rest = blocks.pop()
        limit, free, end, passed = self._limit, 0, -carried, self._passed_now()
        for block, empty_line in zip(blocks, empty_lines, strict=False):
            start, end = end, end + len(block) + empty_line
            if len(block) > limit:
                raise self._too_large()
            if block.startswith(passed):
                free = end
                passed_count += 1
                continue
            if not self._started or block[:1] in LINE_END_STARTS:
                block = self._first_lines(block)  # noqa: PLW2901 - without leading empty lines
            if block:
                self.free = free = end
                yield SseEvent(block, max(0, start), end)
            passed = self._passed_now()
        self.free, self.passed_count = free, passed_count
        if rest:
            self._keep(rest)

    def _passed_now(self) -> tuple[bytes, ...]:
        """Return the prefixes of events that are not returned; none before the stream's first line."""
        return self.passed if self._started else ()

    def _with_rest(self, chunk: bytes) -> tuple[bytes, int]:
        """Return the bytes to split now, and how many of them came before this chunk; nothing while no event is
        complete."""
        if not self._rest:
            return chunk, 0
        carried = len(self._rest)
        self._rest += chunk
        search_from, self._searched = self._searched, max(0, len(self._rest) - OVERLAP_BYTES)
        if not self._has_empty_line(search_from):
            if len(self._rest) > self._limit:
                raise self._too_large()
            return b"", 0
        buffer = bytes(self._rest)
        self._rest.clear()
        return buffer, carried

    def _blocks(self, buffer: bytes) -> tuple[list[bytes], Iterable[int]]:
        """Return the blocks between empty lines, and the length of each empty line."""
        if self._other_line_ends:
            return EMPTY_LINE.split(buffer), map(len, EMPTY_LINE.findall(buffer))
        return buffer.split(b"\n\n"), repeat(2)

    def _first_lines(self, block: bytes) -> bytes:
        """Return an event's lines without leading empty ones; removes the byte order mark at the stream's start."""
        block = block.lstrip(b"\r\n")
        if self._started or not block:
            return block
        self._started = True
        return block.removeprefix(BOM).lstrip(b"\r\n")

    def _has_empty_line(self, search_from: int) -> bool:
        """True if an event ends in the buffer."""
        if self._other_line_ends:
            return EMPTY_LINE.search(self._rest, search_from) is not None
        return self._rest.find(b"\n\n", search_from) >= 0

    def _keep(self, rest: bytes) -> None:
        """Buffer the incomplete event; leading empty lines are dropped."""
        self._rest += rest.lstrip(b"\r\n")
        self._searched = max(0, len(self._rest) - OVERLAP_BYTES)
        if len(self._rest) > self._limit:
            raise self._too_large()

    def _too_large(self) -> EventTooLarge:
        return EventTooLarge(f"an event of the stream is larger than {self._limit} bytes")
