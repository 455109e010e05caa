"""What the embedded store asks of SQLite is really in force, on every connection."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, func, select, table

from studio.store.embedded import BUSY_TIMEOUT_MS
from studio.store.engine import Database, SqliteDatabase, open_database

WANTED = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": BUSY_TIMEOUT_MS, "temp_store": 2}
COUNT = select(func.count()).select_from(table("t"))


@pytest.fixture
async def embedded(tmp_path: Path) -> AsyncIterator[Database]:
    database = open_database(None, tmp_path)
    yield database
    await database.close()


def pragmas(connection: Connection) -> dict[str, Any]:
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in WANTED}


@pytest.mark.parametrize("way", ["lookup", "read", "write"])
async def test_every_connection_is_durable_checked_and_patient(embedded: Database, way: str) -> None:
    if way == "lookup":
        assert isinstance(embedded, SqliteDatabase)
        found = pragmas(embedded._reader())
    else:
        found = await getattr(embedded, way)(pragmas)
    assert found == WANTED


async def test_a_write_takes_the_lock_at_once_and_not_half_way(embedded: Database, tmp_path: Path) -> None:
    """BEGIN IMMEDIATE: of two writers one waits; neither fails in the midst with "database is locked"."""
    other = open_database(None, tmp_path)
    try:
        await embedded.write(lambda connection: connection.exec_driver_sql("CREATE TABLE t (n)"))

        def count(connection: Connection) -> None:
            seen = connection.exec_driver_sql("SELECT count(*) FROM t").scalar()
            connection.exec_driver_sql("INSERT INTO t VALUES (?)", (seen,))

        await asyncio.gather(*(handle.write(count) for _ in range(20) for handle in (embedded, other)))
        rows = await other.read(lambda connection: connection.exec_driver_sql("SELECT n FROM t").scalars().all())
        assert sorted(rows) == list(range(40))
    finally:
        await other.close()


async def test_a_reader_never_waits_for_a_writer_and_sees_only_what_was_committed(
    embedded: Database, tmp_path: Path
) -> None:
    other = open_database(None, tmp_path)
    await embedded.write(lambda connection: connection.exec_driver_sql("CREATE TABLE t (n)"))
    began, leave = threading.Event(), threading.Event()

    def slow(connection: Connection) -> None:
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        began.set()
        leave.wait(5)

    async def rows(of: Database) -> set[int]:
        ((looked_up,),) = await of.lookup(COUNT, {})
        return {looked_up, await of.read(lambda connection: connection.scalar(COUNT))}

    writing = asyncio.create_task(embedded.write(slow))
    try:
        await asyncio.to_thread(began.wait, 5)
        async with asyncio.timeout(1):
            assert [await rows(embedded), await rows(other)] == [{0}, {0}]
    finally:
        leave.set()
        await writing
    assert [await rows(embedded), await rows(other)] == [{1}, {1}]
    await other.close()


async def test_the_switch_to_wal_waits_for_another_process_that_is_starting(tmp_path: Path) -> None:
    """SQLite does not: it says "database is locked" at once."""
    first = sqlite3.connect(tmp_path / "studio.db", isolation_level=None)
    first.execute("CREATE TABLE t (n)")
    first.execute("BEGIN IMMEDIATE")
    database = open_database(None, tmp_path)
    waiting = asyncio.create_task(database.write(pragmas))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    first.execute("COMMIT")
    first.close()
    assert (await waiting)["journal_mode"] == "wal"
    await database.close()
