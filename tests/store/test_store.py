"""The store, on SQLite and on PostgreSQL: scoped, unique, counted, versioned."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import func, select, update
from tests.store.conftest import KEY, Home

from studio.errors import Conflict, EncryptionError, NotFound, StudioError
from studio.models import ApiKey, Connector, ConnectorInstance, new_id, now
from studio.security.vault import Vault, new_key
from studio.store.audit import AuditLog
from studio.store.engine import Database
from studio.store.keys import Keys, admit_canary, canaries
from studio.store.store import Filters, Scope, Store
from studio.store.tables import connector_tallies, connectors


def connector(name: str = "one", organization_id: str = "acme", **changes: Any) -> Connector:
    made = Connector(
        id=new_id(), organization_id=organization_id, name=name, connector_type="database", provider="postgresql",
        config_encrypted="sealed", status="active", last_tested_at=None, last_test_result=None, last_error=None,
        created_by="user-1", created_at=now(), updated_at=now(), version=1, key_id="k1",
    )  # fmt: skip
    return replace(made, **changes)


def instance(of: Connector, agent_id: str = "agent-1", alias: str = "db", **changes: Any) -> ConnectorInstance:
    made = ConnectorInstance(new_id(), of.id, agent_id, alias, None, now(), of.organization_id, None)
    return replace(made, **changes)


def key(organization_id: str = "acme") -> ApiKey:
    prefix = new_id().replace("-", "")[16:]
    return ApiKey(
        new_id(), organization_id, prefix, "d" * 64, "k", "admin", None, None, None, "u", now(), None, None, None
    )


async def add(scope: Scope, *names: str, **changes: Any) -> list[Connector]:
    made = [connector(name, **changes) for name in names]
    for one in made:
        await scope.add_connector(one)
    return made


async def ids(scope: Scope, **filters: Any) -> list[str]:
    page = await scope.connectors(Filters(**filters), limit=200, after=None, offset=0)
    assert page.total == len(page.records)
    return [record.id for record in page.records]


async def outcomes(*calls: Any) -> list[Any]:
    return await asyncio.gather(*calls, return_exceptions=True)


# -- reading what was written -------------------------------------------------------------------


async def test_a_connector_comes_back_field_for_field(acme: Scope) -> None:
    full = connector("ünï 'quoted' \"name\"", last_tested_at=now(), last_test_result="failed", last_error="e" * 5000)
    await acme.add_connector(full)
    assert await acme.connector(full.id) == full


async def test_an_attachment_comes_back_with_its_connector(acme: Scope) -> None:
    (one,) = await add(acme, "one")
    made = instance(one, config_override="sealed", key_id="k1")
    await acme.add_instance(made)
    assert await acme.instance(made.id) == made
    assert await acme.instances_of(one.id) == [made]
    assert await acme.attachments("agent-1") == [(made, one)]
    assert await acme.attachment("agent-1", "db") == [(made, one)]
    assert await acme.attachment("agent-1", "DB") == []


async def test_another_process_sees_a_change_at_once(acme: Scope, other: Database) -> None:
    (one,) = await add(acme, "one")
    theirs = Store(AuditLog(other, KEY)).scope("acme", "test")
    await acme.add_instance(instance(one))
    for version in range(1, 6):
        await acme.change_connector(one.id, version=version, values={"name": f"n{version}"})
        assert (await theirs.connector(one.id)).name == f"n{version}"
        ((_, found),) = await theirs.attachment("agent-1", "db")
        assert found.name == f"n{version}"
    await acme.remove_connector(one.id)
    assert await theirs.attachment("agent-1", "db") == []


# -- unique -------------------------------------------------------------------------------------


async def test_a_name_is_unique_in_its_organization_only(acme: Scope, database: Database) -> None:
    await add(acme, "one")
    with pytest.raises(Conflict) as caught:
        await acme.add_connector(connector("one"))
    assert [entry.field for entry in caught.value.fields] == ["name"]
    await Store(AuditLog(database, KEY)).scope("beta", "test").add_connector(connector("one", "beta"))
    await acme.add_connector(connector("ONE"))
    assert len(await ids(acme)) == 2


async def test_a_rename_onto_a_taken_name_is_a_conflict_and_changes_nothing(acme: Scope) -> None:
    one, _two = await add(acme, "one", "two")
    with pytest.raises(Conflict) as caught:
        await acme.change_connector(one.id, version=1, values={"name": "two"})
    assert [entry.field for entry in caught.value.fields] == ["name"]
    assert await acme.connector(one.id) == one


async def test_an_alias_is_unique_for_an_agent_of_an_organization(acme: Scope, database: Database) -> None:
    one, two = await add(acme, "one", "two")
    await acme.add_instance(instance(one))
    with pytest.raises(Conflict) as caught:
        await acme.add_instance(instance(two))
    assert [entry.field for entry in caught.value.fields] == ["alias"]
    await acme.add_instance(instance(one, agent_id="agent-2"))
    await acme.add_instance(instance(one, alias="db2"))
    beta = Store(AuditLog(database, KEY)).scope("beta", "test")
    (theirs,) = await add(beta, "one", organization_id="beta")
    await beta.add_instance(instance(theirs))
    assert len(await acme.instances_of(one.id)) == 3


async def test_of_many_who_want_one_name_exactly_one_gets_it(acme: Scope, other: Database) -> None:
    theirs = Store(AuditLog(other, KEY)).scope("acme", "test")
    answers = await outcomes(*(scope.add_connector(connector("one")) for scope in [acme, theirs] * 10))
    assert [answer for answer in answers if answer is None] == [None]
    assert {type(answer) for answer in answers} == {type(None), Conflict}
    assert len(await ids(acme)) == 1


async def test_of_many_who_want_one_alias_exactly_one_gets_it(acme: Scope, other: Database) -> None:
    (one,) = await add(acme, "one")
    theirs = Store(AuditLog(other, KEY)).scope("acme", "test")
    answers = await outcomes(*(scope.add_instance(instance(one)) for scope in [acme, theirs] * 10))
    assert [type(answer) for answer in answers].count(Conflict) == 19
    assert len(await acme.attachment("agent-1", "db")) == 1


# -- organizations ------------------------------------------------------------------------------


async def test_another_organization_finds_nothing_and_changes_nothing(acme: Scope, database: Database) -> None:
    (one,) = await add(acme, "one")
    made = instance(one)
    await acme.add_instance(made)
    beta = Store(AuditLog(database, KEY)).scope("beta", "test")
    for call in (
        beta.connector(one.id),
        beta.change_connector(one.id, version=1, values={"name": "mine"}),
        beta.remove_connector(one.id),
        beta.instance(made.id),
        beta.remove_instance(made.id),
    ):
        with pytest.raises(NotFound):
            await call
    assert await beta.instances_of(one.id) == []
    assert await beta.attachments("agent-1") == []
    assert await beta.attachment("agent-1", "db") == []
    page = await beta.connectors(Filters(), limit=10, after=None, offset=0)
    assert (page.records, page.total) == ([], 0)
    assert await acme.connector(one.id) == one
    assert await acme.instance(made.id) == made


async def test_an_attachment_cannot_point_into_another_organization(acme: Scope, database: Database) -> None:
    """The database itself refuses it: the foreign key holds both columns."""
    (one,) = await add(acme, "one")
    with pytest.raises(NotFound):
        await Store(AuditLog(database, KEY)).scope("beta", "test").add_instance(instance(one, organization_id="beta"))
    assert await acme.instances_of(one.id) == []


async def test_the_trusted_caller_reaches_every_organization(acme: Scope, database: Database) -> None:
    everywhere = Store(AuditLog(database, KEY)).scope(None, "test")
    (one,) = await add(acme, "one")
    (two,) = await add(everywhere, "two", organization_id="beta")
    assert await ids(everywhere) == [one.id, two.id]
    assert await everywhere.connector(one.id) == one
    assert await ids(acme) == [one.id]


async def test_keys_belong_to_their_organization(database: Database) -> None:
    ours, theirs = key(), key("beta")
    for made in (ours, theirs):
        await Keys(AuditLog(database, KEY)).add(made)
    assert await Keys(AuditLog(database, KEY), "acme").all() == [ours]
    with pytest.raises(NotFound):
        await Keys(AuditLog(database, KEY), "acme").revoke(theirs.id, by="test")
    assert await Keys(AuditLog(database, KEY)).by_prefix(theirs.prefix) == theirs
    await Keys(AuditLog(database, KEY), "beta").revoke(theirs.id, by="test")
    found = await Keys(AuditLog(database, KEY)).by_prefix(theirs.prefix)
    assert found is not None
    assert found.revoked_at is not None


# -- listing ------------------------------------------------------------------------------------


async def test_pages_hold_still_while_rows_come_and_go(acme: Scope) -> None:
    """Every connector that was there all the time is seen exactly once."""
    before = await add(acme, *(f"c{number}" for number in range(40)))
    seen: list[str] = []
    gone: set[str] = set()
    after, step = None, 0
    while True:
        page = await acme.connectors(Filters(), limit=7, after=after, offset=0)
        seen += [record.id for record in page.records]
        after = page.next_id
        if after is None:
            break
        step += 1
        await add(acme, f"late{step}")
        for victim in (before[step], before[39 - step]):
            if victim.id not in gone:
                gone.add(victim.id)
                await acme.remove_connector(victim.id)
    assert len(seen) == len(set(seen))
    assert {one.id for one in before} - gone <= set(seen)
    assert seen == sorted(seen)


async def test_a_page_says_whether_there_is_another(acme: Scope) -> None:
    made = await add(acme, "a", "b", "c", "d")
    page = await acme.connectors(Filters(), limit=4, after=None, offset=0)
    assert (len(page.records), page.next_id, page.total) == (4, None, 4)
    page = await acme.connectors(Filters(), limit=3, after=None, offset=0)
    assert (len(page.records), page.next_id) == (3, made[2].id)
    page = await acme.connectors(Filters(), limit=2, after=made[1].id, offset=1)
    assert [record.id for record in page.records] == [made[3].id]
    assert page.total == 4
    page = await acme.connectors(Filters(), limit=2, after=None, offset=9)
    assert (page.records, page.next_id, page.total) == ([], None, 4)


async def test_filters_narrow_and_their_total_counts_what_matches(acme: Scope) -> None:
    a, b, c = [
        connector("Prod 100%_a"),
        connector("stage\\x", provider="mysql", status="inactive"),
        connector("PRODUCTION", connector_type="api", provider="rest", status="error"),
    ]
    for one in (a, b, c):
        await acme.add_connector(one)
    assert await ids(acme, connector_type="api") == [c.id]
    assert await ids(acme, provider="mysql") == [b.id]
    assert await ids(acme, status="active") == [a.id]
    assert await ids(acme, q="prod") == [a.id, c.id]
    assert await ids(acme, q="PROD", status="error") == [c.id]
    assert await ids(acme, q="%") == [a.id]
    assert await ids(acme, q="_") == [a.id]
    assert await ids(acme, q="\\") == [b.id]
    assert await ids(acme, q="' OR 1=1 --") == []


# -- the kept count -----------------------------------------------------------------------------


async def test_the_count_is_kept_right_through_creates_deletes_and_conflicts(acme: Scope, other: Database) -> None:
    theirs = Store(AuditLog(other, KEY)).scope("acme", "test")
    made = await add(acme, *(f"c{number}" for number in range(10)))
    await outcomes(
        *(scope.add_connector(connector(f"n{number}")) for number in range(5) for scope in (acme, theirs)),
        *(scope.remove_connector(one.id) for one in made[:6] for scope in (acme, theirs)),
        Store(AuditLog(other, KEY)).scope("beta", "test").add_connector(connector("b", "beta")),
    )
    assert len(await ids(acme)) == 9
    assert (
        await Store(AuditLog(other, KEY)).scope(None, "test").connectors(Filters(), limit=1, after=None, offset=0)
    ).total == 10


async def test_of_two_who_delete_one_connector_one_is_told_that_it_is_gone(acme: Scope, other: Database) -> None:
    for one in await add(acme, *(f"c{number}" for number in range(5))):
        answers = await outcomes(
            acme.remove_connector(one.id), Store(AuditLog(other, KEY)).scope("acme", "test").remove_connector(one.id)
        )
        assert sorted(type(answer).__name__ for answer in answers) == ["NoneType", "NotFound"]
    assert await ids(acme) == []


async def test_totals_are_read_and_not_counted_but_for_parts_of_names(acme: Scope, database: Database) -> None:
    await add(acme, "one")
    changed = update(connector_tallies).values(connectors=1_000_000)
    await database.write(lambda connection: connection.execute(changed))
    for narrowed, total in ((Filters(), 1_000_000), (Filters(status="active"), 1_000_000), (Filters(q="one"), 1)):
        assert (await acme.connectors(narrowed, limit=1, after=None, offset=0)).total == total


# -- versions -----------------------------------------------------------------------------------


async def test_of_many_changers_of_one_version_exactly_one_wins(acme: Scope, other: Database) -> None:
    (one,) = await add(acme, "one")
    theirs = Store(AuditLog(other, KEY)).scope("acme", "test")
    for version in range(1, 6):
        answers = await outcomes(
            *(
                scope.change_connector(one.id, version=version, values={"name": f"v{version}-{number}"})
                for number in range(6)
                for scope in (acme, theirs)
            )
        )
        (winner,) = [answer for answer in answers if isinstance(answer, Connector)]
        assert [type(answer) for answer in answers].count(Conflict) == 11
        assert await acme.connector(one.id) == winner
        assert winner.version == version + 1


async def test_a_change_of_what_is_gone_is_not_found(acme: Scope) -> None:
    (one,) = await add(acme, "one")
    await acme.remove_connector(one.id)
    with pytest.raises(NotFound):
        await acme.change_connector(one.id, version=1, values={"name": "x"})


async def test_a_change_sets_the_time_and_leaves_the_rest(acme: Scope) -> None:
    (one,) = await add(acme, "one")
    changed = await acme.change_connector(one.id, version=1, values={"status": "inactive"})
    assert changed.updated_at > one.updated_at
    assert replace(changed, updated_at=one.updated_at) == replace(one, status="inactive", version=2)


# -- together -----------------------------------------------------------------------------------


async def test_deleting_a_connector_deletes_its_attachments_and_no_others(acme: Scope) -> None:
    one, two = await add(acme, "one", "two")
    for alias in ("a", "b"):
        await acme.add_instance(instance(one, alias=alias))
    kept = instance(two, alias="c")
    await acme.add_instance(kept)
    await acme.remove_connector(one.id)
    assert await acme.attachments("agent-1") == [(kept, two)]
    with pytest.raises(NotFound):
        await acme.add_instance(instance(one, alias="z"))


async def test_attaching_to_what_is_being_deleted_leaves_no_orphan(acme: Scope, other: Database) -> None:
    theirs = Store(AuditLog(other, KEY)).scope("acme", "test")
    for number in range(8):
        (one,) = await add(acme, f"c{number}")
        answers = await outcomes(
            acme.remove_connector(one.id), *(theirs.add_instance(instance(one, alias=f"a{n}")) for n in range(3))
        )
        assert {type(answer) for answer in answers} <= {type(None), NotFound}
    assert await acme.attachments("agent-1") == []


async def test_a_failing_unit_of_work_leaves_nothing(database: Database, acme: Scope) -> None:
    await add(acme, "one")

    def work(connection: Any) -> None:
        connection.execute(update(connectors).values(name="changed"))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await database.write(work)
    names = await database.read(lambda connection: connection.execute(select(connectors.c.name)).scalars().all())
    assert names == ["one"]
    await add(acme, "two")


async def test_a_caller_that_gives_up_leaves_a_whole_transaction_or_none(acme: Scope, database: Database) -> None:
    tasks = [asyncio.create_task(acme.add_connector(connector(f"c{number}"))) for number in range(30)]
    await asyncio.sleep(0.01)
    for task in tasks[::2]:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await acme.add_connector(connector("last"))
    rows = await database.read(lambda connection: connection.scalar(select(func.count()).select_from(connectors)))
    assert len(await ids(acme)) == rows


async def test_the_first_key_is_made_once_by_starters_in_two_processes(database: Database, other: Database) -> None:
    handles = [database, other] * 5
    stored = await asyncio.gather(*(Keys(AuditLog(handle, KEY)).add_first(key()) for handle in handles))
    assert stored.count(True) == 1
    assert len(await Keys(AuditLog(database, KEY)).all()) == 1


async def test_two_machines_with_keys_of_their_own_do_not_both_start(database: Database, other: Database) -> None:
    vaults = [Vault([new_key()]) for _ in range(6)]
    answers = await outcomes(
        *(
            admit_canary(handle, vault.canary(), vault.check_canary)
            for vault, handle in zip(vaults, [database, other] * 3, strict=True)
        )
    )
    assert [type(answer) for answer in answers].count(EncryptionError) == 5
    assert len(await canaries(database)) == 1


async def test_a_canary_that_is_there_stays(database: Database) -> None:
    vault = Vault([new_key()])
    await admit_canary(database, vault.canary(), vault.check_canary)
    first = await canaries(database)
    await admit_canary(database, vault.canary(), vault.check_canary)
    assert await canaries(database) == first


async def test_a_store_answers_a_ping_and_closes(database: Database) -> None:
    await database.ping()


async def test_no_error_of_the_store_repeats_what_was_stored(acme: Scope) -> None:
    (one,) = await add(acme, "c4n4ry-name")
    for call in (acme.add_connector(connector("c4n4ry-name")), acme.add_instance(instance(one, connector_id="c4n4ry"))):
        with pytest.raises(StudioError) as caught:
            await call
        assert "c4n4ry" not in f"{caught.value} {caught.value.fields}"


async def test_a_lookup_survives_the_loss_of_its_connections(home: Home) -> None:
    """A server database that was restarted, or cut idle connections, is asked on new ones."""
    database = home.open()
    try:
        await database.ping()
        await asyncio.gather(*(database.ping() for _ in range(30)))  # more at once than connections
        if home.kind == "postgresql":
            others = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await database.read(lambda connection: connection.exec_driver_sql(others).all())
        await database.ping()
        await asyncio.gather(*(database.ping() for _ in range(30)))
    finally:
        await database.close()
