"""Two neighbouring versions share one schema: what is stored stays, and the former version can go on writing."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import Connection, MetaData, String, Table, inspect, select, text
from sqlalchemy import types as sqltypes
from tests.store.conftest import Home
from tests.store.test_migrations import REVISIONS

from studio.store import migrations

COUNTED = "connector_tallies"
"""The database writes these rows by itself."""
STEPS = list(pairwise(REVISIONS[1:]))
Rows = dict[str, list[dict[str, Any]]]


def tables(connection: Connection) -> list[Table]:
    """The schema as it stands, parents first."""
    found = MetaData()
    found.reflect(connection)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def value(column: Any, number: int) -> Any:
    """Something that fits; a text is the same for the same number, so that references hold."""
    if isinstance(column.type, sqltypes.Boolean):
        return False
    if isinstance(column.type, sqltypes.Integer):
        return number
    if isinstance(column.type, sqltypes.LargeBinary):
        return str(number).encode()
    return f"x{number}"[: (column.type.length or 99) if isinstance(column.type, String) else 99]


def write(connection: Connection, known: list[Table], number: int) -> None:
    """A row in every table, with every column that the version of `known` knows."""
    for table in (each for each in known if each.name != COUNTED):
        connection.execute(table.insert().values({column.name: value(column, number) for column in table.columns}))


def read(connection: Connection, known: list[Table]) -> Rows:
    """Every row, as the version of `known` reads it."""
    return {table.name: [dict(row._mapping) for row in connection.execute(select(table))] for table in known}


def without(rows: Rows, number: int) -> Rows:
    return {name: [row for row in found if f"x{number}" not in row.values()] for name, found in rows.items()}


@pytest.mark.parametrize("former", REVISIONS[1:-1])
async def test_what_a_former_version_stored_is_there_after_the_upgrade(bare: Home, former: str) -> None:
    database = bare.open()
    try:
        await migrations.upgrade(database, former)
        known = await database.read(tables)
        await database.write(lambda connection: write(connection, known, 1))
        before = await database.read(lambda connection: read(connection, known))
        assert before
        assert all(before.values())
        await migrations.upgrade(database)
        assert await database.read(lambda connection: read(connection, known)) == before
    finally:
        await database.close()


@pytest.mark.parametrize(("former", "later"), STEPS)
async def test_the_former_version_goes_on_reading_and_writing_after_the_upgrade(
    bare: Home, former: str, later: str
) -> None:
    database = bare.open()
    try:
        await migrations.upgrade(database, former)
        known = await database.read(tables)
        await database.write(lambda connection: write(connection, known, 1))
        await migrations.upgrade(database, later)
        await database.write(lambda connection: write(connection, known, 2))
        found = await database.read(lambda connection: read(connection, known))
        assert {name: len(rows) for name, rows in found.items()} == dict.fromkeys(found, 2)
        assert all(without(found, 2).values())
    finally:
        await database.close()


async def test_a_step_that_contracts_would_be_noticed(bare: Home) -> None:
    database = bare.open()
    try:
        await migrations.upgrade(database)
        known = await database.read(tables)
        name = "connectors"
        assert "name" in {column["name"] for column in await database.read(lambda c: inspect(c).get_columns(name))}
        await database.write(lambda connection: connection.execute(text("ALTER TABLE connectors RENAME name TO title")))
        with pytest.raises(Exception, match="name"):
            await database.write(lambda connection: write(connection, known, 1))
    finally:
        await database.close()
