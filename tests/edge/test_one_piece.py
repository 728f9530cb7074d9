"""The head of an answer leaves with what follows it, and never stays behind."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from service.edge.one_piece import Joining

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    """Both ends of a connection: what is written at the one, and what has come at the other so far."""

    def __init__(self, joining: Joining, far: socket.socket) -> None:
        self.joining = joining
        self._far = far

    def come(self) -> bytes:
        """What has come since, without waiting."""
        try:
            return self._far.recv(1024)
        except BlockingIOError:
            return b"nothing"


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    """A connection on this machine."""
    near, far = socket.socketpair()
    near.setblocking(False)
    far.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_connection(asyncio.Protocol, sock=near)
    yield Wire(Joining(transport, loop), far)
    transport.abort()
    far.close()


async def test_a_head_leaves_with_the_body(wire: Wire) -> None:
    """In one piece, and nothing of it twice."""
    wire.joining.write(HEAD)
    assert wire.come() == b"nothing"
    wire.joining.write(b"body")
    assert wire.come() == HEAD + b"body"
    wire.joining.write(b"more")
    assert wire.come() == b"more"
    await asyncio.sleep(0)
    assert wire.come() == b"nothing"


async def test_a_lonely_head_leaves_all_the_same(wire: Wire) -> None:
    """A stream whose content is still to come has begun."""
    wire.joining.write(HEAD)
    await asyncio.sleep(0)
    assert wire.come() == HEAD


async def test_two_heads_keep_their_order(wire: Wire) -> None:
    """As when a 100 goes before the answer."""
    wire.joining.write(HEAD + b"one")
    wire.joining.write(HEAD + b"two")
    await asyncio.sleep(0)
    assert wire.come() == HEAD + b"one" + HEAD + b"two"


async def test_a_head_goes_before_the_end(wire: Wire) -> None:
    """An answer without a body, on a connection that closes."""
    wire.joining.write(HEAD)
    wire.joining.close()
    assert wire.joining.is_closing()
    assert wire.come() == HEAD
