"""A limit that moves: what a task in it raises, and when. asyncio's own time-out is the measure."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from service.relay import deadline as module
from service.relay.deadline import Deadline

SOON_S = 0.03
FAR_S = 600.0
AGES_S = 20.0
"""Nothing here takes so long."""

Enter = Callable[[float | None], AbstractAsyncContextManager[Callable[[float | None], None]]]


@asynccontextmanager
async def ours(when: float | None) -> Any:
    with Deadline(when) as limit:
        yield limit.reschedule


@asynccontextmanager
async def asyncios(when: float | None) -> Any:
    async with asyncio.timeout_at(when) as limit:
        yield limit.reschedule


@pytest.fixture(params=[ours, asyncios])
def enter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Enter:
    """Ours, and what it has to be like; the first look comes before most moments of these tests."""
    monkeypatch.setattr(module, "LOOK_S", SOON_S / 3)
    made: Enter = request.param
    return made


def now_s() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize("moved", [(), (FAR_S, SOON_S), (None, SOON_S), (SOON_S, SOON_S * 2)])
async def test_the_time_is_over_at_the_last_moment_that_was_set(enter: Enter, moved: tuple[float | None, ...]) -> None:
    """However often it was moved, also from one that had come near."""
    began_s = now_s()

    async def work() -> None:
        async with enter(began_s + SOON_S) as move:
            for in_s in moved:
                move(None if in_s is None else began_s + in_s)
            await asyncio.sleep(AGES_S)

    with pytest.raises(TimeoutError):
        await work()
    assert now_s() - began_s >= ((moved or (SOON_S,))[-1] or 0) * 0.9
    await asyncio.sleep(0)  # nothing of it is left to cancel this task


@pytest.mark.parametrize("when_s", [None, FAR_S])
async def test_within_its_time_a_task_is_left_alone(enter: Enter, when_s: float | None) -> None:
    """So is one whose moment was taken back, or moved on, before it came."""
    began_s = now_s()
    async with enter(began_s + SOON_S) as move:
        move(None if when_s is None else began_s + when_s)
        await asyncio.sleep(SOON_S * 3)
    await asyncio.sleep(0)


async def test_a_moment_in_the_past_is_over(enter: Enter) -> None:
    """At the first wait."""
    with pytest.raises(TimeoutError):
        async with enter(now_s() - 1):
            await asyncio.sleep(AGES_S)


async def test_when_the_block_is_left_nothing_comes_after_it(enter: Enter) -> None:
    """The timer is gone."""
    async with enter(now_s() + SOON_S):
        pass
    await asyncio.sleep(SOON_S * 3)


async def test_what_others_cancel_is_cancelled(enter: Enter) -> None:
    """It is no time-out, even when the time is over as well by then."""

    async def work() -> None:
        async with enter(now_s() + FAR_S):
            await asyncio.sleep(AGES_S)

    task = asyncio.create_task(work())
    await asyncio.sleep(SOON_S)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_the_inner_of_two_ends_alone(enter: Enter) -> None:
    """The outer one goes on."""
    async with enter(now_s() + FAR_S):
        with pytest.raises(TimeoutError):
            async with enter(now_s() + SOON_S):
                await asyncio.sleep(AGES_S)
        await asyncio.sleep(0)


async def test_an_error_of_the_work_goes_on_as_it_is(enter: Enter) -> None:
    """Whatever the clock says."""
    with pytest.raises(KeyError):
        async with enter(now_s() + FAR_S):
            raise KeyError


def test_a_limit_is_for_a_task() -> None:
    """Outside of one there is nothing to cancel."""
    with pytest.raises(RuntimeError):
        Deadline(1.0)
