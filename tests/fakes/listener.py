"""A listening socket that can stop listening and come back on the same port, in one event loop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from tests.fakes.connection import Connection, Serve
from tests.support.served import until_accepted

if TYPE_CHECKING:
    import ssl

    from tests.fakes.book import Book

HOST = "127.0.0.1"
BACKLOG = 512


def bound(port: int = 0) -> socket.socket:
    """A socket that holds a port of the loopback without listening: who connects to it is refused."""
    # Named as TCP: asyncio switches Nagle's delay off only on sockets whose protocol says so.
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((HOST, port))
    return sock


class Listener:
    """Accepts connections for one `serve`. While it refuses, it keeps the port, so that no one else can take it."""

    def __init__(self, serve: Serve, book: Book, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._serve = serve
        self._book = book
        self._ssl = ssl_context
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._placeholder: socket.socket | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http{'s' if self._ssl else ''}://{HOST}:{self.port}"

    async def open(self, port: int = 0) -> None:
        """Listen, on this port or a free one; after `refuse` on the same as before."""
        sock = self._placeholder or bound(port)
        self._placeholder = None
        self.port = sock.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connection, sock=sock, backlog=BACKLOG, ssl=self._ssl)

    def _connection(self) -> Connection:
        return Connection(self._serve, self._book, self._connections)

    async def refuse(self) -> None:
        """Refuse new connections and reset the open ones."""
        await until_accepted()
        self._stop_listening()
        self._placeholder = bound(self.port)
        await self._shut_connections()

    async def close(self) -> None:
        await until_accepted()
        self._stop_listening()
        if self._placeholder is not None:
            self._placeholder.close()
        await self._shut_connections()

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _shut_connections(self) -> None:
        for connection in list(self._connections):
            connection.shut()
            await connection.settled()
