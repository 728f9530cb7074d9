"""Heads, URLs and trailers without end, clients that dribble or stop sending: bounded, each with its answer."""

import asyncio
import gc
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from service.edge import connection as module
from service.edge.connection import ClientConnection
from tests.attacks.raw import answer, byte_provider, raw_client, request
from tests.support.proxies import ASK, ASK_BYTES, Server, Serving
from tests.support.served import served
from tests.support.waiting import wait_until

LINE = b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1\r\n"
LENGTH = b"content-length: %d\r\n\r\n" % len(ASK_BYTES)


def endless(start: bytes, part: bytes, size: int = 4_000_000) -> bytes:
    """Bytes that begin so and go on like this."""
    return start + part * (size // len(part))


CHUNKED = LINE + b"transfer-encoding: chunked\r\n\r\n"
TOO_LARGE = {
    "a header without end": (431, endless(LINE + b"x-a: ", b"a" * 1_000)),
    "a name without end": (431, endless(LINE, b"a" * 1_000)),
    "headers without end": (431, endless(LINE, b"x-a: " + b"b" * 1_000 + b"\r\n")),
    "tiny headers without end": (431, endless(LINE, b"a:\r\n")),
    "headers over the bound, whole": (431, LINE + (b"x-a: " + b"b" * 700 + b"\r\n") * 95 + LENGTH + ASK_BYTES),
    "one header over the bound, whole": (431, LINE + b"x-a: " + b"b" * 65_600 + b"\r\n" + LENGTH + ASK_BYTES),
    "too many headers, whole": (431, LINE + b"a: b\r\n" * 300 + LENGTH + ASK_BYTES),
    "a path without end": (414, endless(b"GET /v1/", b"a" * 1_000)),
    "a query without end": (414, endless(b"GET /v1/models?", b"a" * 1_000)),
    "a path over the bound, whole": (414, b"GET /v1/" + b"a" * 16_384 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
    "an absolute URL over the bound": (414, b"GET http://" + b"h" * 16_384 + b"/ HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"),
    "trailers without end": (431, endless(CHUNKED + b"0\r\n", b"a: " + b"b" * 1_000 + b"\r\n")),
    "a trailer without end": (431, endless(CHUNKED + b"0\r\nx-a: ", b"b" * 1_000)),
    "an extension without end": (431, endless(CHUNKED + b"1;a=", b"b" * 1_000)),
}


def connection_of(served: Serving) -> ClientConnection:
    """The proxy's end of the only connection."""
    assert served.proxy._server
    [connection] = served.proxy._server.server_state.connections
    assert isinstance(connection, ClientConnection)
    return connection


def held_by(connection: ClientConnection) -> int:
    """The bytes of a body that nobody has asked for."""
    return connection._cycle.buffered_bytes if connection._cycle else 0


@pytest.mark.parametrize("name", TOO_LARGE)
async def test_what_is_too_large_is_refused_before_it_is_held(server: Server, name: str) -> None:
    """The client reads why, though it still sends; 4 MB leave less than a fraction of that in memory."""
    status, sent = TOO_LARGE[name]
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            sending = asyncio.ensure_future(client.send(sent))
            told = await client.receive()
            assert (told.status, told.json["error"]["type"]) == (status, "invalid_request_error")
            connection = connection_of(served)
            assert len(connection.url) < 300_000
            assert len(connection.headers) < 70_000
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    assert provider.seen == []


async def test_the_message_names_the_setting(server: Server) -> None:
    """And the settings decide."""
    served = await server.start(variables={"MAX_HEAD_BYTES": "4096", "MAX_URL_BYTES": "1024"})
    for sent, name in (
        (b"GET /" + b"a" * 1_024 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", "MAX_URL_BYTES"),
        (b"GET / HTTP/1.1\r\nhost: 127.0.0.1\r\nx-a: " + b"a" * 4_096 + b"\r\n\r\n", "MAX_HEAD_BYTES"),
    ):
        async with raw_client(served.url) as client:
            assert name in (await client.ask(sent)).json["error"]["message"]


async def test_what_is_just_within_the_bounds_is_served(server: Server) -> None:
    """A long query, and headers up to 64 KB."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            assert (await client.ask(request(ASK, "/v1/messages?a=" + "b" * 16_000))).status == 200
            headers = {f"x-{number}": "b" * 900 for number in range(70)}
            assert (await client.ask(request(ASK, headers=headers))).status == 200
    assert len(provider.seen[0].target) == len("/v1/messages?a=") + 16_000


async def test_chunks_of_two_bytes_take_no_more_than_their_body(server: Server) -> None:
    """What is buffered unasked is bounded in memory, not in bytes of content."""
    head = LINE + b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    served = await server.start()
    async with raw_client(served.url) as client:
        await client.send(head)
        gc.collect()
        tracemalloc.start()
        try:
            await client.send(b"2\r\nab\r\n" * 100_000)
            await wait_until(lambda: held_by(connection_of(served)) >= 200_000)
            assert tracemalloc.get_traced_memory()[0] < 2_000_000
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(b"GET /livez HTTP/1.1\r\nx-a: ", id="head"),
        pytest.param(LINE + b"content-length: 1000\r\n\r\n", id="body"),
        pytest.param(LINE + b"content-type: application/json\r\ncontent-length: 1000\r\n\r\n", id="JSON"),
        pytest.param(CHUNKED + b"1;a=", id="extension"),
    ],
)
async def test_one_byte_a_minute_does_not_keep_a_connection(server: Server, said: bytes) -> None:
    """Each byte used to begin a new minute; now the head has one in all, and a body has to make progress."""
    async with byte_provider() as provider, AsyncExitStack() as stack:
        served = await server.start(anthropic=provider.base_url)
        client = await stack.enter_async_context(raw_client(served.url))
        await client.send(said)
        for passed_s in (30.0, 31.0):
            await client.send(b"a")
            await client.until_read(served)
            connection = connection_of(served)
            connection._since_s -= passed_s
            connection.close_if_slow()
        told = await client.receive()
        assert (told.status, told.json["error"]["type"]) == (408, "timeout_error")
        assert await client.closed() == b""


async def test_who_reads_nothing_is_dropped(server: Server) -> None:
    """Closing a connection waits until all that was written is read, which may be never."""
    body = b'{"type":"message","content":"' + b"x" * 8_000_000 + b'"}'
    async with byte_provider(lambda _: answer(body)) as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined] # a socket's has it
            await client.send(request(ASK))
            await wait_until(lambda: served.ends)
            connection = connection_of(served)
            connection.close_if_slow()
            assert connection.transport.get_write_buffer_size() > 1_000_000
            connection._unread_since_s -= 301
            connection.close_if_slow()
            await wait_until(lambda: not connection.server_state.connections, patience_s=5)


@pytest.mark.parametrize("target", ["/v1/messages", "/livez"])
@pytest.mark.parametrize("number", [1, 2])
async def test_a_client_that_half_closes_gets_its_answer(server: Server, target: str, number: int) -> None:
    """Also the answers to requests that it sent before."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            method = "POST" if target == "/v1/messages" else "GET"
            await client.send(request(ASK, target, method) * number)
            client.writer.write_eof()
            assert [(await client.receive()).status for _ in range(number)] == [200] * number
            assert await client.closed() == b""
    assert not served.open_attempts()


async def test_a_half_closed_client_is_probed_while_it_waits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `100 Continue`, which means nothing to one that is there; one that has gone is noticed by it."""
    monkeypatch.setattr(module, "PROBES_S", (0.01, 0.01))
    async with silent_provider() as port:
        served = await server.start(anthropic=f"http://127.0.0.1:{port}", request_ms=2_000)
        async with raw_client(served.url) as client, raw_client(served.url) as leaving:
            for each in (client, leaving):
                await each.send(request(ASK))
            client.writer.write_eof()
            assert [(await client.receive()).status for _ in range(2)] == [100, 100]
            leaving.writer.close()
            await wait_until(lambda: [end.outcome for _, end in served.ends] == ["aborted"], patience_s=1.5)
            while (told := await client.receive()).status == 100:
                pass
            assert told.status == 504
            assert await client.closed() == b""


@asynccontextmanager
async def silent_provider() -> AsyncIterator[int]:
    """A provider that takes requests and answers none."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with served(take) as port:
        yield port
