"""A server of a few lines for one test, by asyncio's streams. Not here: the fakes of providers (`tests.fakes`)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

ROUNDS = 5
"""Of the event loop, after which a connection that was being accepted has reached its handler."""
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]]


@asynccontextmanager
async def served(handle: Handler, **options: Any) -> AsyncIterator[int]:
    """Serve on a port of the loopback, with these options of `start_server`; at the end all its connections are closed.

    Python 3.11 waits for none of them, and its garbage collector blames any test for one that outlives its loop.
    """
    writers: list[asyncio.StreamWriter] = []
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        task = asyncio.ensure_future(handle(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, **options)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        await until_accepted()
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def until_accepted() -> None:
    """Wait, before a server's close, until each connection that it is accepting has reached its handler: asyncio fails
    to make its transport once the server is closed, and one that nobody knows of is not closed either."""
    for _ in range(ROUNDS):
        await asyncio.sleep(0)


async def knock(port: int, rounds: int) -> socket.socket:
    """Begin a connection to a server of this event loop, and return it after so many rounds of the loop."""
    client = socket.socket()
    client.setblocking(False)
    client.connect_ex(("127.0.0.1", port))
    for _ in range(rounds):
        await asyncio.sleep(0)
    return client
