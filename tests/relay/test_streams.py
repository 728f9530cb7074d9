"""Once content flows: bytes unchanged, pings between events alone, the end after the ledger, back-pressure kept."""

import pytest

from service.fleet import outbox
from tests.fakes import FakeProvider, reply
from tests.support.outbox_factories import ScriptedPort
from tests.support.proxies import ASK, ASK_BYTES, STREAM, STREAM_BYTES, Server, chunked, connected, request_bytes
from tests.support.streams import DELTA, END, SSE, START
from tests.support.waiting import at_rest, wait_until

PING = b'event: ping\ndata: {"type": "ping"}\n\n'
WHOLE = START + DELTA * 3 + END


@pytest.mark.parametrize(("chunk_bytes", "line_end"), [(0, b"\n"), (1, b"\n"), (7, b"\n"), (0, b"\r\n")])
async def test_bytes_pass_unchanged(server: Server, anthropic: FakeProvider, chunk_bytes: int, line_end: bytes) -> None:
    """However the stream is cut, the client gets the provider's bytes, comments, blanks and all."""
    body = (b": hello\n\n" + WHOLE.replace(b"}\n\n", b"}   \n\n")).replace(b"\n", line_end)
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.raw(body, content_type=SSE).in_chunks(chunk_bytes))
    answer = await served.ask()
    assert answer.content == body
    [(_, end)] = served.ends
    assert (end.outcome, end.tokens.input, end.tokens.output) == ("ok", 7, 9)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "deflate"])
async def test_a_stream_that_comes_compressed_is_decoded(
    server: Server, anthropic: FakeProvider, encoding: str
) -> None:
    """Compressed unasked, the stream reaches the client plain, and its usage is read."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.raw(WHOLE, content_type=SSE).compressed(encoding).in_chunks(3))  # type: ignore[arg-type]
    answer = await served.ask()
    assert answer.content == WHOLE
    assert "content-encoding" not in answer.headers
    assert served.ends[0][1].tokens.output == 9


async def test_pings_come_after_silence_between_events_alone(server: Server, anthropic: FakeProvider) -> None:
    """A silent stream gets pings at the end of an event, and never inside one; else it is unchanged."""
    served = await server.start(anthropic=anthropic, ping_ms=40)
    inside = len(START + DELTA) + 30
    scripted = (
        reply.raw(WHOLE, content_type=SSE).pausing(400, "bytes", len(START + DELTA)).pausing(200, "bytes", inside)
    )
    anthropic.script(scripted)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"message_stop")
        got = chunked(await wire.until(b"0\r\n\r\n"))
    rest = got.removeprefix(START + DELTA)
    assert rest.startswith(PING), "after the first silence"
    rest = rest.removeprefix(PING).replace(PING, b"")
    assert START + DELTA + rest == WHOLE
    second = got.index(WHOLE[inside - 30 : inside])
    assert got[second : second + len(DELTA)] == DELTA, "none in the second silence"


@pytest.mark.parametrize("split_in_event", [True, False])
async def test_no_ping_comes_into_the_last_event_while_the_ledger_is_waited_for(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch, *, split_in_event: bool
) -> None:
    """While the held end waits for the ledger, part of its event may be out already: no ping may follow it."""
    monkeypatch.setattr(outbox, "ACKNOWLEDGE_S", 60)
    port = ScriptedPort("answer", "hang")
    served = await server.start(anthropic=anthropic, port=port, ping_ms=30)
    at = len(WHOLE) - (20 if split_in_event else len(b'event: message_stop\ndata: {"type":"message_stop"}\n\n'))
    anthropic.script(reply.raw(WHOLE, content_type=SSE).pausing(100, "bytes", at))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wait_until(lambda: port.in_flight and len(port.tried) == 2)
        assert PING in (await wire.listen(0.12)), "it would be heard"
        port.release.set()
        got = chunked(await wire.until(b"0\r\n\r\n"))
    assert got.endswith(WHOLE[WHOLE.rindex(b"event: message_stop") :])
    assert got.replace(PING, b"") == WHOLE.replace(PING, b"")


async def test_the_last_event_waits_for_the_ledger(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but `message_stop` may leave before the end is acknowledged; with the acknowledgement it follows."""
    monkeypatch.setattr(outbox, "ACKNOWLEDGE_S", 60)
    port = ScriptedPort("answer", "hang")
    served = await server.start(anthropic=anthropic, port=port)
    anthropic.script(reply.raw(WHOLE, content_type=SSE))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wait_until(lambda: len(port.tried) == 2)
        got = await wire.quiet()
        assert b"content_block_delta" in got
        assert b"message_stop" not in got
        port.release.set()
        await wire.until(b"message_stop")
    assert [event.seq for event in port.events()] == [1, 2]


async def test_a_whole_answer_waits_for_the_ledger(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the head of an answer in one piece leaves before its end is acknowledged."""
    monkeypatch.setattr(outbox, "ACKNOWLEDGE_S", 60)
    port = ScriptedPort("answer", "hang")
    served = await server.start(anthropic=anthropic, port=port)
    async with connected(served) as wire:
        await wire.send(request_bytes(ASK_BYTES))
        await wait_until(lambda: len(port.tried) == 2)
        assert await wire.quiet() == b""
        port.release.set()
        await wire.until(b'"type":"message"')


async def test_nothing_goes_up_before_the_start_is_acknowledged(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The provider sees no byte before the ledger has the attempt's start."""
    monkeypatch.setattr(outbox, "ACKNOWLEDGE_S", 60)
    port = ScriptedPort("hang")
    served = await server.start(anthropic=anthropic, port=port)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wait_until(lambda: port.in_flight)
        await wire.quiet(0.05)
        assert anthropic.requests == []
        port.release.set()
        await wire.until(b"message_stop")


async def test_a_client_that_goes_while_the_start_is_waited_for_leaves_no_open_attempt(
    server: Server, anthropic: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that was on its way gets its end, though the provider never heard of it."""
    monkeypatch.setattr(outbox, "ACKNOWLEDGE_S", 60)
    port = ScriptedPort("hang")
    served = await server.start(anthropic=anthropic, port=port)
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wait_until(lambda: port.in_flight)
    await wait_until(lambda: served.told == [("anthropic", "aborted", "")])
    port.release.set()
    await wait_until(lambda: [event.seq for event in port.events()] == [1, 2])
    assert anthropic.requests == []


async def test_redis_away_costs_no_answer(server: Server, anthropic: FakeProvider) -> None:
    """With a stream that refuses everything, answers are whole, and their events are on disk."""
    port = ScriptedPort()
    port.usual = "refuse"
    served = await server.start(anthropic=anthropic, port=port)
    answers = [await served.ask() for _ in range(3)]
    assert all("message_stop" in answer.text for answer in answers)
    assert list((server.home / "spool").rglob("*.spool"))


@pytest.mark.parametrize("how", ["reset", "fin", "hang", "end"])
async def test_a_broken_stream_ends_with_an_error_event(server: Server, anthropic: FakeProvider, how: str) -> None:
    """Broken, closed, silent for too long, or ended without its end: the client is told, in one well-formed event."""
    served = await server.start(anthropic=anthropic, idle_ms=150)
    cut = len(START + DELTA) + 20  # in the middle of an event
    anthropic.script(reply.raw(WHOLE, content_type=SSE).cut(how, "bytes", cut))  # type: ignore[arg-type]
    answer = await served.ask()
    assert answer.status_code == 200
    head, _, tail = answer.content.rpartition(b"\n\nevent: error\n")
    assert WHOLE.startswith(head)
    assert tail.startswith(b'data: {"type":"error","error":{"type":"api_error","message":')
    assert tail.endswith(b"}\n\n")
    [(_, end)] = served.ends
    assert end.outcome == "failed"
    assert end.kind == {"reset": "reset", "fin": "reset", "hang": "timeout", "end": "bad_answer"}[how]
    assert end.tokens.input == 7


async def test_an_error_of_the_providers_own_passes_as_it_is(server: Server, anthropic: FakeProvider) -> None:
    """An `event: error` behind content reaches the client as the provider worded it, once, and is told as a failure."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.stream_error("content", "overloaded_error", "too much"))
    answer = await served.ask()
    assert answer.text.count("event: error") == 1
    assert "too much" in answer.text
    assert served.told == [("anthropic", "failed", "overloaded")]


async def test_a_client_that_goes_closes_the_upstream_and_pays_for_what_it_had(
    server: Server, anthropic: FakeProvider
) -> None:
    """Gone in the middle of a stream: the provider's connection is closed, and the tokens so far are accounted."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.raw(WHOLE, content_type=SSE).cut("hang", "bytes", len(START + DELTA)))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"content_block_delta")
    await anthropic.wait_until_async(lambda: anthropic.requests[0].aborted)
    await wait_until(lambda: served.told == [("anthropic", "aborted", "")])
    assert served.ends[0][1].tokens.input == 7


async def test_a_slow_client_holds_up_the_provider_and_no_memory(server: Server, anthropic: FakeProvider) -> None:
    """A client that does not read stops the provider after what the sockets hold; when it reads, it gets everything."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.large(40_000_000))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"content_block_delta")
        assert await at_rest(lambda: anthropic.served[0].body_bytes_sent) < 30_000_000
        assert not served.ends
        wire.got = b""
        tail = b""
        while b"0\r\n\r\n" not in tail:
            tail = tail[-10:] + await wire.reader.read(1 << 20)
    await anthropic.wait_until_async(lambda: anthropic.served[0].complete)
    assert served.told == [("anthropic", "ok", "")]


async def test_a_client_that_reads_nothing_counts_as_gone(server: Server, anthropic: FakeProvider) -> None:
    """It was suspended, say: after the idle limit its stream ends, and what it held on the route is free."""
    served = await server.start(anthropic=anthropic, ping_ms=50, idle_ms=1_500)
    anthropic.script(reply.large(40_000_000))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"content_block_delta")
        await anthropic.wait_until_async(lambda: anthropic.requests[0].client_closed_s is not None)
    await wait_until(lambda: served.told == [("anthropic", "aborted", "")])


async def test_large_answers_arrive_whole(server: Server, anthropic: FakeProvider) -> None:
    """Ten megabytes, in one piece and as a stream."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.large().repeated(2))
    whole = await served.ask(ASK)
    assert len(whole.json()["content"][0]["text"]) == 10_000_000
    stream = await served.ask()
    assert stream.text.count("0123456789abcdef") > 500_000
    assert "message_stop" in stream.text


async def test_connections_to_the_provider_serve_again(server: Server, anthropic: FakeProvider) -> None:
    """After a stream, a whole answer and an error the same connection serves the next request."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.message(), reply.error(400), reply.message())
    for body in (STREAM, ASK, STREAM, ASK, STREAM):
        await served.ask(body)
    assert len({request.connection for request in anthropic.requests}) == 1


async def test_a_stale_connection_is_repeated_once_on_the_same_route(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """A reused connection that breaks before any answer is tried again there; then the next route is asked."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.message(), reply.reset("request"), reply.message())
    await served.ask()
    answer = await served.ask()
    assert (answer.headers["x-ccproxy-route"], answer.headers["x-ccproxy-attempts"]) == ("anthropic", "2")
    assert [kind for _, _, kind in served.told] == ["", "stale_socket", ""]
    anthropic.script(reply.reset("request"), reply.reset("request"))
    answer = await served.ask()
    assert (answer.headers["x-ccproxy-route"], answer.headers["x-ccproxy-attempts"]) == ("zai", "3")
