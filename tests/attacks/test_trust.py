"""What a stranger may cost: nothing of a body is read before it is known who sends it and that something could answer.

And what is read is given back: no error keeps a body alive until the collector runs."""

import asyncio
import gc
import gzip
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

import service
from service.edge import messages
from service.ledger.events import ClientKeyLimited, ClientKeyRevoked, Event
from service.ledger.fold import advance
from tests.attacks.raw import SeenRequest, answer, byte_provider, raw_client, request
from tests.support.client_keys import issue
from tests.support.proxies import ASK, ASK_BYTES, Server, Serving
from tests.support.waiting import wait_until

JUNK = {"x-api-key": "junk"}
KEYS = {"PROXY_API_KEYS": "ann:" + "k" * 32}
TWO_KEYS = {"PROXY_API_KEYS": "ann:" + "k" * 32 + ",bob:" + "b" * 32}
LARGE = 5_000_000
BODY_BYTES = 400_000
"""Large enough to be read in a thread."""
SERVICE = Path(service.__file__).parent


def head(headers: dict[str, str], length: int = LARGE) -> bytes:
    """The head of a request whose body is to come."""
    return request(headers=headers | {"content-length": str(length)})


async def until_idle(served: Serving) -> None:
    """Wait until no request holds a body."""
    await wait_until(lambda: not served.parts.memory.held)


@pytest.mark.parametrize(
    ("variables", "headers"),
    [
        (KEYS, JUNK),
        (KEYS, {}),
        (KEYS, {"x-ccproxy-key": "junk", "x-api-key": "sk-ant-" + "a" * 40}),
        ({"PROXY_API_KEYS": "ledger"}, {"authorization": "Bearer ccp_" + "a" * 40}),
    ],
)
async def test_a_stranger_is_refused_before_his_body(
    server: Server, variables: dict[str, str], headers: dict[str, str]
) -> None:
    """The answer is there before a byte of the body is sent; the connection goes on behind the body."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables=variables)
        async with raw_client(served.url) as client:
            refused = await client.ask(head(headers))
            assert refused.status in (401, 503)
            assert served.parts.memory.held == 0
            await client.send(b"x" * LARGE)
            again = await client.ask(head(headers, 0))
        assert again.status == refused.status
    assert provider.seen == []


@pytest.mark.parametrize(
    ("limits", "status", "kind"),
    [
        ({"weekly_tokens": 0}, 429, "billing_error"),
        ({"expires_at_ms": 1}, 401, "authentication_error"),
    ],
)
async def test_a_key_that_may_not_is_refused_before_its_body(
    server: Server, limits: dict[str, Any], status: int, kind: str
) -> None:
    """Spent or expired: that needs no body to be known."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables={"PROXY_API_KEYS": "ledger"})
        key, _ = issue(served, **limits)
        async with raw_client(served.url) as client:
            refused = await client.ask(head({"x-api-key": key}))
    assert (refused.status, refused.json["error"]["type"]) == (status, kind)


async def test_where_nothing_could_answer_no_body_is_read(server: Server) -> None:
    """A proxy without any provider's key, and a client without one."""
    served = await server.start()
    async with raw_client(served.url) as client:
        refused = await client.ask(head({}))
    assert (refused.status, refused.json["error"]["type"]) == (401, "authentication_error")


async def test_who_waits_for_a_100_gets_the_final_answer(server: Server) -> None:
    """Without a 100, and the connection closes: nobody can tell whether the body still comes."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables=KEYS)
        async with raw_client(served.url) as client:
            refused = await client.ask(head(JUNK | {"expect": "100-continue"}))
            assert refused.status == 401
            assert refused.value(b"connection") == b"close"
            assert await client.closed() == b""


async def test_bodies_of_all_requests_share_a_bound(server: Server) -> None:
    """The newest is sent away to try again; when the others have ended there is room again."""
    async with byte_provider() as provider:
        served = await server.start(
            anthropic=provider.base_url, variables={"MAX_HELD_BODY_BYTES": "1048576", "LOG_LEVEL": "silent"}
        )
        async with raw_client(served.url) as first, raw_client(served.url) as second:
            await first.send(head({}, 2_000_000) + b" " * 900_000)
            await wait_until(lambda: served.parts.memory.held >= 800_000)
            refused = await second.ask(request(b" " * 400_000 + ASK_BYTES))
            assert (refused.status, refused.value(b"x-should-retry")) == (503, b"true")
            assert int(refused.value(b"retry-after")) > 0
        await until_idle(served)
        async with raw_client(served.url) as third:
            assert (await third.ask(request(b" " * 400_000 + ASK_BYTES))).status == 200
        await until_idle(served)


async def test_what_is_kept_before_a_request_is_handled_counts_as_well(server: Server) -> None:
    """Bodies that come slowly are held before anybody is asked who sends them; what is left is given back."""
    served = await server.start(variables=KEYS | {"LOG_LEVEL": "silent"})
    async with raw_client(served.url) as client:
        await client.send(head({}, 100_000) + b" " * 90_000)
        await wait_until(lambda: served.parts.memory.held >= 90_000)
    await until_idle(served)


async def test_strangers_take_no_room_from_clients(server: Server) -> None:
    """Their bodies are kept up to a part of the bound, and then they are asked who they are."""
    async with byte_provider() as provider, AsyncExitStack() as stack:
        variables = TWO_KEYS | {"MAX_HELD_BODY_BYTES": "1048576", "LOG_LEVEL": "silent"}
        served = await server.start(anthropic=provider.base_url, variables=variables)
        memory = served.parts.memory
        for number in range(1, 6):
            stranger = await stack.enter_async_context(raw_client(served.url))
            await stranger.send(head(JUNK, 100_000) + b" " * 25_000)
            await wait_until(lambda wanted=number * 25_000: memory.unasked >= wanted)  # type: ignore[misc]
        slow = await stack.enter_async_context(raw_client(served.url))
        await slow.send(head({"x-api-key": "k" * 32}, 600_000) + b" " * 500_000)
        async with raw_client(served.url) as client:
            known = request(b" " * 500_000 + ASK_BYTES, headers={"x-api-key": "b" * 32})
            assert (await client.ask(known)).status == 200
        one_too_many = await stack.enter_async_context(raw_client(served.url))
        assert (await one_too_many.ask(head(JUNK, 100_000) + b" " * 25_000)).status == 401
        assert memory.unasked <= memory.most_unasked_bytes
    await until_idle(served)
    assert memory.unasked == 0


async def test_one_key_does_not_keep_out_the_others(server: Server) -> None:
    """Nobody has more than half of the memory, however slowly his bodies come."""
    async with byte_provider() as provider, AsyncExitStack() as stack:
        variables = TWO_KEYS | {"MAX_HELD_BODY_BYTES": "2097152", "LOG_LEVEL": "silent"}
        served = await server.start(anthropic=provider.base_url, variables=variables)
        memory = served.parts.memory
        slow = [await stack.enter_async_context(raw_client(served.url)) for _ in range(3)]
        for client in slow:
            await client.send(head({"x-api-key": "k" * 32}, 600_000) + b" " * 500_000)
        async with asyncio.timeout(20):
            waiting = {asyncio.ensure_future(client.receive()) for client in slow}
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result().status for task in done] == [503]
        assert memory.held_by_key["ann"] <= 1_048_576
        async with raw_client(served.url) as client:
            known = request(b" " * 700_000 + ASK_BYTES, headers={"x-api-key": "b" * 32})
            assert (await client.ask(known)).status == 200
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    await until_idle(served)
    assert (memory.unasked, memory.held_by_key) == (0, {})


async def test_a_sole_key_may_use_all_of_the_memory(server: Server) -> None:
    """Where there is one owner only, nobody else has to be left room."""
    async with byte_provider() as provider, AsyncExitStack() as stack:
        variables = {"PROXY_API_KEYS": "ann:" + "k" * 32, "MAX_HELD_BODY_BYTES": "2097152", "LOG_LEVEL": "silent"}
        served = await server.start(anthropic=provider.base_url, variables=variables)
        slow = [await stack.enter_async_context(raw_client(served.url)) for _ in range(3)]
        for client in slow:
            await client.send(head({"x-api-key": "k" * 32}, 500_000 + len(ASK_BYTES)) + b" " * 500_000)
        for client in slow:
            assert (await client.ask(ASK_BYTES)).status == 200


async def test_a_refusal_that_is_held_back_holds_no_body(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong keys wait for their answer, their bodies don't wait with them; nor does what still comes."""
    monkeypatch.setattr("service.auth_throttle.FREE_TRIES", 0)
    monkeypatch.setattr("service.auth_throttle.FIRST_WAIT_S", 3.0)
    served = await server.start(variables=KEYS | {"LOG_LEVEL": "silent"})
    memory = served.parts.memory
    async with raw_client(served.url) as client:
        await client.send(request(b" " * 200_000, headers=JUNK))
        await wait_until(lambda: served.parts.brake.tries, patience_s=2)
        assert (memory.held, memory.unasked) == (0, 0)
        assert (await client.receive()).status == 401
        assert (await client.ask(request(target="/livez", method="GET"), b"GET")).status == 200


@pytest.mark.parametrize(
    ("body", "encoding", "status", "words"),
    [
        (gzip.compress(b" " * 30_000_000 + ASK_BYTES), "gzip", 413, "MAX_BODY_EXPANSION"),
        (gzip.compress(gzip.compress(b" " * 30_000_000)), "gzip, gzip", 413, "MAX_BODY_EXPANSION"),
        (b'{"messages":[{"content":[' + b"{}," * 700_000 + b"{}]}]}", "", 400, "MAX_CONTENT_BLOCKS"),
        (b'{"a":' + b"[" * 900 + b"]" * 900 + b"}", "", 400, "MAX_JSON_DEPTH"),
        (b'{"a":' + b"[" * 100_000, "", 400, "MAX_JSON_DEPTH"),
        (b'{"max_tokens":1e400,"model":"m"}', "", 400, "max_tokens"),
        (b'{"max_tokens":' + b"9" * 4_000 + b',"model":"m"}', "", 400, "max_tokens"),
    ],
    ids=["gzip", "gzip twice", "blocks", "deep", "open", "float", "digits"],
)
async def test_a_body_that_costs_too_much_goes_nowhere(
    server: Server, body: bytes, encoding: str, status: int, words: str
) -> None:
    """Each bound is named, so that whoever needs more can set it."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables={"LOG_LEVEL": "silent"})
        async with raw_client(served.url) as client:
            refused = await client.ask(request(body, headers={"content-encoding": encoding}))
        await until_idle(served)
    assert refused.status == status
    assert words in refused.json["error"]["message"] or "JSON" in refused.json["error"]["message"]
    assert provider.seen == []


async def test_a_small_body_may_be_as_repetitive_as_it_likes(server: Server) -> None:
    """A log of which each line is the same, and a blank image: no bombs, though they grow more than a hundred times."""
    log_line = "the same line of a log, over and over\n"
    body = msgspec.json.encode(ASK | {"messages": [{"role": "user", "content": log_line * 6_000}]})
    packed = gzip.compress(body)
    assert len(body) > 200_000 > 100 * len(packed)
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            answered = await client.ask(request(packed, headers={"content-encoding": "gzip"}))
    assert answered.status == 200
    assert [seen.body for seen in provider.seen] == [packed]


async def test_two_encodings_are_refused(server: Server) -> None:
    """One would be read here, the other sent."""
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url)
        async with raw_client(served.url) as client:
            raw = request(ASK, headers={"content-encoding": "identity"})
            refused = await client.ask(raw.replace(b"content-encoding", b"content-encoding: gzip\r\ncontent-encoding"))
    assert refused.status == 400
    assert provider.seen == []


MARKED = msgspec.json.encode(ASK | {"messages": [{"role": "user", "content": "m" * BODY_BYTES}]})
MARKED_STREAM = MARKED.replace(b'"max_tokens"', b'"stream":true,"max_tokens"', 1)
START = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":1}}}\n\n'
DELTA = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"a"}}\n\n'


def ends(said: bytes | None) -> Callable[[SeenRequest], bytes | None]:
    return lambda _: said


ERROR = {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}
KINDS: dict[str, tuple[bytes, Callable[[SeenRequest], bytes | None]]] = {
    "answered": (MARKED, ends(answer())),
    "duplicate key": (MARKED.replace(b"{", b'{"model":"x",', 1), ends(answer())),
    "not json": (MARKED[:-1], ends(answer())),
    "request fault": (MARKED, ends(answer(ERROR, 400))),
    "other shape": (MARKED, ends(answer({"error": "no"}, 500))),
    "overloaded": (MARKED, ends(answer(ERROR, 529))),
    "throttled": (MARKED, ends(answer(ERROR, 429, retry_after="99"))),
    "cut": (MARKED, ends(None)),
    "no message": (MARKED, ends(answer({"type": "other"}))),
    "no stream": (MARKED_STREAM, ends(answer(b"<html>", 200, "text/html"))),
    "broken before content": (MARKED_STREAM, ends(answer(START, 200, "text/event-stream"))),
    "broken behind content": (MARKED_STREAM, ends(answer(START + DELTA, 200, "text/event-stream"))),
}


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Nothing but reference counts frees memory."""
    gc.collect()
    gc.disable()
    yield
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def left_behind() -> list[str]:
    """What of the proxy only the collector would free: its objects, and its frames with all that they hold."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    found = [
        f"frame {thing.f_code.co_qualname}" if isinstance(thing, FrameType) else repr(type(thing))
        for thing in gc.garbage
        if (isinstance(thing, FrameType) and f"{SERVICE}/" in thing.f_code.co_filename)
        or type(thing).__module__.startswith("service.")
    ]
    gc.garbage.clear()
    return found


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("kind", KINDS)
async def test_no_end_of_a_request_leaves_a_circle(server: Server, kind: str) -> None:
    """A circle of references would keep the body until the collector runs, which it hardly does."""
    body, script = KINDS[kind]
    async with byte_provider(script) as provider:
        served = await server.start(anthropic=provider.base_url, variables={"LOG_LEVEL": "silent"})
        for _ in range(2):
            async with raw_client(served.url) as client:
                await client.ask(request(body))
        await until_idle(served)
        assert left_behind() == []


@pytest.mark.parametrize("end", ["revoked", "spent", "limited"])
async def test_a_key_is_asked_again_behind_a_slow_body(
    server: Server, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Requests that were begun while a key was good, and whose bodies are held back, go nowhere afterwards."""
    monkeypatch.setattr(messages, "SLOW_BODY_MS", 0)
    async with byte_provider() as provider:
        served = await server.start(anthropic=provider.base_url, variables={"PROXY_API_KEYS": "ledger"})
        key, key_id = issue(served)
        sent = request(MARKED, headers={"x-api-key": key})
        changes: dict[str, tuple[Event, int]] = {
            "revoked": (ClientKeyRevoked(event_id="e", at_ms=0, key_id=key_id), 401),
            "spent": (ClientKeyLimited(event_id="e", at_ms=0, key_id=key_id, weekly_tokens=0), 429),
            "limited": (ClientKeyLimited(event_id="e", at_ms=0, key_id=key_id, models=("claude-haiku-*",)), 400),
        }
        change, status = changes[end]
        async with raw_client(served.url) as client, asyncio.timeout(20):
            await client.send(sent[:-10])
            await wait_until(lambda: served.parts.memory.held)
            advance(served.parts.watcher.view.control, change)
            assert (await client.ask(sent[-10:])).status == status
        assert provider.seen == []


@pytest.mark.usefixtures("uncollected")
async def test_a_client_that_leaves_leaves_no_circle(server: Server) -> None:
    """Neither in the middle of its body, nor while it waits for the answer."""
    asked = asyncio.Event()

    class Silent(asyncio.Protocol):
        def data_received(self, _: bytes) -> None:
            asked.set()

    listener = await asyncio.get_running_loop().create_server(Silent, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    served = await server.start(anthropic=url, variables={"LOG_LEVEL": "silent"})
    async with raw_client(served.url) as client, asyncio.timeout(20):
        await client.send(request(MARKED))
        await asked.wait()
    async with raw_client(served.url) as client:
        await client.send(request(MARKED)[:300_000])
    await until_idle(served)
    listener.close()
    assert left_behind() == []
