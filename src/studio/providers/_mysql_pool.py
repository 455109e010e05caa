"""Sessions to one MySQL server: a last-in-first-out pool that hands out only clean ones.

A session is read-only from its log-in on, so that a read is one command and one answer, each its
own transaction. What may stay in it decides what happens afterwards, behind the caller's back:

* after a read of well-known functions nothing stays, and nothing is done;
* after plain row changes it is made read-only again;
* after anything else it is reset (COM_RESET_CONNECTION) and set up anew;
* a session with an answer still to come is read to its end if that takes no more than a moment.
  If not, or after a cancel, its work is killed on the server from a second connection: closing
  the socket alone does not stop it.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from studio.contract import ProviderConfig
from studio.errors import PoolBusy
from studio.providers._mysql_values import Plan

CLOSE_S = 5.0
DRAIN_S = 0.02
"""How long the rest of an answer is read, when nobody wants it, before it is killed: a new session costs less."""
PLANS = 64
"""Prepared statements that a session keeps."""

READ_ONLY = "SET SESSION TRANSACTION READ ONLY"
READ_WRITE = "SET SESSION TRANSACTION READ WRITE"
SQL_MODE = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""The same whatever the server's: `_mysql_guard` reads text as the server does in this mode."""


def setup(config: ProviderConfig, *, mariadb: bool) -> list[str]:
    """The statements that make a new or reset session ours."""
    seconds = math.ceil(config.timeout_s)
    limit = f"max_statement_time={config.timeout_s:.3f}" if mariadb else f"max_execution_time={seconds * 1000}"
    return [
        f"SET NAMES utf8mb4, sql_mode='{SQL_MODE}', time_zone='+00:00', autocommit=1, "
        # One row past the cap is all that tells a full result from a cut one; a LIMIT in the query goes first.
        f"sql_select_limit={config.max_rows + 1}, "
        f"lock_wait_timeout={seconds}, innodb_lock_wait_timeout={seconds}, net_write_timeout={seconds + 30}, {limit}",
        READ_ONLY,
    ]


class Session:
    """One connection in the pool, and what is known of it."""

    def __init__(self, conn: Any, config: ProviderConfig) -> None:
        self.conn = conn
        self.reused = False
        self.cleaning: asyncio.Task[None] | None = None
        self._setup = setup(config, mariadb=conn.is_mariadb)
        self._plans: dict[str, Plan] = {}

    async def plan(self, text: str) -> Plan:
        """The prepared statement of this text."""
        plan = self._plans.pop(text, None)
        if plan is None:
            plan = await self.conn.prepare_plan(text)
            if len(self._plans) >= PLANS:
                await self.conn.close_plan(self._plans.pop(next(iter(self._plans))))
        self._plans[text] = plan  # the one used last stands last
        return plan

    async def reset(self) -> None:
        """Make it as new."""
        self._plans.clear()
        await self.conn.reset()
        for statement in self._setup:
            await self.conn.run(statement)

    async def read_only(self) -> None:
        """Make it read-only again after plain row changes."""
        await self.conn.run(READ_ONLY)


Clean = Callable[[Session], Awaitable[None]]


class Pool:
    """At most `config.pool_size` sessions, made when they are needed.

    Args:
        connect: makes a connection and sets it up. With an address it dials that one and sets nothing up.
        wait_s: how long a caller waits for a session before it is `pool_busy`, seconds.
    """

    def __init__(
        self, connect: Callable[[str | None], Awaitable[Any]], config: ProviderConfig, *, wait_s: float
    ) -> None:
        self._connect = connect
        self._config = config
        self._slots = asyncio.Semaphore(config.pool_size)
        self._wait_s = wait_s
        self._idle: list[Session] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    async def acquire(self, *, fresh: bool = False) -> Session:
        """A clean session; a new connection if `fresh` or none is idle.

        Raises:
            PoolBusy: all were in use for `wait_s`.
        """
        if self._slots.locked():
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._slots.acquire()
            except TimeoutError:
                raise PoolBusy("all sessions of this connector are in use; try again, or raise pool_size") from None
        else:
            await self._slots.acquire()
        try:
            return await self._take(fresh)
        except BaseException:
            self._slots.release()
            raise

    async def _take(self, fresh: bool) -> Session:
        while self._idle:
            session = self._idle.pop(self._best())
            if session.cleaning is not None:
                await self._wait_for(session)
            if fresh or session.conn.closed:
                # `fresh`: a session broke, so the others of its age are likely broken too.
                self._spawn(self._end(session))
                continue
            session.reused = True
            return session
        return Session(await self._connect(None), self._config)

    def _best(self) -> int:
        """The place of the session that was used last, among those that are not being cleaned if possible."""
        ready = (at for at in reversed(range(len(self._idle))) if self._idle[at].cleaning is None)
        return next(ready, -1)

    async def _wait_for(self, session: Session) -> None:
        try:
            await asyncio.shield(session.cleaning)  # type: ignore[arg-type]
        except asyncio.CancelledError:
            self._idle.append(session)  # it is us who were cancelled; the session is fine
            raise

    def release(self, session: Session, clean: Clean | None = None) -> None:
        """Take a session back; `clean` is what must be done to it first.

        Nobody waits: neither a caller with an answer nor one that was cancelled.
        """
        if self._closed or session.conn.closed or session.conn.busy:
            self.discard(session)
            return
        if clean is not None:
            session.cleaning = self._spawn(self._clean(session, clean))
        self._idle.append(session)
        self._slots.release()

    def finish(self, session: Session, plan: Plan, clean: Clean | None = None) -> None:
        """Take a session back of whose answer nobody wants the rest."""
        self._spawn(self._drain(session, plan, clean))

    def discard(self, session: Session) -> None:
        """Close a session whose state is in doubt; what it still runs is killed on the server."""
        task = self._spawn(self._end(session))
        task.add_done_callback(lambda _: self._slots.release())

    async def _drain(self, session: Session, plan: Plan, clean: Clean | None) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                while session.conn.busy:
                    await session.conn.rows(plan)
        except Exception:
            session.conn.busy = True
        self.release(session, clean)

    async def _clean(self, session: Session, clean: Clean) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await clean(session)
        except Exception:
            session.conn.close()  # the next borrower sees it closed
        finally:
            session.cleaning = None

    async def _end(self, session: Session) -> None:
        conn = session.conn
        if session.cleaning is not None:
            await asyncio.wait([session.cleaning])
        try:
            async with asyncio.timeout(CLOSE_S):
                if conn.busy:
                    conn.close()
                    await self._kill(conn)
                else:
                    await conn.ensure_closed()
        except Exception:
            conn.close()

    async def _kill(self, conn: Any) -> None:
        """End what a connection still runs on the server, from a second one to the same address."""
        killer = await self._connect(conn.address)
        try:
            await killer.run(f"KILL CONNECTION {conn.thread_id():d}")
        finally:
            await killer.ensure_closed()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close every session, and wait until it is done."""
        self._closed = True
        idle, self._idle = self._idle, []
        while self._tasks:  # a drained session becomes a closed one
            await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*map(self._end, idle))
