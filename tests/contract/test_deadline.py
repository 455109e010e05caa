"""Deadlines on one timer: what `asyncio.timeout` promises, without its cost."""

from __future__ import annotations

import asyncio

import pytest

from studio.contract.deadline import TICK_S, Deadline, _ticker
from studio.contract.slots import Slots


async def test_work_past_its_deadline_is_cancelled_and_told_as_a_timeout() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(TimeoutError), Deadline.within(0.05):
        await asyncio.sleep(30)
    assert 0.049 <= loop.time() - start < 0.05 + 20 * TICK_S  # a loop counts in milliseconds
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


async def test_work_that_ends_in_time_leaves_nothing_behind() -> None:
    with Deadline.within(30):
        await asyncio.sleep(0)
    assert not _ticker().alarms


async def test_a_deadline_that_passed_before_ends_the_work_at_its_first_wait() -> None:
    with pytest.raises(TimeoutError), Deadline.within(-1):
        await asyncio.sleep(30)


async def test_a_cancel_from_outside_stays_a_cancel() -> None:
    async def work() -> None:
        with Deadline.within(30):
            await asyncio.sleep(30)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not _ticker().alarms


async def test_a_cancel_from_outside_at_the_same_moment_is_not_swallowed() -> None:
    async def work() -> None:
        deadline = Deadline.within(30)
        with deadline:
            deadline.ring()
            asyncio.current_task().cancel()  # type: ignore[union-attr]
            await asyncio.sleep(30)

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(work())


async def test_the_inner_of_two_deadlines_tells_its_own_time_out_only() -> None:
    with Deadline.within(30):
        with pytest.raises(TimeoutError), Deadline.within(0.01):
            await asyncio.sleep(30)
        await asyncio.sleep(0)


async def test_a_deadline_that_is_rung_after_its_work_ended_cancels_nobody() -> None:
    deadline = Deadline.within(30)
    with deadline:
        pass
    deadline.ring()
    await asyncio.sleep(0)


async def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(KeyError), Deadline.within(30):
        raise KeyError


async def test_a_place_is_taken_at_once_only_if_one_is_free_and_nobody_waits() -> None:
    slots = Slots(1)
    assert slots.take_now()
    assert not slots.take_now()
    waiting = asyncio.create_task(slots.acquire())
    await asyncio.sleep(0)
    slots.release()
    assert not slots.take_now()  # it is the waiting one's
    await waiting
