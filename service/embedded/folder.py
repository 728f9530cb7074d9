"""A server's folder: lock, password and port. Files only; no process is started here.

Each is a file, so that people can read and repair them: `lock`, `password` (0600), `port`.
"""

import os
import random
import secrets
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path

from service.embedded import EmbeddedError
from service.private_files import close_to_others, make_folder

FIRST_PORT, LAST_PORT = 15_000, 29_999
"""Below the range for outgoing connections on Linux and macOS. A port of that range could be taken by any outgoing
connection while the server is down, even by a client's own attempt to connect, which then connects to itself."""
PORT_TRIES = 200
LOCK_POLL_S = 0.02
MAX_LOG_BYTES = 10 * 1024 * 1024


class FolderBusy(EmbeddedError):
    """Another process holds the lock of this folder."""


def lock(path: Path, timeout_s: float) -> int:
    """Lock the file at `path` and return the descriptor; the lock is held until all copies of it are closed.

    Raises FolderBusy if another process holds it for longer than `timeout_s`.
    """
    import fcntl  # not at the top: Windows, where this module is imported but never used, has no such module

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
    """Context manager around `lock`. A process that inherited the descriptor keeps the lock."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        """Raises FolderBusy."""
        self._descriptor = lock(path, timeout_s)

    def __enter__(self) -> int:
        return self._descriptor

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def read(path: Path) -> str | None:
    """Return the content of the small file at `path`, None if there is none."""
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def write_private(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, readable by its owner alone."""
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
    """Return a random password that needs no escaping in a URL, in SQL, or in a Redis configuration."""
    return secrets.token_hex(24)


def choose_port(remembered: Path) -> int:
    """Return the previous port if it is free, else another free one; stored in `remembered`."""
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
    """True if a server could listen there now. False also if `host` is not an address of this machine."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            # As the servers do, so that closing connections of the previous run do not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError:
        return False
    return True


def open_log(path: Path) -> int:
    """Open the log at `path` for appending; a log that is too long is renamed to `<name>.1` first."""
    make_folder(path.parent)
    with suppress(FileNotFoundError):
        if path.stat().st_size > MAX_LOG_BYTES:
            path.replace(path.with_name(f"{path.name}.1"))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    close_to_others(path)
    return descriptor


def rotate(path: Path) -> None:
    """Copy a log that is too long to `<name>.1`, and empty it: its writers keep it open, and append.

    Lines that are written meanwhile may be lost.
    """
    if path.stat().st_size <= MAX_LOG_BYTES:
        return
    old = path.with_name(f"{path.name}.1")
    shutil.copyfile(path, old)
    close_to_others(old)
    os.truncate(path, 0)
