"""Waiting until a server in this process has read what a client sent, so that the next bytes are a separate read."""

import asyncio
import fcntl
import struct
import termios
from collections.abc import Collection
from typing import Any

from tests.support.waiting import wait_until


async def until_read(connections: Collection[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait until the server's end of this connection has read everything, has stopped reading, or is closed.

    `connections` are the server's, as uvicorn keeps them.
    """
    address = writer.get_extra_info("sockname")

    def is_read() -> bool:
        if reader._eof or reader.exception():  # type: ignore[attr-defined] # a server that has closed reads no more
            return True
        ends = [one for one in connections if one.transport.get_extra_info("peername") == address]
        return bool(ends) and all(one.flow.read_paused or unread(one.transport) == 0 for one in ends)

    await wait_until(lambda: not writer.transport.get_write_buffer_size() or is_read())
    await wait_until(is_read)


def unread(transport: asyncio.BaseTransport) -> int:
    """The bytes that lie in the kernel for this end of a connection."""
    found = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", found)[0])
