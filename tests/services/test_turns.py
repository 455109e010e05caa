"""Several organizations that begin operations at one time do so in turn."""

from __future__ import annotations

import asyncio

import pytest

from studio.errors import RateLimited
from studio.services import turns
from studio.services.turns import Turns


async def begins(turns: Turns, organization: str, order: list[str]) -> None:
    turn = turns.of(organization)
    if turn is None:
        order.append(organization)
        return
    async with turn:
        order.append(organization)
        await asyncio.sleep(0)


async def shared() -> Turns:
    """Turns between organizations of which more than one is at work, all of them taken."""
    made = Turns()
    for name in ("first", "second"):
        made.of(name)
    for _ in range(turns.AT_ONCE):
        await made.take("held")
    return made


async def test_the_others_do_not_wait_behind_an_organization_that_sends_many() -> None:
    made, order = await shared(), list[str]()
    names = ["greedy"] * 50 + ["modest", "quiet"]
    tasks = [asyncio.create_task(begins(made, name, order)) for name in names]
    await asyncio.sleep(0)
    assert order == []
    made.give()
    await asyncio.gather(*tasks)
    assert len(order) == 52
    assert order[:3] == ["greedy", "modest", "quiet"]


async def test_an_organization_that_is_alone_does_not_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Turns()
    monkeypatch.setattr(turns, "ALONE_S", 0.05)
    assert made.of("first") is not None  # who called before it is not known
    await asyncio.sleep(0.06)
    assert made.of("first") is None
    assert made.of("second") is not None
    assert made.of("first") is not None


async def test_a_turn_whose_call_was_cancelled_goes_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    made, order = await shared(), list[str]()
    gone = [asyncio.create_task(begins(made, "first", order)) for _ in range(2)]
    stays = asyncio.create_task(begins(made, "second", order))
    await asyncio.sleep(0)
    gone[0].cancel()  # before it is its turn
    await asyncio.sleep(0)
    made.give()
    gone[1].cancel()  # in the moment of its turn
    async with asyncio.timeout(1):
        await stays
    assert order == ["second"]
    for _ in range(turns.AT_ONCE - 1):
        made.give()
    await asyncio.sleep(0)
    async with asyncio.timeout(1):
        await asyncio.gather(*(begins(made, "third", order) for _ in range(10)))
    assert len(order) == 11


async def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    made, order = await shared(), list[str]()
    monkeypatch.setattr(turns, "MOST", 1)
    waits = asyncio.create_task(begins(made, "first", order))
    await asyncio.sleep(0)
    with pytest.raises(RateLimited):
        await made.take("first")
    made.give()
    await waits


async def test_an_embedded_store_that_answers_at_once_is_shared_too() -> None:
    made, order = Turns(), list[str]()

    async def at_once(name: str) -> None:
        turn = made.of(name)
        assert turn is not None
        async with turn:
            order.append(name)

    made.of("other")
    await asyncio.gather(*(at_once(name) for name in ["greedy"] * 20 + ["modest"]))
    assert order.index("modest") <= turns.AT_ONCE + 1
