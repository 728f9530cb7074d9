"""Content codings: request bodies that come compressed, and answers that do so unasked. Not here: compressing anything.

The rules:

- `gzip` (also `x-gzip`), `deflate`, `br`, `zstd` and `identity` are known; several in a row were applied in that order,
  so the last one comes off first (RFC 9110, section 8.4). More than three in a row are refused: no client does that,
  and each may multiply the size by a thousand.
- Output comes in bounded pieces, so that a bomb is noticed before its size is spent: at most 64 KB each, for zstd at
  most 8 MB (its library can't stop in between; 256 bytes of input hold at most 64 blocks of 128 KB).
- What is bounded is the work, not the result alone: output that a later coding swallows (zeros behind gzip) counts, and
  so does each frame, however empty. Input is taken in small pieces: what is left of one is copied for each step.
- A body is whole when its last frame is. Several gzip members or zstd frames in a row are one body. What follows the
  end is an error, but zeros behind gzip, which some writers pad with.
- `deflate` means zlib (RFC 9110), but some senders leave zlib's frame out; the first two bytes tell.
- An empty body is empty in every coding.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import brotli  # type: ignore[import-untyped]  # it has no types
import zstandard

from service.errors import BodyTooLarge, ClientError

PIECE_BYTES: Final = 65_536
ZSTD_STEP_BYTES: Final = 256
ZSTD_WINDOW_BYTES: Final = 8 * 1024 * 1024
"""The largest window that this coding may ask for (RFC 9659), so that a frame's header can't claim gigabytes."""
CODINGS_LIMIT: Final = 3
PART_BYTES: Final = 128 * 1024
"""About so much of an answer is decoded at once: a few milliseconds."""
ANSWER_EXPANSION: Final = 100
"""Streams of events shrink to a thirtieth: their framing is the same in each."""
ANSWER_FREE_BYTES: Final = 8 * 1024 * 1024
"""What any answer may become, however it was compressed: more than a model says."""
FRAME_BYTES: Final = 1_024
"""A gzip member or zstd frame costs as much as that many bytes of output, even when it is empty."""


class BadEncoding(ValueError):
    """The bytes are not what their content coding says."""


class Decoder(Protocol):
    """Takes one coding off."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds, in bounded pieces, and an empty one at the end of each frame. Raises BadEncoding. Must be
        read to its end before the next call."""

    def finish(self) -> None:
        """No more data comes. Raises BadEncoding when the end is missing."""


class Inflate:
    """gzip and deflate."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._start = b""
        self._inflater: zlib._Decompress | None = None
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Stage."""
        while data:
            if self._inflater is None:
                data = self._begin(data)
            if self._inflater is None:
                return
            inflater = self._inflater
            yield from inflated(inflater, data)
            data = inflater.unused_data
            if inflater.eof:
                self._inflater, self._ended = None, True
                yield b""

    def _begin(self, data: bytes) -> bytes:
        """Begin a stream as soon as its first two bytes are known; gives all the bytes to feed it."""
        if self._ended and not self._gzip:
            raise BadEncoding("trailing bytes")
        if self._ended and not self._start:
            data = data.lstrip(b"\0")
        self._start += data
        if len(self._start) < 2:
            return b""
        data, self._start = self._start, b""
        self._inflater = zlib.decompressobj(self._window_bits(data))
        return data

    def _window_bits(self, data: bytes) -> int:
        if self._gzip:
            return 16 + zlib.MAX_WBITS
        framed = data[0] & 0x0F == 8 and int.from_bytes(data[:2], "big") % 31 == 0
        return zlib.MAX_WBITS if framed else -zlib.MAX_WBITS

    def finish(self) -> None:
        """See Stage."""
        if self._inflater is not None or self._start:
            raise BadEncoding("truncated")


def inflated(inflater: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    """What `data` adds to one stream. A full piece may leave output behind even when all input is taken."""
    size = PIECE_BYTES
    while (data or size == PIECE_BYTES) and not inflater.eof:
        try:
            piece = inflater.decompress(data, PIECE_BYTES)
        except zlib.error as error:
            raise BadEncoding(str(error)) from None
        data, size = inflater.unconsumed_tail, len(piece)
        if piece:
            yield piece


class Brotli:
    """br."""

    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Stage."""
        while data or not self._decompressor.can_accept_more_data():
            if self._decompressor.is_finished():
                raise BadEncoding("trailing bytes")
            self._begun = True
            piece, data = self._process(data), b""
            while piece:
                yield piece
                piece = self._process(b"")

    def _process(self, data: bytes) -> bytes:
        try:
            piece: bytes = self._decompressor.process(data, output_buffer_limit=PIECE_BYTES)
        except brotli.error as error:
            raise BadEncoding(str(error)) from None
        return piece

    def finish(self) -> None:
        """See Stage."""
        if self._begun and not self._decompressor.is_finished():
            raise BadEncoding("truncated")


class Zstd:
    """zstd."""

    def __init__(self) -> None:
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Stage."""
        for start in range(0, len(data), ZSTD_STEP_BYTES):
            step = data[start : start + ZSTD_STEP_BYTES]
            while step:
                if self._frame is None:
                    self._frame = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES).decompressobj()
                frame = self._frame
                yield from decompressed(frame, step)
                step = frame.unused_data
                if frame.eof:
                    self._frame = None
                    yield b""

    def finish(self) -> None:
        """See Stage."""
        if self._frame is not None:
            raise BadEncoding("truncated")


def decompressed(frame: "zstandard.ZstdDecompressionObj", step: bytes) -> Iterator[bytes]:
    """What a few bytes add to one frame, if anything."""
    try:
        piece = frame.decompress(step)
    except zstandard.ZstdError as error:
        raise BadEncoding(str(error)) from None
    if piece:
        yield piece


STAGES: dict[str, Callable[[], Decoder]] = {
    "gzip": lambda: Inflate(gzip=True),
    "x-gzip": lambda: Inflate(gzip=True),
    "deflate": lambda: Inflate(gzip=False),
    "br": Brotli,
    "zstd": Zstd,
}


class ResponseDecoder:
    """Takes the codings off an answer, chunk by chunk, however the chunks are cut. A few bytes may stand for gigabytes:
    they are given in parts, and no more than so many times what has come."""

    __slots__ = ("_pieces", "_spent", "_stages", "_taken", "pending")

    def __init__(self, stages: tuple[Decoder, ...]) -> None:
        self.pending = False
        """Whether the last chunk may add more; it need not."""
        self._stages = stages
        self._pieces: Iterator[tuple[int, bytes]] = iter(())
        self._taken = 0
        self._spent = 0

    def feed(self, chunk: bytes) -> bytes:
        """The first part of what this chunk adds; `more` has the others, before the next chunk. Raises BadEncoding."""
        self._taken += len(chunk)
        self._pieces = through(self._stages, chunk)
        return self.more()

    def more(self) -> bytes:
        """The next part of what the last chunk adds, which may be empty while more is pending. Raises BadEncoding."""
        parts, spent = [], 0
        self.pending = False
        for cost, piece in self._pieces:
            parts.append(piece)
            spent += cost
            if spent >= PART_BYTES:
                self.pending = True
                break
        self._spent += spent
        if self._spent > max(ANSWER_FREE_BYTES, ANSWER_EXPANSION * self._taken):
            raise BadEncoding(f"the response expands more than {ANSWER_EXPANSION} times when decompressed")
        return b"".join(parts)

    def finish(self) -> bytes:
        """What was still to come, nothing in these codings. Raises BadEncoding when the answer was cut off."""
        for stage in self._stages:
            stage.finish()
        return b""


def response_decoder(encoding: str) -> ResponseDecoder | None:
    """The decoder for a `content-encoding`; None where there is nothing to decode, or nothing known, so that the
    answer passes as it is."""
    stages = stages_of(encoding)
    return ResponseDecoder(stages) if stages else None


def decode_body(raw: bytes, encoding: str, limit_bytes: int) -> bytes:
    """A request's body without its codings. Raises BodyTooLarge, or ClientError, both with `details.error_code`."""
    if not encoding:
        return raw
    stages = stages_of(encoding)
    if stages is None:
        raise ClientError(
            f"content-encoding {encoding[:60]!r} is not supported; send gzip, deflate, br, zstd or no encoding",
            details={"error_code": "request_body_encoding_unsupported"},
        )
    if not stages:
        return raw
    pieces, size, spent = [], 0, 0
    most_spent = (len(stages) + 1) * max(limit_bytes, PIECE_BYTES)
    try:
        for cost, piece in through(stages, raw):
            size += len(piece)
            spent += cost
            if size > limit_bytes or spent > most_spent:
                raise too_large(limit_bytes)
            pieces.append(piece)
        for stage in stages:
            stage.finish()
    except BadEncoding as error:
        raise ClientError(
            f"the request body is not valid {encoding[:60]}: {error}",
            details={"error_code": "request_body_encoding_invalid"},
        ) from None
    return b"".join(pieces)


def stages_of(encoding: str) -> tuple[Decoder, ...] | None:
    """What takes these codings off, the last applied first; None when one is unknown or there are too many."""
    names = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if len(names) > CODINGS_LIMIT or not all(name in STAGES for name in names):
        return None
    return tuple(STAGES[name]() for name in reversed(names))


def through(stages: tuple[Decoder, ...], data: bytes) -> Iterator[tuple[int, bytes]]:
    """Data through all stages, piece by piece, so that no stage runs ahead of the next. Each piece comes with what it
    cost; one that a later stage has to read is empty here."""
    first, *others = stages
    for start in range(0, len(data), PIECE_BYTES):
        for piece in first.feed(data[start : start + PIECE_BYTES]):
            yield len(piece) or FRAME_BYTES, b"" if others else piece
            if others:
                yield from through(tuple(others), piece)


def too_large(limit_bytes: int) -> BodyTooLarge:
    """The refusal of a body that is over the limit once it is decoded."""
    return BodyTooLarge(
        f"the decoded request body is larger than {limit_bytes} bytes (MAX_BODY_BYTES, MAX_BODY_EXPANSION)",
        details={"error_code": "request_body_too_large_after_decoding"},
    )
