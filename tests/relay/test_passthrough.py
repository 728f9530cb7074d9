"""Bodies that are passed on as they come: each part at once, and nothing is lost at the end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from service.http1.upstream import UpstreamError
from tests.support.fake_upstream import reply, stream
from tests.support.proxies import Server, Serving, connected
from tests.support.relay_harness import ASK, ONLY_ANTHROPIC, STREAM, MemoryClient, RelayFactory
from tests.support.served import served
from tests.support.streams import DELTA, END, START
from tests.support.waiting import wait_until

EVENTS = "/v1/sessions/sesn_01abc0/events/stream"
RESULTS = "/v1/messages/batches/msgbatch_013Zva2CMHLNnXjNJJKqJ2EF/results"
CHUNKED, UNTIL_CLOSE = b"transfer-encoding: chunked\r\n", b"connection: close\r\n"


class SteppedProvider:
    """A provider that sends the parts of one answer one by one, as it is told to."""

    def __init__(self, content_type: str, framing: bytes) -> None:
        self.port = 0
        self.parts = asyncio.Queue[bytes | None]()
        """None resets the connection; b"" ends the answer."""
        self._head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n" % (content_type.encode(), framing)
        self._chunks = framing == CHUNKED

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(self._head)
        while part := await self.parts.get():
            writer.write(b"%x\r\n%b\r\n" % (len(part), part) if self._chunks else part)
        if part is None:
            writer.transport.abort()
            return
        writer.write(b"0\r\n\r\n" if self._chunks else b"")
        writer.close()


@asynccontextmanager
async def stepped(content_type: str, framing: bytes = CHUNKED) -> AsyncIterator[SteppedProvider]:
    """Such a provider on this loop."""
    provider = SteppedProvider(content_type, framing)
    async with served(provider.serve) as provider.port:
        yield provider


async def started(server: Server, provider: SteppedProvider, transport: str = "lean", **timeouts: Any) -> Serving:
    """A proxy before it."""
    variables = {"UPSTREAM_TRANSPORT": transport}
    return await server.start(anthropic=f"http://127.0.0.1:{provider.port}", variables=variables, **timeouts)


def request(method: str, path: str) -> bytes:
    """A request without a body that matters."""
    body = b"" if method == "GET" else b"{}"
    head = f"{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("transport", ["lean", "httpx"])
@pytest.mark.parametrize("framing", [CHUNKED, UNTIL_CLOSE], ids=["chunks", "until close"])
@pytest.mark.parametrize(
    ("method", "path", "content_type"),
    [
        ("GET", EVENTS, "text/event-stream; charset=utf-8"),
        ("POST", "/v1/complete", "text/event-stream"),
        ("GET", "/v1/models/x/events", "text/event-stream"),
        ("GET", "/v1/files/file_011CNha8iCJcU1wXNR6q4V8w/events", "text/event-stream"),
        ("GET", "/v1/logs", "application/x-ndjson"),
        ("GET", "/v1/unknown", "application/vnd.unknown"),
        ("GET", RESULTS, "application/x-jsonl"),
    ],
    ids=["session events", "completions", "models", "files", "json lines", "unknown", "batch results"],
)
async def test_each_part_comes_at_once(
    server: Server, method: str, path: str, content_type: str, framing: bytes, transport: str
) -> None:
    """A part is there before the provider sends the next one, and the last one before it ends the answer."""
    async with stepped(content_type, framing) as provider:
        served = await started(server, provider, transport)
        async with connected(served) as wire:
            await wire.send(request(method, path))
            for number in range(3):
                provider.parts.put_nowait(b'data: {"n": %d}\n\n' % number)
                await wire.until(b'"n": %d}\n\n' % number)
            provider.parts.put_nowait(b"")
            assert (await wire.until(b"\r\n0\r\n\r\n")).count(b"data:") == 3
    assert served.told == [("anthropic", "ok", "")]


@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_what_came_before_a_break_is_there(server: Server, transport: str) -> None:
    """A provider that breaks off takes no event back, and the answer has no end."""
    async with stepped("text/event-stream") as provider:
        served = await started(server, provider, transport)
        async with connected(served) as wire:
            await wire.send(request("GET", EVENTS))
            provider.parts.put_nowait(b"data: one\n\n")
            await wire.until(b"data: one\n\n")
            provider.parts.put_nowait(b"data: two\n\n")
            await wire.until(b"data: two\n\n")
            provider.parts.put_nowait(None)
            assert not (await wire.to_the_end()).endswith(b"0\r\n\r\n")
    await wait_until(lambda: served.told == [("anthropic", "failed", "reset")])


@pytest.mark.parametrize("transport", ["lean", "httpx"])
async def test_silence_is_the_providers_business(server: Server, transport: str) -> None:
    """An event stream that is silent for longer than an answer may be goes on; its client is told that it lives."""
    async with stepped("text/event-stream") as provider:
        served = await started(server, provider, transport, idle_ms=40, ping_ms=30)
        async with connected(served) as wire:
            await wire.send(request("GET", EVENTS))
            provider.parts.put_nowait(b"data: one\n\n")
            await wait_until(provider.parts.empty)
            while wire.got.count(b": ping\n\n") < 4:
                wire.got += await asyncio.wait_for(wire.reader.read(4096), 10)
            provider.parts.put_nowait(b"data: two\n\n")
            await wire.until(b"data: two\n\n")
            provider.parts.put_nowait(b"")
            await wire.until(b"0\r\n\r\n")
    assert served.told == [("anthropic", "ok", "")]


async def test_no_comment_comes_into_an_event(relays: RelayFactory) -> None:
    """Silence within an event is left as it is."""
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(stream(b"data: o", 100.0, b"ne\n\n", 40.0, b"data: two\r\n\r\n", 20.0))
    client = await relay.ask(b"", EVENTS, endpoint="other", method="GET")
    ping = b": ping\n\n"
    assert client.parts == [b"data: o", b"ne\n\n", ping, ping, b"data: two\r\n\r\n", ping]


async def test_a_client_that_leaves_a_silent_stream_is_accounted(server: Server) -> None:
    """Its attempt ends as aborted, and the provider's connection is closed."""
    async with stepped("text/event-stream") as provider:
        served = await started(server, provider)
        async with connected(served) as wire:
            await wire.send(request("GET", EVENTS))
            provider.parts.put_nowait(b"data: one\n\n")
            await wire.until(b"data: one\n\n")
        await wait_until(lambda: served.told == [("anthropic", "aborted", "")])
        provider.parts.put_nowait(b"")


@pytest.mark.parametrize("length", [6, None])
async def test_nobody_holds_a_whole_body_before_the_ledger_does(relays: RelayFactory, length: int | None) -> None:
    """With a known length the part that completes it is held back; else the end is."""
    relay = relays.make(ONLY_ANTHROPIC)
    headers = {"content-length": str(length)} if length else {}
    relay.upstream.script(stream(b"ab", b"cdef", content_type="text/plain", headers=headers))
    client, seen = MemoryClient(), list[tuple[list[bytes], int]]()
    client.at_end = lambda: seen.append((list(client.parts), len(relay.ended)))
    await relay.ask(b"", "/v1/files/file_1/content", client, endpoint="files", method="GET")
    assert seen == [([b"ab"] if length else [b"ab", b"cdef"], 1)]
    assert client.parts == [b"ab", b"cdef"]


async def test_a_body_that_breaks_before_its_length_is_there_so_far(relays: RelayFactory) -> None:
    """What came is passed on, and the answer is cut."""
    relay = relays.make(ONLY_ANTHROPIC)
    broken = UpstreamError("reset", "broken")
    relay.upstream.script(stream(b"ab", b"cd", broken, content_type="text/plain", headers={"content-length": "6"}))
    client = await relay.ask(b"", "/v1/files/file_1/content", endpoint="files", method="GET")
    assert (client.body, client.broken, client.ended) == (b"abcd", True, False)


@pytest.mark.parametrize("status", [204, 205])
@pytest.mark.parametrize(("endpoint", "path"), [("files", "/v1/files/file_1"), ("other", "/v1/skills/skill_1")])
async def test_an_answer_without_content_passes_by_its_status(
    relays: RelayFactory, status: int, endpoint: str, path: str
) -> None:
    """Whatever type it says that the content has which it has not."""
    relay = relays.make(ONLY_ANTHROPIC)
    relay.upstream.script(reply(b"", status))
    client = await relay.ask(b"", path, endpoint=endpoint, method="DELETE")
    assert (client.status, client.body, client.ended) == (status, b"", True)
    assert b"content-length" not in client.headers
    assert relay.ended == [("anthropic", "ok", "")]


@pytest.mark.parametrize("body", [ASK, STREAM], ids=["whole", "stream"])
async def test_no_content_is_no_message(relays: RelayFactory, body: dict[str, Any]) -> None:
    """Where a message was asked for, another route is."""
    relay = relays.make()
    relay.upstream.script(reply(b"", 204), stream(START, DELTA, END) if body is STREAM else reply())
    client = await relay.ask(body)
    assert client.status == 200
    assert relay.ended == [("anthropic", "failed", "bad_answer"), ("zai", "ok", "")]
