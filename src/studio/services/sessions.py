"""Live providers: opened once, shared by leases, bounded, and closed when idle or outdated."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from studio.contract import Provider
from studio.contract.slots import Slots
from studio.errors import PoolBusy

logger = logging.getLogger(__name__)
Opener = Callable[[AsyncExitStack], Awaitable[Provider[Any]]]


class SessionKey(NamedTuple):
    """What makes two calls share a session: connector, version of its row, and the override's digest."""

    connector_id: str
    version: int
    override: str


@dataclass(eq=False)
class _Session:
    key: SessionKey
    opening: asyncio.Task[Provider[Any]]
    stack: AsyncExitStack
    slots: Slots
    ready: Provider[Any] | None = None
    leases: int = 0
    waiting: int = 0
    retired: bool = False
    last_used: float = field(default_factory=time.monotonic)


class Sessions:
    """All live sessions of this process.

    Args:
        max_sessions: how many may be open; the longest idle one makes room.
        max_waiters: how many calls may wait for one session's slots.
        idle_s: a session that nobody used for so long is closed.
    """

    def __init__(self, *, max_sessions: int, max_waiters: int, idle_s: float) -> None:
        self._max_sessions = max_sessions
        self._max_waiters = max_waiters
        self._idle_s = idle_s
        self._sessions: dict[SessionKey, _Session] = {}
        self._by_connector: dict[str, set[SessionKey]] = {}
        self._outdated: set[_Session] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    def lease(
        self,
        key: SessionKey,
        size: int,
        opener: Opener,
        *,
        admitted: Callable[[], None] = lambda: None,
        used: bool = True,
    ) -> Lease:
        """A provider, for one operation. At most `size` leases of a session run at once; the rest queue.

        `admitted` is called when the queueing is over, before the session is opened where it must be.
        With `used` false the lease does not count as a use: it keeps no idle session open.

        Raises:
            PoolBusy: on entering; too many wait already, or no session may be opened.
            StudioError: what opening raises; the next lease tries again.
        """
        return Lease(self, lambda: self._sessions.get(key) or self._start(key, size, opener), admitted, used)

    def retire(self, connector_id: str, *, below: int | None = None) -> None:
        """Stop sharing a connector's sessions (only those of versions under `below`); each closes when unused."""
        for key in list(self._by_connector.get(connector_id, ())):
            if below is None or key.version < below:
                self._retire(self._sessions[key])

    def has(self, key: SessionKey) -> bool:
        """Whether a session of this key is shared now."""
        return key in self._sessions

    def running(self, connector_id: str) -> int:
        """How many operations of this process use a connector, or wait for a session of it."""
        sessions = [*(self._sessions[key] for key in self._by_connector.get(connector_id, ())), *self._outdated]
        return sum(session.leases for session in sessions if session.key.connector_id == connector_id)

    async def close(self) -> None:
        """Close everything, in use or not."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        for session in [*self._sessions.values(), *self._outdated]:
            session.leases = 0
            self._retire(session)
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)

    @property
    def open_count(self) -> int:
        """How many sessions are shared now."""
        return len(self._sessions)

    def _start(self, key: SessionKey, size: int, opener: Opener) -> _Session:
        self.retire(key.connector_id, below=key.version)
        if len(self._sessions) >= self._max_sessions:
            self._make_room()
        stack = AsyncExitStack()
        # A task of its own: a caller that is cancelled must not take the opening away from the others.
        session = _Session(key, asyncio.ensure_future(opener(stack)), stack, Slots(size))
        self._sessions[key] = session
        self._by_connector.setdefault(key.connector_id, set()).add(key)
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep(), name="studio-session-sweeper")
        return session

    async def _opened(self, session: _Session, admitted: Callable[[], None]) -> Provider[Any]:
        """Wait for a place and for the session to be open. The place is the caller's, if this returns."""
        if session.slots.locked() and session.waiting >= self._max_waiters:
            raise PoolBusy("too many calls wait for this connector already; try again shortly", retry_after_s=1)
        session.waiting += 1
        try:
            await session.slots.acquire()
        finally:
            session.waiting -= 1
        admitted()
        try:
            session.ready = await asyncio.shield(session.opening)
            return session.ready
        except BaseException:
            session.slots.release()
            if session.opening.done():
                self._retire(session)  # failed: whoever comes next opens anew
            raise

    def _returned(self, session: _Session, *, used: bool) -> None:
        session.leases -= 1
        if used:
            session.last_used = time.monotonic()
        if session.retired and not session.leases:
            self._close(session)

    def _make_room(self) -> None:
        idle = [session for session in self._sessions.values() if not session.leases]
        if not idle:
            raise PoolBusy("every session of this process is in use; try again shortly", retry_after_s=1)
        self._retire(min(idle, key=lambda session: session.last_used))

    def _retire(self, session: _Session) -> None:
        if self._sessions.get(session.key) is session:
            del self._sessions[session.key]
            keys = self._by_connector[session.key.connector_id]
            keys.discard(session.key)
            if not keys:
                del self._by_connector[session.key.connector_id]
        session.retired = True
        self._outdated.add(session)
        if not session.leases:
            self._close(session)

    def _close(self, session: _Session) -> None:
        self._outdated.discard(session)
        task = asyncio.create_task(_shut(session), name="studio-session-close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _sweep(self) -> None:
        while self._sessions:
            await asyncio.sleep(self._idle_s / 4)
            limit = time.monotonic() - self._idle_s
            for session in list(self._sessions.values()):
                if not session.leases and session.last_used < limit:
                    self._retire(session)


class Lease:
    """`async with` around one use of a session's provider; see `Sessions.lease`."""

    __slots__ = ("_admitted", "_find", "_session", "_sessions", "_used")

    def __init__(
        self, sessions: Sessions, find: Callable[[], _Session], admitted: Callable[[], None], used: bool
    ) -> None:
        self._sessions, self._find, self._admitted, self._used = sessions, find, admitted, used

    async def __aenter__(self) -> Provider[Any]:
        session = self._session = self._find()
        session.leases += 1
        if session.ready is not None and session.slots.take_now():
            self._admitted()
            return session.ready
        try:
            return await self._sessions._opened(session, self._admitted)
        except BaseException:
            self._sessions._returned(session, used=self._used)
            raise

    async def __aexit__(self, *_exc: object) -> None:
        self._session.slots.release()
        self._sessions._returned(self._session, used=self._used)


async def _shut(session: _Session) -> None:
    if not session.opening.done():
        session.opening.cancel()
    await asyncio.gather(session.opening, return_exceptions=True)
    try:
        await session.stack.aclose()
    except Exception as exc:
        # Closing is best effort: the upstream may be gone. The class alone is safe to log.
        logger.info("closing a session failed: %s", type(exc).__name__)
