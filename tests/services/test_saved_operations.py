"""Saved operations: what an owner may store, what an agent sees of it, and what it can do with it."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import pytest

from studio import errors
from studio.models import Effect, Principal, Role
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

QUERY = "SELECT name FROM users WHERE city = :city AND tenant = :tenant AND id <= :most ORDER BY id"
CITY = {"type": "string", "enum": ["Oslo", "Lima"], "description": "Where they live"}
SAVED: dict[str, Any] = {
    "name": "users_of_city",
    "description": "Names of a city's users.",
    "query": QUERY,
    "parameters": {"city": CITY, "most": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50}},
    "bound": {"tenant": {"from": "agent_id"}},
}


def agent(agent_id: str = "agent-1", **more: Any) -> Principal:
    return Principal("acme", f"key:{agent_id}", Role.MEMBER, agent_id=agent_id, **more)


def person(role: Role, organization: str = "acme") -> Principal:
    return Principal(organization, "key:person", role)


def changed(**fields: Any) -> dict[str, Any]:
    return {**SAVED, **fields}


@pytest.fixture
def database(settings: Settings) -> None:
    with closing(sqlite3.connect(settings.files_root / "app.db")) as found:
        found.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, city TEXT, tenant TEXT)")
        rows = [(f"u{n}", "Oslo" if n % 2 else "Lima", "agent-1" if n < 6 else "agent-2") for n in range(1, 11)]
        found.executemany("INSERT INTO users (name, city, tenant) VALUES (?, ?, ?)", rows)
        found.commit()


@pytest.fixture
async def connector(service: ConnectorService, database: None) -> str:
    body = {"name": "Main", "connector_type": "database", "provider": "sqlite", "config": {"path": "app.db"}}
    return (await service.create({**body, "organization_id": "acme"}))["id"]


async def run(service: ConnectorService, operation: str = "users_of_city", **arguments: Any) -> list[Any]:
    result = await service.acting_as(agent()).execute(operation, arguments, agent_id="agent-1", alias="db")
    return [row["name"] for row in result["data"]]


async def test_an_agent_runs_it_by_name_and_the_platform_fills_in_its_part(
    service: ConnectorService, connector: str
) -> None:
    await service.create_saved_operation(connector, SAVED)
    for number in (1, 2):
        await service.attach_to_agent(connector, f"agent-{number}", "db")
    assert await run(service, city="Oslo") == ["u1", "u3", "u5"]
    assert await run(service, city="Oslo", most=3) == ["u1", "u3"]
    other = service.acting_as(agent("agent-2"))
    result = await other.execute("users_of_city", {"city": "Oslo"}, agent_id="agent-2", alias="db")
    assert [row["name"] for row in result["data"]] == ["u7", "u9"]


@pytest.mark.parametrize(
    "given",
    [
        {"city": "Paris"},
        {"city": "Oslo", "most": 0},
        {"city": "Oslo", "most": 101},
        {"city": "Oslo", "most": "3"},
        {"city": "Oslo", "tenant": "agent-2"},
        {"city": "Oslo", "query": "SELECT 1"},
        {},
    ],
)
async def test_what_does_not_fit_its_parameters_is_refused(
    service: ConnectorService, connector: str, given: dict[str, Any]
) -> None:
    await service.create_saved_operation(connector, SAVED)
    await service.attach_to_agent(connector, "agent-1", "db")
    with pytest.raises(errors.InvalidRequest, match="users_of_city"):
        await run(service, **given)


async def test_an_agent_sees_the_parameters_and_neither_statement_nor_bound_values(
    service: ConnectorService, connector: str
) -> None:
    await service.create_saved_operation(connector, SAVED)
    await service.attach_to_agent(connector, "agent-1", "db")
    listed = await service.acting_as(agent()).operations("agent-1", "db")
    assert [one["name"] for one in listed][-1] == "users_of_city"
    shown = listed[-1]
    assert (shown["effect"], shown["idempotent"], shown["returns_rows"]) == ("read", True, True)
    assert shown["parameters"] == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "city": CITY,
            "most": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
        },
        "required": ["city"],
    }
    assert "tenant" not in str(shown)
    assert "SELECT" not in str(shown)


async def test_an_attachment_can_be_limited_to_saved_operations(service: ConnectorService, connector: str) -> None:
    await service.create_saved_operation(connector, SAVED)
    body = {"agent_id": "agent-1", "alias": "db", "saved_only": True}
    assert (await service.attach(connector, body))["saved_only"]
    caller = service.acting_as(agent())
    assert [one["name"] for one in await caller.operations("agent-1", "db")] == ["users_of_city"]
    assert await run(service, city="Lima") == ["u2", "u4"]
    target: dict[str, Any] = {"agent_id": "agent-1", "alias": "db"}
    with pytest.raises(errors.Forbidden, match="saved operations only"):
        await caller.execute_query(query="SELECT 1", **target)
    for name in ("query", "list_tables", "nothing"):
        with pytest.raises(errors.Forbidden, match="saved operations only"):
            await caller.execute(name, {"query": "SELECT 1"}, **target)
    with pytest.raises(errors.Forbidden, match="saved operations only"):
        caller.plan(await caller.target(**target), "query", {"query": "SELECT 1"}, raw=True)


async def test_one_that_writes_is_judged_as_a_write(service: ConnectorService, connector: str) -> None:
    writes = {
        "name": "rename",
        "description": "Rename a user.",
        "query": "UPDATE users SET name = :name WHERE id = :id",
        "parameters": {"name": {"type": "string", "minLength": 1, "maxLength": 5}, "id": {"type": "integer"}},
    }
    await service.update(connector, {"config": {"read_only": False}})
    await service.create_saved_operation(connector, writes)
    await service.attach_to_agent(connector, "agent-1", "db")
    await service.attach_to_agent(connector, "agent-1", "reading", {"read_only": True})
    arguments = {"name": "new", "id": 1}
    caller, reader = service.acting_as(agent()), service.acting_as(agent(effects=frozenset({Effect.READ})))
    assert "rename" in [one["name"] for one in await caller.operations("agent-1", "db")]
    assert "rename" not in [one["name"] for one in await caller.operations("agent-1", "reading")]
    assert "rename" not in [one["name"] for one in await reader.operations("agent-1", "db")]
    with pytest.raises(errors.ReadOnly):
        await caller.execute("rename", arguments, agent_id="agent-1", alias="reading")
    with pytest.raises(errors.Forbidden):
        await reader.execute("rename", arguments, agent_id="agent-1", alias="db")
    assert (await caller.execute("rename", arguments, agent_id="agent-1", alias="db"))["row_count"] == 1


async def test_what_is_bound_to_an_agent_does_not_run_without_one(service: ConnectorService, connector: str) -> None:
    await service.create_saved_operation(connector, SAVED)
    with pytest.raises(errors.InvalidRequest, match="agent_id"):
        await service.execute("users_of_city", {"city": "Oslo"}, connector_id=connector)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"name": "Users"}, "name"),
        ({"description": " "}, "description"),
        ({"query": ""}, "query"),
        ({"query": QUERY.replace(":most", ":unknown")}, "params.unknown"),
        ({"query": "SELECT :city"}, "params.most"),
        ({"query": "SELECT 'open"}, "query"),
        ({"bound": {"city": "Oslo", "tenant": "x"}}, "bound.city"),
        ({"bound": {"tenant": {"from": "password"}}}, "bound.tenant"),
        ({"parameters": {"city": {"type": "array"}}}, "parameters.city.type"),
        ({"parameters": {"city": {"type": "string", "minimum": 1}}}, "parameters.city"),
        ({"parameters": {"city": {"type": "string", "enum": [1]}}}, "parameters.city"),
        ({"parameters": {"city": {"type": "string", "format": "date"}}}, "parameters.city.format"),
        ({"parameters": {"city": {"type": "string", "pattern": "("}}}, "parameters"),
        ({"parameters": {**SAVED["parameters"], "city": {**CITY, "default": "Paris"}}}, "parameters.city.default"),
        ({"parameters": {"a b": CITY}}, "parameters.a b"),
        ({"more": 1}, "more"),
    ],
)
async def test_a_declaration_that_cannot_work_is_refused_when_it_is_saved(
    service: ConnectorService, connector: str, fields: dict[str, Any], where: str
) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        await service.create_saved_operation(connector, changed(**fields))
    assert any(one.field.startswith(where) for one in caught.value.fields), caught.value.fields
    assert await service.list_saved_operations(connector) == []


async def test_names_are_unique_and_never_those_of_the_provider(service: ConnectorService, connector: str) -> None:
    await service.create_saved_operation(connector, SAVED)
    for name in ("users_of_city", "query"):
        with pytest.raises(errors.Conflict):
            await service.create_saved_operation(connector, changed(name=name))


async def test_they_end_with_the_connector_and_by_themselves(service: ConnectorService, connector: str) -> None:
    await service.create_saved_operation(connector, SAVED)
    await service.attach_to_agent(connector, "agent-1", "db")
    assert await service.delete_saved_operation(connector, "users_of_city") == {
        "message": "Saved operation deleted",
        "name": "users_of_city",
    }
    with pytest.raises(errors.OperationNotSupported):
        await run(service, city="Oslo")
    with pytest.raises(errors.NotFound):
        await service.delete_saved_operation(connector, "users_of_city")
    await service.create_saved_operation(connector, SAVED)
    await service.delete(connector)
    with pytest.raises(errors.NotFound):
        await service.list_saved_operations(connector)


@pytest.mark.parametrize("role", [Role.MEMBER, "agent", "stranger"])
async def test_saving_needs_a_developer_of_the_organization(
    service: ConnectorService, connector: str, role: Any
) -> None:
    who = {"agent": agent(), "stranger": person(Role.ADMIN, "beta")}.get(role) or person(role)
    caller = service.acting_as(who)
    expected = errors.NotFound if role == "stranger" else errors.Forbidden
    with pytest.raises(expected):
        await caller.create_saved_operation(connector, SAVED)
    await service.acting_as(person(Role.DEVELOPER)).create_saved_operation(connector, SAVED)
    with pytest.raises(expected):
        await caller.delete_saved_operation(connector, "users_of_city")
    if role != Role.MEMBER:
        with pytest.raises(expected):
            await caller.list_saved_operations(connector)


async def test_a_connector_holds_a_bounded_number(
    service: ConnectorService, connector: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.store.saved.MOST", 1)
    await service.create_saved_operation(connector, SAVED)
    with pytest.raises(errors.InvalidRequest, match="at most"):
        await service.create_saved_operation(connector, changed(name="second"))
