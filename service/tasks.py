"""How a task that runs beside the requests is ended. Not here: what it does."""

import asyncio
from collections.abc import Collection

AGAIN_S = 0.1
"""A task that is cancelled ends within milliseconds."""


async def cancel_and_wait(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel tasks and wait for their end; again, if need be: before Python 3.12 `wait_for`, and with it redis-py, may
    swallow a cancellation."""
    while tasks:
        for task in tasks:
            task.cancel()
        ended, tasks = await asyncio.wait(tasks, timeout=AGAIN_S)
        await asyncio.gather(*ended, return_exceptions=True)
