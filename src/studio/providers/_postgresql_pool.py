"""Sessions to one PostgreSQL server: a last-in-first-out pool that hands out only clean ones.

asyncpg's own pool runs a reset query before each reuse, which costs as much as a small query.
Here a transaction ends every use of a session:

* a read is rolled back, which undoes all that a function called by it can set in the session. The
  ROLLBACK travels ahead of the next use, or by itself `LINGER_S` later if there is none;
* a write is committed, and then the session is reset (`RESET` or, after anything but plain
  row changes, `DISCARD ALL`) behind the caller's back; the next borrower waits for that;
* after a cancel, or an error that leaves it unclear where the conversation stands, it is closed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from studio.errors import PoolBusy
from studio.providers._postgresql_values import Plan
from studio.providers._postgresql_wire import ROLLBACK, parse, run

LINGER_S = 0.002
CLOSE_S = 5.0
SEEN_TEXTS = 4_096
"""Texts remembered as seen once; the second time a text gets a prepared statement."""

PREAMBLE_TAG = b"SET"
"""The command tag of the last statement of a preamble; no statement that may run here has it."""

UNLOCK = "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all()"
"""The end of a read that called functions of which we know nothing: session locks outlive a ROLLBACK."""
RESET = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; "
    "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)
DISCARD = "DISCARD ALL"


class Session:
    """One connection in the pool, and what is known of it."""

    def __init__(self, conn: Any, preambles: tuple[bytes, bytes]) -> None:
        self.conn = conn
        self.reused = False
        self.cleaning: asyncio.Task[None] | None = None
        self.timer: asyncio.TimerHandle | None = None
        self._preambles = preambles
        self._plans: dict[str, Plan] = {}
        self._open = False

    @property
    def open(self) -> bool:
        """Whether a transaction is, or may be, open."""
        return self._open

    def plan(self, text: str) -> Plan | None:
        """The prepared statement of this text, if this connection still has it."""
        plan = self._plans.get(text)
        return None if plan is None or plan.state.closed else plan

    def begin(self, *, write: bool, check: str | None = None) -> None:
        """Send the start of a transaction ahead of the next message; see `_postgresql_wire`.

        `check` is a query that the server's grammar must also take as that of a read-only cursor:
        it refuses all but SELECT and VALUES, and data-modifying CTEs.
        """
        start = ROLLBACK + self._preambles[write] if self._open else self._preambles[write]
        if check is not None:
            start += parse(f"DECLARE _q NO SCROLL CURSOR FOR {check}")
        self._open = True
        self.conn._transport.ahead = start

    async def prepare(self, text: str, *, keep: bool) -> Plan:
        """Parse and describe; the statement stays on the server if `keep`."""
        plan = Plan(await self.conn._get_statement(text, None, use_cache=keep))
        if keep and plan.state.name:  # asyncpg keeps no very long text; the unnamed statement is soon another one
            if len(self._plans) > 200:
                self._plans.clear()
            self._plans[text] = plan
        return plan

    async def first(self, plan: Plan, values: list[Any], limit: int) -> tuple[list[Any], bytes, bool]:
        """Bind and fetch up to `limit` rows: records, command tag, and whether that was all."""
        records, tag, done = await self.conn._protocol.bind_execute(plan.state, values, "", limit, True, None)
        # The end of the preamble looks to asyncpg like the end of the statement; its tag tells the two apart.
        return records, tag, len(records) < limit or (done and tag != PREAMBLE_TAG)

    async def more(self, plan: Plan, limit: int) -> tuple[list[Any], bytes, bool]:
        """The next rows of what `first` began."""
        return await self.conn._protocol.execute(plan.state, "", limit, True, None)  # type: ignore[no-any-return]

    async def commit(self) -> bool:
        """Commit; False where the server rolled back instead."""
        tag = await self.conn.execute("COMMIT")
        self._open = False
        return bool(tag == "COMMIT")

    async def clean(self, statement: str) -> None:
        """Run one of our constant statements that ends or resets the session's state."""
        await self.conn.execute(statement)
        self._open = False
        if statement == DISCARD:
            self._plans.clear()
            self.conn._mark_stmts_as_closed()

    def forget(self) -> None:
        """Stop the timer of a ROLLBACK that is not needed by itself any more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Pool:
    """At most `size` sessions, made when they are needed.

    Args:
        connect: makes a connection. Raises errors of ours.
        wait_s: how long a caller waits for a session before it is `pool_busy`, seconds.
        limit_s: the server's own bound on one statement, seconds.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], *, size: int, wait_s: float, limit_s: float) -> None:
        self._connect = connect
        self._slots = asyncio.Semaphore(size)
        self._wait_s = wait_s
        self._idle: list[Session] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._closed = False
        limit_ms = max(1, round(limit_s * 1000))
        limits = run(f"SET LOCAL statement_timeout = {limit_ms}")
        # A reader slower than this, or a process of ours that hangs, does not hold a snapshot for ever.
        limits += run(f"SET LOCAL idle_in_transaction_session_timeout = {limit_ms * 2}")
        self._preambles = (
            run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY") + limits,
            # Named, so that a default_transaction_read_only of the role does not refuse what it may write.
            run("BEGIN READ WRITE") + limits,
        )

    def seen(self, text: str) -> bool:
        """Whether this text came before; remembers it."""
        key = hash(text)
        known = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN_TEXTS:
            self._seen.popitem(last=False)
        return known

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
            session.forget()
            if session.cleaning is not None:
                await self._wait_for(session)
            if fresh or session.conn.is_closed():
                # `fresh`: a session broke, so the others of its age are likely broken too.
                self._spawn(self._end(session))
                continue
            session.reused = True
            return session
        return Session(await self._connect(), self._preambles)

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

    def release(self, session: Session, end: str | None = None) -> None:
        """Take a session back. `end` is the statement that cleans it; without one a ROLLBACK will do.

        Nobody waits: neither a caller with an answer nor one that was cancelled.
        """
        if self._closed or session.conn.is_closed():
            self.discard(session)
            return
        if end is not None:
            self._start_cleaning(session, end)
        elif session.open:
            loop = asyncio.get_running_loop()
            session.timer = loop.call_later(LINGER_S, self._start_cleaning, session, "ROLLBACK")
        self._idle.append(session)
        self._slots.release()

    def discard(self, session: Session) -> None:
        """Close a session whose state is in doubt; what it still runs is cancelled on the server."""
        session.forget()
        task = self._spawn(self._end(session))
        task.add_done_callback(lambda _: self._slots.release())

    def _start_cleaning(self, session: Session, statement: str) -> None:
        session.timer = None
        session.cleaning = self._spawn(self._clean(session, statement))

    async def _clean(self, session: Session, statement: str) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await session.clean(statement)
        except Exception:
            session.conn.terminate()  # the next borrower sees it closed
        finally:
            session.cleaning = None

    async def _end(self, session: Session) -> None:
        try:
            # asyncpg first sees a pending cancel request through to its acknowledgement.
            await session.conn.close(timeout=CLOSE_S)
        except Exception:
            session.conn.terminate()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close every session, and wait until it is done."""
        self._closed = True
        idle, self._idle = self._idle, []
        for session in idle:
            session.forget()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*map(self._end, idle))
