"""The lean transport on the wire: connections kept and dropped, time-outs, back-pressure, early answers, no leaks."""

import asyncio
import gc
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.http1 import connector as lean_dial
from service.http1.client import SLICE_BYTES, Http1Transport, HttpResponse, HttpTimeouts
from service.http1.connection import READ_AHEAD_BYTES, StaleSocket
from service.http1.connector import connected
from service.http1.pool import Limits
from service.http1.request_head import Origin
from tests.http1.scripted import Peer, answer, answers, scripted
from tests.support.waiting import at_rest, wait_until

WAITS = HttpTimeouts(connect_s=20, pool_s=20, write_s=20, head_s=20, chunk_s=20)
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
Make = Callable[..., Http1Transport]


@pytest.fixture
async def make() -> AsyncIterator[Make]:
    """Transports that leave nothing behind: no task, no socket, no complaint of the event loop."""
    made: list[Http1Transport] = []
    complaints: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(str(context)))

    def one(**limits: Any) -> Http1Transport:
        made.append(Http1Transport(Limits(**limits)))
        return made[-1]

    yield one
    for transport in made:
        await transport.aclose()
        assert not transport._pool._standing
        assert not transport._pool._room_taken
        assert not transport._pool._line
    own = {asyncio.current_task()}
    await wait_until(lambda: asyncio.all_tasks() == own)
    gc.collect()
    assert not complaints


@pytest.fixture
def lean(make: Make) -> Http1Transport:
    return make()


async def ask(
    lean: Http1Transport, url: str, content: Any = b"{}", waits: HttpTimeouts = WAITS, method: str = "POST"
) -> HttpResponse:
    return await lean.open(method, url, b"/v1/messages", [(b"x-api-key", b"k")], content, waits)


async def rest(opened: HttpResponse) -> bytes:
    """The body; and the connection goes back."""
    body = b"".join([part async for part in opened.parts()])
    await opened.close()
    return body


async def collect(parts: AsyncIterator[bytes], got: list[bytes]) -> None:
    """What comes, also when it breaks."""
    async for part in parts:
        got.append(part)  # noqa: PERF401 - an async comprehension would lose what came before the break


async def whole(lean: Http1Transport, url: str, **more: Any) -> bytes:
    return await rest(await ask(lean, url, **more))


# -- connections


async def test_a_connection_serves_again(lean: Http1Transport) -> None:
    """Three requests, one connection; the request is what was asked for."""
    heads: list[tuple[bytes, bytes]] = []

    async def script(peer: Peer) -> None:
        for number in (b"1", b"2", b"3"):
            heads.append(await peer.request())
            await peer.send(answer(number))
        await peer.closed()

    async with scripted(script) as server:
        assert [await whole(lean, server.url) for _ in range(3)] == [b"1", b"2", b"3"]
        assert len(server.peers) == 1
        head, body = heads[0]
        assert head.startswith(b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1:%d\r\n" % server.port)
        assert body == b"{}"


@pytest.mark.parametrize(
    "first",
    [
        answer(b"x", b"connection: close\r\n"),
        answer(b"x").replace(b"HTTP/1.1", b"HTTP/1.0"),
        answer(b"x") + b"HTTP/1.1 200 OK\r\n",
        answer(b"x") + b"\0",
    ],
    ids=["connection: close", "HTTP/1.0", "the beginning of another answer", "a byte too many"],
)
async def test_a_connection_that_is_done_serves_no_other_request(lean: Http1Transport, first: bytes) -> None:
    """The answer counts, the connection does not."""
    async with scripted(answers(first, b""), answers(answer(b"y"))) as server:
        assert await whole(lean, server.url) == b"x"
        await server.peers[0].gone.wait()
        assert await whole(lean, server.url) == b"y"


async def test_a_body_until_the_connection_closes_is_whole(lean: Http1Transport) -> None:
    """Neither length nor chunks."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        await asyncio.sleep(0)
        await peer.send(b"def")

    async with scripted(script) as server:
        assert await whole(lean, server.url) == b"abcdef"


async def test_an_answer_not_read_to_its_end_closes_the_connection(lean: Http1Transport) -> None:
    """What is left of it must not become the next answer."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"3\r\nabc\r\n")
        await peer.closed()

    async with scripted(script, answers(answer(b"y"))) as server:
        opened = await ask(lean, server.url)
        assert await anext(opened.parts()) == b"abc"
        await opened.close()
        await server.peers[0].gone.wait()
        assert await whole(lean, server.url) == b"y"


async def test_a_whole_answer_that_was_not_taken_closes_the_connection(lean: Http1Transport) -> None:
    """It has come, but nobody has read it."""
    async with scripted(answers(answer(b"abc"), answer(b"y"))) as server:
        await (await ask(lean, server.url)).close()
        await server.peers[0].gone.wait()


async def test_a_connection_goes_back_as_soon_as_its_answer_is_read(lean: Http1Transport) -> None:
    """Whoever passes the answer on may be slow: the next request takes the connection meanwhile."""
    async with scripted(answers(answer(b"1"), answer(b"2"))) as server:
        slow = await ask(lean, server.url)
        assert await anext(slow.parts()) == b"1"
        assert await whole(lean, server.url) == b"2"
        await slow.close()
        assert len(server.peers) == 1


async def test_an_idle_connection_that_says_something_is_closed(lean: Http1Transport) -> None:
    """Nobody asked."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"x"))
        await wait_until(lambda: bool(lean._pool._idle_count))
        await peer.send(answer(b"surprise"))
        await peer.closed()

    async with scripted(script, answers(answer(b"y"))) as server:
        assert await whole(lean, server.url) == b"x"
        await server.peers[0].gone.wait()
        assert await whole(lean, server.url) == b"y"


async def test_an_idle_connection_that_closes_is_forgotten(lean: Http1Transport) -> None:
    """The next request does not even try it."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"x"))

    async with scripted(script, answers(answer(b"y"))) as server:
        assert await whole(lean, server.url) == b"x"
        await wait_until(lambda: not lean._pool._standing)
        assert await whole(lean, server.url) == b"y"


async def test_an_idle_connection_goes_after_a_while(make: Make) -> None:
    """Each by its own clock."""
    lean = make(idle_s=0.02)
    async with scripted(answers(answer(b"x"))) as server:
        await asyncio.gather(*(whole(lean, server.url) for _ in range(3)))
        for peer in server.peers:
            await peer.gone.wait()
        await wait_until(lambda: lean._pool._sweeper is None)
        assert not lean._pool._idle


# -- stale, or broken


@pytest.mark.parametrize("how", ["fin", "reset"])
async def test_a_kept_connection_that_breaks_before_any_byte_was_stale(lean: Http1Transport, how: str) -> None:
    """It can be repeated; on a fresh connection, or behind a byte, it can't."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"x"))
        await peer.request()
        if how == "reset":
            peer.reset()

    async with scripted(script) as server:
        await whole(lean, server.url)
        with pytest.raises(StaleSocket):
            await ask(lean, server.url)


async def test_a_fresh_connection_that_breaks_was_not_stale(lean: Http1Transport) -> None:
    """The provider may have begun to work on it."""

    async def script(peer: Peer) -> None:
        await peer.request()

    async with scripted(script) as server:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(lean, server.url)


@pytest.mark.parametrize("said", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n", b"nonsense"])
async def test_a_kept_connection_that_breaks_behind_a_byte_was_not_stale(lean: Http1Transport, said: bytes) -> None:
    """The request was seen."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer(b"x"))
        await peer.request()
        await peer.send(said)

    async with scripted(script) as server:
        await whole(lean, server.url)
        with pytest.raises(httpx.RemoteProtocolError):
            await ask(lean, server.url)


async def test_what_came_before_the_break_is_given_before_the_error(lean: Http1Transport) -> None:
    """Bytes are never lost to the error behind them."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"3\r\nabc\r\n3\r\nde")

    async with scripted(script) as server:
        opened = await ask(lean, server.url)
        got: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await collect(opened.parts(), got)
        await opened.close()
        assert b"".join(got) == b"abcde"


async def test_parts_that_came_together_are_joined_only_when_asked_for(lean: Http1Transport) -> None:
    """Before commit each chunk is looked at alone; behind it a burst is one piece."""
    chunks = CHUNKED + b"".join(b"1\r\n%b\r\n" % part for part in (b"a", b"b", b"c", b"d")) + b"0\r\n\r\n"
    async with scripted(answers(chunks)) as server:
        opened = await ask(lean, server.url)
        parts = opened.parts()
        assert [await anext(parts), await anext(parts)] == [b"a", b"b"]
        opened.joined = True
        assert [part async for part in parts] == [b"cd"]


# -- no body, and more than one answer


@pytest.mark.parametrize("status", [b"204 None", b"304 Same"])
async def test_an_answer_without_body_leaves_the_connection_usable(lean: Http1Transport, status: bytes) -> None:
    """204 and 304."""
    first = b"HTTP/1.1 %b\r\ncontent-length: 5\r\n\r\n" % status
    async with scripted(answers(first, answer(b"y"))) as server:
        assert await whole(lean, server.url) == b""
        assert await whole(lean, server.url) == b"y"
        assert len(server.peers) == 1


async def test_an_answer_to_head_has_no_body(lean: Http1Transport) -> None:
    """Its length is another answer's."""
    async with scripted(answers(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", answer(b"y"))) as server:
        assert await whole(lean, server.url, method="HEAD", content=b"") == b""
        assert await whole(lean, server.url) == b"y"
        assert len(server.peers) == 1


async def test_informational_answers_are_passed_over(lean: Http1Transport) -> None:
    """100 and 103 before the answer, in pieces of their own."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for early in (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\n"):
            await peer.send(early)
            await asyncio.sleep(0)
        await peer.send(answer(b"x"))
        await peer.closed()

    async with scripted(script) as server:
        opened = await ask(lean, server.url)
        assert opened.status == 200
        assert opened.headers == [(b"content-length", b"1")]
        assert await rest(opened) == b"x"


# -- time-outs


async def hang(peer: Peer) -> None:
    """Take the request and say nothing."""
    await peer.request()
    await peer.closed()


async def test_silence_before_the_head_is_a_time_out(lean: Http1Transport) -> None:
    """And the connection is closed."""
    async with scripted(hang) as server:
        with pytest.raises(httpx.ReadTimeout):
            await ask(lean, server.url, waits=HttpTimeouts(head_s=0.02))
        await server.peers[0].gone.wait()


async def test_silence_between_chunks_is_a_time_out_and_slowness_is_none(lean: Http1Transport) -> None:
    """Each chunk begins the wait anew, however long all of them take together."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED)
        for _ in range(6):
            await peer.pause(0.1)
            await peer.send(b"1\r\na\r\n")
        await peer.closed()

    async with scripted(script) as server:
        opened = await ask(lean, server.url, waits=HttpTimeouts(chunk_s=0.4))
        got: list[bytes] = []
        with pytest.raises(httpx.ReadTimeout):
            await collect(opened.parts(), got)
        await opened.close()
        assert got == [b"a"] * 6


async def test_a_shorter_limit_holds_though_a_longer_one_was_set_before(lean: Http1Transport) -> None:
    """The one timer of a connection looks earlier when it must."""
    async with scripted(answers(answer(b"x"), b"")) as server:
        await whole(lean, server.url)
        with pytest.raises(httpx.ReadTimeout):
            await ask(lean, server.url, waits=HttpTimeouts(head_s=0.02))


async def test_a_provider_that_reads_nothing_is_a_time_out(lean: Http1Transport) -> None:
    """A large body waits for room at most so long."""

    async def script(peer: Peer) -> None:
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await wait_until(lambda: bool(lean._pool._standing))
        await wait_until(lambda: not lean._pool._standing)

    async with scripted(script) as server:
        with pytest.raises(httpx.WriteTimeout):
            await ask(lean, server.url, content=b"x" * 40_000_000, waits=HttpTimeouts(write_s=0.05))


async def test_a_handshake_that_hangs_is_no_connection(lean: Http1Transport) -> None:
    """The limit covers TLS as well."""
    async with scripted(Peer.closed) as server:
        with pytest.raises(httpx.ConnectTimeout):
            await ask(lean, server.url.replace("http:", "https:"), waits=HttpTimeouts(connect_s=0.5))
        await wait_until(lambda: bool(server.peers) and server.peers[0].gone.is_set())


# -- back-pressure


async def test_no_more_is_read_than_is_taken(lean: Http1Transport) -> None:
    """A slow client slows the provider down, and what is held for it is bounded; all of it comes in the end."""
    size, sent = 30_000_000, 0

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while sent < size:
            await peer.send(b"x" * 100_000)
            sent += 100_000
        await peer.closed()

    async with scripted(script) as server:
        opened = await ask(lean, server.url)
        (connection,) = lean._pool._standing
        await wait_until(lambda: not connection._reading)
        await at_rest(lambda: sent)
        assert sent < size / 2
        assert connection._answer is not None
        assert connection._answer.size <= READ_AHEAD_BYTES + 262_144
        assert sum([len(part) async for part in opened.parts()]) == size
        await opened.close()


# -- uploads, and answers that come early


async def parts_of(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        await asyncio.sleep(0)
        yield part


async def test_an_upload_is_chunked(lean: Http1Transport) -> None:
    """Of unknown length; and its connection serves again."""

    async def script(peer: Peer) -> None:
        assert b"transfer-encoding: chunked" in await peer.head()
        wanted = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        assert await peer.exactly(len(wanted)) == wanted
        await peer.send(answer(b"x"))
        await peer.request()
        await peer.send(answer(b"y"))
        await peer.closed()

    async with scripted(script) as server:
        assert await whole(lean, server.url, content=parts_of(b"abc", b"", b"de")) == b"x"
        assert await whole(lean, server.url) == b"y"
        assert len(server.peers) == 1


@pytest.mark.parametrize("parts", [(b"ab", b"c"), (b"ab",), (b"ab", b"cd")], ids=["as said", "shorter", "longer"])
async def test_an_upload_is_as_long_as_was_said(lean: Http1Transport, parts: tuple[bytes, ...]) -> None:
    """One that is not never becomes a request."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append((await peer.request())[1])
        await peer.send(answer(b"x"))
        await peer.closed()

    async with scripted(script) as server:
        headers = [(b"content-length", b"3")]
        if parts == (b"ab", b"c"):
            assert (
                await rest(await lean.open("POST", server.url, b"/v1/messages", headers, parts_of(*parts), WAITS))
                == b"x"
            )
            assert seen == [b"abc"]
        else:
            with pytest.raises(httpx.LocalProtocolError):
                await lean.open("POST", server.url, b"/v1/messages", headers, parts_of(*parts), WAITS)
            assert seen == []


async def test_a_large_body_goes_up_whole(lean: Http1Transport) -> None:
    """In slices, each when there is room."""
    body = os.urandom(SLICE_BYTES * 5 + 7)
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append((await peer.request())[1])
        await peer.send(answer(b"x"))
        await peer.closed()

    async with scripted(script) as server:
        assert await whole(lean, server.url, content=body) == b"x"
        assert seen == [body]


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield b"x" * 65_536


@pytest.mark.parametrize("content", [endless, lambda: b"x" * 40_000_000], ids=["upload", "large body"])
async def test_a_refusal_before_the_request_is_sent_ends_it(lean: Http1Transport, content: Callable[[], Any]) -> None:
    """The answer is read; no more goes up, and the connection is closed."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer(b"too large", status=b"413 Payload Too Large"))
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await wait_until(lambda: not lean._pool._standing)

    async with scripted(script) as server:
        opened = await ask(lean, server.url, content=content())
        assert opened.status == 413
        (connection,) = lean._pool._standing
        sender = connection._sender
        assert sender is not None
        await wait_until(sender.done)
        assert await rest(opened) == b"too large"


async def test_a_good_answer_before_the_request_is_sent_does_not_end_it(lean: Http1Transport) -> None:
    """Both go on side by side."""
    more = asyncio.Event()

    async def upload() -> AsyncIterator[bytes]:
        yield b"abc"
        await more.wait()
        yield b"def"

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(CHUNKED)
        wanted = b"3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
        assert await peer.exactly(len(wanted)) == wanted
        await peer.send(b"2\r\nok\r\n0\r\n\r\n")
        await peer.closed()

    async with scripted(script) as server:
        opened = await ask(lean, server.url, content=upload())
        more.set()
        assert await rest(opened) == b"ok"


async def test_a_whole_answer_before_the_request_is_sent_closes_the_connection(lean: Http1Transport) -> None:
    """What is left of the request must not become the next one's beginning."""

    async def upload() -> AsyncIterator[bytes]:
        yield b"abc"
        await asyncio.Event().wait()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer(b"x"))
        await peer.closed()

    async with scripted(script) as server:
        assert await whole(lean, server.url, content=upload()) == b"x"
        await server.peers[0].gone.wait()


async def test_an_upload_without_end_ends_with_its_connection(lean: Http1Transport) -> None:
    """A source that never waits must not hold the event loop."""

    async def script(peer: Peer) -> None:
        await peer.head()
        peer.reset()

    async with scripted(script) as server:
        with pytest.raises(httpx.TransportError):
            await ask(lean, server.url, content=endless())


async def test_an_upload_that_fails_fails_the_request(lean: Http1Transport) -> None:
    """With its own error; the provider sees the connection close within the request."""

    async def upload() -> AsyncIterator[bytes]:
        yield b"abc"
        raise LookupError("gone")

    async with scripted(Peer.closed) as server:
        with pytest.raises(LookupError):
            await ask(lean, server.url, content=upload())
        await server.peers[0].gone.wait()


# -- limits


async def test_no_more_connections_than_the_limit(make: Make) -> None:
    """The rest waits in line, and is served."""
    lean = make(per_origin=2)
    async with scripted(answers(*[answer(b"x")] * 9)) as server:
        assert await asyncio.gather(*(whole(lean, server.url) for _ in range(9))) == [b"x"] * 9
        assert len(server.peers) == 2


async def test_who_waits_in_line_too_long_is_told(make: Make) -> None:
    """`pool_s`; the one that is served is not disturbed."""
    lean = make(per_origin=1)
    async with scripted(hang) as server:
        first = asyncio.create_task(ask(lean, server.url))
        await wait_until(lambda: bool(server.peers))
        with pytest.raises(httpx.PoolTimeout):
            await ask(lean, server.url, waits=HttpTimeouts(pool_s=0.02))
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


async def test_room_that_comes_free_goes_to_the_next_in_line(make: Make) -> None:
    """A connection that breaks makes room; one in line that has left is passed over."""
    lean = make(per_origin=1)
    async with scripted(hang, answers(answer(b"y"))) as server:
        tasks = [asyncio.create_task(whole(lean, server.url)) for _ in range(3)]
        await wait_until(lambda: bool(server.peers) and len(lean._pool._line) == 2)
        tasks[1].cancel()
        tasks[0].cancel()
        assert await tasks[2] == b"y"
        assert (await asyncio.gather(*tasks[:2], return_exceptions=True))[0] is not None


async def test_what_is_given_to_one_that_leaves_goes_to_the_next(make: Make) -> None:
    """Cancelled in the same round in which it was given the connection."""
    lean = make(per_origin=1)
    async with scripted(answers(answer(b"x"), answer(b"y"))) as server:
        opened = await ask(lean, server.url)
        second, third = (asyncio.create_task(whole(lean, server.url)) for _ in range(2))
        await wait_until(lambda: len(lean._pool._line) == 2)
        assert await rest(opened) == b"x"
        second.cancel()
        assert await third == b"y"
        assert second.cancelled()
        assert len(server.peers) == 1


async def test_an_idle_connection_makes_way_for_another_origin(make: Make) -> None:
    """All together there are never more than `overall`."""
    lean = make(overall=1)
    async with scripted(answers(answer(b"x"))) as one, scripted(answers(answer(b"y"))) as two:
        assert await whole(lean, one.url) == b"x"
        assert await whole(lean, two.url) == b"y"
        await one.peers[0].gone.wait()


async def test_a_connection_that_comes_free_makes_way_for_another_origin(make: Make) -> None:
    """Kept for its own origin, it would keep the other one waiting."""
    lean = make(overall=1)
    async with scripted(answers(answer(b"x"))) as one, scripted(answers(answer(b"y"))) as two:
        opened = await ask(lean, one.url)
        waiting = asyncio.create_task(whole(lean, two.url))
        await wait_until(lambda: bool(lean._pool._line))
        assert await rest(opened) == b"x"
        assert await waiting == b"y"


async def test_no_more_idle_connections_than_the_limit(make: Make) -> None:
    """The others are closed as they come free."""
    lean = make(idle=1)
    async with scripted(answers(answer(b"x"))) as server:
        opened = [await ask(lean, server.url) for _ in range(3)]
        assert [await rest(each) for each in opened] == [b"x"] * 3
        assert lean._pool._idle_count == 1
        await wait_until(lambda: sum(peer.gone.is_set() for peer in server.peers) == 2)


async def test_closing_tells_who_waits_in_line(make: Make) -> None:
    """Nobody waits for what will never come."""
    lean = make(per_origin=1)
    async with scripted(hang) as server:
        tasks = [asyncio.create_task(ask(lean, server.url)) for _ in range(2)]
        await wait_until(lambda: bool(lean._pool._line and lean._pool._standing and server.peers))
        await lean.aclose()
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(each) for each in told] == [httpx.RemoteProtocolError, httpx.PoolTimeout]


async def test_a_connection_that_comes_after_the_close_is_closed(
    lean: Http1Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request is told, and waits for no answer."""
    dialer = lean._pool._dialer
    dial = dialer.connect

    async def late(*given: Any) -> Any:
        connection = await dial(*given)
        await lean.aclose()
        return connection

    monkeypatch.setattr(dialer, "connect", late)
    async with scripted(hang) as server:
        with pytest.raises(httpx.ConnectError):
            await ask(lean, server.url)
        await wait_until(lambda: all(peer.gone.is_set() for peer in server.peers))


# -- cancelled


def is_under_way(transport: Http1Transport, *, in_body: bool) -> bool:
    """Whether the answer is awaited, or its head has come."""
    (connection,) = transport._pool._standing
    return connection._answer is not None and connection._answer.has_head == in_body


async def test_a_cancelled_request_closes_its_connection_at_once(lean: Http1Transport) -> None:
    """Before the head, and within the body."""

    async def half(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"1\r\na\r\n")
        await peer.closed()

    async with scripted(hang, half) as server:
        for number in range(2):
            task = asyncio.create_task(whole(lean, server.url))
            await wait_until(lambda count=number: len(server.peers) > count)  # type: ignore[misc]
            await wait_until(lambda in_body=number == 1: is_under_way(lean, in_body=in_body))  # type: ignore[misc]
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            if number == 0:
                await server.peers[0].gone.wait()
    gc.collect()


async def test_a_request_cancelled_while_it_connects_leaves_nothing(lean: Http1Transport) -> None:
    """TLS that is never answered."""
    async with scripted(Peer.closed) as server:
        task = asyncio.create_task(ask(lean, server.url.replace("http:", "https:")))
        await wait_until(lambda: bool(server.peers))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.peers[0].gone.wait()


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificate")
    openssl = shutil.which("openssl")
    assert openssl, "openssl is missing; install it with: apt-get install openssl"
    subprocess.run(
        [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=provider", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"),
         "-out", str(folder / "cert.pem")],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return folder


@pytest.fixture
def tls(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's context whose certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_tls_sessions_are_resumed(lean: Http1Transport, tls: ssl.SSLContext, version: ssl.TLSVersion) -> None:
    """The second connection shakes hands in short; HTTP/1.1 is agreed upon."""
    tls.maximum_version = version
    seen: list[tuple[bool, str]] = []

    async def script(peer: Peer) -> None:
        await peer.request()
        seen.append((peer.security.session_reused, peer.security.selected_alpn_protocol()))
        await peer.send(answer(b"x", b"connection: close\r\n" if len(seen) == 2 else b""))
        if len(seen) > 1:
            await peer.closed()

    async with scripted(script, tls=tls) as server:
        assert await whole(lean, server.url) == b"x"
        await wait_until(lambda: not lean._pool._standing)
        assert await whole(lean, server.url) == b"x"
    assert seen == [(False, "http/1.1"), (True, "http/1.1")]


async def test_the_same_holds_over_tls(lean: Http1Transport, tls: ssl.SSLContext) -> None:
    """A large body, a stream, a stale connection, a cut."""

    async def script(peer: Peer) -> None:
        assert len((await peer.request())[1]) == 3_000_000
        await peer.send(CHUNKED + b"3\r\nabc\r\n")
        await peer.send(b"2\r\nde\r\n0\r\n\r\n")
        await peer.request()

    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.send(CHUNKED + b"3\r\nabc\r\n")
        peer.reset()

    async with scripted(script, cut, tls=tls) as server:
        assert await whole(lean, server.url, content=b"x" * 3_000_000) == b"abcde"
        with pytest.raises(StaleSocket):
            await ask(lean, server.url)
        with pytest.raises(httpx.TransportError):
            await whole(lean, server.url)


async def test_another_hosts_certificate_is_refused(lean: Http1Transport, tls: ssl.SSLContext) -> None:
    """Trusted, but not for this name."""
    async with scripted(Peer.closed, tls=tls) as server:
        with pytest.raises(httpx.ConnectError, match=r"(?i)certificate|hostname"):
            await ask(lean, server.url.replace("127.0.0.1", "localhost"))


# -- addresses


async def test_a_name_that_no_dns_could_hold_is_no_connection(lean: Http1Transport) -> None:
    """Not the encoder's own error."""
    with pytest.raises(httpx.ConnectError):
        await ask(lean, f"http://{'a' * 80}.example/")


async def test_addresses_of_both_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system's first choice begins."""
    six, four = socket.AF_INET6, socket.AF_INET
    found = [(family, 0, 0, "", (name, 1)) for family, name in ((six, "a"), (six, "b"), (six, "c"), (four, "d"))]

    async def getaddrinfo(*_args: Any, **_more: Any) -> Any:
        return found

    monkeypatch.setattr(lean_dial, "look_up", getaddrinfo)
    got = await lean_dial.addresses_of(Origin("x", 1, tls=False))
    assert [place[0] for _, place in got] == ["a", "d", "b", "c"]


@pytest.mark.parametrize("first", ["refuses", "hangs"])
async def test_the_next_address_is_tried(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At once when one refuses, soon when one is silent."""
    connect, cancelled = lean_dial.connect, asyncio.Event()

    async def dead(address: lean_dial.Address) -> socket.socket:
        if address[1][1] != 1:
            return await connect(address)
        if first == "refuses":
            raise ConnectionRefusedError
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    monkeypatch.setattr(lean_dial, "connect", dead)
    async with scripted(Peer.closed) as server:
        four = socket.AF_INET
        sock = await connected([(four, ("127.0.0.1", 1)), (four, ("127.0.0.1", server.port))])
        assert sock.getpeername()[1] == server.port
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        sock.close()
        if first == "hangs":
            await cancelled.wait()


async def test_the_first_refusal_is_told_when_no_address_answers() -> None:
    """Refused by all."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        place = (socket.AF_INET, closed.getsockname())
        with pytest.raises(ConnectionRefusedError):
            await connected([place, place])


# -- behind httpx's interface


async def test_it_is_a_transport_of_httpx(lean: Http1Transport) -> None:
    """An AsyncClient works with it: bodies, uploads, streams."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        head, body = await peer.request()
        seen.append(body)
        assert head.count(b"\r\nHost:") + head.count(b"\r\nhost:") == 1
        await peer.send(answer(b'{"a": 1}', b"content-type: application/json\r\n"))
        await peer.head()
        seen.append(await peer.exactly(len(b"3\r\nabc\r\n0\r\n\r\n")))
        await peer.send(CHUNKED + b"2\r\nhi\r\n0\r\n\r\n")
        await peer.closed()

    async with scripted(script) as server, httpx.AsyncClient(transport=lean, trust_env=False) as client:
        assert (await client.post(server.url, content=b"body")).json() == {"a": 1}
        async with client.stream("POST", server.url, content=parts_of(b"abc")) as response:
            assert await response.aread() == b"hi"
        assert seen == [b"body", b"3\r\nabc\r\n0\r\n\r\n"]


async def test_many_at_once_leave_no_descriptor(make: Make) -> None:
    """A storm of requests, a third of them cancelled; all descriptors are back in the end."""

    async def script(peer: Peer) -> None:
        while True:
            await peer.request()
            await peer.send(CHUNKED + b"3\r\nabc\r\n")
            await peer.pause(0.001)
            await peer.send(b"0\r\n\r\n")

    async with scripted(script) as server:
        before = open_descriptors()
        lean = make(per_origin=20)
        tasks = [asyncio.create_task(whole(lean, server.url)) for _ in range(150)]
        for task in tasks[::3]:
            asyncio.get_running_loop().call_later(0.01, task.cancel)
        told = await asyncio.gather(*tasks, return_exceptions=True)
        assert {b"abc"} <= {each for each in told if isinstance(each, bytes)} <= {b"abc"}
        assert all(isinstance(each, bytes | asyncio.CancelledError) for each in told)
        await lean.aclose()
        await wait_until(lambda: open_descriptors() <= before)


def open_descriptors() -> int:
    return len(os.listdir("/dev/fd"))
