"""Content codings of requests and answers."""

import gzip
import os
import time
import tracemalloc
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]  # it has no types
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from service.errors import BodyTooLarge, ClientError
from service.protocol.content_coding import BadEncoding, decode_body, response_decoder


def raw_deflate(data: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(data) + compressor.flush()


def br(data: bytes) -> bytes:
    return bytes(brotli.compress(data, quality=3))


WRITERS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("gzip", gzip.compress),
    ("x-gzip", gzip.compress),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("br", br),
    ("zstd", zstandard.compress),
]
IDS = ["gzip", "x-gzip", "deflate with a frame", "deflate without one", "brotli", "zstandard"]
each_coding = pytest.mark.parametrize(("coding", "write"), WRITERS, ids=IDS)
BODY = b'{"model": "m\xc3\xa4", "messages": []}' * 40
LIMIT = 1_000_000


def code(error: ClientError) -> str:
    assert error.details is not None
    return error.details["error_code"]


@each_coding
@pytest.mark.parametrize("body", [b"", b"x", BODY, bytes(range(256)) * 3_000])
def test_a_body_comes_through(coding: str, write: Callable[[bytes], bytes], body: bytes) -> None:
    """What was encoded comes out as it was, of any size."""
    assert decode_body(write(body), coding, LIMIT) == body
    assert decode_body(write(body), f" {coding.upper()} ", LIMIT) == body


@each_coding
@pytest.mark.parametrize("step", [1, 2, 7, 4096])
def test_an_answer_comes_through_in_any_chunks(coding: str, write: Callable[[bytes], bytes], step: int) -> None:
    """An answer decodes alike whatever its chunks."""
    decoder, encoded = response_decoder(coding), write(BODY)
    assert decoder is not None
    chunks = [decoder.feed(encoded[place : place + step]) for place in range(0, len(encoded), step)]
    assert b"".join(chunks) + decoder.finish() == BODY


def test_an_answer_is_decoded_as_it_comes() -> None:
    """What an upstream has flushed is not kept waiting for more."""
    compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
    decoder = response_decoder("gzip")
    assert decoder is not None
    for event in (b"data: one\n\n", b"data: two\n\n"):
        assert decoder.feed(compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH)) == event


@given(st.lists(st.sampled_from(WRITERS), max_size=3), st.binary(max_size=300))
def test_codings_in_a_row_come_off_last_first(writers: list[tuple[str, Callable[[bytes], bytes]]], body: bytes) -> None:
    """`gzip, br` means: first gzip, then brotli."""
    encoded = body
    for _, write in writers:
        encoded = write(encoded)
    assert decode_body(encoded, ", ".join(coding for coding, _ in writers), LIMIT) == body


@each_coding
def test_an_empty_body_is_empty_in_every_coding(coding: str, write: Callable[[bytes], bytes]) -> None:
    """Of an answer, too."""
    assert decode_body(b"", coding, LIMIT) == b""
    decoder = response_decoder(coding)
    assert decoder is not None
    assert decoder.feed(b"") + decoder.finish() == b""
    assert decode_body(write(b""), coding, LIMIT) == b""


@pytest.mark.parametrize("encoding", ["", "identity", " Identity , identity"])
def test_no_coding_is_the_same_object(encoding: str) -> None:
    """A plain body is not copied, and a plain answer needs no decoder."""
    assert decode_body(BODY, encoding, 1) is BODY
    assert response_decoder(encoding) is None


@each_coding
def test_members_in_a_row_are_one_body(coding: str, write: Callable[[bytes], bytes]) -> None:
    """gzip and zstd may be written in parts; in the other codings bytes behind the end are an error."""
    if coding in ("gzip", "x-gzip", "zstd"):
        assert decode_body(write(b"one, ") + write(b"two"), coding, LIMIT) == b"one, two"
    else:
        with pytest.raises(ClientError):
            decode_body(write(b"one, ") + write(b"two"), coding, LIMIT)


def test_zeros_behind_gzip_are_padding() -> None:
    """Some writers pad gzip with zeros."""
    assert decode_body(gzip.compress(b"x") + b"\0" * 512, "gzip", LIMIT) == b"x"


@each_coding
@pytest.mark.parametrize("spoil", ["cut off", "one byte more", "not encoded"])
def test_spoiled_bodies_are_the_clients_fault(coding: str, write: Callable[[bytes], bytes], spoil: str) -> None:
    """A body that can't be decoded is a 400 that says so."""
    encoded = write(BODY)
    spoiled = {"cut off": encoded[:-1], "one byte more": encoded + b"!", "not encoded": b"\xff\xff" + BODY}[spoil]
    with pytest.raises(ClientError) as caught:
        decode_body(spoiled, coding, LIMIT)
    assert (caught.value.status, code(caught.value)) == (400, "request_body_encoding_invalid")


@each_coding
def test_an_answer_that_was_cut_off_is_known(coding: str, write: Callable[[bytes], bytes]) -> None:
    """An answer without the end of its coding is not whole."""
    decoder = response_decoder(coding)
    assert decoder is not None
    with pytest.raises(BadEncoding):
        decoder.feed(write(BODY)[:-1]) + decoder.finish()


@pytest.mark.parametrize("encoding", ["lz4", "gzip, lz4", "gzip, gzip, gzip, gzip"])
def test_unknown_codings_are_refused_in_requests_and_pass_in_answers(encoding: str) -> None:
    """A request must be read, an answer need not be."""
    with pytest.raises(ClientError) as caught:
        decode_body(BODY, encoding, LIMIT)
    assert code(caught.value) == "request_body_encoding_unsupported"
    assert response_decoder(encoding) is None


@each_coding
def test_the_limit_is_exact(coding: str, write: Callable[[bytes], bytes]) -> None:
    """A body of just the limit passes, one byte more does not."""
    assert decode_body(write(BODY), coding, len(BODY)) == BODY
    with pytest.raises(BodyTooLarge) as caught:
        decode_body(write(BODY), coding, len(BODY) - 1)
    assert (caught.value.status, code(caught.value)) == (413, "request_body_too_large_after_decoding")


@each_coding
@pytest.mark.parametrize("outer", ["", ", br", ", gzip"])
def test_a_bomb_goes_off_without_its_size(coding: str, write: Callable[[bytes], bytes], outer: str) -> None:
    """64 MB in a few bytes are refused before more than the limit and one piece are in memory."""
    wrap: dict[str, Callable[[bytes], bytes]] = {"": bytes, ", br": br, ", gzip": gzip.compress}
    bomb = wrap[outer](write(bytes(64_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(BodyTooLarge):
            decode_body(bomb, coding + outer, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 12_000_000
    finally:
        tracemalloc.stop()


SWALLOWED = {
    "zeros behind gzip": ("gzip, gzip, gzip", gzip.compress(gzip.compress(gzip.compress(BODY) + bytes(64_000_000)))),
    "gzip members": ("gzip, gzip", gzip.compress(gzip.compress(b"") * 200_000)),
    "zstd frames": ("zstd, gzip", gzip.compress(zstandard.compress(b"") * 100_000)),
    "empty blocks": ("deflate, gzip", gzip.compress(b"\x00\x00\x00\xff\xff" * 2_000_000)),
}
"""Bytes that become many, of which the next coding makes none."""


@pytest.mark.parametrize("kind", SWALLOWED)
def test_what_is_swallowed_is_bounded_too(kind: str) -> None:
    """The work counts, not what comes out in the end."""
    encoding, bomb = SWALLOWED[kind]
    with pytest.raises(BodyTooLarge):
        decode_body(bomb, encoding, 64 * 1024)
    decoder = response_decoder(encoding)
    assert decoder is not None
    began_s = time.process_time()
    decoder.feed(bomb)
    assert time.process_time() - began_s < 0.25
    assert decoder.pending
    with pytest.raises(BadEncoding):
        list(iter(decoder.more, None))


@pytest.mark.parametrize(
    ("coding", "write"), [("zstd", zstandard.compress), ("gzip", lambda raw: gzip.compress(raw, 1))]
)
def test_a_large_body_takes_linear_time(coding: str, write: Callable[[bytes], bytes]) -> None:
    """What is left of it is not copied again for each step: 8 MB took ten seconds so."""
    body = os.urandom(8_000_000)
    written = write(body)
    began_s = time.process_time()
    assert decode_body(written, coding, len(body)) == body
    assert time.process_time() - began_s < 2


@given(st.sampled_from(["gzip", "deflate", "br", "zstd", "br, zstd"]), st.lists(st.binary(max_size=50), max_size=5))
def test_no_bytes_raise_anything_else(encoding: str, chunks: list[bytes]) -> None:
    """Whatever comes, it decodes or is a BadEncoding."""
    decoder = response_decoder(encoding)
    assert decoder is not None
    try:
        for chunk in chunks:
            decoder.feed(chunk)
        decoder.finish()
    except BadEncoding:
        pass


def stored(data: bytes, *, first: int = 1) -> bytes:
    """One block of deflate without compression; `first` is its first byte, of which five bits mean nothing."""
    size = len(data).to_bytes(2, "little")
    return bytes([first]) + size + bytes(255 - byte for byte in size) + data


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x03\x00", id="the shortest stream"),
        pytest.param(stored(bytes(23)), id="the check sum of a frame alone"),
        pytest.param(stored(bytes(5), first=8) + b"\x03\x00", id="the method of a frame alone"),
    ],
)
@pytest.mark.parametrize("step", [1, 100])
def test_deflate_without_a_frame_is_known_by_two_bytes(raw: bytes, step: int) -> None:
    """A frame has both: the method, and a check sum over the two."""
    expected = zlib.decompress(raw, wbits=-zlib.MAX_WBITS)
    assert decode_body(raw, "deflate", LIMIT) == expected
    decoder = response_decoder("deflate")
    assert decoder is not None
    parts = [decoder.feed(raw[place : place + step]) for place in range(0, len(raw), step)]
    assert b"".join(parts) + decoder.finish() == expected


@pytest.mark.parametrize(
    ("written", "coding"),
    [
        pytest.param(zlib.compress(BODY), "gzip", id="deflate as gzip"),
        pytest.param(gzip.compress(BODY), "deflate", id="gzip as deflate"),
    ],
)
def test_one_coding_is_not_taken_for_the_other(written: bytes, coding: str) -> None:
    with pytest.raises(ClientError):
        decode_body(written, coding, LIMIT)


def test_padding_behind_gzip_comes_in_any_chunks() -> None:
    """Zeros alone: a member may follow them, and nothing else."""
    for parts in ([gzip.compress(b"x"), b"\0", b"\0\0", gzip.compress(b"y")], [gzip.compress(b"x") + b"\0"]):
        decoder = response_decoder("gzip")
        assert decoder is not None
        assert b"".join(map(decoder.feed, parts)) + decoder.finish() == b"xy"[: len(parts)]
    with pytest.raises(ClientError):
        decode_body(gzip.compress(b"x") + b"\0\1", "gzip", LIMIT)


MEMBER = gzip.compress(b"")


@pytest.mark.parametrize(
    ("coding", "write", "most"),
    [
        pytest.param("gzip", bytes, 128, id="one coding: twice 64 KB"),
        pytest.param("identity, gzip", bytes, 128, id="none beside it"),
        pytest.param("gzip, br", br, 188, id="two codings: three times, the members' own bytes among them"),
    ],
)
@pytest.mark.parametrize("limit_bytes", [1, 64 * 1024])
def test_frames_cost_a_kilobyte_each(coding: str, write: Callable[[bytes], bytes], most: int, limit_bytes: int) -> None:
    """However empty; a limit below 64 KB leaves as much."""
    assert decode_body(write(MEMBER * most), coding, limit_bytes) == b""
    with pytest.raises(BodyTooLarge):
        decode_body(write(MEMBER * (most + 1)), coding, limit_bytes)


def decoded_size(coding: str, *chunks: bytes) -> int:
    """How large an answer of these chunks becomes, part by part."""
    decoder = response_decoder(coding)
    assert decoder is not None
    size = 0
    for chunk in chunks:
        part = decoder.feed(chunk)
        size += len(part)
        while decoder.pending:
            assert 127 * 1024 <= len(part) < 192 * 1024
            part = decoder.more()
            size += len(part)
    decoder.finish()
    return size


def test_an_answer_is_decoded_in_parts() -> None:
    """Of about 128 KB, so that other requests are not kept waiting; the last one has the rest."""
    decoder = response_decoder("gzip")
    assert decoder is not None
    assert (len(decoder.feed(gzip.compress(bytes(500_000)))), decoder.pending) == (128 * 1024, True)
    for size in (128 * 1024 - 1, 128 * 1024, 128 * 1024 + 1, 500_000):
        assert decoded_size("gzip", gzip.compress(bytes(size))) == size


@pytest.mark.parametrize(("size", "passes"), [(8 * 1024 * 1024 - 1024, True), (8 * 1024 * 1024 - 1023, False)])
def test_any_answer_may_become_8_megabytes(size: int, passes: bool) -> None:  # noqa: FBT001 - a case
    """However few bytes it was; its frame is a kilobyte of them."""
    written = zlib.compress(bytes(size))
    if passes:
        assert decoded_size("deflate", written) == size
    else:
        with pytest.raises(BadEncoding, match="100 times"):
            decoded_size("deflate", written)


def test_a_larger_answer_may_become_a_hundred_times_what_has_come() -> None:
    """All that has come counts, whatever its chunks."""
    written = zlib.compress(bytes(9_000_000), 0)
    assert decoded_size("deflate", written[:100], written[100:5_000_000], written[5_000_000:]) == 9_000_000
    nine = gzip.compress(bytes(9_000_000 - 1024))
    assert decoded_size("gzip", nine.ljust(90_000, b"\0")) == 9_000_000 - 1024
    with pytest.raises(BadEncoding, match="100 times"):
        decoded_size("gzip", nine.ljust(89_999, b"\0"))


def test_all_that_a_chunk_can_tell_is_decoded() -> None:
    """Also what is left of it behind a full piece, wherever the chunk ends."""
    written = zlib.compress(bytes(65_536 + 300))
    for place in range(len(written)):
        decoder = response_decoder("deflate")
        assert decoder is not None
        assert decoder.feed(written[:place]) == zlib.decompressobj().decompress(written[:place])
