"""What a statement of the `sqlite` provider may take: memory within a bound, temporary files in the service's folder."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from studio.errors import UpstreamError
from studio.providers.sqlite import session, worker
from studio.providers.sqlite.provider import Sqlite
from studio.security.egress import Egress
from studio.testing.harness import call, open_provider

MIB = 1 << 20
SORT = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT randomblob(5000) z FROM r ORDER BY z"


def opened(home: Path, **more: Any) -> Any:
    files = home / "files"
    files.mkdir(exist_ok=True)
    with sqlite3.connect(files / "many.db") as db:
        db.execute("CREATE TABLE IF NOT EXISTS t (n INTEGER, name TEXT)")
    db.close()
    gate = Egress(private_open=True, files_root=files, scratch=home / "tmp")
    return open_provider(Sqlite, {"path": "many.db", **more}, network=gate)


def peak(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))


def largest_file(pid: int) -> str:
    return Path(f"/proc/{pid}/limits").read_text().split("Max file size")[1].split()[0]


def temporary(pid: int) -> list[str]:
    return [name for name in map(_target, Path(f"/proc/{pid}/fd").iterdir()) if name.endswith(" (deleted)")]


def _target(entry: Path) -> str:
    try:
        return os.readlink(entry)
    except OSError:
        return ""


async def _spilled(pid: int) -> list[str]:
    async with asyncio.timeout(20):
        while not (found := temporary(pid)):  # noqa: ASYNC110 - another process sets no event
            await asyncio.sleep(0.01)
    return found


@pytest.mark.parametrize("read_only", [True, False])
async def test_a_million_rows_are_sorted_in_little_memory(tmp_path: Path, read_only: bool) -> None:
    async with opened(tmp_path, read_only=read_only, timeout_s=60) as db:
        with sqlite3.connect(tmp_path / "files" / "many.db") as filled:
            filled.execute(
                "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r LIMIT 1000000)"
                " INSERT INTO t SELECT (n * 7919) % 1000003, 'name of row ' || n FROM r"
            )
        filled.close()
        await call(db, "query", query="SELECT 1")
        (pid,) = db._pool.pids
        before = peak(pid)
        result = await call(db, "query", query="SELECT n, name FROM t ORDER BY n DESC LIMIT 3 OFFSET 900000")
        assert [row[0] for row in result.rows or ()] == sorted((row[0] for row in result.rows or ()), reverse=True)
        assert peak(pid) - before < 16 * MIB
    assert os.listdir(tmp_path / "tmp") == []
    assert (tmp_path / "tmp").stat().st_mode & 0o777 == 0o700


async def test_temporary_files_have_no_name_and_end_with_a_killed_worker(tmp_path: Path) -> None:
    async with opened(tmp_path, timeout_s=60) as db:
        await call(db, "query", query="SELECT 1")
        (pid,) = db._pool.pids
        task = asyncio.create_task(call(db, "query", query=SORT))
        found = await _spilled(pid)
        assert all(name.startswith(str(tmp_path / "tmp")) for name in found)
        assert os.listdir(tmp_path / "tmp") == []
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(UpstreamError):
            await task
    assert os.listdir(tmp_path / "tmp") == []


async def test_a_temporary_file_has_a_bound(tmp_path: Path) -> None:
    async with opened(tmp_path, timeout_s=60) as db:
        await call(db, "query", query="SELECT 1")
        (pid,) = db._pool.pids
        assert largest_file(pid) == str(session.TEMPORARY_BYTES)
        sort = SORT.replace("FROM r)", "FROM r LIMIT 300000)")
        with pytest.raises(UpstreamError, match="no temporary file has more"):
            await call(db, "query", query=sort)


async def test_a_writer_is_not_held_to_the_bound_of_temporary_files(tmp_path: Path) -> None:
    async with opened(tmp_path, read_only=False) as db:
        await call(db, "query", query="SELECT 1")
        await call(db, "execute", query="INSERT INTO t VALUES (1, 'x')")
        (pid,) = db._pool.pids
        assert largest_file(pid) == "unlimited"


@pytest.mark.parametrize(
    "value", ["x" * 100_000, '\x01é🙂"\\' * 30_000, bytes(range(256)) * 1000, "", b"", None, 2**60, 1.5, float("inf")]
)
def test_long_answers_are_encoded_as_short_ones(value: Any) -> None:
    rows = [(value, 1), (None, "two")]
    long = {"more": False, "bytes": 1, "values": list(zip(*rows, strict=True))}
    short = worker.body_of({"rows": list(rows), "more": False, "bytes": 1})
    assert json.loads(b"".join(worker.pieces(long))) == json.loads(short)


async def test_a_long_row_of_text_and_one_of_bytes_arrive_whole(tmp_path: Path) -> None:
    async with opened(tmp_path) as db:
        result = await call(db, "query", query="SELECT hex(zeroblob(2000000)) a, 1 b")
        assert result.rows == [("0" * 4_000_000, 1)]
        result = await call(db, "query", query="SELECT zeroblob(3000000) a")
        assert result.rows == [("A" * 4_000_000,)]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT " + ", ".join(["zeroblob(3000000)"] * 20),
        "SELECT " + ", ".join(["t"] * 500) + " FROM (SELECT hex(zeroblob(2000000)) t)",
        "SELECT " + ", ".join(["printf('%.*c', 4000000, 'x')"] * 20),
        "SELECT hex(zeroblob(2000000)) || char(128578)",  # Python takes four bytes for each letter beside such a one
    ],
)
async def test_a_wide_row_is_refused_in_little_memory(tmp_path: Path, query: str) -> None:
    async with opened(tmp_path) as db:
        await call(db, "query", query="SELECT 1")
        (pid,) = db._pool.pids
        before = peak(pid)
        with pytest.raises(UpstreamError, match="too much memory"):
            await call(db, "query", query=query)
        assert peak(pid) - before < 30 * MIB
        assert (await call(db, "query", query="SELECT 1")).rows == [(1,)]
