"""Reads and writes on a pool of sessions: batches, caps, transactions, and the one retry."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from studio.contract import Batch, ProviderConfig, Result
from studio.errors import InvalidRequest
from studio.providers._sql.server import Call, keep
from studio.providers.mysql.errors import from_server, stale
from studio.providers.mysql.guard import Verdict
from studio.providers.mysql.params import encode
from studio.providers.mysql.pool import READ_WRITE, Clean, Pool, Session
from studio.providers.mysql.values import Plan

STALE_S = 0.25
"""A session that died while it was idle shows that at once; later, somebody ended the work itself."""


def explain_text(text: str) -> str:
    """The statement that shows the plan of `text` and does not run it."""
    return f"EXPLAIN FORMAT=JSON {text}"


async def read(pool: Pool, call: Call, *, plain: bool = True) -> AsyncGenerator[Batch, None]:
    """Rows of a query in a read-only session, in batches as the server sends them (256 KiB at most).

    Args:
        pool: where the session comes from.
        call: the query.
        plain: whether nothing of it can stay in the session.
    """
    clean: Clean | None = None if plain else Session.reset
    session, plan, follow = await _begin_read(pool, call, clean)
    done = not follow
    rows: list[tuple[Any, ...]] = []
    try:
        while not done:
            rows, done = await session.conn.rows(plan)
            if not done:
                yield Batch(plan.columns, rows)
                rows = []  # let go before the next are read
    except GeneratorExit:
        pool.finish(session, plan, clean)
        raise
    except BaseException:
        pool.release(session, clean)
        raise
    pool.release(session, clean)  # before the last rows are handed out: their reader may be slow
    yield Batch(plan.columns, rows)


async def _begin_read(pool: Pool, call: Call, clean: Clean | None) -> tuple[Session, Plan, bool]:
    """The head of the answer; once more on a new session where an old one turns out to be dead or outdated."""
    values = encode(call.names, call.values)
    for fresh in (False, True):
        session = await pool.acquire(fresh=fresh)
        start = time.perf_counter()
        try:
            plan = await _prepared(session, call)
            return session, plan, await session.conn.start(plan, values)
        except BaseException as exc:
            pool.release(session, clean)
            if not session.reused or not stale(exc) or time.perf_counter() - start > STALE_S:
                raise
    raise AssertionError("a new session is never reused")


async def _prepared(session: Session, call: Call) -> Plan:
    plan = await session.plan(call.text)
    if plan.marks != len(call.values):
        raise InvalidRequest.at("query", "uses ? marks; give values as :name parameters instead")
    return plan


async def write(pool: Pool, call: Call, verdict: Verdict, config: ProviderConfig) -> Result:
    """One statement, committed when this returns: MySQL commits each by itself, or before and after it.

    A session found dead before the statement was sent is replaced once; later nobody knows.
    """
    values = encode(call.names, call.values)
    session = await _writable(pool, READ_WRITE, call)
    clean: Clean = Session.reset
    try:
        result = await _change(session, call, values, config)
        if session.conn.in_transaction:  # a procedure began one
            await session.conn.run("COMMIT")
        if verdict.rows_only:
            clean = Session.read_only
        return result
    except Exception as exc:
        if verdict.rows_only and from_server(exc):
            clean = Session.read_only
        raise
    finally:
        pool.release(session, clean)


async def transaction(pool: Pool, work: Sequence[tuple[Call, Verdict]], config: ProviderConfig) -> list[Result]:
    """Statements as one transaction, committed when this returns; any error undoes them all."""
    encoded = [encode(call.names, call.values) for call, _ in work]
    session = await _writable(pool, "START TRANSACTION READ WRITE", work[0][0])
    plain = all(verdict.plain for _, verdict in work)
    try:
        results = []
        for (call, _), values in zip(work, encoded, strict=True):
            results.append(await _change(session, call, values, config))
        await session.conn.run("COMMIT")
        return results
    except BaseException:
        plain = False  # the reset rolls back
        raise
    finally:
        pool.release(session, None if plain else Session.reset)


async def _writable(pool: Pool, statement: str, first: Call) -> Session:
    """A session that may write, with the first statement prepared; nothing has happened yet."""
    for fresh in (False, True):
        session = await pool.acquire(fresh=fresh)
        try:
            await session.conn.run(statement)  # the server would not even prepare a write before this
            await _prepared(session, first)
            return session
        except BaseException as exc:
            pool.release(session, Session.reset)
            if not session.reused or not stale(exc):
                raise
    raise AssertionError("a new session is never reused")


async def _change(session: Session, call: Call, values: tuple[Any, ...], config: ProviderConfig) -> Result:
    """Run one statement to its end; of what it returns, keep what fits the caps."""
    conn, plan = session.conn, await _prepared(session, call)
    follow = await conn.start(plan, values)
    result = Result(columns=plan.columns, rows=[]) if follow else Result()
    room, done, returned = config.max_bytes, not follow, 0
    while not done:
        rows, done = await conn.rows(plan)
        returned += len(rows)
        room = keep(result, rows, config.max_rows, room)
    result.row_count = returned if follow else conn.affected
    if conn.inserted and not follow:
        result.data = {"last_insert_id": conn.inserted}
    while conn.busy:  # a procedure answers with several results; the first one is kept
        done = not await conn.result(plan)
        while not done:
            _, done = await conn.rows(plan)
    return result
