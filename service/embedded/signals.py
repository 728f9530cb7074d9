"""The signals that ask a supervisor to end, and its waiting: they, and a child's end, wake it at once."""

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Self

STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")


class Signals:
    """Counts the signals that ask us to end, and waits so that they, and a child's end, wake us at once."""

    def __init__(self) -> None:
        self.count = 0
        self._reader, self._writer = os.pipe()
        self._previous: list[tuple[signal.Signals, Any]] = []

    def __enter__(self) -> Self:
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for name in STOP_SIGNALS:
            # `nohup` means it; a shell that starts us in the background, and so ignores SIGINT for us, does not.
            if name != "SIGHUP" or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
                self._handle(name, self._note)
        self._handle("SIGCHLD", lambda *_: None)  # no wake-up without a handler
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous:
            signal.signal(number, handler)
        signal.set_wakeup_fd(-1)
        os.close(self._reader)
        os.close(self._writer)

    def wait(self, timeout_s: float) -> None:
        """Until a signal comes, or the time is up."""
        select.select([self._reader], [], [], timeout_s)
        with suppress(BlockingIOError):
            os.read(self._reader, 4096)

    def _handle(self, name: str, handler: Callable[[int, FrameType | None], None]) -> None:
        number = signal.Signals[name]
        self._previous.append((number, signal.signal(number, handler)))

    def _note(self, _signal: int, _frame: FrameType | None) -> None:
        self.count += 1
