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
from collections.abc import Awaitable, Callable
from typing import Any

from studio.contract import ProviderConfig
from studio.providers._sql.pool import SqlPool, SqlSession
from studio.providers.mysql.values import Plan

DRAIN_S = 0.02
"""How long the rest of an answer is read, when nobody wants it, before it is killed: a new session costs less."""
PLANS = 64
"""Prepared statements that a session keeps."""

READ_ONLY = "SET SESSION TRANSACTION READ ONLY"
READ_WRITE = "SET SESSION TRANSACTION READ WRITE"
SQL_MODE = "STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"
"""The same whatever the server's: `guard.py` reads text as the server does in this mode."""


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


class Session(SqlSession):
    """A connection of `driver.py`."""

    def __init__(self, conn: Any, config: ProviderConfig) -> None:
        super().__init__(conn)
        self._setup = setup(config, mariadb=conn.is_mariadb)
        self._plans: dict[str, Plan] = {}

    @property
    def closed(self) -> bool:
        """See `SqlSession`. One with an answer still to come is of no use either."""
        return bool(self.conn.closed or self.conn.busy)

    def abort(self) -> None:
        """See `SqlSession`."""
        self.conn.close()

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


class Pool(SqlPool[Session]):
    """At most `config.pool_size` sessions.

    Args:
        connect: makes a connection and sets it up. With an address it dials that one and sets nothing up.
        wait_s: see `SqlPool`.
    """

    def __init__(
        self, connect: Callable[[str | None], Awaitable[Any]], config: ProviderConfig, *, wait_s: float
    ) -> None:
        super().__init__(size=config.pool_size, wait_s=wait_s)
        self._connect = connect
        self._config = config

    def release(self, session: Session, clean: Clean | None = None) -> None:
        """Take a session back; `clean` is what must be done to it before its next use."""
        if self._put(session) and clean is not None:
            self._start_cleaning(session, clean, session)

    def finish(self, session: Session, plan: Plan, clean: Clean | None = None) -> None:
        """Take a session back of whose answer nobody wants the rest."""
        self._spawn(self._drain(session, plan, clean))

    async def _drain(self, session: Session, plan: Plan, clean: Clean | None) -> None:
        try:
            async with asyncio.timeout(DRAIN_S):
                while session.conn.busy:
                    await session.conn.rows(plan)
        except Exception:
            session.conn.busy = True
        self.release(session, clean)

    async def _new(self) -> Session:
        return Session(await self._connect(None), self._config)

    async def _end(self, session: Session) -> None:
        if session.conn.busy:
            session.abort()
            await self._kill(session.conn)
        else:
            await session.conn.ensure_closed()

    async def _kill(self, conn: Any) -> None:
        """End what a connection still runs on the server, from a second one to the same address."""
        killer = await self._connect(conn.address)
        try:
            await killer.run(f"KILL CONNECTION {conn.thread_id():d}")
        finally:
            await killer.ensure_closed()
