"""How far this process has taken leave. It serves; it drains, from the stop signal on; its time is over.

While it drains it is not ready, and answers close their connection; new requests are served all the same for as long
as they come. When its time is over, the work that is still under way is cancelled, and its client told. Not here: the
times (`settings`), and who acts (`proxy` tells, `edge` asks).
"""

import asyncio
import contextlib
from typing import Any


class Drain:
    """One for each process; never taken back."""

    def __init__(self) -> None:
        self.begun = False
        self._over = asyncio.Event()
        self._under_way: set[asyncio.Future[Any]] = set()

    @property
    def is_over(self) -> bool:
        """Whether all has to end now."""
        return self._over.is_set()

    def begin(self) -> None:
        """The process was told to stop: nothing new should come."""
        self.begun = True

    def end(self) -> None:
        """The time is over, or somebody is in a hurry: what is under way is cancelled."""
        self.begun = True
        self._over.set()
        for work in self._under_way:
            work.cancel()

    def track(self, work: asyncio.Future[Any]) -> None:
        """This work is under way, until it is let go."""
        self._under_way.add(work)

    def untrack(self, work: asyncio.Future[Any]) -> None:
        """It is at its end."""
        self._under_way.discard(work)

    async def wait(self, limit_s: float) -> None:
        """Let the time pass, unless it is over before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._over.wait()
