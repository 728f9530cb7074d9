"""Answers read from bytes: whole, split at every byte, byte by byte, against h11, and what must be refused."""

from itertools import pairwise
from typing import Any

import h11
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.http1.response_parser import MOST_HEADERS, OVERHEAD_BYTES, ResponseParser

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
Read = tuple[int, list[tuple[bytes, bytes]], bytes, bool, bool]


def read(parts: list[bytes], *, eof: bool = False, is_head: bool = False) -> Read:
    """Status, headers, body, complete, keep_alive."""
    parser = ResponseParser(is_head=is_head)
    body = b""
    for part in parts:
        parser.feed(part)
        body += parser.take()
    if eof:
        parser.feed_eof()
    return parser.status, parser.headers, body, parser.complete, parser.keep_alive


READABLE: dict[str, tuple[bytes, Read]] = {
    "a length": (OK + b"Content-Length: 3\r\n\r\nabc", (200, [(b"content-length", b"3")], b"abc", True, True)),
    "chunks": (
        CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        (200, [(b"transfer-encoding", b"chunked")], b"abcde", True, True),
    ),
    "chunks with an extension and trailers": (
        CHUNKED + b"3;a=b\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        (200, [(b"transfer-encoding", b"chunked")], b"abc", True, True),
    ),
    "no body at 204": (b"HTTP/1.1 204 None\r\n\r\n", (204, [], b"", True, True)),
    "no body at 304, whatever its length": (
        b"HTTP/1.1 304 Same\r\ncontent-length: 9\r\n\r\n",
        (304, [(b"content-length", b"9")], b"", True, True),
    ),
    "two informational answers before": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: a\r\n\r\n" + OK + b"content-length: 1\r\n\r\nx",
        (200, [(b"content-length", b"1")], b"x", True, True),
    ),
    "connection: close": (
        OK + b"connection: close\r\ncontent-length: 1\r\n\r\nx",
        (200, [(b"connection", b"close"), (b"content-length", b"1")], b"x", True, False),
    ),
    "HTTP/1.0": (
        b"HTTP/1.0 200 OK\r\ncontent-length: 1\r\n\r\nx",
        (200, [(b"content-length", b"1")], b"x", True, False),
    ),
    "no reason, an empty value, a value in latin-1": (
        b"HTTP/1.1 200\r\na:\r\nb: \xe9\r\ncontent-length: 0\r\n\r\n",
        (200, [(b"a", b""), (b"b", b"\xe9"), (b"content-length", b"0")], b"", True, True),
    ),
    "the same header twice": (
        OK + b"set-cookie: a\r\nset-cookie: b\r\ncontent-length: 0\r\n\r\n",
        (200, [(b"set-cookie", b"a"), (b"set-cookie", b"b"), (b"content-length", b"0")], b"", True, True),
    ),
    "bytes behind the end": (
        OK + b"content-length: 1\r\n\r\nxHTTP/1.1 200 OK\r\n\r\n",
        (200, [(b"content-length", b"1")], b"x", True, False),
    ),
    "garbage behind the end": (
        CHUNKED + b"0\r\n\r\n\0\0",
        (200, [(b"transfer-encoding", b"chunked")], b"", True, False),
    ),
}


@pytest.mark.parametrize("case", READABLE)
def test_an_answer_is_the_same_however_it_is_split(case: str) -> None:
    """Whole, in two parts split at every byte, and byte by byte."""
    data, wanted = READABLE[case]
    assert read([data]) == wanted
    assert read([data[at : at + 1] for at in range(len(data))]) == wanted
    for at in range(1, len(data)):
        assert read([data[:at], data[at:]]) == wanted, at


def test_a_body_without_framing_lasts_until_the_connection_closes() -> None:
    """Complete only then, and no request follows."""
    assert read([OK + b"\r\n", b"ab", b"c"]) == (200, [], b"abc", False, False)
    assert read([OK + b"\r\n", b"ab", b"c"], eof=True) == (200, [], b"abc", True, False)


def test_a_long_stream_of_small_chunks_is_read() -> None:
    """The bound is on what comes in a row without a body, not on the framing of all of it."""
    parser = ResponseParser()
    parser.feed(CHUNKED)
    for _ in range(OVERHEAD_BYTES // 5 + 10):
        for piece in (b"1\r\n", b"a", b"\r\n"):
            parser.feed(piece)
    parser.feed(b"0\r\n\r\n")
    assert parser.complete


def test_an_answer_to_head_has_no_body() -> None:
    """Whatever length it tells; a body that comes all the same spoils the connection."""
    data = OK + b"content-length: 3\r\n\r\n"
    assert read([data], is_head=True) == (200, [(b"content-length", b"3")], b"", True, True)
    assert read([data, b"abc"], is_head=True)[2:] == (b"", True, False)
    assert read([data + b"abc"], is_head=True)[2:] == (b"", True, False)


REFUSED: dict[str, bytes] = {
    "no HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 99 No\r\n\r\n",
    "a status beyond 599": b"HTTP/1.1 700 No\r\n\r\n",
    "a folded header": OK + b"a: b\r\n c\r\ncontent-length: 0\r\n\r\n",
    "a space in a name": OK + b"a b: c\r\n\r\n",
    "a space before the colon": OK + b"a : c\r\n\r\n",
    "no name": OK + b": c\r\n\r\n",
    "a control character": OK + b"a: \x01\r\n\r\n",
    "a NUL": OK + b"a: \x00\r\n\r\n",
    "a bare line feed": OK + b"a: b\nc: d\r\n\r\n",
    "two lengths": OK + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "a length that is none": OK + b"content-length: 0x3\r\n\r\nabc",
    "a length with a sign": OK + b"content-length: +3\r\n\r\nabc",
    "a length beyond all measure": OK + b"content-length: 99999999999999999999999\r\n\r\n",
    "a length and chunks": OK + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "chunks and a length": OK + b"transfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "another transfer encoding": OK + b"transfer-encoding: gzip\r\n\r\nabc",
    "two transfer encodings": OK + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a chunk size that is none": CHUNKED + b"xyz\r\n",
    "a chunk longer than its size": CHUNKED + b"1\r\nabc\r\n0\r\n\r\n",
    "a chunk ended by a line feed": CHUNKED + b"1\na\n0\n\n",
    "too many headers": OK + b"a: b\r\n" * (MOST_HEADERS + 1) + b"\r\n",
    "a header without end": OK + b"a: " + b"x" * (OVERHEAD_BYTES + 1),
    "informational answers without end": b"HTTP/1.1 100 Continue\r\n\r\n" * 3_000,
    "trailers without end": CHUNKED + b"0\r\n" + b"t: xxxxxxxx\r\n" * 6_000,
    "a chunk extension without end": CHUNKED + b"1;" + b"x" * (OVERHEAD_BYTES + 1),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("step", [1, 7, 1_000_000])
def test_what_is_no_answer_is_refused(case: str, step: int) -> None:
    """At whatever byte it is noticed, and with a bound on what is kept until then."""
    data = REFUSED[case]
    with pytest.raises(httpx.RemoteProtocolError):
        read([data[at : at + step] for at in range(0, len(data), step)])


@pytest.mark.parametrize(
    "data", [b"", b"HTTP/1.1 2", OK, OK + b"content-length: 3\r\n\r\nab", CHUNKED + b"3\r\nabc\r\n"]
)
def test_an_end_within_an_answer_is_refused(data: bytes) -> None:
    """Neither a length nor chunks may end early."""
    with pytest.raises(httpx.RemoteProtocolError):
        read([data] if data else [], eof=True)


# -- h11 as the oracle

TOKENS = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(lambda text: b"x-" + text.encode())
VALUES = st.text([chr(code) for code in range(0x21, 0x7F)], max_size=30).map(str.encode)
HEADERS = st.lists(st.tuples(TOKENS, VALUES), max_size=6)
BODIES = st.lists(st.binary(min_size=1, max_size=40), max_size=5)


@st.composite
def written(draw: st.DrawFn) -> bytes:
    """An answer as a server may write it, informational ones and all; mostly whole."""
    status = draw(st.sampled_from([200, 204, 304, 400, 429, 529]))
    lines = [b"%b: %b" % header for header in draw(HEADERS)]
    parts = draw(BODIES)
    framing = draw(st.sampled_from(["length", "chunks", "close"]))
    if framing == "length":
        body = b"".join(parts)
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunks":
        lines.append(b"Transfer-Encoding: chunked")
        trailers = b"".join(b"%b: %b\r\n" % header for header in draw(HEADERS))
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailers + b"\r\n"
    else:
        body = b"".join(parts)
    if draw(st.booleans()):
        lines.append(b"Connection: " + draw(st.sampled_from([b"close", b"keep-alive"])))
    head = b"HTTP/1.%d %d Reason\r\n" % (draw(st.integers(0, 1)), status)
    early = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" * draw(st.integers(0, 2))
    body = b"" if status in (204, 304) else body
    return early + head + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def read_by_h11(data: bytes) -> tuple[int, list[Any], bytes] | None:
    """Status, headers and body of the whole answer, None when it refuses them."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    status, headers, body = 0, [], b""
    try:
        connection.receive_data(data)
        connection.receive_data(b"")
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Response):
                status, headers = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return status, headers, body
            elif event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return None
    except h11.RemoteProtocolError:
        return None


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


CUTS = st.lists(st.integers(0, 10_000), max_size=8)


@settings(max_examples=150, deadline=None)
@given(written(), CUTS)
def test_answers_are_read_as_h11_reads_them(data: bytes, cuts: list[int]) -> None:
    """Whatever a server may write, however it is split."""
    status, headers, body, complete, _ = read(split(data, cuts), eof=True)
    wanted = read_by_h11(data)
    assert wanted == (status, [(name, value) for name, value in headers if name != b"transfer-encoding"], body) or (
        wanted == (status, headers, body)
    )
    assert complete


@settings(max_examples=300, deadline=None)
@given(written(), CUTS, st.lists(st.tuples(st.integers(0, 10_000), st.binary(max_size=3)), min_size=1, max_size=3))
def test_spoiled_answers_are_refused_or_read_as_h11_reads_them(
    data: bytes, cuts: list[int], spoils: list[tuple[int, bytes]]
) -> None:
    """No fault but RemoteProtocolError; and no two readings of the same bytes."""
    for place, put in spoils:
        at = place % (len(data) + 1)
        data = data[:at] + put + data[at + len(put) :]
    try:
        status, _, body, _, _ = read(split(data, cuts), eof=True)
    except httpx.RemoteProtocolError:
        return
    oracle = read_by_h11(data)
    if oracle:
        assert (oracle[0], oracle[2]) == (status, body)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300), CUTS)
def test_garbage_is_refused(data: bytes, cuts: list[int]) -> None:
    """Never another exception, never an endless wait for more."""
    with pytest.raises(httpx.RemoteProtocolError):
        read(split(data, cuts), eof=True)
