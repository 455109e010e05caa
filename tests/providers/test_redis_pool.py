"""The pool that `redis` and `mongodb` share, with sessions that only note what is done to them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

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


async def read_in_two(data: bytes, at: int) -> list[bytes]:
    """What a parser gives to hiredis of data that come in two pieces."""
    from studio.providers.redis.sessions import _Parser

    given: list[bytes] = []
    parser = _Parser.__new__(_Parser)
    parser._read_size, parser._reader = 1 << 16, SimpleNamespace(feed=given.append)
    for piece in (data[:at], data[at:]):
        if piece:
            parser._stream = asyncio.StreamReader()
            parser._stream.feed_data(piece)
            await parser.read_from_socket()
    return given


async def test_no_room_is_made_for_what_a_list_says_that_it_has() -> None:
    from studio.providers.redis.errors import TooLarge

    honest = (
        b"$13\r\na\r\n*1000000\r\n\r\n"
        + b"*3\r\n$-1\r\n*-1\r\n$0\r\n\r\n%1\r\n+"
        + b"a" * 99
        + b"\r\n_\r\n"
        + b":1\r\n=5\r\ntxt:a\r\n"
    )
    for at in range(len(honest) + 1):
        assert b"".join(await read_in_two(honest, at)) == honest
    for kind in b"*>%~|":
        rogue = b"%c1000000000\r\n" % kind
        for at in range(len(honest + rogue)):
            with pytest.raises(TooLarge):
                await read_in_two(honest + rogue, at)
    for wrong in (b"*" + b"1" * 100 + b"\r\n", b"$x\r\n"):
        for at in range(len(wrong)):
            with pytest.raises((TooLarge, ValueError)):
                await read_in_two(wrong, at)
