"""Background tasks: started again when an exception ends them, and cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from service.problems import Problems

AGAIN_S = 0.1
"""A cancelled task ends within milliseconds."""
RESTART_S = 1.0
STABLE_S = 10.0
"""A task that has run for so long since it was started again has recovered."""


async def keep_running(run: Callable[[], Awaitable[None]], name: str, problems: Problems) -> None:
    """Run a background loop, and run it again after an exception, which is a problem of this process meanwhile."""
    loop = asyncio.get_running_loop()
    recovery: asyncio.TimerHandle | None = None
    try:
        while True:
            try:
                return await run()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is told, and the others go on
                words = f"{name}: unexpected {type(error).__name__}; see the log, and please report it"
                problems.begin("task", words, subject=name, traceback=error)
            if recovery:
                recovery.cancel()
            recovery = loop.call_later(RESTART_S + STABLE_S, lambda: problems.end("task", subject=name))
            await asyncio.sleep(RESTART_S)
    finally:
        if recovery:
            recovery.cancel()


async def cancel_and_wait(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait for their end; repeats the cancellation if necessary: before Python 3.12 `wait_for`, and so
    redis-py, may swallow it."""
    while tasks:
        for task in tasks:
            task.cancel()
        ended, tasks = await asyncio.wait(tasks, timeout=AGAIN_S)
        await asyncio.gather(*ended, return_exceptions=True)
