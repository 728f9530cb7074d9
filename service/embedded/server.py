"""Base class of the embedded Postgres and Valkey: a folder, a port, and a process that holds the folder's lock.

Usable as a context manager; `up` drives the same object step by step (`prepare`, `spawn`, `is_ready`, `poll`). Not
here: command lines, and when to restart.

The server holds the lock itself, through a descriptor that it and its children inherit. So the folder stays locked
while any process of the server lives, even after our death; and once we hold the lock, files left by the previous
server (such as a pid file) are known to be stale.
"""

import os
import signal
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from service.embedded import EmbeddedError, binaries, folder
from service.embedded import account as accounts
from service.embedded.managed_process import ManagedProcess, RestartableProcess, run
from service.private_files import make_folder

READY_POLL_S = 0.01
PROBE_TIMEOUT_S = 20.0
ENVIRON = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
"""The server's whole environment: PGDATA, PGPORT and the like must not reach it."""


class Server(RestartableProcess, ABC):
    """A database server on the loopback, with its data in a folder of its own."""

    name: str = ""
    stop_signal: ClassVar[signal.Signals]
    needs: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    once = False
    start_timeout_s = 600.0  # a server in crash recovery must not be killed
    stop_timeout_s = 10.0
    hasty_stop_timeout_s = 2.0

    def __init__(self, place: Path, *, log: Path | None = None, busy_timeout_s: float = 5.0) -> None:
        """`place` is created if it is missing. `busy_timeout_s`: how long another server may still hold it."""
        self.place = place.absolute()
        self.data = self.place / "data"
        self.log = log or self.place / f"{self.name.lower()}.log"
        self.version = ""
        self.port = 0
        self._busy_timeout_s = busy_timeout_s
        self._account: accounts.Account | None = None

    @property
    @abstractmethod
    def url(self) -> str:
        """The server's URL with the password. Known after `spawn`, and the same after every restart."""

    @abstractmethod
    def is_ready(self) -> bool:
        """True if the process that we started, and no other, accepts connections."""

    @abstractmethod
    def _program(self) -> Path:
        """Return the server's binary."""

    @abstractmethod
    def _launch(self, lock: int, output: int) -> ManagedProcess:
        """Start the process on existing data, with `lock` inherited and its output to `output`."""

    @property
    def title(self) -> str:
        """Name, version and address, for the terminal."""
        return f"{self.name} {self.version} on 127.0.0.1:{self.port}"

    @property
    def alive(self) -> bool:
        """True if the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def account(self) -> accounts.Account:
        """Its account. Known after `prepare`."""
        if self._account is None:
            raise RuntimeError(f"{self.name} was not prepared")
        return self._account

    def prepare(self) -> None:
        """Find the program and the account. Raises EmbeddedError if a retry would not help."""
        if self._account is not None:
            return
        program = self._program()
        self.version = binaries.version_of(program)
        # Root's servers run as another user, who has to traverse it; secrets have modes of their own.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        make_folder(self.place, mode)
        accounts.check_owner(self.place)
        self.place.chmod(mode)
        self._account = accounts.choose(self.place, lambda account: self._reaches(account, program))

    def spawn(self) -> None:
        """Start the process without waiting until it is ready. Raises EmbeddedError, and FolderBusy if it is in use."""
        self.prepare()
        if self.alive:
            raise EmbeddedError(f"{self.name} is already running, as process {self.pid}.")
        with self._locked() as lock, os.fdopen(folder.open_log(self.log), "wb") as output:
            if not self.port:
                self.port = folder.choose_port(self.place / "port")
            self._process = self._launch(lock, output.fileno())
        folder.write_private(self.place / "pid", f"{self._process.pid}\n")

    def start(self, timeout_s: float = 60.0) -> str:
        """Start, wait until ready, and return the URL. Raises EmbeddedError."""
        self.spawn()
        give_up_at_s = time.monotonic() + timeout_s
        while not self.is_ready():
            status = self.poll()
            if status is not None:
                raise EmbeddedError(f"{self.name} exited with status {status} before it was ready; see {self.log}")
            if time.monotonic() >= give_up_at_s:
                self.kill()
                raise EmbeddedError(f"{self.name} was not ready after {timeout_s:.0f} s; see {self.log}")
            time.sleep(READY_POLL_S)
        return self.url

    def stop(self, timeout_s: float = 10.0) -> None:
        """Stop gracefully, by force after `timeout_s`. No effect if it does not run."""
        if self.alive and self._process is not None:
            self._process.stop(timeout_s)

    def kill(self) -> None:
        """Send SIGKILL, like a crash. Acknowledged writes survive."""
        if self.alive and self._process is not None:
            self._process.kill()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _locked(self) -> "folder.Locked":
        try:
            return folder.Locked(self.place / "lock", self._busy_timeout_s)
        except folder.FolderBusy:
            pid = folder.read(self.place / "pid") or "unknown"
            raise folder.FolderBusy(
                f"{self.name}'s data in {self.place} is in use by another server (process {pid}). "
                "Stop that one, or set CCPROXY_HOME to another folder."
            ) from None

    def _reaches(self, account: accounts.Account, program: Path) -> bool:
        """True if `account` can run the program and enter the folder: tested, because modes alone don't tell."""
        test = ["/bin/sh", "-c", 'cd "$1" && exec "$2" --version', "probe", str(self.place), str(program)]
        with open(os.devnull, "wb") as nowhere, suppress(OSError):
            return run(test, account=account, environ=ENVIRON, output=nowhere.fileno(), timeout_s=PROBE_TIMEOUT_S) == 0
        return False

    def _make_data_folder(self, path: Path) -> None:
        path.mkdir(mode=0o700)
        self.account.own(path)
