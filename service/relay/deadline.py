"""A moment at which a task's time is over, and which may be moved at any time at next to no cost.

It does what `asyncio.timeout_at` does, for requests, which move their moment three times each: there is one timer,
which looks at the moment when it goes off, and is set anew only when the moment has become earlier.
Not here: how long anything may take (`request`).
"""

import asyncio
from types import TracebackType
from typing import Self

LOOK_S = 1.0
"""The timer goes off after this time at first: most moments are further away, and most requests over before."""


class Deadline:
    """Cancels the task that enters it once `when` (of the event loop's time; None: never) has passed, which then raises
    TimeoutError. A cancellation by anybody else goes on as one."""

    __slots__ = ("_cancelling", "_look_at", "_loop", "_passed", "_task", "_timer", "when")

    def __init__(self, when: float | None) -> None:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a limit is for a task")
        self.when = when
        self._task = task
        self._loop = task.get_loop()
        self._cancelling = 0
        self._passed = False
        self._look_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._cancelling = self._task.cancelling()
        if self.when is not None:
            self._look(min(self.when, self._loop.time() + LOOK_S))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._timer:
            self._timer.cancel()
        self.when = None
        if self._passed and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def reschedule(self, when: float | None) -> None:
        """From now on the time is over at this moment."""
        self.when = when
        if when is not None and (self._timer is None or when < self._look_at):
            self._look(when)

    def _look(self, at: float) -> None:
        """Look at the moment then."""
        if self._timer:
            self._timer.cancel()
        self._look_at = at
        self._timer = self._loop.call_at(at, self._expire)

    def _expire(self) -> None:
        self._timer = None
        if self.when is None:
            return
        if self._loop.time() < self.when:
            self._look(self.when)
        else:
            self._passed = True
            self._task.cancel()
