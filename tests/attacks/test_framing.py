"""Requests whose end two readers might see in different places: refused, and nothing behind them is read."""

import asyncio
import gzip
from collections.abc import Iterator

import pytest

from tests.attacks.raw import RawClient, answer, byte_provider, raw_client, request
from tests.support.proxies import ASK, ASK_BYTES, Server

SMUGGLED = b"DELETE /v1/files/file_011smuggled HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
JSON = b"content-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(ASK_BYTES)
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(ASK_BYTES), ASK_BYTES)


def post(*headers: bytes, body: bytes = ASK_BYTES, line: bytes = b"POST /v1/messages HTTP/1.1\r\n") -> bytes:
    """A request with these header lines."""
    return line + b"host: 127.0.0.1\r\n" + JSON + b"".join(headers) + b"\r\n" + body


def chunks(body: bytes) -> bytes:
    """A chunked request with this body as it is."""
    return post(CHUNKED, body=body)


def refused() -> Iterator[tuple[str, int, bytes]]:
    """What is refused, by its name, and the status of the refusal."""
    # two framings
    yield "length and chunks", 400, post(LENGTH, CHUNKED)
    yield "chunks and length", 400, post(CHUNKED, LENGTH, body=CHUNKS)
    yield "length twice", 400, post(LENGTH, b"content-length: 0\r\n")
    yield "length twice, the same", 400, post(LENGTH, LENGTH)
    yield "lengths in one line", 400, post(b"content-length: 5, 5\r\n")
    yield "chunks twice", 400, post(CHUNKED, CHUNKED, body=CHUNKS)
    yield "chunks twice in one line", 400, post(b"transfer-encoding: chunked, chunked\r\n", body=CHUNKS)
    # lengths that are none
    for value in (
        b"+5",
        b"-5",
        b"0x5",
        b"5e0",
        b"5.0",
        b"5 5",
        b"5;",
        b"'5'",
        b"",
        b"9" * 30,
        b"\x0b5",
        b"5\x0c",
        b"five",
    ):
        yield f"length {value!r}", 400, post(b"content-length: " + value + b"\r\n")
    # codings that are none, or not chunks alone
    for value in (
        b"gzip, chunked", b"chunked, gzip", b"gzip", b"identity", b"identity, chunked", b"xchunked", b"chunkedx",
        b'"chunked"', b"chunked;q=1", b"", b", chunked", b"chunked,", b"\x0bchunked", b"chunk ed",
    ):  # fmt: skip
        yield f"coding {value!r}", 400, post(b"transfer-encoding: " + value + b"\r\n", body=CHUNKS)
    yield "coding in two lines", 400, post(b"transfer-encoding: gzip\r\n", CHUNKED, body=CHUNKS)
    yield "chunks in HTTP/1.0", 400, post(CHUNKED, body=CHUNKS, line=b"POST /v1/messages HTTP/1.0\r\n")
    # lines that end elsewhere for others
    yield "blank before the colon", 400, post(b"content-length : 5\r\n")
    yield "blank before the colon of a coding", 400, post(b"transfer-encoding : chunked\r\n", body=CHUNKS)
    yield "folded header", 400, post(b"x-a: b\r\n c\r\n", LENGTH)
    yield "folded length", 400, post(b"content-length:\r\n 5\r\n")
    yield "folded coding", 400, post(b"transfer-encoding:\r\n chunked\r\n", body=CHUNKS)
    yield "bare line feeds", 400, post(LENGTH).replace(b"\r\n", b"\n", 3)
    yield "bare line feed in a header", 400, post(b"x-a: b\ncontent-length: 5\r\n")
    yield "bare carriage return in a header", 400, post(b"x-a: b\rcontent-length: 5\r\n")
    yield "NUL in a value", 400, post(b"x-a: b\0c\r\n", LENGTH)
    yield "NUL in a name", 400, post(b"x\0a: b\r\n", LENGTH)
    yield "control in a value", 400, post(b"x-a: b\x01\r\n", LENGTH)
    yield "blank in a name", 400, post(b"x a: b\r\n", LENGTH)
    yield "no name", 400, post(b": b\r\n", LENGTH)
    yield "no colon", 400, post(b"content-length\r\n")
    yield "blank before the first header", 400, post(LENGTH).replace(b"\r\nhost", b"\r\n host")
    # chunks that are none
    for name, body in (
        ("0x1", b"0x1\r\na\r\n0\r\n\r\n"),
        ("+1", b"+1\r\na\r\n0\r\n\r\n"),
        ("-1", b"-1\r\na\r\n0\r\n\r\n"),
        ("blank before", b" 1\r\na\r\n0\r\n\r\n"),
        ("blank behind", b"1 \r\na\r\n0\r\n\r\n"),
        ("nothing", b"\r\na\r\n0\r\n\r\n"),
        ("beyond 64 bits", b"1" + b"0" * 16 + b"\r\na"),
        ("line feed", b"1\na\r\n0\r\n\r\n"),
        ("line feed behind its data", b"1\r\na\n0\r\n\r\n"),
        ("line feed in an extension", b"1;a\nb\r\na\r\n0\r\n\r\n"),
        ("carriage return in an extension", b"1;a\rb\r\na\r\n0\r\n\r\n"),
        ("NUL in an extension", b"1;a\0\r\na\r\n0\r\n\r\n"),
        ("longer than said", b"1\r\nabc\r\n0\r\n\r\n"),
        ("no empty line at the end", b"1\r\na\r\n0\r\n"),
        ("length as a trailer", b"0\r\ncontent-length: 5\r\n\r\n"),
        ("coding as a trailer", b"0\r\ntransfer-encoding: chunked\r\n\r\n"),
    ):
        yield f"chunk: {name}", 400, chunks(body)
    # one value read here, another sent on
    for header in (
        b"host: elsewhere", b"content-type: text/plain", b"content-encoding: gzip", b"x-api-key: b",
        b"authorization: b", b"x-ccproxy-key: b",
    ):  # fmt: skip
        first = header.partition(b":")[0] + b": a\r\n"
        yield f"twice: {header!r}", 400, post(first, header + b"\r\n", LENGTH)
        yield (
            f"of this hop alone: {first!r}",
            400,
            post(first, b"connection: x, " + first[:-5].title() + b"\r\n", LENGTH),
        )
    yield "length of this hop alone", 400, post(LENGTH, b"connection: close\r\n", b"connection: content-length\r\n")
    # methods and versions
    for method in (b"TRACE", b"CONNECT", b"PROPFIND", b"PURGE", b"QUERY", b"get", b"GOT", b"M-SEARCH", b"\x16\x03\x01"):
        yield f"method {method!r}", 405, post(LENGTH, line=method + b" /v1/messages HTTP/1.1\r\n")
    yield "CONNECT to an authority", 405, post(line=b"CONNECT 127.0.0.1:80 HTTP/1.1\r\n", body=b"")
    for version in (b"0.9", b"1.2", b"2.0", b"3.0", b"x.y"):
        yield f"version {version!r}", 505, post(LENGTH, line=b"POST /v1/messages HTTP/" + version + b"\r\n")
    yield "no version", 505, post(LENGTH, line=b"GET /v1/messages\r\n")
    yield "HTTP/2's preface", 505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for line in (b"http/1.1", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/1", b"ICE/1.0", b"HTTQ/1.1"):
        yield f"protocol {line!r}", 400, post(LENGTH, line=b"POST /v1/messages " + line + b"\r\n")
    yield "tab in the request line", 405, post(LENGTH, line=b"POST\t/v1/messages HTTP/1.1\r\n")
    yield "bytes in the target", 400, post(LENGTH, line=b"POST /v1/\xc3\xa9 HTTP/1.1\r\n")
    yield "control in the target", 400, post(LENGTH, line=b"POST /v1/\x01 HTTP/1.1\r\n")


CASES = list(refused())


def test_there_are_at_least_49_of_them() -> None:
    assert len(CASES) >= 49
    assert len({name for name, _, _ in CASES}) == len(CASES)


@pytest.mark.parametrize("how", ["whole", "byte by byte"])
async def test_framing_conflicts_are_refused(server: Server, how: str) -> None:
    """In Anthropic's shape; the connection closes, and neither the request nor what follows it reaches a provider."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        for name, status, sent in CASES:
            async with raw_client(served.url) as client:
                await say(client, sent + SMUGGLED, how)
                told = await client.receive()
                assert (told.status, told.json["type"], told.value(b"connection")) == (status, "error", b"close"), name
                assert await client.closed() == b"", name
    assert provider.seen == []


async def say(client: RawClient, data: bytes, how: str) -> None:
    """Send bytes in one piece, or each in a read of its own as far as a loop allows."""
    if how == "whole":
        await client.send(data)
        return
    for start in range(0, min(len(data), 400), 7):
        await client.send(data[start : start + 7])
        await asyncio.sleep(0)
    await client.send(data[400:])


TAKEN = [
    ("chunks", post(CHUNKED, body=CHUNKS)),
    ("CHUNKS", post(b"Transfer-Encoding: \tCHUNKED\r\n", body=CHUNKS)),
    ("blanks around a length", post(b"content-length: \t%d \t\r\n" % len(ASK_BYTES))),
    ("zeros before a length", post(b"content-length: 000%d\r\n" % len(ASK_BYTES))),
    ("extensions", post(CHUNKED, body=CHUNKS.replace(b"\r\n", b';a=b;c="d"\r\n', 1))),
    ("empty lines before", b"\r\n\r\n" + post(LENGTH)),
    ("a body on GET", post(LENGTH, line=b"GET /v1/models HTTP/1.1\r\n")),
    ("obsolete text in a value", post(LENGTH, b"x-a: \xff\r\n")),
]


async def test_what_is_well_formed_is_read_to_its_end(server: Server) -> None:
    """The controls: the same body arrives, and the next request on the connection is the next request."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        for name, sent in TAKEN:
            async with raw_client(served.url) as client:
                assert (await client.ask(sent + request(ASK_BYTES, "/v1/messages?second"))).status == 200, name
                assert (await client.receive()).status == 200, name
            assert [seen.body for seen in provider.seen] == [ASK_BYTES] * 2, name
            assert provider.seen[1].target == b"/v1/messages?second", name
            provider.seen.clear()


async def test_trailers_are_no_headers(server: Server) -> None:
    """They come behind what was decided: none is read here, and none goes up."""
    trailers = b"x-api-key: stolen\r\ncontent-encoding: gzip\r\nanthropic-beta: x\r\nx-claude-code-session-id: s\r\n"
    body = CHUNKS.removesuffix(b"\r\n") + trailers + b"\r\n"
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            assert (await client.ask(post(CHUNKED, body=body))).status == 200
    [seen] = provider.seen
    assert seen.body == ASK_BYTES
    for name in (b"content-encoding", b"anthropic-beta", b"x-claude-code-session-id"):
        assert seen.values(name) == []


async def test_two_encodings_never_reach_a_provider(server: Server) -> None:
    """One would be read here, the other there: another model, uncounted."""
    packed = gzip.compress(ASK_BYTES)
    twice = b"content-encoding: gzip\r\ncontent-encoding: identity\r\ncontent-length: %d\r\n" % len(packed)
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            assert (await client.ask(post(twice, body=packed))).status == 400
    assert provider.seen == []


async def test_a_refusal_waits_for_its_turn(server: Server) -> None:
    """It stands behind the answers that are due, never within one."""
    async with byte_provider(lambda _: answer()) as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            await client.send(request(ASK) + request(ASK) + b"nonsense\r\n\r\n" + SMUGGLED)
            told = [await client.receive() for _ in range(3)]
            assert [each.status for each in told] == [200, 200, 405]
            assert await client.closed() == b""
    assert len(provider.seen) == 2


async def test_a_body_that_breaks_behind_its_head_is_refused_by_its_reader(server: Server) -> None:
    """Whatever waits for it: a message, an upload on its way to the provider, the admin API."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        for target, kind in (
            ("/v1/messages", JSON),
            ("/v1/files", b"content-type: text/x\r\n"),
            ("/admin/api/x", JSON),
        ):
            async with raw_client(served.url) as client:
                head = f"POST {target} HTTP/1.1\r\nhost: 127.0.0.1\r\n".encode() + kind + CHUNKED
                await client.send(head + b"\r\n5\r\nabcde\r\n")
                await client.until_read(served)
                told = await client.ask(b"zz\r\n" + SMUGGLED)
                assert told.status in (400, 401, 404), target
                assert await client.closed() == b""
    assert provider.seen == []


async def test_nothing_is_read_behind_a_last_request(server: Server) -> None:
    """Neither behind `connection: close` nor behind HTTP/1.0."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        for last in (
            request(ASK, headers={"connection": "close"}),
            request(ASK, headers={"connection": "keep-alive, Close"}),
            request(ASK).replace(b"HTTP/1.1", b"HTTP/1.0"),
        ):
            async with raw_client(served.url) as client:
                assert (await client.ask(last + SMUGGLED)).status == 200
                assert await client.closed() == b""
    assert [seen.target for seen in provider.seen] == [b"/v1/messages"] * 3


async def test_a_flood_of_pipelined_requests_is_cut(server: Server) -> None:
    """Each costs a hundred times its bytes; a connection has a few that wait."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            await client.send(b"GET /livez HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" * 1_000)
            told = await client.closed()
        assert 64 <= told.count(b"HTTP/1.1 200 ") <= 66
        assert told.count(b"HTTP/1.1 400 ") == 1


async def test_a_refusal_ends_what_was_read_before_it_too(server: Server) -> None:
    """An answer that closes the connection is its last, also when others and a refusal wait behind it."""
    expecting = request(ASK, headers={"expect": "100-continue", "x-api-key": "wrong"})
    served = await server.start(variables={"PROXY_API_KEYS": "a:0123456789abcdef"})
    async with raw_client(served.url) as client:
        await client.send(expecting + request(ASK) + b"nonsense\r\n\r\n")
        told = [await client.receive() for _ in range(3)]
        assert [each.status for each in told] == [401, 401, 405]
        assert await client.closed() == b""
