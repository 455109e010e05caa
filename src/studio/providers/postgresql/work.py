"""Reads and writes on a pool of sessions: transactions, batches, caps, and the one retry."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from studio.contract import Batch, ProviderConfig, Result
from studio.contract.caps import Moments, moments
from studio.errors import FieldError, InvalidRequest, ResultBlocked, UpstreamError
from studio.providers._sql.server import Call, keep
from studio.providers.postgresql.arrays import PLAIN
from studio.providers.postgresql.errors import doubtful, from_server, parameter_of, said, stale
from studio.providers.postgresql.guard import Verdict
from studio.providers.postgresql.pool import DISCARD, RESET, UNLOCK, Pool, Session
from studio.providers.postgresql.values import Plan, width

BATCH_ROWS = 4_096
"""More rows at a time would hold the event loop for longer than 10 ms while they are decoded."""

FEW_ROWS = 16
"""Asked for where more rows at once were too large."""
RETRY_WITHIN_S = 0.1
"""A session that dies this soon was dead before; later, somebody ended what it was doing."""

_ROW_CHANGES = {"InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt", "SelectStmt"}


Rows = tuple[list[Any], bytes, bool]
"""Records, the command tag where there is one, and whether those were the last."""


def explain_text(text: str) -> str:
    """The statement that shows the plan of `text` and does not run it."""
    return f"EXPLAIN (FORMAT JSON) {text}"


class Reading:
    """Rows of a query in a read-only transaction, in batches of about a megabyte.

    Args:
        pool: where the session comes from.
        call: the query.
        first: rows of the first batch.
        cursor: whether the server must also take the text as a read-only cursor's query.
        plain: whether ROLLBACK ends all that it can have done to the session.
    """

    __slots__ = ("_call", "_cursor", "_end", "_limit", "_plan", "_pool", "_session", "_texts", "ended")

    def __init__(self, pool: Pool, call: Call, first: int, *, cursor: bool = True, plain: bool = True) -> None:
        self._pool, self._call, self._cursor = pool, call, cursor
        narrow = pool.narrow.get(call.text) if pool.narrow else None
        self._limit = first if narrow is None else min(first, narrow)
        self._texts = narrow == 1
        self._end = None if plain else UNLOCK
        self._session: Session | None = None
        self.ended = False

    async def next(self) -> Batch | None:
        """The next rows; None after the last ones."""
        if self.ended:
            return None
        records, _, done = await (self._begin() if self._session is None else self._more(self._session))
        session = self._session
        assert session is not None
        try:
            rows = self._plan.rows(records)
            records.clear()  # asyncpg keeps the list until it is asked again
        except BaseException as exc:
            self._give_back(session, exc)
            raise
        if done:
            self.close()  # before the last rows are handed out: their reader may be slow
        else:
            self._limit = _next_limit(self._plan, self._limit, rows)
        return Batch(self._plan.columns, rows)

    def close(self) -> None:
        """Give the session back, wherever the reading stands. Not while `next` runs."""
        session, self._session, self.ended = self._session, None, True
        if session is not None:
            self._pool.release(session, self._end)

    async def _begin(self) -> Rows:
        """The first rows; fewer of them where so many are more than is read."""
        while True:
            try:
                return await self._begun()
            except ResultBlocked:
                if self._texts:
                    raise
                self._limit, self._texts = (FEW_ROWS, False) if self._limit > FEW_ROWS else (1, True)
                self._pool.narrowed(self._call.text, self._limit)
                self.ended = False

    async def _begun(self) -> Rows:
        """The first rows; once more on a new session where an old one turns out to be dead or outdated."""
        for fresh in (False, True):
            session = self._pool.at_once() if not fresh else None
            if session is None:
                session = await self._pool.acquire(fresh=fresh)
            started = time.monotonic()
            try:
                self._plan, rows = await _run(
                    self._pool, session, self._call, self._limit, begin="read", cursor=self._cursor, texts=self._texts
                )
            except BaseException as exc:
                self._give_back(session, exc)
                if not _was_dead(session, exc, started):
                    raise
            else:
                self._session = session
                return rows
        raise AssertionError("a new session is never reused")

    async def _more(self, session: Session) -> Rows:
        try:
            return await session.more(self._plan, self._limit)
        except BaseException as exc:
            self._give_back(session, exc)
            raise

    def _give_back(self, session: Session, exc: BaseException) -> None:
        self._session, self.ended = None, True
        _give_back(self._pool, session, exc, self._end)


def _next_limit(plan: Plan, last: int, rows: Sequence[tuple[Any, ...]]) -> int:
    return max(1, min(BATCH_ROWS, last * 8, int(plan.weight.batch / max(1.0, width(rows)))))


async def _run(
    pool: Pool,
    session: Session,
    call: Call,
    limit: int,
    *,
    begin: str | None,
    cursor: bool = False,
    texts: bool = False,
) -> tuple[Plan, Rows]:
    """Prepare where that is needed, bind and fetch; all of one statement's waiting is here.

    With `texts`, arrays and composites come as text (`arrays.py`).
    """
    plan = session.plan(call.text)
    if plan is None:
        if begin:
            session.begin(write=begin == "write", check=call.text if cursor else None)
        plan = await session.prepare(call.text, keep=pool.seen(call.text))
        encoded = plan.encode(call.names, call.values)
    else:
        encoded = plan.encode(call.names, call.values)
        if begin:
            session.begin(write=begin == "write")
    if plan.has_moments and begin == "read" and (how := moments.get()) is not None:
        # A parameter of such a type is encoded as text, which a codec of whole microseconds would not take.
        how = Moments.TEXTS if "timestamp" in "".join(plan.types) else how
        if how is Moments.MICROS or not plan.by_column:
            plan = await session.prepare_raw(call.text, how)
    if plan.weight is not PLAIN:
        if texts and plan.nested:
            plan = await session.prepare_texts(call.text, plan)
        limit = 1 if texts else min(limit, plan.weight.first)
    try:
        return plan, await session.first(plan, encoded, limit)
    except Exception as exc:
        if error := _about_parameter(exc, plan, call):
            raise error from exc
        raise


def _about_parameter(exc: Exception, plan: Plan, call: Call) -> InvalidRequest | None:
    """The error as one about the parameter that does not fit, where it is that."""
    at = parameter_of(exc)
    if at is None or at >= len(call.names):
        return None
    if not from_server(exc):  # asyncpg's text repeats the value
        return plan.misfit(call.names, at, "is out of range or of another form")
    name = f"params.{call.names[at]}"
    return InvalidRequest(f"{name}: {said(exc)}", fields=[FieldError(name, said(exc))])


def _give_back(pool: Pool, session: Session, exc: BaseException, end: str | None) -> None:
    if doubtful(exc):
        pool.discard(session)
    else:
        pool.release(session, end)


def _was_dead(session: Session, exc: BaseException, started: float) -> bool:
    """Whether a session of the pool failed by itself, so that the same may be asked of a new one."""
    return session.reused and stale(exc) and time.monotonic() - started < RETRY_WITHIN_S


async def write(pool: Pool, work: Sequence[tuple[Call, Verdict]], config: ProviderConfig) -> list[Result]:
    """Statements as one transaction, committed when this returns.

    Until COMMIT is sent nothing has happened, so a session found dead before is replaced once.
    """
    rows_only = all(verdict.root in _ROW_CHANGES for _, verdict in work)
    for fresh in (False, True):
        session = await pool.acquire(fresh=fresh)
        started, committing = time.monotonic(), False
        try:
            results = [
                await _change(pool, session, call, config, begin=None if at else "write")
                for at, (call, _) in enumerate(work)
            ]
            committing = True
            committed = await session.commit()
        except BaseException as exc:
            _give_back(pool, session, exc, f"ROLLBACK; {RESET}")
            if committing or not _was_dead(session, exc, started):
                raise
        else:
            pool.release(session, RESET if rows_only else DISCARD)
            if not committed:
                raise UpstreamError("the server rolled the transaction back")
            return results
    raise AssertionError("a new session is never reused")


async def _change(pool: Pool, session: Session, call: Call, config: ProviderConfig, *, begin: str | None) -> Result:
    """Run one statement to its end; of what it returns, keep what fits the caps."""
    limit = min(config.max_rows + 1, 128)
    plan, (records, tag, done) = await _run(pool, session, call, limit, begin=begin, texts=True)
    result = Result(columns=plan.columns, rows=[] if plan.columns else None)
    room = config.max_bytes
    while True:
        rows = plan.rows(records)
        result.row_count += len(rows)
        room = keep(result, rows, config.max_rows, room)
        if done:
            break
        limit = _next_limit(plan, limit, rows)
        records, tag, done = await session.more(plan, limit)
    if not plan.columns:  # of rows that are handed out in parts, the tag counts the last part
        result.row_count = _affected(tag)
    return result


def _affected(tag: bytes | None) -> int:
    """The count at the end of a command tag such as `INSERT 0 5`."""
    last = (tag or b"").rsplit(b" ", 1)[-1]
    return int(last) if last.isdigit() else 0
