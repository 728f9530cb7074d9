"""A server's folder: who may use it, its password, its port. Files only; no process is started here.

Each of these is a file of its own, so that a person can read and mend them: `lock`, `password` (0600), `port`.
"""

import os
import random
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

from service.embedded import EmbeddedError
from service.private_files import close_to_others, make_folder

FIRST_PORT, LAST_PORT = 15_000, 29_999
"""Below what Linux and macOS give to outgoing connections. A port from that range could, while its server is away, be
taken by any outgoing connection, even by a client's own attempt to reach the server, which then connects to itself."""
PORT_TRIES = 200
LOCK_POLL_S = 0.02
MAX_LOG_BYTES = 10 * 1024 * 1024


class FolderBusy(EmbeddedError):
    """Another process holds the lock of this folder."""


def lock(path: Path, timeout_s: float) -> int:
    """Lock the file at `path`; the descriptor holds the lock until it, and every copy of it, is closed.

    Raises FolderBusy when another holds it for longer than `timeout_s`.
    """
    import fcntl  # here, for there is no such module on Windows, where this page is imported but never used

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up_at_s = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= give_up_at_s:
                os.close(descriptor)
                raise FolderBusy(f"{path.parent} is in use by another process") from None
            time.sleep(LOCK_POLL_S)
        else:
            return descriptor


class Locked:
    """`lock`, given back at the end. A process that inherited the descriptor goes on holding the lock."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Raises FolderBusy."""
        self._descriptor = lock(path, timeout_s)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def read(path: Path) -> str | None:
    """What the small file at `path` says, None when there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def write_private(path: Path, text: str) -> None:
    """Put `text` at `path` in one step, readable by its owner alone."""
    draft = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def new_password() -> str:
    """A random password that needs no escaping in a URL, in SQL, or in a Redis configuration."""
    return secrets.token_hex(24)


def choose_port(remembered: Path) -> int:
    """The port of the last run where it is free, else a free one; noted in `remembered`."""
    last = read(remembered) or ""
    if last.isdigit() and is_free("127.0.0.1", int(last)):
        return int(last)
    for _ in range(PORT_TRIES):
        port = random.randint(FIRST_PORT, LAST_PORT)  # noqa: S311 - a port is no secret
        if is_free("127.0.0.1", port):
            write_private(remembered, f"{port}\n")
            return port
    raise EmbeddedError(f"No free port between {FIRST_PORT} and {LAST_PORT} on 127.0.0.1 in {PORT_TRIES} tries.")


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there now. False too when `host` is no address of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the servers do, so that connections of the last run, still winding down, do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError:
        return False
    return True


def open_log(path: Path) -> int:
    """A descriptor that appends to the log at `path`; a log that grew too long becomes `<name>.1` first."""
    make_folder(path.parent)
    with suppress(FileNotFoundError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    close_to_others(path)
    return descriptor
