"""A server whose every byte is a test's own: each connection takes the next script, the last one for ever."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from tests.support.served import served

Script = Callable[["Peer"], Awaitable[None]]

LIMIT_S = 20


class Peer:
    """The server's end of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.gone = asyncio.Event()
        """The client has closed."""

    @property
    def security(self) -> Any:
        return self.writer.get_extra_info("ssl_object")

    async def head(self) -> bytes:
        """A request's head."""
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readuntil(b"\r\n\r\n")

    async def request(self) -> tuple[bytes, bytes]:
        """A request with a body of known length."""
        head = await self.head()
        size = next((line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b":0")
        return head, await self.exactly(int(size.partition(b":")[2]))

    async def exactly(self, size: int) -> bytes:
        async with asyncio.timeout(LIMIT_S):
            return await self.reader.readexactly(size)

    async def send(self, data: bytes) -> None:
        if self.writer.is_closing():  # the client has gone; uvloop calls a write all the same a RuntimeError
            raise ConnectionResetError
        self.writer.write(data)
        await self.writer.drain()

    async def pause(self, pause_s: float) -> None:
        """Say nothing for a while, as a slow provider."""
        await asyncio.sleep(pause_s)

    async def closed(self) -> None:
        """Until the client has closed."""
        with suppress(ConnectionError):
            async with asyncio.timeout(LIMIT_S):
                while await self.reader.read(65_536):
                    pass
        self.gone.set()

    def reset(self) -> None:
        self.writer.transport.abort()


class Scripted:
    """What the server saw."""

    def __init__(self, scripts: tuple[Script, ...], scheme: str) -> None:
        self.scripts = scripts
        self.scheme = scheme
        self.peers: list[Peer] = []
        self.faults: list[BaseException] = []
        self.port = 0

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        script = self.scripts[min(len(self.peers), len(self.scripts) - 1)]
        self.peers.append(peer)
        try:
            await script(peer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        except BaseException as fault:  # noqa: BLE001 - told when the server ends
            self.faults.append(fault)
        finally:
            peer.gone.set()
            writer.transport.abort()


@asynccontextmanager
async def scripted(*scripts: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[Scripted]:
    """A server on the loopback."""
    server = Scripted(scripts, "https" if tls else "http")
    async with served(server.serve, ssl=tls) as server.port:
        yield server
    assert not server.faults, server.faults


def answers(*each: bytes) -> Script:
    """Requests are answered one after the other; then the client's end is awaited."""

    async def script(peer: Peer) -> None:
        for answer in each:
            await peer.request()
            await peer.send(answer)
        await peer.closed()

    return script


def answer(body: bytes = b"", headers: bytes = b"", status: bytes = b"200 OK") -> bytes:
    """An answer with a length."""
    return b"HTTP/1.1 %b\r\n%bcontent-length: %d\r\n\r\n%b" % (status, headers, len(body), body)
