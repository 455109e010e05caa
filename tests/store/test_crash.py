"""A server killed in the midst of its writes loses nothing that it acknowledged.

The process that listens is a real one and dies by SIGKILL; it is forked from one that has done
its imports, so that a new one serves within milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests import poison

from studio.services.connector_service import ConnectorService
from studio.settings import Settings

KILLS = 30
WORKERS = 6

SERVER = """
import asyncio, gc, os, socket, sys
import uvicorn
import httptools, apsw, sqlite3, sqlalchemy.dialects.sqlite
from studio.app import Application
from studio.settings import Settings

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    address = probe.getsockname()
print(address[1], flush=True)
for _ in sys.stdin:
    child = os.fork()
    if child == 0:
        listener = socket.create_server(address)  # the child's alone: it is gone with it
        config = uvicorn.Config(Application(Settings()), log_level="critical", http="httptools", lifespan="on")
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("dead", flush=True)
"""


class Crashing:
    """The server, its present process, and what it has acknowledged."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.base = process, f"http://127.0.0.1:{port}"
        self.versions: dict[str, int] = {}

    async def start(self, session: aiohttp.ClientSession) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write(b"go\n")
        pid = int(await self.line())
        async with asyncio.timeout(15):
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(f"{self.base}/readyz") as answer:
                        if answer.status == 200:
                            return pid
                await asyncio.sleep(0.01)

    async def line(self) -> str:
        assert self.process.stdout is not None
        return (await self.process.stdout.readline()).decode().strip()

    async def write(self, session: aiohttp.ClientSession, worker: int) -> None:
        """Create, then change, until the server is gone; note what was acknowledged."""
        number = 0
        while True:
            number += 1
            count = len(self.versions)
            config = {"path": f"{worker}.db", "create": False}
            body = {"name": f"w{worker}-{count}-{number}-{random.random()}", "connector_type": "database"}
            async with session.post(
                f"{self.base}/api/v1/connectors", json={**body, "provider": "sqlite", "config": config}
            ) as answer:
                assert answer.status == 201, await answer.text()
                made = await answer.json()
            self.versions[made["id"]] = 1
            async with session.put(
                f"{self.base}/api/v1/connectors/{made['id']}", json={"config": {"max_rows": 7}}
            ) as answer:
                assert answer.status == 200, await answer.text()
            self.versions[made["id"]] = 2

    async def writing(self, session: aiohttp.ClientSession, worker: int) -> None:
        with suppress(aiohttp.ClientError, ConnectionError):
            await self.write(session, worker)

    async def listed(self, session: aiohttp.ClientSession) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        cursor: str | None = ""
        while cursor is not None:
            query = f"?limit=200&cursor={cursor}" if cursor else "?limit=200"
            async with session.get(f"{self.base}/api/v1/connectors{query}") as answer:
                assert answer.status == 200, await answer.text()
                page = await answer.json()
            found.update({record["id"]: record for record in page["records"]})
            cursor = page["next_cursor"]
        assert page["total"] == len(found), "the kept count fell behind"
        return found


@asynccontextmanager
async def crashing(folder: Path) -> AsyncIterator[Crashing]:
    environment = poison.program(folder, STUDIO_DATA_DIR=str(folder), STUDIO_PORT="0")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVER, env=environment, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        yield Crashing(process, int(await process.stdout.readline()))
    finally:
        process.kill()
        await process.wait()
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.timeout(120)
async def test_what_was_acknowledged_outlives_every_kill(tmp_path: Path) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path)) as service:
        key = await service.create_first_key("acme")
    chance = random.Random(7)
    headers = {"authorization": f"Bearer {key}"}
    async with crashing(tmp_path) as server, aiohttp.ClientSession(headers=headers) as session:
        for kill in range(KILLS):
            pid = await server.start(session)
            listed = await server.listed(session)
            lost = {found for found, version in server.versions.items() if listed[found]["version"] < version}
            assert set(server.versions) <= set(listed)
            assert not lost
            writers = [asyncio.create_task(server.writing(session, worker)) for worker in range(WORKERS)]
            await asyncio.sleep(chance.uniform(0.02, 0.2))
            os.kill(pid, signal.SIGKILL)
            assert await server.line() == "dead"
            async with asyncio.timeout(10):
                await asyncio.gather(*writers)
            assert kill < 5 or server.versions, "nothing was written before the kills"
    async with ConnectorService(Settings(data_dir=tmp_path)) as service:
        core = await service._home.core()
        for connector_id, version in server.versions.items():
            row = await core.store.scope("acme", "test").connector(connector_id)
            assert row.version >= version
            assert core.configs.release(row).value("max_rows") == (7 if row.version > 1 else 1000)
    with sqlite3.connect(tmp_path / "studio.db") as store:
        assert store.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    store.close()
    assert len(server.versions) > KILLS
    print(json.dumps({"kills": KILLS, "acknowledged": len(server.versions)}))
