"""A connection whose bytes are ours, with a server that answers as it is told."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as Silent

from service.redis_client.resp_connection import LONGEST_VALUE_BYTES, RespConnection, encode_command, end_of
from tests.support.waiting import stays, wait_until

ID = b"$15\r\n1790000000000-0\r\n"
SAID_IN_BETWEEN = b">2\r\n$6\r\nMOVING\r\n%1\r\n+a\r\n*2\r\n:1\r\n_\r\n"
EVERY_KIND = [
    b"+OK\r\n", b"-ERR no\r\n", b":7\r\n", b"$-1\r\n", b"$0\r\n\r\n", ID,
    b"*-1\r\n", b"*0\r\n", b"*2\r\n:1\r\n$1\r\na\r\n",
    b"_\r\n", b",1.5\r\n", b"#t\r\n", b"(12345678901234567890\r\n", b"!5\r\nERR x\r\n", b"=5\r\ntxt:a\r\n",
    b"~1\r\n+a\r\n", b"%1\r\n+a\r\n*1\r\n:2\r\n", b"|1\r\n+a\r\n:2\r\n", SAID_IN_BETWEEN,
]  # fmt: skip
Call = Callable[..., Awaitable[tuple[RespConnection, asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    """Opens a line; with it, the server's end of it."""
    ends: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    opened: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda *end: ends.put_nowait(end), "127.0.0.1", 0)

    async def open_line(limit_s: float = 20.0) -> tuple[RespConnection, asyncio.StreamReader, asyncio.StreamWriter]:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        line = RespConnection(writer.transport, limit_s)
        reader, theirs = await ends.get()
        opened.extend((writer, theirs))
        return line, reader, theirs

    yield open_line
    for writer in opened:
        writer.close()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("value", EVERY_KIND)
def test_a_value_ends_where_it_ends(value: bytes) -> None:
    """Every kind of value, whatever follows it; before its last byte it is not whole."""
    assert end_of(b"+x\r\n" + value + b"+y\r\n", 4) == 4 + len(value)
    assert [end_of(value[:length], 0) for length in range(len(value))] == [0] * len(value)


def test_a_command_says_how_long_its_words_are() -> None:
    """Whatever bytes they hold."""
    assert encode_command(b"XADD", b"k\r\n", b"") == b"*3\r\n$4\r\nXADD\r\n$3\r\nk\r\n\r\n$0\r\n\r\n"


async def test_it_is_done_when_each_command_was_answered(call: Call) -> None:
    """In one piece or byte by byte, with whatever the server says in between."""
    line, reader, server = await call()
    for pieces in ([ID + SAID_IN_BETWEEN + b":1\r\n"], [bytes([byte]) for byte in SAID_IN_BETWEEN + ID + b":1\r\n"]):
        answered = line.send(b"two commands", 2)
        assert await reader.readexactly(12) == b"two commands"
        for piece in pieces[:-1]:
            server.write(piece)
            await asyncio.sleep(0)
            assert not answered.done()
        server.write(pieces[-1])
        await answered


@pytest.mark.parametrize("refusal", [b"-READONLY no\r\n", b"!11\r\nREADONLY no\r\n"])
async def test_what_was_refused_fails(call: Call, refusal: bytes) -> None:
    """At the first refusal; another command may have been taken."""
    line, _, server = await call()
    answered = line.send(b"x", 2)
    server.write(refusal)
    with pytest.raises(ResponseError, match="READONLY no"):
        await answered


async def test_a_server_that_is_silent_fails_it(call: Call) -> None:
    """Also when it has answered before: one timer serves all."""
    line, _, server = await call(limit_s=0.05)
    server.write(b":1\r\n")
    answered = line.send(b"x", 1)
    await answered
    with pytest.raises(Silent):
        await line.send(b"y", 1)
    assert not line.is_lost


@pytest.mark.parametrize(
    "told",
    [b"HTTP/1.1 400 Bad Request\r\n", b":1\r\n:2\r\n", b"$x\r\n", b"$" + b"9" * LONGEST_VALUE_BYTES, b"*9\r\n" * 5_000],
)
async def test_what_speaks_otherwise_is_left(call: Call, told: bytes) -> None:
    """Another protocol, an answer to nothing, an answer without end: nothing of it counts from then on."""
    line, _, server = await call()
    answered = line.send(b"x", 1)
    server.write(told)
    await wait_until(lambda: line.is_lost)
    if told != b":1\r\n:2\r\n":
        with pytest.raises(RedisError):
            await answered
    with pytest.raises(RedisError):
        await line.send(b"y", 1)


async def test_a_connection_that_breaks_fails_what_waits_and_what_comes(call: Call) -> None:
    """And redis-py, whose connection it is, hears of it."""
    line, _, server = await call()
    answered = line.send(b"x", 1)
    server.close()
    with pytest.raises(RedisError, match="closed"):
        await answered
    assert line.is_lost
    with pytest.raises(RedisError, match="closed"):
        await line.send(b"y", 1)


async def test_who_aborts_hears_no_more(call: Call) -> None:
    """Neither of what was asked nor of the end."""
    line, _, server = await call()
    answered = line.send(b"x", 1)
    line.abort()
    server.write(ID)
    await stays(lambda: line.is_lost and not answered.done())
