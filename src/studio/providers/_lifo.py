"""A last-in-first-out pool of sessions, for protocols whose sessions hold no state between two commands.

A session that was interrupted in the middle of a command is closed, never handed out again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Generic, Protocol, TypeVar

from studio.contract.slots import Slots
from studio.errors import PoolBusy


class Session(Protocol):
    """What the pool must know of a session."""

    reused: bool
    """Whether it served a command before; set by the pool."""

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more, as far as can be told without asking the server."""
        ...

    def abort(self) -> None:
        """Close it at once, without a word to the server."""
        ...


class Places(Slots):
    """Places for the sessions of a pool; a caller waits `wait_s` seconds at most for one."""

    def __init__(self, size: int, wait_s: float) -> None:
        super().__init__(size)
        self._wait_s = wait_s

    async def take(self) -> None:
        """Take a place. Raises PoolBusy."""
        if self.take_now():
            return
        try:
            async with asyncio.timeout(self._wait_s):
                await self.acquire()
        except TimeoutError:
            raise PoolBusy("all sessions of this connector are in use; try again, or raise pool_size") from None


SessionT = TypeVar("SessionT", bound=Session)
Answer = TypeVar("Answer")


class Pool(Generic[SessionT]):
    """At most `size` sessions, made when they are needed.

    Args:
        connect: makes a session. Raises errors of ours.
        wait_s: how long a caller waits for a session before it is `pool_busy`, seconds.
        intact: whether a session can be used again after this exception, raised while it was leased.
        lost: whether this exception says that the session had broken.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[SessionT]],
        *,
        size: int,
        wait_s: float,
        intact: Callable[[BaseException], bool],
        lost: Callable[[BaseException], bool],
    ) -> None:
        self._connect = connect
        self._slots = Places(size, wait_s)
        self._intact = intact
        self._lost = lost
        self._idle: list[SessionT] = []
        self._leased: set[SessionT] = set()
        self._closed = False

    @asynccontextmanager
    async def lease(self, *, fresh: bool = False) -> AsyncIterator[SessionT]:
        """A session for one conversation; a new one if `fresh` or none is idle.

        Raises:
            PoolBusy: all were in use for `wait_s`.
        """
        await self._slots.take()
        try:
            session = await self._take(fresh)
            self._leased.add(session)
            try:
                yield session
            except BaseException as exc:
                if not self._intact(exc):
                    session.abort()
                raise
            finally:
                self._leased.discard(session)
                self._put(session)
        finally:
            self._slots.release()

    async def use(self, work: Callable[[SessionT], Awaitable[Answer]], *, again: bool) -> Answer:
        """What `work` answers on a session.

        Args:
            again: try once more, on a new session, where an idle one turns out to be dead. For reads only: nobody
                can tell whether the server had begun.
        """
        session: SessionT | None = None
        try:
            async with self.lease() as session:
                return await work(session)
        except Exception as exc:
            if not (again and session is not None and session.reused and self._lost(exc)):
                raise
        async with self.lease(fresh=True) as session:
            return await work(session)

    @asynccontextmanager
    async def begun(self, work: Callable[[SessionT], Awaitable[Answer]]) -> AsyncIterator[tuple[SessionT, Answer]]:
        """A session for a conversation that begins with `work`, a read, and the answer to that; as in `use`."""
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(self.lease())
            try:
                answer = await work(session)
            except Exception as exc:
                if not (session.reused and self._lost(exc)):
                    raise
                session.abort()
                await stack.aclose()
                session = await stack.enter_async_context(self.lease(fresh=True))
                answer = await work(session)
            yield session, answer

    async def _take(self, fresh: bool) -> SessionT:
        while self._idle:
            session = self._idle.pop()
            if fresh or session.closed:
                # One broke, so the others of its age are likely broken too.
                session.abort()
                continue
            session.reused = True
            return session
        return await self._connect()

    def _put(self, session: SessionT) -> None:
        if self._closed or session.closed:
            session.abort()
        else:
            self._idle.append(session)

    async def close(self) -> None:
        """Close every session, in use or not."""
        self._closed = True
        for session in [*self._idle, *self._leased]:
            session.abort()
        self._idle.clear()
        for _ in range(3):  # a transport tells its protocol in the next rounds of the loop
            await asyncio.sleep(0)
