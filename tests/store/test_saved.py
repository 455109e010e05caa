"""Saved operations in the store: scoped, unique, bounded, gone with their connector; and rows from before they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
from sqlalchemy import text
from tests.store.conftest import KEY, Home

from studio import errors
from studio.models import SavedOperation, new_id, now
from studio.store import migrations, saved
from studio.store.audit import AuditLog
from studio.store.engine import Database
from studio.store.saved import Saved
from studio.store.store import Store

CONNECTOR = """INSERT INTO connectors (id, organization_id, name, connector_type, provider, config_encrypted, status,
    created_by, created_at, updated_at, version, key_id)
    VALUES (:id, :organization, :id, 'database', 'sqlite', 'x', 'active', 'me', 'now', 'now', 1, 'k')"""
INSTANCE = """INSERT INTO connector_instances (id, connector_id, agent_id, alias, created_at, organization_id)
    VALUES ('i1', :id, 'agent-1', 'db', 'now', :organization)"""


async def connector(database: Database, organization: str = "acme") -> str:
    made = new_id()
    values = {"id": made, "organization": organization}
    await database.write(lambda connection: connection.execute(text(CONNECTOR), values))
    return made


def row(connector_id: str, name: str = "one", organization: str = "acme") -> SavedOperation:
    return SavedOperation(
        new_id(), connector_id, name, "What it does.", "SELECT 1", "{}", "{}", "me", now(), organization
    )


async def test_they_are_found_by_name_inside_their_organization(database: Database) -> None:
    here = await connector(database)
    mine, theirs = Saved(AuditLog(database, KEY), "acme"), Saved(AuditLog(database, KEY), "beta")
    two, one = row(here, "two"), row(here, "one")
    for each in (two, one):
        await mine.add(each)
    assert await mine.all(here) == [one, two]
    assert await mine.named(here, "two") == two
    assert await mine.named(here, "three") is None
    assert await theirs.all(here) == []
    assert await theirs.named(here, "one") is None
    with pytest.raises(errors.NotFound):
        await theirs.remove(here, "one", by="test")
    with pytest.raises(errors.NotFound):
        await theirs.add(row(here, "three", "beta"))
    await mine.remove(here, "one", by="test")
    with pytest.raises(errors.NotFound):
        await mine.remove(here, "one", by="test")
    await Store(AuditLog(database, KEY)).scope("acme", "test").remove_connector(here)
    assert await mine.all(here) == []


async def test_a_name_stands_once_and_a_connector_holds_so_many(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await connector(database), await connector(database)
    mine = Saved(AuditLog(database, KEY), "acme")
    await mine.add(row(here))
    with pytest.raises(errors.Conflict):
        await mine.add(row(here))
    await mine.add(row(there))
    monkeypatch.setattr(saved, "MOST", 1)
    with pytest.raises(errors.InvalidRequest):
        await mine.add(replace(row(here), name="two"))


async def test_attachments_of_before_are_not_limited(bare: Home) -> None:
    database = bare.open()
    try:
        await migrations.upgrade(database, "0001")
        values = {"id": await connector(database), "organization": "acme"}
        await database.write(lambda connection: connection.execute(text(INSTANCE), values))
        await migrations.upgrade(database)
        ((instance, _),) = await Store(AuditLog(database, KEY)).scope("acme", "test").attachment("agent-1", "db")
        assert not instance.saved_only
        await Saved(AuditLog(database, KEY), "acme").add(row(instance.connector_id))
    finally:
        await database.close()
