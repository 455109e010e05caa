"""No effect without a row: servers that die by SIGKILL in the midst of writes, and what the log then says."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import aiohttp
import pytest
from tests.store.test_crash import Crashing, crashing

from studio.models import Principal, Role
from studio.services.audit import verify_store
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

KILLS, WORKERS = 4, 4
RUN = "/api/v1/agents/agent-1/connectors/db"


async def insert(server: Crashing, session: aiohttp.ClientSession, sent: list[int]) -> None:
    """Insert until the server is gone; `sent` counts what was asked for."""
    with suppress(aiohttp.ClientError, ConnectionError):
        while True:
            sent.append(1)
            body = {"query": "INSERT INTO t VALUES (:n)", "params": {"n": len(sent)}}
            async with session.post(f"{server.base}{RUN}/operations/execute", json=body) as answer:
                assert answer.status == 200, await answer.text()
            async with session.post(f"{server.base}{RUN}/query", json={"query": "SELECT 1"}) as answer:
                assert answer.status == 200, await answer.text()


@pytest.mark.timeout(120)
async def test_every_effect_has_a_row_whenever_the_process_dies(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    with closing(sqlite3.connect(tmp_path / "files" / "w.db")) as upstream:
        upstream.execute("CREATE TABLE t (n)")
    settings = Settings(data_dir=tmp_path)
    async with ConnectorService(settings) as service:
        key = await service.create_first_key("acme")
        config = {"path": "w.db", "read_only": False}
        made = await service.create(
            {
                "organization_id": "acme",
                "name": "w",
                "connector_type": "database",
                "provider": "sqlite",
                "config": config,
            }
        )
        await service.attach_to_agent(made["id"], "agent-1", "db")
    chance = random.Random(11)
    sent: list[int] = []
    async with (
        crashing(tmp_path) as server,
        aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session,
    ):
        for _ in range(KILLS):
            pid = await server.start(session)
            before = len(sent)
            workers = [asyncio.create_task(insert(server, session, sent)) for _ in range(WORKERS)]
            while len(sent) < before + 3 * WORKERS:
                assert not all(worker.done() for worker in workers)
                await asyncio.sleep(0.01)
            await asyncio.sleep(chance.uniform(0, 0.1))
            os.kill(pid, signal.SIGKILL)
            assert await server.line() == "dead"
            async with asyncio.timeout(20):
                await asyncio.gather(*workers)
    with closing(sqlite3.connect(tmp_path / "files" / "w.db")) as upstream:
        effects = upstream.execute("SELECT count(*) FROM t").fetchone()[0]
    (report,) = [step.report async for step in verify_store(settings) if step.report]
    assert report["ok"], "a kill must not look like tampering"
    (book,) = [book for book in report["books"] if book["organization_id"] == "acme"]
    assert [one["state"] for one in book["processes"]] == ["ended without closing the book"] * KILLS
    async with ConnectorService(settings) as service:
        admin = service.acting_as(Principal("acme", "key:a", Role.ADMIN))
        begun, ended, cursor = 0, 0, None
        while True:
            page = await admin.list_audit(filters={"operation": "execute"}, limit=1000, cursor=cursor)
            begun += sum(row["verdict"] == "started" for row in page["records"])
            ended += sum(row["verdict"] == "ok" for row in page["records"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
    assert 0 < effects <= begun, "an effect without a row"
    assert begun - ended == len(book["unfinished"])
    assert begun <= len(sent)
