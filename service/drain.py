"""Graceful-shutdown state of a process: serving, draining after the stop signal, then over.

While it drains it is not ready, and responses close their connections; new requests are still served. Once it is over,
requests still in progress are cancelled, and their clients get an error. Not here: the durations (`settings`), and who
acts on it (`proxy` sets it, `edge` reads it).
"""

import asyncio
import contextlib
from typing import Any


class Drain:
    """One per process; never reset."""

    def __init__(self) -> None:
        self.begun = False
        self._over = asyncio.Event()
        self._under_way: set[asyncio.Future[Any]] = set()

    @property
    def is_over(self) -> bool:
        """True if everything has to end now."""
        return self._over.is_set()

    def begin(self) -> None:
        """Start draining after a stop signal."""
        self.begun = True

    def end(self) -> None:
        """End the drain, after its time or on a second signal: requests in progress are cancelled."""
        self.begun = True
        self._over.set()
        for work in self._under_way:
            work.cancel()

    def track(self, work: asyncio.Future[Any]) -> None:
        """Add a task in progress."""
        self._under_way.add(work)

    def untrack(self, work: asyncio.Future[Any]) -> None:
        """Remove a finished task."""
        self._under_way.discard(work)

    async def wait(self, limit_s: float) -> None:
        """Wait for the drain's time, or until it is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._over.wait()
