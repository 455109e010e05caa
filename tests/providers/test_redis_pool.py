"""The pool that `redis` and `mongodb` share, with sessions that only note what is done to them."""

from __future__ import annotations

import asyncio

import pytest

from studio.errors import InvalidRequest, PoolBusy, Unreachable
from studio.providers._lifo import Pool


class Fake:
    """A session of no server. Unlike a driver's, it never closes itself."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.reused = False
        self.aborted = False

    @property
    def closed(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


@pytest.fixture
def made() -> list[Fake]:
    return []


def pool_of(made: list[Fake], *, size: int = 2, wait_s: float = 0.05) -> Pool[Fake]:
    async def connect() -> Fake:
        made.append(Fake(len(made)))
        return made[-1]

    return Pool(
        connect,
        size=size,
        wait_s=wait_s,
        intact=lambda exc: isinstance(exc, InvalidRequest),
        lost=lambda exc: isinstance(exc, OSError),
    )


async def test_a_session_interrupted_in_a_command_is_never_handed_out_again(made: list[Fake]) -> None:
    pool = pool_of(made, size=1)
    entered = asyncio.Event()

    async def hang(_session: Fake) -> None:
        entered.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(pool.use(hang, again=True))
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert made[0].aborted
    async with pool.lease() as session:
        assert session is made[1]


async def test_a_plain_refusal_keeps_the_session(made: list[Fake]) -> None:
    pool = pool_of(made)
    with pytest.raises(InvalidRequest):
        async with pool.lease():
            raise InvalidRequest("refused")
    async with pool.lease() as session:
        assert (session.number, session.reused, len(made)) == (0, True, 1)


async def test_the_session_used_last_is_used_next(made: list[Fake]) -> None:
    pool = pool_of(made)
    async with pool.lease(), pool.lease() as second:
        pass
    async with pool.lease() as session:
        assert session is not second  # the outer lease ended last
        assert session is made[0]


async def test_only_a_read_on_an_idle_session_is_tried_again_and_once(made: list[Fake]) -> None:
    pool = pool_of(made)
    tries: list[Fake] = []

    async def broken(session: Fake) -> None:
        tries.append(session)
        raise OSError

    for again, expected in ((True, 1), (False, 1)):
        with pytest.raises(OSError):  # a new session that breaks: nothing is tried again
            await pool.use(broken, again=again)
        assert len(tries) == expected
        tries.clear()
    for again, expected in ((True, 2), (False, 1)):
        async with pool.lease():
            pass
        with pytest.raises(OSError):
            await pool.use(broken, again=again)
        assert len(tries) == expected
        tries.clear()


async def test_a_fresh_session_ends_the_idle_ones_of_its_age(made: list[Fake]) -> None:
    pool = pool_of(made)
    async with pool.lease(), pool.lease():
        pass
    async with pool.lease(fresh=True) as session:
        assert session is made[2]
    assert made[0].aborted
    assert made[1].aborted


async def test_a_failed_connect_gives_its_place_back() -> None:
    async def refuse() -> Fake:
        raise Unreachable("no")

    pool = Pool(refuse, size=1, wait_s=0.05, intact=lambda _: False, lost=lambda _: False)
    for _ in range(3):
        with pytest.raises(Unreachable):
            async with pool.lease():
                pass


async def test_a_full_pool_is_pool_busy_after_the_wait_and_free_again_later(made: list[Fake]) -> None:
    pool = pool_of(made, size=1)
    async with pool.lease():
        with pytest.raises(PoolBusy):
            async with pool.lease():
                pass
    async with pool.lease():
        assert len(made) == 1


async def test_closing_ends_idle_and_leased_sessions(made: list[Fake]) -> None:
    pool = pool_of(made)
    async with pool.lease():
        async with pool.lease():
            pass
        await pool.close()
        assert all(session.aborted for session in made)
        assert len(made) == 2
    assert pool._idle == []
