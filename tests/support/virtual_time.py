"""Virtual time: an event loop whose clock jumps to the next timer, and fleet time that follows it.

No socket and no thread: what is given to the executor is done at once.
"""

import asyncio
import selectors
from collections.abc import Callable
from typing import Any

from service.fleet.clock import Clock

START_MS = 1_789_000_000_000
"""A noon in September 2026."""


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only while there is nothing to do."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        super().__init__(JumpingSelector(self))

    def time(self) -> float:
        return self.now_s

    def run_in_executor(self, _executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Do it now."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)
        return future


class JumpingSelector(selectors.DefaultSelector):
    """Where an event loop would wait for its next timer, time jumps to it."""

    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "nothing will ever happen: no task is ready, and no timer is set"
        self._loop.now_s += max(0.0, timeout)
        return super().select(0)


class VirtualClock(Clock):
    """Fleet time that follows the time of the event loop."""

    def now_ms(self) -> int:
        return START_MS + round((asyncio.get_running_loop().time() - 1_000.0) * 1000)


async def advance(by_s: float) -> None:
    """Let so much virtual time pass, and do all that is due in it."""
    await asyncio.sleep(by_s)
