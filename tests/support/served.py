"""A server of a few lines for one test, by asyncio's streams. Not here: the fakes of providers (`tests.fakes`)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

ROUNDS = 5
"""Of the event loop, after which a connection that was being accepted has reached its handler."""
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def served(handle: Handler) -> AsyncIterator[int]:
    """Serve on a port of the loopback; at the end all its connections are closed.

    Python 3.11 waits for none of them, and its garbage collector blames any test for one that outlives its loop.
    """
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await handle(reader, writer)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield int(server.sockets[0].getsockname()[1])
    finally:
        server.close()
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
