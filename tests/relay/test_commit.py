"""Before content nothing goes out, so that every failure can be made good; after it, no other route."""

import asyncio

import pytest

from tests.fakes import FakeProvider, Reply, reply
from tests.support.proxies import ASK, STREAM, STREAM_BYTES, Server, connected, request_bytes
from tests.support.streams import DELTA, END, SSE, START
from tests.support.waiting import wait_until

FAULTS: dict[str, tuple[Reply, str]] = {
    "reset at the request": (reply.reset("request"), "reset"),
    "closed at the request": (reply.fin("request"), "reset"),
    "reset behind the head": (reply.reset("headers"), "reset"),
    "reset behind message_start": (reply.reset("message_start"), "reset"),
    "closed behind the first ping": (reply.fin("ping"), "reset"),
    "500": (reply.error(500), "server_error"),
    "502 with a page": (reply.html(), "server_error"),
    "503": (reply.error(503), "server_error"),
    "529": (reply.error(529), "overloaded"),
    "429": (reply.error(429, retry_after_s=7200), "quota"),
    "401": (reply.error(401), "credential"),
    "403": (reply.error(403), "credential"),
    "402": (reply.error(402), "billing"),
    "an error first": (reply.stream_error("start"), "overloaded"),
    "an error behind pings and comments": (reply.stream_error("start", prelude=("comment", "ping")), "overloaded"),
    "an error behind message_start": (reply.stream_error("message_start", "api_error", "no"), "server_error"),
    "an empty 200": (reply.empty(), "bad_answer"),
    "a 200 with a page": (reply.html(200), "bad_answer"),
    "garbage": (reply.garbage(), "bad_answer"),
    "JSON for a stream": (reply.json_for_stream(), "bad_answer"),
    "a wrong content type": (reply.wrong_content_type(), "bad_answer"),
    "an end behind message_start": (reply.message().cut("end", "message_start"), "bad_answer"),
    "a bad encoding": (
        reply.raw(START + DELTA + END, content_type=SSE).with_headers({"content-encoding": "gzip"}),
        "bad_answer",
    ),
}


async def test_a_failure_before_content_is_invisible(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """Whatever the first route does before content, the client gets a whole answer of the next, and both are told."""
    served = await server.start(anthropic=anthropic, zai=zai)
    for fault, (scripted, kind) in FAULTS.items():
        served.forget()
        anthropic.script(scripted)
        answer = await served.ask()
        headers = {name: answer.headers[f"x-ccproxy-{name}"] for name in ("route", "attempts")}
        assert (answer.status_code, headers) == (200, {"route": "zai", "attempts": "2"}), fault
        assert answer.text.count("event: message_start") == answer.text.count("event: message_stop") == 1, fault
        assert "event: error" not in answer.text, fault
        assert served.told == [("anthropic", "failed", kind), ("zai", "ok", "")], fault
        assert [event.final for _, event in served.ends] == [False, True], fault


@pytest.mark.parametrize("chunk_bytes", [0, 7])
async def test_an_error_behind_content_is_told_however_the_stream_is_cut(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, chunk_bytes: int
) -> None:
    """Content commits to a route, even if the error behind it came at once: what becomes of a stream is no chance."""
    served = await server.start(anthropic=anthropic, zai=zai)
    error = b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"too much"}}\n\n'
    anthropic.script(reply.raw(START + DELTA + error, content_type=SSE).in_chunks(chunk_bytes))
    answer = await served.ask()
    assert answer.content == START + DELTA + error
    assert served.told == [("anthropic", "failed", "overloaded")]


JSON_FAULTS = {
    "a reset in the middle": (reply.reset("message_start"), "reset"),
    "cut JSON": (reply.truncated(), "bad_answer"),
    "an empty 200": (reply.empty(content_type="application/json"), "bad_answer"),
    "a page": (reply.html(200), "bad_answer"),
    "a stream": (reply.stream_for_json(), "bad_answer"),
    "another object": (reply.json({"type": "completion"}), "bad_answer"),
    "an error with status 200": (
        reply.json({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}),
        "overloaded",
    ),
    "Z.AI's own error with status 200": (reply.json({"error": {"code": "1305", "message": "x"}}), "overloaded"),
}


async def test_a_whole_answer_is_checked_before_it_is_passed_on(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """An answer in one piece that is no message is made good on the next route."""
    served = await server.start(anthropic=anthropic, zai=zai)
    for fault, (scripted, kind) in JSON_FAULTS.items():
        served.forget()
        anthropic.script(scripted)
        answer = await served.ask(ASK)
        assert (answer.status_code, answer.headers["x-ccproxy-route"]) == (200, "zai"), fault
        assert answer.json()["type"] == "message", fault
        assert served.told == [("anthropic", "failed", kind), ("zai", "ok", "")], fault


async def test_nothing_is_sent_before_content(server: Server, anthropic: FakeProvider) -> None:
    """No head, no ping, no byte goes to the client while the answer has no content; then all of it at once."""
    served = await server.start(anthropic=anthropic, ping_ms=20)
    anthropic.script(reply.raw(START + DELTA + END, content_type=SSE).pausing(200, "bytes", len(START)))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await anthropic.wait_until_async(
            lambda: bool(anthropic.served) and anthropic.served[0].body_bytes_sent >= len(START)
        )
        assert await wire.quiet(0.1) == b""
        got = await wire.until(b"message_stop")
    assert got.count(b"event: ping") == START.count(b"event: ping")


async def test_after_content_no_other_route_is_tried(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """A stream that breaks behind its first content ends with an error event: nothing is spliced, nobody asked."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.reset("content_block_delta"))
    answer = await served.ask()
    assert answer.status_code == 200
    assert answer.text.count("event: message_start") == 1
    assert zai.requests == []
    assert answer.text.endswith("\n\n")
    last = answer.text.strip().split("\n\n")[-1]
    assert last.startswith('event: error\ndata: {"type":"error","error":{"type":"api_error"')
    assert served.told == [("anthropic", "failed", "reset")]


async def test_a_client_that_goes_before_content_ends_the_attempt(server: Server, anthropic: FakeProvider) -> None:
    """The upstream is closed at once, and the attempt is accounted as aborted."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.hang("message_start"))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await anthropic.wait_until_async(lambda: bool(anthropic.served) and anthropic.served[0].events_sent > 0)
    await anthropic.wait_until_async(lambda: anthropic.requests[0].aborted)
    await wait_until(lambda: served.told == [("anthropic", "aborted", "")])


@pytest.mark.parametrize("when", ["request", "headers"])
async def test_a_client_that_goes_before_the_head_ends_the_attempt(
    server: Server, anthropic: FakeProvider, zai: FakeProvider, when: str
) -> None:
    """Gone while the provider is silent: the upstream is closed, no other route is tried."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.hang(when))  # type: ignore[arg-type]
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await anthropic.wait_until_async(lambda: bool(anthropic.requests))
    await anthropic.wait_until_async(lambda: anthropic.requests[0].client_closed_s is not None)
    await wait_until(lambda: served.told == [("anthropic", "aborted", "")])
    assert zai.requests == []


async def test_all_routes_failing_shows_the_most_useful_error(
    server: Server, anthropic: FakeProvider, zai: FakeProvider
) -> None:
    """A 529 and a dead second route: the client sees the 529 in Anthropic's shape, and one attempt for each route."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(reply.error(529))
    zai.script(reply.reset("request"))
    answer = await served.ask()
    assert answer.status_code == 529
    assert answer.json()["error"]["type"] == "overloaded_error"
    assert len(anthropic.requests) == len(zai.requests) == 1


async def test_many_at_once_are_each_answered_once(server: Server, anthropic: FakeProvider, zai: FakeProvider) -> None:
    """Under concurrency, with every third request failing over, each client gets one whole answer and its own usage."""
    served = await server.start(anthropic=anthropic, zai=zai)
    anthropic.script(*[reply.error(529).when(body=f'"seed-{n}"') for n in range(0, 30, 3)])
    answers = await asyncio.gather(*(served.ask(STREAM | {"metadata": {"user_id": f"seed-{n}"}}) for n in range(30)))
    routes = [answer.headers["x-ccproxy-route"] for answer in answers]
    assert routes.count("zai") == 10
    assert all(answer.text.count("event: message_stop") == 1 for answer in answers)
    total = anthropic.usage_served + zai.usage_served
    tokens = [event.tokens for _, event in served.ends]
    assert sum(token.output for token in tokens) == total.output
    assert sum(token.input for token in tokens) == total.input
