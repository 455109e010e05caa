"""Sessions to one PostgreSQL server: a last-in-first-out pool that hands out only clean ones.

asyncpg's own pool runs a reset query before each reuse, which costs as much as a small query.
Here a transaction ends every use of a session:

* a read is rolled back, which undoes all that a function called by it can set in the session. The
  ROLLBACK travels ahead of the next use, or by itself some `LINGER_S` later if there is none;
* a write is committed, and then the session is reset (`RESET` or, after anything but plain
  row changes, `DISCARD ALL`) behind the caller's back; the next borrower waits for that;
* after a cancel, or an error that leaves it unclear where the conversation stands, it is closed.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from studio.contract.caps import Moments
from studio.providers._sql.pool import SqlPool, SqlSession
from studio.providers._sql.server import row_too_large
from studio.providers.postgresql.values import Plan, moments_as, nested_as_text, nested_as_usual
from studio.providers.postgresql.wire import ROLLBACK, parse, run

LINGER_S = 0.02
_EARLY_S = 0.002
"""A session that is nearly due is not left for another round."""
SEEN_TEXTS = 4_096
"""Texts remembered as seen once; the second time a text gets a prepared statement."""

PREAMBLES = run("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"), run("BEGIN READ WRITE")
"""Of a read and of a write, which is named: the role may have a default_transaction_read_only.

The time limits are the session's own (`limits`): a ROLLBACK undoes what a read sets, and a reset brings them back.
"""
PREAMBLE_TAG = b"BEGIN"
"""The command tag of the last statement of a preamble; no statement that may run here has it."""

UNLOCK = (
    "ROLLBACK; SELECT pg_catalog.pg_advisory_unlock_all(); SELECT 1 / (CASE WHEN EXISTS "
    "(SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) THEN 0 ELSE 1 END)"
)
"""The end of a read that called functions of which we know nothing: session locks and PREPARE outlive a ROLLBACK.

A statement that SQL prepared cannot be told from one that somebody counts on, so the error closes the session.
"""
RESET = (
    "SET SESSION AUTHORIZATION DEFAULT; RESET ALL; CLOSE ALL; UNLISTEN *; "
    "SELECT pg_catalog.pg_advisory_unlock_all(); DISCARD TEMP; DISCARD SEQUENCES"
)
DISCARD = "DISCARD ALL"


def limits(limit_s: float) -> dict[str, str]:
    """The server's own bounds, as settings that a session begins with: RESET and DISCARD bring it back to them.

    A reader slower than twice `limit_s`, or a process of ours that hangs, does not hold a snapshot for ever.
    """
    limit_ms = max(1, round(limit_s * 1000))
    return {"statement_timeout": str(limit_ms), "idle_in_transaction_session_timeout": str(limit_ms * 2)}


class Session(SqlSession):
    """A connection of asyncpg."""

    def __init__(self, conn: Any) -> None:
        super().__init__(conn)
        self.idle_since = 0.0
        """On the loop's clock."""
        self._plans: dict[str, Plan] = {}
        self._open = False

    @property
    def closed(self) -> bool:
        """See `SqlSession`."""
        return bool(self.conn.is_closed())

    def abort(self) -> None:
        """See `SqlSession`."""
        self.conn.terminate()

    @property
    def open(self) -> bool:
        """Whether a transaction is, or may be, open."""
        return self._open

    def plan(self, text: str) -> Plan | None:
        """The prepared statement of this text, if this connection still has it."""
        plan = self._plans.get(text)
        return None if plan is None or plan.state.closed else plan

    def begin(self, *, write: bool, check: str | None = None) -> None:
        """Send the start of a transaction ahead of the next message; see `wire.py`.

        `check` is a query that the server's grammar must also take as that of a read-only cursor:
        it refuses all but SELECT and VALUES, and data-modifying CTEs.
        """
        start = ROLLBACK + PREAMBLES[write] if self._open else PREAMBLES[write]
        if check is not None:
            start += parse(f"DECLARE _q NO SCROLL CURSOR FOR {check}")
        self._open = True
        self.conn._transport.ahead = start
        self.conn._transport.share = 1

    async def prepare(self, text: str, *, keep: bool) -> Plan:
        """Parse and describe; the statement stays on the server if `keep`."""
        plan = Plan(await self.conn._get_statement(text, None, use_cache=keep))
        if keep and plan.has_moments:  # under another text, since asyncpg's cache goes by it
            plan = await self.prepare_raw(f"{text} ", Moments.TEXTS, keep=True)
        if keep and plan.state.name:  # asyncpg keeps no very long text; the unnamed statement is soon another one
            if len(self._plans) > 200:
                self._plans.clear()
            self._plans[text] = plan
        return plan

    async def prepare_raw(self, text: str, how: Moments, *, keep: bool = False) -> Plan:
        """Prepare with points in time that are decoded a column at a time; the statement stays if `keep`."""
        settings = self.conn._protocol.get_settings()
        moments_as(settings, how)
        try:
            return Plan(await self.conn._get_statement(text, None, use_cache=keep), how)
        finally:
            moments_as(settings, None)

    async def prepare_texts(self, text: str, plan: Plan) -> Plan:
        """Prepare once more, with arrays and composites as texts."""
        settings = self.conn._protocol.get_settings()
        nested_as_text(settings, plan.nested)
        try:
            return Plan(await self.conn._get_statement(text, None, use_cache=False))
        finally:
            nested_as_usual(settings, plan.nested)

    async def first(self, plan: Plan, values: list[Any], limit: int) -> tuple[list[Any], bytes, bool]:
        """Bind and fetch up to `limit` rows: records, command tag, and whether that was all."""
        self.conn._transport.share = plan.weight.of_one if limit == 1 else plan.weight.share
        try:
            records, tag, done = await self.conn._protocol.bind_execute(plan.state, values, "", limit, True, None)
        except Exception:
            self._too_large()
            raise
        # The end of the preamble looks to asyncpg like the end of the statement; its tag tells the two apart.
        return records, tag, len(records) < limit or (done and tag != PREAMBLE_TAG)

    async def more(self, plan: Plan, limit: int) -> tuple[list[Any], bytes, bool]:
        """The next rows of what `first` began."""
        self.conn._transport.share = plan.weight.of_one if limit == 1 else plan.weight.share
        try:
            return await self.conn._protocol.execute(plan.state, "", limit, True, None)  # type: ignore[no-any-return]
        except Exception:
            self._too_large()
            raise

    def _too_large(self) -> None:
        """Raises ResultBlocked where an answer was larger than is read, which cost the connection."""
        if self.conn._transport.room < 0:
            raise row_too_large() from None

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


class Pool(SqlPool[Session]):
    """Sessions, and what is remembered of their texts.

    Args:
        connect: makes a connection. Raises errors of ours.
        size, wait_s: see `SqlPool`.
    """

    def __init__(self, connect: Callable[[], Awaitable[Any]], *, size: int, wait_s: float) -> None:
        super().__init__(size=size, wait_s=wait_s)
        self._connect = connect
        self._seen: OrderedDict[int, None] = OrderedDict()
        self._lingering: asyncio.TimerHandle | None = None
        self.narrow: dict[str, int] = {}
        """Rows of a text that may be asked for first, where more were too large once; with 1, arrays come as text."""

    def narrowed(self, text: str, limit: int) -> None:
        """Remember that more rows than `limit` were too large."""
        if len(self.narrow) > SEEN_TEXTS:
            self.narrow.clear()
        self.narrow[text] = limit

    def seen(self, text: str) -> bool:
        """Whether this text came before; remembers it."""
        key = hash(text)
        known = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > SEEN_TEXTS:
            self._seen.popitem(last=False)
        return known

    def release(self, session: Session, end: str | None = None) -> None:
        """Take a session back. `end` is the statement that cleans it; without one a ROLLBACK will do."""
        if not self._put(session):
            return
        if end is not None:
            self._start_cleaning(session, session.clean, end)
        elif session.open:
            loop = asyncio.get_running_loop()
            session.idle_since = loop.time()
            if self._lingering is None:  # one timer for all sessions: one each would cost more than the rest of this
                self._lingering = loop.call_later(LINGER_S, self._end_lingering)

    def _end_lingering(self) -> None:
        """Roll back what was idle for `LINGER_S`; look again while any idle session has a transaction open."""
        loop = asyncio.get_running_loop()
        self._lingering = None
        for session in self._idle:
            if not session.open or session.cleaning is not None:
                continue
            if session.idle_since + LINGER_S <= loop.time() + _EARLY_S:
                self._start_cleaning(session, session.clean, "ROLLBACK")
            elif self._lingering is None:
                self._lingering = loop.call_later(LINGER_S, self._end_lingering)

    async def _new(self) -> Session:
        return Session(await self._connect())

    async def _end(self, session: Session) -> None:
        await session.conn.close()  # asyncpg first sees a pending cancel request through to its acknowledgement
