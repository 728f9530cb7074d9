"""A process that can't outlive us: own session, own log, and two strings that end it when we die.

On Linux the kernel sends the process its stop signal at our death (see `child_bootstrap`). Everywhere a watchdog, a
shell that reads from a pipe which only we hold, sees us go and ends what is left of the session, children of the child
included. Not here: when to start, and what it means that a process has ended.
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
"""Reads until we are gone, asks the session to end, gives it a second, ends it."""


class ManagedProcess:
    """One process, started at once. To be made on a thread that lives on: the kernel ties the child to the thread."""

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
        """`output` takes stdout and stderr, None leaves ours; `inherit` are descriptors that the process keeps."""
        self.stop_signal = stop_signal
        self._popen = subprocess.Popen(
            [*_wrapper(account, stop_signal), *command],
            env=environ,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            pass_fds=inherit,
            cwd=None if account is accounts.SELF else "/",  # ours may be closed to the account
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self._watchdog: subprocess.Popen[bytes] | None = _watch(self.pid, stop_signal)
        _feed(self._popen, stdin)

    def poll(self) -> int | None:
        """None while it runs, else its exit status: negative for the signal that ended it."""
        status = self._popen.poll()
        if status is not None:
            self._release()
        return status

    def wait(self, timeout_s: float) -> int | None:
        """`poll`, once it has ended or the time is up."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_s)
        return self.poll()

    def ask_to_end(self) -> None:
        """Send the stop signal."""
        self._popen.send_signal(self.stop_signal)

    def kill(self, timeout_s: float = 10.0) -> None:
        """End it and all of its session, now."""
        if self._popen.poll() is None:
            _signal_session(self.pid, signal.SIGKILL)
        self.wait(timeout_s)

    def stop(self, timeout_s: float) -> None:
        """Ask it to end, and end it when it does not within `timeout_s`."""
        self.ask_to_end()
        if self.wait(timeout_s) is None:
            self.kill()

    def _release(self) -> None:
        """What is due once the process has ended: its children end, and the watchdog."""
        if self._watchdog is None:
            return
        _signal_session(self.pid, signal.SIGKILL)
        self._watchdog.kill()
        self._watchdog.wait()
        if self._watchdog.stdin is not None:
            self._watchdog.stdin.close()
        self._watchdog = None


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    account: accounts.Account = accounts.SELF,
    environ: Mapping[str, str] | None = None,
    output: int | None = None,
    stdin: bytes = b"",
    timeout_s: float,
) -> int | None:
    """Run to the end. The exit status; None when it took longer than `timeout_s` and was ended."""
    process = ManagedProcess(command, account=account, environ=environ, output=output, stdin=stdin)
    status = process.wait(timeout_s)
    if status is None:
        process.kill()
    return status


def _wrapper(account: accounts.Account, death_signal: signal.Signals) -> list[str]:
    """What goes before the command. Isolated and without `site`, so that it costs some 15 ms."""
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
    """Give `text` (far smaller than a pipe) and the end of input. A process that is already gone shows in `poll`."""
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.write(text)
        with suppress(BrokenPipeError):
            process.stdin.close()


def _signal_session(pid: int, signal_: signal.Signals) -> None:
    # A group that is gone, or (macOS) consists of ended processes only, is no error.
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal_)
