"""The schema, from nothing and from each former revision, on both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, inspect, text
from tests.store.conftest import Home

from studio.errors import Internal
from studio.store import migrations
from studio.store.tables import metadata


def scripts() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return ScriptDirectory.from_config(config)


REVISIONS = [None, *(script.revision for script in reversed(list(scripts().walk_revisions())))]


def differences(connection: Connection) -> list[Any]:
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return [found for found in compare_metadata(context, metadata) if "alembic_version" not in str(found)]


def shape(connection: Connection) -> dict[str, Any]:
    """What autogenerate does not compare: checks, names of constraints, what happens on delete."""
    found = inspect(connection)
    return {
        table: {
            "primary": found.get_pk_constraint(table),
            "unique": sorted(found.get_unique_constraints(table), key=str),
            "foreign": sorted(found.get_foreign_keys(table), key=str),
            "indexes": sorted((index["name"], tuple(index["column_names"])) for index in found.get_indexes(table)),
            "nullable": {column["name"]: column["nullable"] for column in found.get_columns(table)},
        }
        for table in metadata.tables
    }


def test_head_is_the_newest_file() -> None:
    assert scripts().get_heads() == [migrations.HEAD]


def test_there_is_one_line_of_revisions() -> None:
    assert len(scripts().get_bases()) == 1
    assert len(list(scripts().walk_revisions())) == len(list(Path(migrations.__file__).parent.glob("versions/0*.py")))


@pytest.mark.parametrize("former", REVISIONS)
async def test_every_former_revision_is_brought_to_the_models_schema(bare: Home, former: str | None) -> None:
    database = bare.open()
    try:
        assert await database.read(migrations.revision) is None
        if former is not None:
            await migrations.upgrade(database, former)
            assert await database.read(migrations.revision) == former
        await migrations.upgrade(database)
        assert await migrations.current(database)
        assert await database.read(differences) == []
    finally:
        await database.close()


async def test_the_migrated_schema_is_the_models_own_down_to_its_constraints(bare: Home, tmp_path: Path) -> None:
    database = bare.open()
    try:
        await migrations.upgrade(database)
        migrated = await database.read(shape)
        await database.write(metadata.drop_all)
        await database.write(metadata.create_all)
        assert await database.read(shape) == migrated
    finally:
        await database.close()


async def test_upgrading_a_current_store_changes_nothing(bare: Home) -> None:
    database = bare.open()
    try:
        for _ in range(2):
            await migrations.upgrade(database)
        assert await migrations.current(database)
    finally:
        await database.close()


async def test_a_store_of_a_newer_version_is_refused_by_name_and_left_as_it_is(bare: Home) -> None:
    database = bare.open()
    try:
        await migrations.upgrade(database)
        await database.write(lambda c: c.execute(text("UPDATE alembic_version SET version_num = '9999'")) and None)
        with pytest.raises(Internal, match=r"of revision 9999.*a newer version made it"):
            await migrations.upgrade(database)
        assert await database.read(migrations.revision) == "9999"
    finally:
        await database.close()


async def test_processes_that_upgrade_together_take_turns(bare: Home) -> None:
    handles = [bare.open() for _ in range(4)]
    try:
        await asyncio.gather(*map(migrations.upgrade, handles))
        assert await migrations.current(handles[0])
        assert await handles[0].read(differences) == []
    finally:
        await asyncio.gather(*(handle.close() for handle in handles))


async def test_a_migration_that_fails_leaves_the_store_as_it_was(bare: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    database = bare.open()
    whole = migrations._upgrade

    def broken(connection: Connection, to: str) -> None:
        whole(connection, to)
        raise ZeroDivisionError

    try:
        with monkeypatch.context() as patched:
            patched.setattr(migrations, "_upgrade", broken)
            with pytest.raises(ZeroDivisionError):
                await migrations.upgrade(database)
        assert await database.read(lambda connection: inspect(connection).get_table_names()) == []
        await migrations.upgrade(database)
        assert await migrations.current(database)
    finally:
        await database.close()


async def test_a_store_of_a_newer_version_is_not_current(bare: Home) -> None:
    database = bare.open()
    try:
        await migrations.upgrade(database)
        newer = text("UPDATE alembic_version SET version_num = '9999'")
        await database.write(lambda connection: connection.execute(newer))
        assert not await migrations.current(database)
    finally:
        await database.close()
