"""Content codings: decodes compressed request bodies, and responses that come compressed unasked. Does not compress.

Rules
- `gzip` (also `x-gzip`), `deflate`, `br`, `zstd` and `identity` are known; several are removed in reverse order (RFC
  9110, section 8.4). More than three are rejected: no client does that, and each may multiply the size by a thousand.
- Output comes in bounded pieces, so that a decompression bomb is noticed early: at most 64 KB each, for zstd at most
  8 MB (its library can't stop in between; 256 bytes of input hold at most 64 blocks of 128 KB).
- The bound covers all work, not only the result: output consumed by a later coding (zeros behind gzip) counts, and so
  does each frame, even if empty. Input is processed in small pieces: the rest of one is copied for each step.
- A body is complete when its last frame is. Several gzip members or zstd frames in a row are one body. Data after the
  end are an error, except for zeros after gzip, which some writers pad with.
- `deflate` means zlib (RFC 9110), but some senders omit zlib's frame; the first two bytes tell.
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
"""The largest window allowed for this coding (RFC 9659), so that a frame's header can't claim gigabytes."""
CODINGS_LIMIT: Final = 3
PART_BYTES: Final = 128 * 1024
"""Size of the parts in which a response is decoded: a few milliseconds each."""
ANSWER_EXPANSION: Final = 100
"""Maximum expansion ratio; event streams compress to about a thirtieth, because their framing repeats."""
ANSWER_FREE_BYTES: Final = 8 * 1024 * 1024
"""Size that any response may expand to, whatever its ratio: more than a model writes."""
FRAME_BYTES: Final = 1_024
"""Cost of a gzip member or zstd frame in bytes of output, even if it is empty."""


class BadEncoding(ValueError):
    """The bytes are invalid in their content coding."""


class Decoder(Protocol):
    """Decodes one coding."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the output of `data` in bounded pieces, and an empty one at the end of each frame. Raises BadEncoding.
        Must be exhausted before the next call."""

    def finish(self) -> None:
        """End of data. Raises BadEncoding if it is truncated."""


class Inflate:
    """Decoder of gzip and deflate."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._start = b""
        self._inflater: zlib._Decompress | None = None
        self._ended = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Decoder."""
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
        """Create the decompressor once the first two bytes are known; returns the bytes to feed it."""
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
        """See Decoder."""
        if self._inflater is not None or self._start:
            raise BadEncoding("truncated")


def inflated(inflater: "zlib._Decompress", data: bytes) -> Iterator[bytes]:
    """Yield the output of `data` in one stream. After a full piece, output may remain although all input was
    consumed."""
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
    """Decoder of br."""

    def __init__(self) -> None:
        self._decompressor = brotli.Decompressor()
        self._begun = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Decoder."""
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
        """See Decoder."""
        if self._begun and not self._decompressor.is_finished():
            raise BadEncoding("truncated")


class Zstd:
    """Decoder of zstd."""

    def __init__(self) -> None:
        self._frame: zstandard.ZstdDecompressionObj | None = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """See Decoder."""
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
        """See Decoder."""
        if self._frame is not None:
            raise BadEncoding("truncated")


def decompressed(frame: "zstandard.ZstdDecompressionObj", step: bytes) -> Iterator[bytes]:
    """Yield the output of a few bytes in one frame."""
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
    """Decodes a response chunk by chunk, independent of chunk boundaries. Since a few bytes may expand to gigabytes,
    output comes in parts, limited to a multiple of the input."""

    __slots__ = ("_pieces", "_spent", "_stages", "_taken", "pending")

    def __init__(self, stages: tuple[Decoder, ...]) -> None:
        self.pending = False
        """True if the last chunk may have more output."""
        self._stages = stages
        self._pieces: Iterator[tuple[int, bytes]] = iter(())
        self._taken = 0
        self._spent = 0

    def feed(self, chunk: bytes) -> bytes:
        """Return the first part of a chunk's output; `more` returns the others, before the next chunk. Raises
        BadEncoding."""
        self._taken += len(chunk)
        self._pieces = through(self._stages, chunk)
        return self.more()

    def more(self) -> bytes:
        """Return the next part of the last chunk's output, which may be empty while more is pending. Raises
        BadEncoding."""
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
        """Return the remaining output, empty in these codings. Raises BadEncoding if the response is truncated."""
        for stage in self._stages:
            stage.finish()
        return b""


def response_decoder(encoding: str) -> ResponseDecoder | None:
    """Return a decoder for `content-encoding`; None if there is nothing to decode, or an unknown coding, so that the
    response passes unchanged."""
    stages = stages_of(encoding)
    return ResponseDecoder(stages) if stages else None


def decode_body(raw: bytes, encoding: str, limit_bytes: int) -> bytes:
    """Decode a request's body. Raises BodyTooLarge, or ClientError, both with `details.error_code`."""
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
    """Return the decoders of these codings, last applied first; None if one is unknown or there are too many."""
    names = [name for part in encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if len(names) > CODINGS_LIMIT or not all(name in STAGES for name in names):
        return None
    return tuple(STAGES[name]() for name in reversed(names))


def through(stages: tuple[Decoder, ...], data: bytes) -> Iterator[tuple[int, bytes]]:
    """Run data through all decoders piece by piece, so that none runs ahead of the next. Yields the cost and bytes of
    each piece; empty if a later decoder consumes it."""
    first, *others = stages
    for start in range(0, len(data), PIECE_BYTES):
        for piece in first.feed(data[start : start + PIECE_BYTES]):
            yield len(piece) or FRAME_BYTES, b"" if others else piece
            if others:
                yield from through(tuple(others), piece)


def too_large(limit_bytes: int) -> BodyTooLarge:
    """Return the error for a body that exceeds the limit once decoded."""
    return BodyTooLarge(
        f"the decoded request body is larger than {limit_bytes} bytes (MAX_BODY_BYTES, MAX_BODY_EXPANSION)",
        details={"error_code": "request_body_too_large_after_decoding"},
    )
