"""Ports of the loopback for the servers of a test."""

import os
import random
import socket
from collections.abc import Iterator
from itertools import cycle

from service.embedded.folder import is_free

FIRST_PORT, LAST_PORT = 30_000, 32_700
"""Above the embedded servers' ports, and below those that the kernel gives to outgoing connections."""
WORKERS = 8


def own_ports() -> Iterator[int]:
    """The ports of this process in a random order, again and again. Those of pytest's workers are disjoint, since a
    port is taken some time before a server listens there.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    ports = [*range(FIRST_PORT + worker % WORKERS, LAST_PORT, WORKERS)]
    random.shuffle(ports)
    return cycle(ports)


PORTS = own_ports()


def free_port() -> int:
    """A port on which nothing listens."""
    return next(port for _, port in zip(range(200), PORTS, strict=False) if is_free("127.0.0.1", port))


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
