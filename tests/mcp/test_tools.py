"""Which tools there are: exactly what the key may do, the same each time, and at a price that is known."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from tests.mcp.conftest import World
from tests.toy import Toy

from studio.mcp.single import tool_name
from studio.mcp.tools import lean

PER_OPERATION = "?tools=per-operation"
SAVED = {
    "name": "users_of_city",
    "description": "Names of a city's users.",
    "query": "SELECT name FROM users WHERE city = :city AND id <= :most ORDER BY id",
    "parameters": {"city": {"type": "string", "enum": ["Oslo", "Lima"]}},
    "bound": {"most": 4},
}


async def tools(world: World, at: str = PER_OPERATION, **more: Any) -> dict[str, dict[str, Any]]:
    listed = (await world.modern("tools/list", at=at, **more)).result["tools"]
    assert len({tool["name"] for tool in listed}) == len(listed)
    return {tool["name"]: tool for tool in listed}


async def test_what_is_listed_is_what_the_key_may_do(world: World) -> None:
    reads = {f"main_db__{name}" for name in ("query", "list_tables", "describe_table", "explain")}
    toys = {"store__query", "store__secrets"}
    assert set(await tools(world)) == reads | toys | {"store__put", "store__drop"}
    assert set(await tools(world, who="reader")) == reads | toys
    assert set(await tools(world, who="main only")) == reads
    assert set(await tools(world, who="other agent")) == set()
    assert set(await tools(world, at=f"{PER_OPERATION}&agent=agent-1", who="developer")) == set(await tools(world))


async def test_every_listed_tool_can_be_called_and_no_other(world: World) -> None:
    for name in await tools(world):
        result = await world.call(name, at=PER_OPERATION)
        assert "operation_not_supported" not in result["content"][0]["text"]
    for name in ("run", "nothing", "__", "main_db__", "main_db"):
        assert (await world.modern("tools/call", {"name": name}, at=PER_OPERATION)).status == 400
    for who, name in (("reader", "store__put"), ("main only", "store__query"), ("other agent", "main_db__query")):
        assert (await world.call(name, at=PER_OPERATION, who=who, key="a", query="rows 1"))["isError"]
    assert not Toy.log["put"]


async def test_a_connector_that_is_switched_off_has_no_tools(world: World) -> None:
    await world.service.update(world.ids["toy"], {"status": "inactive"})
    assert not [name for name in await tools(world) if name.startswith("store")]
    shown = (await world.data("list_connectors"))["connectors"]
    assert [one.get("status") for one in shown] == [None, "inactive"]


async def test_annotations_come_from_effects(world: World) -> None:
    def hints(tool: dict[str, Any]) -> list[bool]:
        names = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
        return [tool["annotations"][name] for name in names]

    found = await tools(world)
    assert hints(found["main_db__query"]) == [True, False, True, True]
    assert hints(found["store__put"]) == hints(found["store__drop"]) == [False, True, False, True]
    compact = await tools(world, at="")
    assert hints(compact["list_connectors"]) == [True, False, True, False]
    assert hints(compact["run"]) == [False, True, False, True], "store allows writes"
    for who in ("reader", "main only", "other agent"):
        assert hints((await tools(world, at="", who=who))["run"]) == [True, False, True, True]


async def test_names_order_and_schemas_do_not_change_when_an_attachment_is_made_again(world: World) -> None:
    before = {at: (await world.modern("tools/list", at=at)).body for at in ("", PER_OPERATION)}
    for record in await world.service.list_agent_connectors("agent-1"):
        if record["alias"] == "main_db":
            await world.service.detach_from_agent(record["id"])
    await world.attach("main", "main_db")
    assert before == {at: (await world.modern("tools/list", at=at)).body for at in ("", PER_OPERATION)}


async def test_every_tool_has_schemas_that_hold(world: World) -> None:
    await world.service.create_saved_operation(world.ids["main"], SAVED)
    for at in ("", PER_OPERATION):
        for tool in (await tools(world, at=at)).values():
            jsonschema.Draft202012Validator.check_schema(tool["inputSchema"])
            jsonschema.Draft202012Validator.check_schema(tool["outputSchema"])
            assert tool["inputSchema"]["type"] == "object"
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("list_connectors", "", {}),
        ("describe", "", {"alias": "main_db"}),
        ("describe", "", {"alias": "main_db", "operation": "query"}),
        ("describe", "", {"alias": "main_db", "object": "main.users"}),
        *[("run", "", {"alias": "main_db", "query": "SELECT * FROM users", "format": form, "max_rows": 2})
          for form in ("columns", "objects", "csv", "markdown")],
        ("run", "", {"alias": "store", "operation": "drop", "args": {"key": "a"}}),
        ("main_db__list_tables", PER_OPERATION, {}),
        ("main_db__users_of_city", PER_OPERATION, {"city": "Oslo"}),
        ("store__put", PER_OPERATION, {"key": "a", "value": [1]}),
    ]  # fmt: skip
    for name, at, arguments in calls:
        schema = (await tools(world, at=at))[name]["outputSchema"]
        result = await world.call(name, at=at, **arguments)
        assert not result.get("isError"), result
        jsonschema.validate(result["structuredContent"], schema)


async def test_an_operations_tool_pages_like_run(world: World) -> None:
    query = "SELECT id, name, hex(zeroblob(200)) AS wide FROM users ORDER BY id"
    first = await world.data("main_db__query", at=PER_OPERATION, query=query)
    assert first["truncated"]
    second = await world.data("main_db__query", at=PER_OPERATION, query=query, cursor=first["next_cursor"])
    assert second["rows"][0][0] == first["row_count"] + 1


async def test_an_operations_arguments_may_stand_in_any_of_their_places(world: World) -> None:
    query = {"query": "SELECT name FROM users WHERE id = :id"}
    for arguments in (
        {**query, "params": {"id": 3}},
        {**query, "args": {"id": 3}},
        {"operation": "query", **query, "params": {"id": 3}},
        {"operation": "query", "args": {**query, "params": {"id": 3}}},
    ):
        assert (await world.data("run", alias="main_db", **arguments))["rows"] == [["user 2"]]


async def test_a_saved_operation_is_an_operation_like_any_other(world: World) -> None:
    await world.service.create_saved_operation(world.ids["main"], SAVED)
    await world.attach("main", "only", saved_only=True)
    described = await world.data("describe", alias="only")
    assert [one["name"] for one in described["operations"]] == ["users_of_city"]
    schema = (await world.data("describe", alias="only", operation="users_of_city"))["operation"]["parameters"]
    assert list(schema["properties"]) == ["city"]
    for arguments in ({"args": {"city": "Oslo"}}, {"params": {"city": "Oslo"}}):
        found = await world.data("run", alias="only", operation="users_of_city", **arguments)
        assert found["rows"] == [["user 1"], ["user 3"]]
    for arguments in ({"query": "SELECT 1"}, {"operation": "list_tables"}):
        result = await world.call("run", alias="only", **arguments)
        assert "saved operations only" in result["content"][0]["text"]
    assert (await world.call("describe", alias="only", object="users"))["isError"]
    listed = await tools(world)
    assert [name for name in listed if name.startswith("only__")] == ["only__users_of_city"]
    assert listed["only__users_of_city"]["annotations"]["readOnlyHint"]
    text = json.dumps([described, schema, listed["only__users_of_city"]])
    assert "SELECT" not in text
    assert "most" not in text


async def test_an_agent_with_nothing_attached_is_told_so(world: World) -> None:
    found = await world.data("list_connectors", who="other agent")
    assert found["connectors"] == []
    assert "attach" in found["hint"]


# -- names --------------------------------------------------------------------------------------


def test_a_tools_name_fits_every_model_api_and_stands_for_one_pair() -> None:
    aliases = ["a", "a.b", "a-b", "a_b", "a__b", "A", "x" * 128, "x" * 127, "a__", "-"]
    operations = ["query", "b__query", "q" * 60, "get-pet", "list_tables", "_query"]
    names = {tool_name(alias, operation) for alias in aliases for operation in operations}
    assert len(names) == len(aliases) * len(operations)
    assert all(len(name) <= 64 and name.replace("_", "").replace("-", "").isalnum() for name in names)
    assert tool_name("main_db", "query") == "main_db__query"


@pytest.mark.parametrize("alias", ["main.db", "a__b", "x" * 80])
async def test_an_alias_that_is_no_name_works_under_a_changed_one(world: World, alias: str) -> None:
    await world.attach("main", alias)
    name = tool_name(alias, "query")
    assert name in await tools(world)
    assert (await world.data(name, at=PER_OPERATION, query="SELECT 7 AS n"))["rows"] == [[7]]


def test_a_lean_schema_loses_only_null() -> None:
    full = {
        "properties": {
            "a": {"anyOf": [{"type": "string", "maxLength": 5}, {"type": "null"}], "default": None, "description": "A"},
            "b": {"anyOf": [{"type": "string"}, {"type": "integer"}], "default": 0},
        }
    }
    assert lean(full) == {
        "properties": {
            "a": {"type": "string", "maxLength": 5, "description": "A"},
            "b": {"anyOf": [{"type": "string"}, {"type": "integer"}], "default": 0},
        }
    }
