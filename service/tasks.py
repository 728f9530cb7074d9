"""Cancellation of background tasks."""

import asyncio
from collections.abc import Collection
from typing import Any

AGAIN_S = 0.1
"""A cancelled task ends within milliseconds."""


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end; repeats the cancellation if necessary: before Python 3.12 `wait_for`, and so
    redis-py, may swallow it."""
    while tasks:
        for task in tasks:
            task.cancel()
        ended, tasks = await asyncio.wait(tasks, timeout=AGAIN_S)
        await asyncio.gather(*ended, return_exceptions=True)
