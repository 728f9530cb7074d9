"""Stop signals of a supervisor, and a wait that they and SIGCHLD interrupt."""

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Self

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Signals:
    """Counts stop signals, and waits until a signal, a child's end or a timeout."""

    def __init__(self) -> None:
        self.count = 0
        self._reader, self._writer = os.pipe()
        self._previous: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Self:
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for name in STOP_SIGNALS:
            # `nohup` ignores SIGHUP on purpose; a shell that starts us in the background, and so ignores SIGINT for us,
            # does not.
            if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                self._handle(name, self._note)
        self._handle("SIGCHLD", lambda *_: None)  # without a handler, a signal does not interrupt the wait
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous:
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, timeout_s: float) -> None:
        """Wait until a signal arrives, or for `timeout_s`."""
        select.select([self._reader], [], [], timeout_s)
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def _handle(self, name: str, handler: Callable[[int, FrameType | None], None]) -> None:
        number = signal.Signals[name]
        self._previous.append((number, signal.signal(number, handler)))

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
