"""Time that passes only when it is told to, and event loops that live in it.

Every replica has a loop of its own, so that a replica that is killed simply never runs again: no `finally`, no last
word. Threads are none: what a loop gives to its executor is done a while later, in one piece.
"""

import asyncio
import heapq
from asyncio import events
from collections.abc import Callable
from typing import Any

START_S = 1_789_000_000.0
"""A noon in September 2026, the beginning of every simulation."""
NEVER_S = float("inf")


class Died(BaseException):
    """The process in which this is raised is no more."""


class Now:
    """The one clock of a world; looks like the module `time`."""

    def __init__(self) -> None:
        self.s = START_S

    def time(self) -> float:
        return self.s

    def monotonic(self) -> float:
        return self.s

    def monotonic_ns(self) -> int:
        """In nanoseconds."""
        return int(self.monotonic() * 1_000_000_000)

    def time_ns(self) -> int:
        return int(self.s * 1000) * 1_000_000


class VirtualLoop(asyncio.BaseEventLoop):
    """An event loop that is run from outside, one turn at a time; it waits for nothing but time."""

    def __init__(self, now: Now, delay_s: Callable[[], float]) -> None:
        super().__init__()
        self.now = now
        self.delay_s = delay_s
        self.died = False
        self.faults: list[BaseException] = []
        self.set_exception_handler(self._note_fault)

    def time(self) -> float:
        return self.now.s

    def due_s(self) -> float:
        """When this loop has something to do."""
        if self._ready:  # type: ignore[attr-defined]
            return self.now.s
        scheduled = self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._cancelled:
            heapq.heappop(scheduled)._scheduled = False
        return scheduled[0]._when if scheduled else NEVER_S

    def turn(self) -> None:
        """Do what is due, and all that follows from it at once."""
        ready, scheduled = self._ready, self._scheduled  # type: ignore[attr-defined]
        while scheduled and scheduled[0]._when <= self.now.s:
            handle = heapq.heappop(scheduled)
            handle._scheduled = False
            ready.append(handle)
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            while ready and not self.died:
                handle = ready.popleft()
                if not handle._cancelled:
                    handle._run()
        finally:
            events._set_running_loop(before)

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Do it later, in one piece."""
        future = self.create_future()
        self.call_later(self.delay_s(), self._do, future, func, args)
        return future

    def _do(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            result = func(*args)
        except Died:
            self.died = True
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            if not future.cancelled():
                future.set_exception(error)
        else:
            if not future.cancelled():
                future.set_result(result)

    def _note_fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not self.died:
            self.faults.append(error)

    def _timer_handle_cancelled(self, handle: Any) -> None:
        """Cancelled timers go when their time has come."""

    def bury(self) -> None:
        """End all tasks, so that nothing of a world outlives it."""
        self.died = False
        tasks = asyncio.all_tasks(self)
        for task in tasks:
            task.cancel()
        for _ in range(100):
            if all(task.done() for task in tasks):
                break
            self.turn()
        for task in tasks:
            if task.done() and not task.cancelled():
                task.exception()
        self.died = True
        self.close()
