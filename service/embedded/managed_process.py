"""Subprocess killed with its parent, by PDEATHSIG and a watchdog; with its own session and log.

On Linux the kernel sends the process its stop signal when the parent dies (`child_bootstrap`). Everywhere, a watchdog
(a shell that reads from a pipe held by the parent) notices the parent's death and ends the rest of the session,
grandchildren included. Not here: when to start it, and how to react to its end.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from service.embedded import account as accounts

BOOTSTRAP = Path(__file__).with_name("child_bootstrap.py")
WATCHDOG = 'read -r _; kill -s "$1" -- "-$2"; sleep 1; kill -s KILL -- "-$2"'
"""Reads until the parent is gone, then sends the session its stop signal, and SIGKILL a second later."""


class ManagedProcess:
    """A process, started at once. Create it on a long-lived thread: the kernel ties the child to the thread."""

    def __init__(
        self,
        command: Sequence[str | os.PathLike[str]],
        *,
        account: accounts.Account = accounts.SELF,
        environ: Mapping[str, str] | None = None,
        output: int | None = None,
        stdin: bytes = b"",
        stop_signal: signal.Signals = signal.SIGTERM,
        inherit: Sequence[int] = (),
    ) -> None:
        """`output` receives stdout and stderr (None: inherited); `inherit` are descriptors that the process keeps."""
        self.stop_signal = stop_signal
        self._popen = subprocess.Popen(
            [*_wrapper(account, stop_signal), *command],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=inherit,
            cwd=None if account is accounts.SELF else "/",  # the current folder may be closed to the account
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._watchdog: subprocess.Popen[bytes] | None = _watch(self.pid, stop_signal)
        _feed(self._popen, stdin)

    def poll(self) -> int | None:
        """Return None while it runs, else its exit status: negative for the signal that ended it."""
        status = self._popen.poll()
        if status is not None:
            self._release()
        return status

    def wait(self, timeout_s: float) -> int | None:
        """Return `poll`, once it has ended or after `timeout_s`."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)
        return self.poll()

    def terminate(self) -> None:
        """Send the stop signal."""
        self._popen.send_signal(self.stop_signal)

    def kill(self, timeout_s: float = 10.0) -> None:
        """Kill it and its whole session now."""
        if self._popen.poll() is None:
            _signal_session(self.pid, signal.SIGKILL)
        self.wait(timeout_s)

    def stop(self, timeout_s: float) -> None:
        """Send the stop signal, and kill it after `timeout_s`."""
        self.terminate()
        if self.wait(timeout_s) is None:
            self.kill()

    def _release(self) -> None:
        """Clean up after the process has ended: end its children and the watchdog."""
        if self._watchdog is None:
            return
        _signal_session(self.pid, signal.SIGKILL)
        self._watchdog.kill()
        self._watchdog.wait()
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
        self._watchdog = None


class RestartableProcess:
    """A process that may be started again and again: what the supervisor asks of each of its children."""

    _process: ManagedProcess | None = None

    @property
    def pid(self) -> int:
        """The process id; 0 if it was never started."""
        return self._process.pid if self._process else 0

    def poll(self) -> int | None:
        """Return None while it runs, else its exit status."""
        return self._process.poll() if self._process else 0

    def ask_to_end(self) -> None:
        """Send the stop signal."""
        if self._process is not None:
            self._process.terminate()

    def kill(self) -> None:
        """Kill it and its children now."""
        if self._process is not None:
            self._process.kill()


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    account: accounts.Account = accounts.SELF,
    environ: Mapping[str, str] | None = None,
    output: int | None = None,
    stdin: bytes = b"",
    timeout_s: float,
) -> int | None:
    """Run a process to its end. Returns the exit status; None if it was killed after the timeout."""
    process = ManagedProcess(command, account=account, environ=environ, output=output, stdin=stdin)
    status = process.wait(timeout_s)
    if status is None:
        process.kill()
    return status


def _wrapper(account: accounts.Account, death_signal: signal.Signals) -> list[str]:
    """Return the prefix of the command. Isolated and without `site`, so that it costs about 15 ms."""
    terms = account._asdict() | {"parent_pid": os.getpid(), "death_signal": int(death_signal)}
    return [sys.executable, "-I", "-S", str(BOOTSTRAP), json.dumps(terms)]


def _watch(pid: int, stop_signal: signal.Signals) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", WATCHDOG, "ccproxy-watchdog", stop_signal.name.removeprefix("SIG"), str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        start_new_session=True,  # a Ctrl-C in our terminal must not reach it
    )


def _feed(process: subprocess.Popen[bytes], text: bytes) -> None:
    """Write `text` (far smaller than a pipe's buffer) and EOF. A process that is already gone is noticed by `poll`."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.write(text)
        with suppress(BrokenPipeError):
            process.stdin.close()


def _signal_session(pid: int, signal_: signal.Signals) -> None:
    # A group that is gone, or (macOS) consists of ended processes only, is not an error.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal_)
