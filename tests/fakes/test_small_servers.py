"""The small servers of this room's tests leave no connection behind: the garbage collector would blame any test."""

import asyncio
import gc

import pytest

from tests.support.served import knock, served


async def read_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait for the client's end."""
    try:
        await reader.read()
    finally:
        writer.transport.abort()


@pytest.mark.parametrize("rounds", range(6))
async def test_a_connection_that_is_being_accepted_is_closed(rounds: int) -> None:
    """At whichever step of it the server ends."""
    async with served(read_all) as port:
        client = await knock(port, rounds)
    client.close()
    gc.collect()
