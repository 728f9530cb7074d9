"""A proxy that is told to stop takes leave: readiness first, then the listener, then what is under way."""

import asyncio
import logging

import httpx
import pytest

from tests.fakes import FakeProvider, reply
from tests.support.outbox_factories import ScriptedPort
from tests.support.proxies import ASK_BYTES, STREAM_BYTES, Server, chunked, connected, request_bytes
from tests.support.streams import DELTA, END, SSE, START
from tests.support.waiting import wait_until

ADMIN = "admin-token-of-this-test-0123456789"
WHOLE = START + DELTA * 3 + END
HANGS = reply.raw(WHOLE, content_type=SSE).cut("hang", "bytes", len(START + DELTA))
PAUSES = reply.raw(WHOLE, content_type=SSE).pausing(300, "bytes", len(START + DELTA))


async def test_readiness_fails_at_once_and_requests_are_served_on(server: Server, anthropic: FakeProvider) -> None:
    """From the stop on, /readyz says 503 while the listener stays open, and each answer closes its connection."""
    served = await server.start(anthropic=anthropic, variables={"DRAIN_DELAY": "60m"})
    ready = await served.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (200, "ready")
    assert "connection" not in ready.headers
    stop = asyncio.create_task(served.proxy.stop())
    await asyncio.sleep(0)
    ready = await served.http.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    answer = await served.ask()
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")
    assert (await served.http.get("/livez")).status_code == 200
    served.proxy.stop_now()
    await stop
    with pytest.raises(httpx.ConnectError):
        await served.http.get("/livez")


async def test_a_stream_under_way_comes_whole(server: Server, anthropic: FakeProvider) -> None:
    """The listener closes after the delay; an answer that has begun before goes on to its end."""
    served = await server.start(anthropic=anthropic, variables={"DRAIN_DELAY": "20ms"})
    anthropic.script(PAUSES)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"content_block_delta")
        stop = asyncio.create_task(served.proxy.stop())
        assert chunked(await wire.to_the_end()) == WHOLE
        await stop
    assert served.told == [("anthropic", "ok", "")]


async def test_what_the_stop_breaks_off_ends_with_an_error_and_is_accounted(
    server: Server, anthropic: FakeProvider
) -> None:
    """A stream that outlasts DRAIN_TIMEOUT gets an error event, and its attempt an end with the tokens so far."""
    port = ScriptedPort()
    served = await server.start(anthropic=anthropic, port=port, variables={"DRAIN_TIMEOUT": "50ms"})
    anthropic.script(HANGS)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"content_block_delta")
        await served.proxy.stop()
        got = chunked(await wire.to_the_end())
    assert got.startswith(START + DELTA)
    assert b'\n\nevent: error\ndata: {"type":"error"' in got
    assert got.endswith(b"}\n\n")
    assert served.told == [("anthropic", "aborted", "")]
    assert [event.seq for event in port.events()] == [1, 2]


async def test_a_request_without_an_answer_is_told_to_come_again(server: Server, anthropic: FakeProvider) -> None:
    """Before commit the client gets a 503 that it may retry."""
    served = await server.start(anthropic=anthropic, variables={"DRAIN_TIMEOUT": "50ms"})
    anthropic.script(reply.hang("request"))
    async with connected(served) as wire:
        await wire.send(request_bytes(ASK_BYTES))
        await anthropic.wait_until_async(lambda: len(anthropic.requests) == 1)
        await served.proxy.stop()
        head, _, body = (await wire.to_the_end()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503 ")
    assert b"x-should-retry: true" in head
    assert b"connection: close" in head
    assert b"api_error" in body


async def test_a_second_signal_hurries(server: Server, anthropic: FakeProvider) -> None:
    """Neither the delay nor the limit is waited for; the client is told, the ledger too."""
    served = await server.start(anthropic=anthropic, variables={"DRAIN_DELAY": "60m", "DRAIN_TIMEOUT": "60m"})
    anthropic.script(HANGS)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"content_block_delta")
        stop = asyncio.create_task(served.proxy.stop())
        await asyncio.sleep(0)
        served.proxy.stop_now()
        await stop
        assert b"event: error" in await wire.to_the_end()
    assert served.told == [("anthropic", "aborted", "")]


async def test_an_upload_is_broken_off_too(server: Server, anthropic: FakeProvider) -> None:
    """A body that comes in pieces keeps no process alive."""
    served = await server.start(anthropic=anthropic, variables={"DRAIN_TIMEOUT": "50ms"})
    async with connected(served) as wire:
        await wire.send(b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\nbeginning")
        await wait_until(lambda: bool(served.proxy._server and served.proxy._server.server_state.tasks))
        await served.proxy.stop()
        assert (await wire.to_the_end()).startswith(b"HTTP/1.1 503 ")


@pytest.mark.parametrize("path", ["/logs/stream", "/admin/api/live"])
async def test_a_stream_without_an_end_ends_with_the_process(
    server: Server, anthropic: FakeProvider, path: str
) -> None:
    """Who follows the log or the live feed holds no stop: it ends by itself, whole, long before DRAIN_TIMEOUT."""
    variables = {"ADMIN_TOKEN": ADMIN, "DRAIN_TIMEOUT": "60m"}
    served = await server.start(anthropic=anthropic, variables=variables)
    logging.getLogger("ccproxy").warning("a line to begin with")
    async with served.http.stream("GET", path, headers={"authorization": f"Bearer {ADMIN}"}) as answer:
        lines = answer.aiter_lines()
        await anext(lines)
        async with asyncio.timeout(30):
            await served.proxy.stop()
            async for _ in lines:
                pass
    assert answer.status_code == 200


async def test_a_stream_whose_content_never_came_ends_with_an_error(server: Server, anthropic: FakeProvider) -> None:
    """Its head has gone, so that no status can tell that the proxy stops."""
    served = await server.start(anthropic=anthropic, head_after_ms=50)
    anthropic.script(reply.hang("message_start"))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"event: ping")
        stop = asyncio.create_task(served.proxy.stop())
        await asyncio.sleep(0)
        served.proxy.stop_now()
        got = chunked(await wire.until(b"0\r\n\r\n"))
        await stop
    assert b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error"' in got
    assert served.told == [("anthropic", "aborted", "")]
