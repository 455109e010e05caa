"""What is kept of the store holds for exactly as long as nothing in the store has changed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from studio.errors import Inactive, NotFound, Unauthenticated
from studio.services.connector_service import ConnectorService
from studio.services.fresh import Fresh
from studio.settings import Settings
from studio.store.engine import open_database
from studio.store.tables import api_keys


class _Told:
    """A store that tells the versions it is given."""

    def __init__(self, *versions: int | None) -> None:
        self.versions = list(versions)

    def version(self) -> int | None:
        return self.versions.pop(0) if len(self.versions) > 1 else self.versions[0]


async def _read(fresh: Fresh, value: str) -> str:
    async def read() -> str:
        return value

    found: str = fresh.now("key") or await fresh.read("key", read)
    return found


async def _next_turn() -> None:
    for _ in range(2):
        await asyncio.sleep(0)


async def test_it_is_kept_until_the_version_changes() -> None:
    database: Any = _Told(1)
    fresh = Fresh(database)
    assert await _read(fresh, "old") == "old"
    await _next_turn()
    assert await _read(fresh, "new") == "old"
    database.versions = [2]
    await _next_turn()
    assert await _read(fresh, "new") == "new"


async def test_nothing_is_kept_where_the_store_tells_no_version() -> None:
    fresh = Fresh(_Told(None))  # type: ignore[arg-type]
    assert await _read(fresh, "old") == "old"
    assert await _read(fresh, "new") == "new"


async def test_what_was_read_while_the_version_changed_is_not_kept() -> None:
    database: Any = _Told(1)
    fresh = Fresh(database)

    async def read() -> str:
        database.versions = [2]
        await _next_turn()
        fresh.now("another")  # somebody else finds the new version meanwhile
        return "of the old version"

    await fresh.read("key", read)
    await _next_turn()
    assert fresh.now("key") is None


async def test_two_processes_see_each_others_changes_at_the_next_call(tmp_path: Path) -> None:
    here, there = (ConnectorService(Settings(data_dir=tmp_path)) for _ in range(2))
    async with here, there:
        made = await here.create_key({"organization_id": "acme", "role": "admin", "name": "k"})
        for _ in range(50):
            await here.authenticate(made["key"])
        await there.revoke_key(made["id"])
        with pytest.raises(Unauthenticated):
            await here.authenticate(made["key"])


async def test_a_detached_alias_and_an_inactive_connector_end_at_once(tmp_path: Path) -> None:
    config = {"path": "a.db"}
    async with ConnectorService(Settings(data_dir=tmp_path)) as service:
        made = await service.create(
            {
                "organization_id": "acme",
                "name": "n",
                "connector_type": "database",
                "provider": "sqlite",
                "config": config,
            }
        )
        attached = await service.attach_to_agent(made["id"], "agent", "db")
        key = await service.create_key({"organization_id": "acme", "agent_id": "agent", "name": "k"})
        caller = await service.authenticate(key["key"])
        for _ in range(2):
            await service.update(made["id"], {"status": "inactive"})
            with pytest.raises(Inactive):
                caller.plan_query(await caller.target(agent_id="agent", alias="db"), "SELECT 1", None)
            await service.update(made["id"], {"status": "active"})
            caller.plan_query(await caller.target(agent_id="agent", alias="db"), "SELECT 1", None)
        await service.detach_from_agent(attached["id"])
        with pytest.raises(NotFound):
            await caller.target(agent_id="agent", alias="db")


async def test_an_embedded_stores_version_changes_with_commits_of_others_only(tmp_path: Path) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path)) as service:
        made = await service.create_key({"organization_id": "acme", "role": "admin", "name": "k"})
        core = await service._home.core()
        await core.recorder.flush()
        before = core.database.version()
        assert core.database.version() == before
        other = open_database(None, tmp_path)
        try:
            await other.write(lambda c: c.execute(update(api_keys).where(api_keys.c.id == made["id"]).values(name="x")))
        finally:
            await other.close()
        assert core.database.version() != before
