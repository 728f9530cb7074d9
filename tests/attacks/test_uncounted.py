"""Nothing that was served counts as zero: however a stream is left or cut, and whatever its provider leaves out."""

import json

import pytest

from service.ledger.events import AttemptEnded, TokenCounts
from tests.attacks.raw import MESSAGE, answer, byte_provider, raw_client, request
from tests.fakes import FakeProvider, reply
from tests.support.proxies import ASK, STREAM, STREAM_BYTES, Server, connected, request_bytes
from tests.support.waiting import wait_until

SSE = "text/event-stream; charset=utf-8"


def event(kind: str, **fields: object) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()


def start(**usage: int) -> bytes:
    return event("message_start", message={"id": "msg_1", "type": "message", "content": [], "usage": usage})


BEGIN = event("content_block_start", index=0, content_block={"type": "text", "text": ""})
DELTA = event("content_block_delta", index=0, delta={"type": "text_delta", "text": "a word or two, " * 8})
CONTENT = BEGIN + DELTA * 10 + event("content_block_stop", index=0)
TOOL = event("content_block_start", index=0, content_block={"type": "tool_use", "id": "t", "name": "ls", "input": {}})
TOLD = event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 321})
UNTOLD = event("message_delta", delta={"stop_reason": "end_turn"})
STOP = event("message_stop")
TEXT_TOKENS = 10 * len("a word or two, " * 8) // 4
CUTS = {
    "behind the last block": start(input_tokens=50, output_tokens=1) + CONTENT,
    "within a block": start(input_tokens=50, output_tokens=1) + BEGIN + DELTA * 10,
    "within an event": start(input_tokens=50, output_tokens=1) + BEGIN + DELTA * 10 + DELTA[:-9],
    "without any usage": start() + CONTENT,
    "with zeros": start(input_tokens=0, output_tokens=0) + CONTENT,
    "without a start": CONTENT,
    "at the first delta": start() + BEGIN + DELTA,
}


def told(ended: AttemptEnded) -> TokenCounts:
    assert ended.tokens.input > 0, ended
    assert ended.tokens.output > 0, ended
    return ended.tokens


@pytest.mark.parametrize("cut", CUTS)
async def test_a_stream_that_is_left_counts(server: Server, anthropic: FakeProvider, cut: str) -> None:
    """The client goes when it has the content, before the provider has told what it used."""
    served = await server.start(anthropic=anthropic)
    sent = CUTS[cut]
    anthropic.script(reply.raw(sent + TOLD + STOP, content_type=SSE).pausing(5_000, "bytes", len(sent)))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"a word or two")
    await wait_until(lambda: served.ends)
    ended = served.ends[0][1]
    assert ended.outcome == "aborted"
    tokens = told(ended)
    if "50" in sent.decode():
        assert tokens.input == 50
    assert tokens.output <= 2 * TEXT_TOKENS


@pytest.mark.parametrize("cut", CUTS)
async def test_a_stream_that_the_provider_cuts_counts(server: Server, anthropic: FakeProvider, cut: str) -> None:
    """The client has the content; that the end is missing makes none of it free."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.raw(CUTS[cut], content_type=SSE))
    shown = await served.ask()
    assert b"a word or two" in shown.content
    ended = served.ends[0][1]
    assert (ended.outcome, ended.kind) == ("failed", "bad_answer")
    tokens = told(ended)
    if cut != "at the first delta":
        assert TEXT_TOKENS * 0.8 <= tokens.output <= TEXT_TOKENS * 2


@pytest.mark.parametrize(
    "stream",
    [
        start() + CONTENT + UNTOLD + STOP,
        start() + CONTENT + STOP,
        CONTENT + event("message_delta", delta={}, usage={"output_tokens": 0}) + STOP,
        start() + CONTENT + event("message_delta", delta={}, usage={"output_tokens": "9", "input_tokens": None}) + STOP,
        start() + TOOL + event("content_block_stop", index=0) + STOP,
    ],
)
async def test_a_whole_stream_without_usage_counts(server: Server, anthropic: FakeProvider, stream: bytes) -> None:
    """A provider that reports nothing, or nonsense, serves nothing for free."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.raw(stream, content_type=SSE))
    assert (await served.ask()).content == stream
    assert served.ends[0][1].outcome == "ok"
    told(served.ends[0][1])


async def test_what_was_reported_is_not_estimated(server: Server, anthropic: FakeProvider) -> None:
    """The provider's final figures stand, also when the client leaves just behind them."""
    served = await server.start(anthropic=anthropic)
    sent = start(input_tokens=50, output_tokens=1) + CONTENT + TOLD
    anthropic.script(reply.raw(sent + STOP, content_type=SSE).pausing(5_000, "bytes", len(sent)))
    async with connected(served) as wire:
        await wire.send(request_bytes(STREAM_BYTES))
        await wire.until(b"message_delta")
    await wait_until(lambda: served.ends)
    assert served.ends[0][1].tokens == TokenCounts(input=50, output=321)


@pytest.mark.parametrize("usage", [None, {}, {"input_tokens": 0, "output_tokens": 0}, {"output_tokens": -5}, 7])
async def test_a_whole_answer_without_usage_counts(server: Server, anthropic: FakeProvider, usage: object) -> None:
    """Content without figures is counted by its size."""
    served = await server.start(anthropic=anthropic)
    anthropic.script(reply.json({key: value for key, value in MESSAGE.items() if key != "usage"} | {"usage": usage}))
    assert (await served.ask(ASK)).status_code == 200
    told(served.ends[0][1])


async def test_a_message_that_is_called_a_stream_counts(server: Server) -> None:
    """The client can read it, and so it was served."""
    async with byte_provider(lambda _: answer(content_type=SSE)) as provider:
        served = await server.start(anthropic=provider.base_url)
        assert (await served.ask(ASK)).status_code == 200
    assert told(served.ends[0][1]) == TokenCounts(input=10, output=5)


@pytest.mark.parametrize("body", [STREAM, ASK], ids=["JSON for a stream", "a stream for JSON"])
async def test_an_answer_of_the_other_kind_counts(
    server: Server, anthropic: FakeProvider, body: dict[str, object]
) -> None:
    """What a provider answers against the wish of the client is made good elsewhere, and yet it was used."""
    served = await server.start(anthropic=anthropic)
    wrong = (
        reply.json(MESSAGE)
        if body is STREAM
        else reply.raw(start(input_tokens=10) + CONTENT + TOLD + STOP, content_type=SSE)
    )
    anthropic.script(wrong)
    await served.ask(body)
    assert served.ends[0][1].kind == "bad_answer"
    assert told(served.ends[0][1]) == TokenCounts(input=10, output=5 if body is STREAM else 321)


@pytest.mark.parametrize(
    "body",
    [b'{"stream": true, "temperature": NaN}', b"{'stream': true}", b"{} // x", b'{"stream": 1}', b'{"stream": "true"}'],
)
async def test_what_a_lenient_provider_would_stream_goes_to_none(
    server: Server, anthropic: FakeProvider, body: bytes
) -> None:
    """A request that is read in another way there would be answered in another way: uncounted, as a route's failure."""
    served = await server.start(anthropic=anthropic)
    assert (await served.http.post("/v1/messages", content=body)).status_code == 400
    assert (anthropic.requests, served.ends) == ([], [])


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b'{"type": "completion", "completion": "a word or two", "id": "compl_1"}', "application/json"),
        (b'{"content": [{"type": "text", "text": "a word"}]}', "application/json"),
        (b'event: completion\ndata: {"type": "completion", "completion": "a word"}\n\n', SSE),
        (start() + CONTENT + STOP, SSE),
        (b"a word or two", "text/plain"),
        (b"a word or two", ""),
        (b'{"completion": "a word"}', "application/vnd.api+json"),
    ],
)
async def test_unknown_endpoints_count(server: Server, method: str, content: bytes, kind: str) -> None:
    """What is not known to be free is counted, by its size if it does not say more."""
    async with byte_provider(lambda _: answer(content, content_type=kind)) as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            shown = await client.ask(request(b'{"prompt": "x"}', target="/v1/complete", method=method), method.encode())
    if shown.status == 200:
        told(served.ends[0][1])


async def test_unknown_endpoints_count_what_they_tell(server: Server) -> None:
    """Figures in an answer are what they are, whole or streamed."""
    answers = iter(
        (answer(MESSAGE | {"type": "other"}), answer(start(input_tokens=9) + CONTENT + TOLD + STOP, content_type=SSE))
    )
    async with byte_provider(lambda _: next(answers)) as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            for _ in range(2):
                assert (await client.ask(request(b"{}", target="/v1/unknown"))).status == 200
    assert [ended.tokens for _, ended in served.ends] == [
        TokenCounts(input=10, output=5),
        TokenCounts(input=9, output=321),
    ]


async def test_what_makes_no_tokens_counts_none(server: Server, anthropic: FakeProvider) -> None:
    """Counting a prompt and reading models is free, and stays so."""
    served = await server.start(anthropic=anthropic)
    await served.http.post("/v1/messages/count_tokens", json=ASK)
    await served.http.get("/v1/models")
    assert [ended.tokens for _, ended in served.ends] == [TokenCounts(), TokenCounts()]


async def test_what_is_read_again_counts_once(server: Server) -> None:
    """The usage that a resource tells of was another request's, however often it is asked for."""
    told = {"id": "sesn_0123456789", "usage": {"input_tokens": 500_000, "output_tokens": 20_000}}
    streamed = answer(start(input_tokens=9) + CONTENT + TOLD + STOP, content_type=SSE)
    answers = iter((answer(told), answer(told), streamed))
    async with byte_provider(lambda _: next(answers)) as provider:
        served = await server.start(anthropic=provider.base_url)
        for path in ("/v1/sessions/sesn_0123456789", "/v1/sessions/sesn_0123456789", "/v1/sessions/x/stream"):
            assert (await served.http.get(path)).status_code == 200
    assert [ended.tokens for _, ended in served.ends] == [TokenCounts()] * 3
