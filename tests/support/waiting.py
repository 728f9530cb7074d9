"""Waiting for a condition, with a time limit: the only place where tests sleep until something has happened.

The limits only end a test that would fail anyway; they say nothing about speed.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

PATIENCE_S = 40.0
POLL_S = 0.02
ASYNC_POLL_S = 0.005
T = TypeVar("T")


def eventually(happens: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """The first true result of `happens`."""
    give_up_at_s = time.monotonic() + patience_s
    while not (result := happens()):
        assert time.monotonic() < give_up_at_s, f"it never happened; last seen: {result!r}"
        time.sleep(POLL_S)
    return result


def settles_to(wanted: T, look: Callable[[], T], patience_s: float = PATIENCE_S) -> None:
    """Wait until `look` returns `wanted`; an ordinary assertion shows the difference if it never does."""
    give_up_at_s = time.monotonic() + patience_s
    while (seen := look()) != wanted and time.monotonic() < give_up_at_s:
        time.sleep(POLL_S)
    assert seen == wanted, f"seen: {seen!r}\nwanted: {wanted!r}"


async def wait_until(happens: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """The first true result of `happens`; other tasks run in between."""
    give_up_at_s = time.monotonic() + patience_s
    while not (result := happens()):
        assert time.monotonic() < give_up_at_s, f"it never happened; last seen: {result!r}"
        await asyncio.sleep(ASYNC_POLL_S)
    return result


async def wait_for_answer(ask: Callable[[], Awaitable[T]], patience_s: float = PATIENCE_S) -> T:
    """The first true result of awaiting `ask()`: for conditions that a server has to be asked for."""
    give_up_at_s = time.monotonic() + patience_s
    while not (result := await ask()):
        assert time.monotonic() < give_up_at_s, f"it never happened; last seen: {result!r}"
        await asyncio.sleep(ASYNC_POLL_S)
    return result


async def stays(holds: Callable[[], object], for_s: float = 0.03) -> None:
    """Check for a short while that a condition goes on holding: nothing announces what must not happen."""
    until_s = time.monotonic() + for_s
    while time.monotonic() < until_s:
        assert holds()
        await asyncio.sleep(ASYNC_POLL_S)


async def at_rest(look: Callable[[], T], for_s: float = 0.2) -> T:
    """The value of `look` once it has not changed for so long."""
    give_up_at_s = time.monotonic() + PATIENCE_S
    last, since_s = look(), time.monotonic()
    while time.monotonic() < since_s + for_s:
        assert time.monotonic() < give_up_at_s, f"it never came to rest; last seen: {last!r}"
        await asyncio.sleep(ASYNC_POLL_S)
        if (seen := look()) != last:
            last, since_s = seen, time.monotonic()
    return last
