"""Our own commands as children of `up`: migrations, worker, proxy. They run as the user of `up`.

Not here: what the commands do. Each has its own readiness check: it ended well, logged a line, or answers.
"""

import http.client
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from service.embedded import folder
from service.embedded.managed_process import ManagedProcess, RestartableProcess

LIVEZ_TIMEOUT_S = 1.0
MAX_READ_BYTES = 256 * 1024


class Program(RestartableProcess):
    """A supervised command. `environ` is called at every start, because a server's URL is known only then."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        title: str = "",
        environ: Callable[[], Mapping[str, str]] = lambda: os.environ,
        log: Path | None = None,
        is_ready: Callable[["Program"], bool] = lambda _: True,
        needs: tuple[str, ...] = (),
        after: tuple[str, ...] = (),
        once: bool = False,
        stop_timeout_s: float = 5.0,
        hasty_stop_timeout_s: float = 0.0,
    ) -> None:
        """Without `log` its output is inherited. `needs`, `after` and `once`: see `supervisor.Child`."""
        self.name = name
        self.title = title or name
        self.log = log
        self.needs = needs
        self.after = after
        self.once = once
        self.start_timeout_s = 60.0
        self.stop_timeout_s = stop_timeout_s
        self.hasty_stop_timeout_s = hasty_stop_timeout_s
        self.log_begins_at = 0
        self._command = command
        self._environ = environ
        self._is_ready = is_ready

    def spawn(self) -> None:
        """Start it without waiting until it is ready."""
        # Unbuffered, so that its output is in the log at once.
        environ = dict(self._environ()) | {"PYTHONUNBUFFERED": "1"}
        if self.log is None:
            self._process = ManagedProcess(self._command, environ=environ)
            return
        with os.fdopen(folder.open_log(self.log), "wb") as output:
            self.log_begins_at = self.log.stat().st_size
            self._process = ManagedProcess(self._command, environ=environ, output=output.fileno())

    def is_ready(self) -> bool:
        """True if it is ready."""
        return self._is_ready(self)

    def has_logged(self, words: str) -> bool:
        """True if the log since its last start contains `words`."""
        if self.log is None:
            return False
        with self.log.open("rb") as file:
            file.seek(self.log_begins_at)
            return words.encode() in file.read(MAX_READ_BYTES)


def own_command(*arguments: str) -> list[str]:
    """Return the command `ccproxy ARGUMENTS`, run by this interpreter: no PATH, and the same packages.

    `-P`: ignore a package named `service` in the current folder.
    """
    return [sys.executable, "-P", "-m", "service.cli", *arguments]


def answers_livez(host: str, port: int) -> bool:
    """True if `GET /livez` there returns 200."""
    connection = http.client.HTTPConnection(reachable_address(host), port, timeout=LIVEZ_TIMEOUT_S)
    try:
        connection.request("GET", "/livez")
        return connection.getresponse().status == http.client.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def reachable_address(host: str) -> str:
    """Return the address at which this machine reaches a listener on `host`."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def describe_exit(status: int) -> str:
    """Describe an exit status."""
    if status >= 0:
        return f"exited with status {status}"
    return f"was killed by {signal.Signals(-status).name}"
