"""The counts that the database keeps of connectors are what counting them gives, whoever changes them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
from sqlalchemy import Connection, Executable, delete, func, insert, select, text, update
from tests.servers import Postgres
from tests.store.conftest import KEY, Home, url_of
from tests.store.test_store import connector

from studio.models import Connector
from studio.store import migrations
from studio.store.audit import AuditLog
from studio.store.engine import Database, open_database
from studio.store.store import Filters, Scope, Store
from studio.store.tables import connector_tallies, connectors

GROUP = ("organization_id", "connector_type", "provider", "status")
KINDS = (("database", "postgresql"), ("database", "mysql"), ("api", "rest"))
STATUSES = ("active", "inactive", "error")
ORGANIZATIONS = ("acme", "beta")
Groups = dict[tuple[str, ...], int]


def kept(connection: Connection) -> Groups:
    columns = [connector_tallies.c[name] for name in GROUP]
    found: Counter[tuple[str, ...]] = Counter()
    for *group, number in connection.execute(select(*columns, connector_tallies.c.connectors)):
        found[tuple(group)] += number
    return {group: number for group, number in found.items() if number}


def counted(connection: Connection) -> Groups:
    columns = [connectors.c[name] for name in GROUP]
    rows = connection.execute(select(*columns, func.count()).group_by(*columns))
    return {tuple(group): number for *group, number in rows}


async def agree(database: Database) -> Groups:
    """The kept counts, which are those of the rows."""
    found = await database.read(kept)
    assert found == await database.read(counted)
    return found


async def mutate(scope: Scope, dice: random.Random, mine: list[Connector], steps: int) -> None:
    """Create, change and delete connectors of one organization at random; some changes change no group."""
    for _ in range(steps):
        kind, status = dice.choice(KINDS), dice.choice(STATUSES)
        match dice.randrange(4):
            case 0 if mine:
                await scope.remove_connector(mine.pop(dice.randrange(len(mine))).id)
            case 1 if mine:
                at = dice.randrange(len(mine))
                values = {"status": status, "provider": kind[1], "connector_type": kind[0]}
                mine[at] = await scope.change_connector(mine[at].id, version=mine[at].version, values=values)
            case 2 if mine:
                at = dice.randrange(len(mine))
                values = {"last_error": str(dice.random())}
                mine[at] = await scope.change_connector(mine[at].id, version=mine[at].version, values=values)
            case _:
                one = connector(str(dice.random()), connector_type=kind[0], provider=kind[1], status=status)
                await scope.add_connector(one)
                mine.append(one)


@pytest.mark.parametrize("seed", [1, 2])
async def test_after_any_changes_every_total_is_what_counting_gives(acme: Scope, database: Database, seed: int) -> None:
    dice = random.Random(seed)
    mine: list[Connector] = []
    for _ in range(6):
        await mutate(acme, dice, mine, 15)
        await agree(database)
    for kind, provider, status in product((None, "database", "api"), (None, "mysql", "rest"), (None, *STATUSES)):
        page = await acme.connectors(Filters(kind, provider, status), limit=200, after=None, offset=0)
        matching = [
            one for one in mine
            if one.connector_type == (kind or one.connector_type) and one.provider == (provider or one.provider)
            and one.status == (status or one.status)
        ]  # fmt: skip
        assert {one.id for one in page.records} == {one.id for one in matching}
        assert page.total == len(matching)


async def test_changes_of_many_rows_at_once_and_of_the_organization_are_counted(database: Database) -> None:
    rows = [
        {
            **connector(str(number)).__dict__,
            "organization_id": ORGANIZATIONS[number % 2],
            "status": STATUSES[number % 3],
        }
        for number in range(60)
    ]
    await database.write(lambda c: c.execute(insert(connectors), rows))
    assert sum((await agree(database)).values()) == 60
    for change in (
        update(connectors).where(connectors.c.status == "error").values(status="active"),
        update(connectors).where(connectors.c.name < "3").values(organization_id="gamma"),
        update(connectors).values(last_error="e"),
        delete(connectors).where(connectors.c.status == "inactive"),
    ):
        await database.write(lambda c, change=change: c.execute(change))  # type: ignore[misc]
        await agree(database)
    await database.write(lambda c: c.execute(delete(connectors)))
    assert await agree(database) == {}


async def test_what_is_rolled_back_is_not_counted(acme: Scope, database: Database) -> None:
    await acme.add_connector(connector("kept"))

    def broken(connection: Connection) -> None:
        connection.execute(insert(connectors).values(**connector("lost").__dict__))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(broken)
    assert list((await agree(database)).values()) == [1]


async def test_the_upgrade_counts_what_is_there(bare: Home) -> None:
    database = bare.open()
    try:
        await migrations.upgrade(database, "0006")
        rows = [{**connector(str(number)).__dict__, "status": STATUSES[number % 3]} for number in range(10)]
        await database.write(lambda c: c.execute(insert(connectors), rows))
        await migrations.upgrade(database)
        assert sorted((await agree(database)).values()) == [3, 3, 4]
    finally:
        await database.close()


@pytest.mark.server
async def test_many_writers_at_once_neither_wait_for_one_another_nor_lose_a_count(postgres: Postgres) -> None:
    """One writer a session of PostgreSQL, all of one organization, folding as often as they can."""
    async with postgres.fresh_database() as name:
        await _concurrently(open_database(url_of(postgres, name), Path()))


async def _concurrently(database: Database) -> None:
    try:
        await migrations.upgrade(database)
        for function in ("rows", "update"):
            whole = f"SELECT pg_get_functiondef('connectors_tally_{function}'::regproc)"
            definition = await database.read(lambda c, whole=whole: c.scalar(text(whole)))  # type: ignore[misc]
            assert "1.0 / 64" in definition
            often = definition.replace("1.0 / 64", "1.0 / 2")
            await database.write(lambda c, often=often: c.exec_driver_sql(often))  # type: ignore[misc]
        await _beside_one_that_waits(database)
        ended = asyncio.Event()
        seen = asyncio.create_task(_watch(database, ended))
        await asyncio.gather(*(_writer(database, number) for number in range(12)))
        ended.set()
        await seen
        assert sum((await agree(database)).values()) > 0
        assert await database.read(lambda c: c.scalar(select(func.count()).select_from(connector_tallies))) < 200
    finally:
        await database.close()


async def _writer(database: Database, number: int) -> None:
    """Bare rows, without an audit log: its chain lets the writers of an organization take turns."""
    dice = random.Random(number)
    ids: list[str] = []
    for _ in range(25):
        kind, status = dice.choice(KINDS), dice.choice(STATUSES)
        made = connector(
            str(dice.random()), ORGANIZATIONS[dice.randrange(2)], connector_type=kind[0], provider=kind[1],
            status=status,
        )  # fmt: skip
        changes: list[Executable] = [insert(connectors).values(**made.__dict__)]
        changes += [update(connectors).where(connectors.c.id == one).values(status=status) for one in ids[-2:]]
        changes += [delete(connectors).where(connectors.c.id == one) for one in ids[:1]]
        ids = [*ids[1:], made.id]
        if dice.random() < 0.2:
            changes.append(delete(connectors).where(connectors.c.id == made.id))

        def work(connection: Connection, changes: Sequence[Executable] = tuple(changes)) -> None:
            for change in changes:
                connection.execute(change)

        await database.write(work)


async def _watch(database: Database, ended: asyncio.Event) -> None:
    """In any moment the kept counts and the rows agree: both are read by one statement."""
    whole = text(
        "SELECT (SELECT count(*) FROM connectors) - (SELECT coalesce(sum(connectors), 0) FROM connector_tallies)"
    )
    while not ended.is_set():
        assert await database.read(lambda c: c.scalar(whole)) == 0


async def _beside_one_that_waits(database: Database) -> None:
    """A writer that has counted, and not yet committed, keeps nobody from counting, and is not seen."""
    scope = Store(AuditLog(database, KEY)).scope("acme", "test")

    async def total() -> int:
        return (await scope.connectors(Filters(), limit=1, after=None, offset=0)).total

    async with database._engine.begin() as connection:  # type: ignore[attr-defined]
        await connection.execute(insert(connectors).values(**connector("slow").__dict__))
        quick = insert(connectors).values(**connector("quick").__dict__)
        await asyncio.wait_for(database.write(lambda c: c.execute(quick)), 10)
        assert await total() == 1
    assert await total() == 2
