"""Ports of the loopback for the servers of a test."""

import random
import socket

from service.embedded.folder import is_free

FIRST_PORT, LAST_PORT = 30_000, 32_700
"""Above the embedded servers' ports, and below those that the kernel gives to outgoing connections."""


def free_port() -> int:
    """A port on which nothing listens."""
    ports = (random.randint(FIRST_PORT, LAST_PORT) for _ in range(200))  # noqa: S311 - a port is no secret
    return next(port for port in ports if is_free("127.0.0.1", port))


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0
