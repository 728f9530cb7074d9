"""Ports of the loopback for the servers of a test."""

import fcntl
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import TextIO

from service.embedded.folder import is_free

FIRST_PORT, LAST_PORT = 30_000, 32_700
"""Above the embedded servers' ports, and below those that the kernel gives to outgoing connections."""
BLOCK = 100
"""Ports of one process. A server is killed and restarted on its port: nobody else may have taken it meanwhile."""
LOCKS = Path(tempfile.gettempdir()) / f"ccproxy-test-ports-{os.getuid()}"
HELD: list[TextIO] = []
"""Open files of the locked blocks: closing one unlocks its block."""


def lock_block(locks: Path) -> range | None:
    """Reserve a block of ports until this process ends; None if other processes have them all.

    All checkouts of a machine share the locks. The kernel drops a lock with its process, however that ends.
    """
    locks.mkdir(mode=0o700, exist_ok=True)
    for first in range(FIRST_PORT, LAST_PORT, BLOCK):
        file = (locks / str(first)).open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            continue
        HELD.append(file)
        return range(first, first + BLOCK)
    return None


def own_ports() -> Iterator[int]:
    """The ports of this process in a random order, again and again; of all ports if no block is free."""
    ports = [*(lock_block(LOCKS) or range(FIRST_PORT, LAST_PORT))]
    random.shuffle(ports)
    yield from cycle(ports)


PORTS = own_ports()


def free_port() -> int:
    """A port on which nothing listens."""
    return next(port for _, port in zip(range(200), PORTS, strict=False) if is_free("127.0.0.1", port))


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
