"""A last-in-first-out pool that hands out only clean sessions, for protocols whose sessions keep state.

What a use left behind is cleaned behind the caller's back; the next borrower waits for that. Of
`_lifo.py`, whose sessions need no cleaning and end without a word, only the `Places` are used: one
pool for both would be longer than the two.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Generic, TypeVar

from studio.providers._lifo import Places

CLOSE_S = 5.0
"""Bound on cleaning or closing one session."""
LAST_S = 0.1
"""How long closing the pool is waited for: the answer to a connection test waits for it."""


class SqlSession(ABC):
    """One connection in the pool, and what is known of it."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.reused = False
        self.cleaning: asyncio.Task[None] | None = None

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether it is of no use any more, as far as can be told without asking the server."""

    @abstractmethod
    def abort(self) -> None:
        """Close it at once, without a word to the server."""


SessionT = TypeVar("SessionT", bound=SqlSession)


class SqlPool(ABC, Generic[SessionT]):
    """At most `size` sessions, made when they are needed.

    A pool of it adds `release`, which knows what a session needs after a use: `_put`, then `_start_cleaning`.

    Args:
        wait_s: how long a caller waits for a session before it is `pool_busy`, seconds.
    """

    def __init__(self, *, size: int, wait_s: float) -> None:
        self._slots = Places(size, wait_s)
        self._idle: list[SessionT] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @abstractmethod
    async def _new(self) -> SessionT:
        """A new session. Raises errors of ours."""

    @abstractmethod
    async def _end(self, session: SessionT) -> None:
        """Close a session, and end what it still runs on the server; it is aborted if that fails or takes long."""

    async def acquire(self, *, fresh: bool = False) -> SessionT:
        """A clean session; a new connection if `fresh` or none is idle.

        Raises:
            PoolBusy: all were in use for `wait_s`.
        """
        await self._slots.take()
        try:
            return await self._take(fresh)
        except BaseException:
            self._slots.release()
            raise

    def at_once(self) -> SessionT | None:
        """As `acquire`, where a clean session is idle and nobody waits; else None."""
        if not self._idle:
            return None
        session = self._idle[-1]
        if session.cleaning is not None or session.closed or not self._slots.take_now():
            return None
        self._idle.pop()
        session.reused = True
        return session

    async def _take(self, fresh: bool) -> SessionT:
        while self._idle:
            session = self._idle.pop(self._best())
            if session.cleaning is not None:
                await self._wait_for(session)
            if fresh or session.closed:
                # `fresh`: a session broke, so the others of its age are likely broken too.
                self._spawn(self._close(session))
                continue
            session.reused = True
            return session
        return await self._new()

    def _best(self) -> int:
        """The place of the session that was used last, among those that are not being cleaned if possible."""
        ready = (at for at in reversed(range(len(self._idle))) if self._idle[at].cleaning is None)
        return next(ready, -1)

    async def _wait_for(self, session: SessionT) -> None:
        try:
            await asyncio.shield(session.cleaning)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            self._idle.append(session)  # it is us who were cancelled; the session is fine
            raise

    def _put(self, session: SessionT) -> bool:
        """Take a session back, or close it: then False. Nobody waits, not even one that was cancelled."""
        if self._closed or session.closed:
            self.discard(session)
            return False
        self._idle.append(session)
        self._slots.release()
        return True

    def discard(self, session: SessionT) -> None:
        """Close a session whose state is in doubt; what it still runs is ended on the server."""
        task = self._spawn(self._close(session))
        task.add_done_callback(lambda _: self._slots.release())

    def _start_cleaning(self, session: SessionT, clean: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        session.cleaning = self._spawn(self._clean(session, clean, *arguments))

    async def _clean(self, session: SessionT, clean: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await clean(*arguments)
        except Exception:
            session.abort()  # the next borrower sees it closed
        finally:
            session.cleaning = None

    async def _close(self, session: SessionT) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._end(session)
        except BaseException as exc:
            session.abort()
            if not isinstance(exc, Exception):
                raise

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close every session. What is not done within `LAST_S` goes on by itself: no hostile server keeps us."""
        self._closed = True
        idle, self._idle = self._idle, []
        for session in idle:
            self._spawn(self._close(session))
        until = asyncio.get_running_loop().time() + LAST_S
        while self._tasks and (left := until - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)  # one that comes back now is closed in a task of its own
