"""The head of a stream that goes before its content, on the wire: framing, half-closed and old clients, the log."""

import logging

import msgspec
import pytest

from service.edge.request_log import RequestLogEvent
from tests.fakes import FakeProvider, reply
from tests.support.proxies import STREAM_BYTES, Server, chunked, connected, request_bytes
from tests.support.streams import DELTA, END, SSE, START
from tests.support.waiting import wait_until

LATE = reply.raw(START + DELTA + END, content_type=SSE).pausing(400, "bytes", len(START))


async def test_a_connection_serves_again_behind_an_early_head(server: Server, anthropic: FakeProvider) -> None:
    """An answer, and a failure: both are framed to their end."""
    served = await server.start(anthropic=anthropic, head_after_ms=50)
    anthropic.script(LATE, reply.error(529).pausing(200), LATE)
    async with connected(served) as wire:
        for ends_with in (END, b"\n\n", END):
            await wire.send(request_bytes(STREAM_BYTES))
            got = chunked(await wire.until(b"0\r\n\r\n"))
            assert got.startswith(b"event: ping\n")
            assert got.endswith(ends_with)
            wire.got = b""


async def test_a_client_that_half_closes_gets_its_late_answer(server: Server, anthropic: FakeProvider) -> None:
    """Its end of the connection was closed before the head went."""
    served = await server.start(anthropic=anthropic, head_after_ms=150)
    anthropic.script(LATE)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        wire.writer.write_eof()
        got = chunked(await wire.to_the_end())
    assert got.startswith(b"event: ping\n")
    assert got.endswith(END)


async def test_an_old_client_gets_no_chunks_behind_an_early_head(server: Server, anthropic: FakeProvider) -> None:
    """HTTP/1.0, as nginx speaks it by default: the end of the connection is the end of the answer."""
    served = await server.start(anthropic=anthropic, head_after_ms=50)
    anthropic.script(LATE)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES).replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = (await wire.to_the_end()).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert body.startswith(b"event: ping\ndata: ")
    assert body.endswith(END)


async def test_a_client_that_goes_behind_the_head_ends_the_attempt(server: Server, anthropic: FakeProvider) -> None:
    served = await server.start(anthropic=anthropic, head_after_ms=50)
    anthropic.script(reply.hang("message_start"))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"event: ping")
    await anthropic.wait_until_async(lambda: anthropic.requests[0].aborted)
    await wait_until(lambda: served.told == [("anthropic", "aborted", "")])


async def test_the_log_says_that_a_head_was_early(
    server: Server, anthropic: FakeProvider, caplog: pytest.LogCaptureFixture
) -> None:
    """And what no header could: the provider's id of the request."""
    caplog.set_level(logging.DEBUG, "ccproxy")
    served = await server.start(anthropic=anthropic, head_after_ms=50)
    anthropic.script(reply.message(), LATE, reply.error(529).pausing(200))
    answers = [await served.ask() for _ in range(3)]
    fields = [record.msg.fields() for record in caplog.records if isinstance(record.msg, RequestLogEvent)]
    up = [answered.request_id for answered in anthropic.served]
    assert [line["early_head"] for line in fields] == [False, True, True]
    assert [line["upstream_id"] for line in fields] == [None, *up[1:]]
    assert [line["status"] for line in fields] == [200, 200, 200]
    assert [line["verdict"] for line in fields] == ["ok", "ok", "provider_error"]
    assert f"request-id={up[1]}\n\n" in answers[1].text
    error = msgspec.json.decode(answers[2].text.rstrip().rpartition("data: ")[2])
    assert error["request_id"] == answers[2].headers["request-id"] == answers[2].headers["x-ccproxy-request-id"]


async def test_a_fault_of_our_own_behind_the_head_is_told(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client is not left with a broken connection, and nobody takes it for an answer."""
    served = await server.start(anthropic=anthropic, head_after_ms=50)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(served.parts.relay._verdicts, "send", broken)
    anthropic.script(reply.error(400).pausing(200))
    answer = await served.ask()
    assert "internal error" in answer.text
    found = (await served.http.get("/metrics")).text
    assert 'ccproxy_early_heads_total{verdict="provider_error"} 1.0' in found
