"""Clients of the odder kinds, on real connections through the whole proxy: HTTP/1.0, offered upgrades, awaited 100s,
pipelining, trailers, idle connections.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK_BYTES, STREAM_BYTES, Server, Serving, connected
from tests.support.reading import until_read

H2C = "connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA\r\n"
WEBSOCKET = (
    "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
    "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
LAST = "connection: close\r\n"


def post(body: bytes, headers: str = "", *, version: str = "1.1", chunked: bool = False) -> tuple[bytes, bytes]:
    """Head and body of a request for a message."""
    framing = "transfer-encoding: chunked\r\n" if chunked else f"content-length: {len(body)}\r\n"
    head = f"POST /v1/messages HTTP/{version}\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    sent = b"%x;part=1\r\n%b\r\n0\r\nx-trailer: t\r\n\r\n" % (len(body), body) if chunked else body
    return f"{head}{headers}{framing}\r\n".encode(), sent


async def told(served: Serving, *pieces: bytes) -> bytes:
    """All that comes until the proxy closes; each piece is read before the next one is sent."""
    async with connected(served) as wire:
        for piece in pieces:
            await wire.send(piece)
            await until_read(served.connections, wire.reader, wire.writer)
        return await wire.to_the_end()


# -- HTTP/1.0


@pytest.mark.parametrize("kept", ["", "connection: keep-alive\r\n"])
async def test_http_1_0_gets_no_chunks(server: Server, anthropic: FakeProvider, kept: str) -> None:
    """A stream of unknown length goes on until the connection ends; one with a length has its length."""
    served = await server.start(anthropic=anthropic)
    for body in (STREAM_BYTES, ASK_BYTES):
        head, _, got = (await told(served, b"".join(post(body, kept, version="1.0")))).partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head
        assert b"connection: close" in head.split(b"\r\n")
        assert (b"content-length" in head) == (body is ASK_BYTES)
        if body is ASK_BYTES:
            assert msgspec.json.decode(got)["type"] == "message"
        else:
            assert got.startswith(b"event: message_start\n")
            assert b"\nevent: message_stop\n" in got
    assert [outcome for _, outcome, _ in served.told] == ["ok", "ok"]


@pytest.mark.parametrize("path", ["/", "/livez", "/v1/nowhere%2f", "/dashboard"])
async def test_http_1_0_gets_no_chunks_elsewhere(server: Server, path: str) -> None:
    """What the proxy itself answers neither."""
    served = await server.start()
    got = await told(served, f"GET {path} HTTP/1.0\r\n\r\n".encode())
    assert got.startswith(b"HTTP/1.1 ")
    assert b"transfer-encoding" not in got


# -- upgrades, and a 100 that is waited for


@pytest.mark.parametrize("headers", [H2C, WEBSOCKET, H2C + "expect: 100-continue\r\n"], ids=["h2c", "ws", "h2c, 100"])
@pytest.mark.parametrize("framing", ["length", "chunks"])
@pytest.mark.parametrize("parts", [1, 2])
async def test_an_offered_upgrade_costs_no_body(
    server: Server, anthropic: FakeProvider, headers: str, framing: str, parts: int
) -> None:
    """It is ignored; the body arrives whole, nothing of the offer goes upstream, and the connection goes on."""
    served = await server.start(anthropic=anthropic)
    head, body = post(ASK_BYTES, headers, chunked=framing == "chunks")
    last = b"".join(post(ASK_BYTES, LAST))
    got = await told(served, *((head, body) if parts == 2 else (head + body,)), last)
    assert got.count(b"HTTP/1.1 200 ") == 2
    assert [request.body for request in anthropic.requests] == [ASK_BYTES, ASK_BYTES]
    names = {name.lower() for request in anthropic.requests for name, _ in request.headers}
    assert names.isdisjoint({"upgrade", "http2-settings", "expect", "sec-websocket-key", "x-trailer"})


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_websocket_is_an_ordinary_request(server: Server, anthropic: FakeProvider, method: str) -> None:
    """Nobody speaks it here: the answer is one of HTTP, and the connection goes on."""
    served = await server.start(anthropic=anthropic)
    offered = f"{method} /v1/models HTTP/1.1\r\nhost: localhost\r\n{WEBSOCKET}\r\n".encode()
    got = await told(served, offered, b"".join(post(ASK_BYTES, LAST)))
    assert b"HTTP/1.1 101" not in got
    assert got.count(b"HTTP/1.1 ") == 2


async def test_a_100_comes_before_the_body(server: Server, anthropic: FakeProvider) -> None:
    """A client that waits for it gets it, and its request is served; with HTTP/1.0 there is none."""
    served = await server.start(anthropic=anthropic)
    head, body = post(ASK_BYTES, LAST + "expect: 100-continue\r\n")
    async with connected(served) as wire:
        await wire.send(head)
        assert await wire.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(body)
        assert b"\r\n\r\nHTTP/1.1 200 " in await wire.to_the_end()
    old = await told(served, b"".join(post(ASK_BYTES, "expect: 100-continue\r\n", version="1.0")))
    assert old.startswith(b"HTTP/1.1 200 ")


# -- what is no call of the API


@pytest.mark.parametrize("keys", ["", "alice:0123456789abcdef0123"])
@pytest.mark.parametrize("origin", ["", "origin: https://app.example\r\naccess-control-request-method: POST\r\n"])
async def test_options_spend_no_key(server: Server, anthropic: FakeProvider, origin: str, keys: str) -> None:
    """They are answered here, whoever asks: to a preflight of an allowed origin with what it needs."""
    variables = {"PROXY_API_KEYS": keys, "ALLOWED_ORIGINS": "https://app.example"}
    served = await server.start(anthropic=anthropic, variables=variables)
    for path in ("/v1/messages", "/v1/models", "/v1/files/file_1", "/v1/anything"):
        got = await told(served, f"OPTIONS {path} HTTP/1.1\r\nhost: localhost\r\n{origin}{LAST}\r\n".encode())
        assert got.startswith(b"HTTP/1.1 204 ")
        assert (b"access-control-allow-origin: https://app.example" in got) == bool(origin)
    assert (anthropic.requests, served.told) == ([], [])


@pytest.mark.parametrize(
    ("path", "methods", "allowed"),
    [
        ("/v1/messages", ("GET", "HEAD", "PUT", "PATCH", "DELETE"), "POST"),
        ("/v1/messages/", ("GET",), "POST"),
        ("/v1/messages/count_tokens?beta=true", ("GET", "DELETE"), "POST"),
        ("/v1/models", ("POST", "DELETE", "PUT"), "GET, HEAD"),
    ],
)
async def test_methods_that_there_are_not_spend_no_key(
    server: Server, anthropic: FakeProvider, path: str, methods: tuple[str, ...], allowed: str
) -> None:
    """A 405 that names the right ones, in Anthropic's shape."""
    served = await server.start(anthropic=anthropic)
    for method in methods:
        answer = await served.http.request(method, path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)
        assert method == "HEAD" or answer.json()["error"]["type"] == "invalid_request_error"
    assert (anthropic.requests, served.told) == ([], [])


# -- one connection, several requests


async def test_pipelined_requests_are_answered_in_order(server: Server, anthropic: FakeProvider) -> None:
    """Streams, whole answers, refusals and answers without a body, each by its own framing."""
    served = await server.start(anthropic=anthropic)
    asked = [
        b"".join(post(STREAM_BYTES)),
        b"GET http://localhost/livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"".join(post(ASK_BYTES, chunked=True)),
        b"OPTIONS /v1/messages HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"HEAD /livez HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /nowhere HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    ]
    got = await told(served, b"".join(asked))
    assert re.findall(rb"HTTP/1\.1 (\d+) ", got) == [b"200", b"200", b"200", b"204", b"200", b"404"]
    assert [request.path for request in anthropic.requests] == ["/v1/messages", "/v1/messages"]


async def test_a_stream_is_not_mixed_with_the_next_answer(server: Server, anthropic: FakeProvider) -> None:
    """What is pipelined behind a stream waits for its end."""
    anthropic.script(reply.message("slowly").in_chunks(100, drip_ms=5))
    served = await server.start(anthropic=anthropic)
    got = await told(served, b"".join((*post(STREAM_BYTES), *post(ASK_BYTES, LAST))))
    stream, _, whole = got.partition(b"0\r\n\r\n")
    assert b"message_stop" in stream
    assert whole.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/health"])
async def test_a_balancer_may_ask_by_head(server: Server, path: str) -> None:
    """Health is told by a status, without a body, and the connection goes on."""
    served = await server.start()
    asked = f"HEAD {path} HTTP/1.1\r\nhost: localhost\r\n"
    got = await told(served, f"{asked}\r\n{asked}{LAST}\r\n".encode())
    assert re.findall(rb"HTTP/1\.1 (\d+) ", got) == [b"200", b"200"]
    assert got.endswith(b"\r\n\r\n")


# -- idle connections


@asynccontextmanager
async def idle(served: Serving) -> AsyncIterator[asyncio.StreamReader]:
    """A connection whose first request was answered."""
    async with connected(served) as wire:
        await wire.send(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
        await wire.until(b"\r\n\r\n")
        yield wire.reader


async def test_idle_connections_are_kept_as_long_as_the_settings_say(server: Server) -> None:
    """By default for longer than load balancers keep theirs."""
    served = await server.start(variables={"PROXY_KEEP_ALIVE_MS": "60"})
    began_s = time.monotonic()
    async with idle(served) as reader:
        await asyncio.wait_for(reader.read(), 10)
    assert time.monotonic() - began_s >= 0.06
    usual = await server.start()
    async with idle(usual):
        [connection] = usual.connections
        assert connection.timeout_keep_alive == 650
