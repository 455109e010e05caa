"""Rotation on a real PostgreSQL: under load, killed at any point, and with what the server's log holds."""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import update
from tests.servers import Postgres

from studio.errors import AuthFailed
from studio.models import now
from studio.services import metrics
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.store.tables import connector_secrets


@dataclass
class Account:
    """A role of its own on the shared server, and a connector that logs in as it."""

    server: Postgres
    role: str
    password: str

    def body(self, **config: Any) -> dict[str, Any]:
        fields = {
            "host": self.server.host, "port": self.server.port, "database": self.server.database, "username": self.role,
            "password": self.password, "ssl": False, "timeout_s": 20, "connect_timeout_s": 10, **config,
        }  # fmt: skip
        return {
            "organization_id": "acme", "name": "pg", "connector_type": "database", "provider": "postgresql",
            "config": fields,
        }  # fmt: skip

    async def ask(self, statement: str) -> Any:
        admin = await self.server.admin()
        try:
            return await admin.fetchval(statement)
        finally:
            await admin.close()


@pytest.fixture
async def account(postgres: Postgres) -> AsyncIterator[Account]:
    found = Account(postgres, f"r_{secrets.token_hex(6)}", secrets.token_urlsafe(12))
    await found.ask(f"CREATE ROLE {found.role} LOGIN PASSWORD '{found.password}'")
    yield found
    await found.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{found.role}'")
    await found.ask(f"DROP ROLE {found.role}")


async def test_fifty_rotations_under_load_fail_no_operation(settings: Settings, account: Account) -> None:
    async with ConnectorService(settings) as service:
        connector_id = (await service.create(account.body()))["id"]
        for agent in range(4):
            await service.attach_to_agent(connector_id, f"agent-{agent}", "db")
        done, over = 0, asyncio.Event()

        async def load(agent: int) -> None:
            nonlocal done
            while not over.is_set():
                answer = await service.execute_query(
                    query="SELECT :n::int AS n", params={"n": agent}, agent_id=f"agent-{agent}", alias="db"
                )
                assert answer["data"] == [{"n": agent}]
                done += 1
                await asyncio.sleep(0.001 * agent)

        async def churn() -> None:
            """Close the sessions again and again, so that new log-ins happen at every moment of a rotation."""
            sessions = (await service._home.core()).sessions
            while not over.is_set():
                sessions.retire(connector_id)
                await asyncio.sleep(0.005)

        workers = [asyncio.create_task(work) for work in (*map(load, range(4)), churn())]
        versions = []
        for turn in range(50):
            answer = await service.rotate(connector_id, {"generate": True, "grace_s": turn % 2 * 60})
            versions.append(answer["version"])
            failed = [worker for worker in workers if worker.done()]
            assert not failed, failed[0].exception()
        over.set()
        await asyncio.gather(*workers)
        assert versions == list(range(2, 52))
        assert done > 200
    assert b'studio_credential_fallbacks_total{provider="postgresql"}' in metrics.render(), (
        "no log-in fell between the two passwords"
    )
    hashed = await account.ask(f"SELECT rolpassword FROM pg_authid WHERE rolname = '{account.role}'")
    assert hashed.startswith("SCRAM-SHA-256$4096:")


async def test_a_log_in_with_the_password_of_before_is_refused_afterwards(settings: Settings, account: Account) -> None:
    async with ConnectorService(settings) as service:
        connector_id = (await service.create(account.body()))["id"]
        await service.rotate(connector_id, {"generate": True})
        stale = account.body()
        with pytest.raises(AuthFailed):
            await service.create({**stale, "name": "old"}, test=True)
        assert (await service.test_connection(connector_id))["success"]


async def test_a_given_password_that_is_wrong_changes_nothing(settings: Settings, account: Account) -> None:
    async with ConnectorService(settings) as service:
        connector_id = (await service.create(account.body()))["id"]
        before = await service.get(connector_id)
        with pytest.raises(AuthFailed):
            await service.rotate(connector_id, {"config": {"password": "not-this"}})
        assert await service.get(connector_id) == before
        assert (await service.execute_query(connector_id, "SELECT 1 AS n"))["data"] == [{"n": 1}]
        await account.ask(f"ALTER ROLE {account.role} PASSWORD 'changed-by-hand'")
        await service.rotate(connector_id, {"config": {"password": "changed-by-hand"}})
        assert (await service.execute_query(connector_id, "SELECT 1 AS n"))["data"] == [{"n": 1}]


async def test_the_servers_log_never_holds_the_new_password(settings: Settings, account: Account) -> None:
    for name, value in (("log_statement", "all"), ("log_min_messages", "log")):
        await account.ask(f"ALTER ROLE {account.role} SET {name} = '{value}'")
    async with ConnectorService(settings) as service:
        connector_id = (await service.create(account.body()))["id"]
        await service.rotate(connector_id, {"generate": True})
        core = await service._home.core()
        connector = await core.store.scope("acme", "test").connector(connector_id)
        password = core.configs.release(connector).split()[1]["password"]
    log = (account.server.dir / "output").read_text(errors="replace")
    assert "ALTER ROLE CURRENT_USER PASSWORD 'SCRAM-SHA-256$" in log, "the log is on, and holds the statement"
    assert password not in log


SCRIPT = """
import asyncio, os, signal, sys
from pathlib import Path
from studio.services import rotating
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

folder, connector_id, where = sys.argv[1:]
set_upstream, swapped = rotating._set_upstream, rotating._swapped

async def at_set(*arguments):
    if where == "staged":
        die()
    await set_upstream(*arguments)
    if where == "set":
        die()

async def at_swap(*arguments, **more):
    if where == "verified":
        die()
    await swapped(*arguments, **more)
    die()

rotating._set_upstream, rotating._swapped = at_set, at_swap

async def main():
    async with ConnectorService(Settings(data_dir=Path(folder))) as service:
        await service.rotate(connector_id, {"generate": True})

asyncio.run(main())
"""


@pytest.mark.parametrize("where", ["staged", "set", "verified", "swapped"])
async def test_a_rotation_killed_at_any_point_leaves_a_connector_that_works(
    settings: Settings, account: Account, where: str
) -> None:
    async with ConnectorService(settings) as service:
        connector_id = (await service.create(account.body()))["id"]
    command = [sys.executable, "-c", SCRIPT, str(settings.data_dir), connector_id, where]
    killed = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    async with ConnectorService(settings) as service:
        assert (await service.execute_query(connector_id, "SELECT 1 AS n"))["data"] == [{"n": 1}]
        core = await service._home.core()
        await core.database.write(
            lambda connection: connection.execute(update(connector_secrets).values(until=now(-1)))
        )
        await service.rotate(connector_id, {"generate": True})
        assert (await service.test_connection(connector_id))["success"]
        assert (await service.get(connector_id))["version"] == (2 if where == "staged" else 3)


async def test_without_the_staged_set_a_kill_would_lose_the_connector(
    settings: Settings, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: it is the row written beforehand that saves it."""
    from studio.store import rotations

    async def nothing(*_: Any, **__: Any) -> None: ...

    async def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rotations, "stage", nothing)
    monkeypatch.setattr("studio.services.rotating._promoted", killed)
    async with ConnectorService(settings) as service:
        connector_id = (await service.create(account.body()))["id"]
        with pytest.raises(KeyboardInterrupt):
            await service.rotate(connector_id, {"generate": True})
        with pytest.raises(AuthFailed):
            await service.execute_query(connector_id, "SELECT 1")
