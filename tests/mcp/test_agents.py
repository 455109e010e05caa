"""`studio.agents.tools`: MCP's tools as functions, in process."""

from __future__ import annotations

import json

import jsonschema
import pytest
from tests.mcp.conftest import KEYS, World

from studio import errors
from studio.agents import tools
from studio.models import Principal, Role


async def test_a_model_gets_the_same_tools_as_over_mcp(world: World) -> None:
    for at, per_operation in (("", False), ("?tools=per-operation", True)):
        listed = (await world.modern("tools/list", at=at)).result["tools"]
        found = await tools(world.service, "agent-1", per_operation=per_operation)
        assert [(tool.name, tool.description, tool.parameters) for tool in found] == [
            (tool["name"], tool["description"], tool["inputSchema"]) for tool in listed
        ]
        for tool in found:
            jsonschema.Draft202012Validator.check_schema(tool.parameters)
            assert tool.openai()["function"]["parameters"] is tool.anthropic()["input_schema"] is tool.parameters


async def test_calling_one_gives_the_text_for_the_model_and_the_data(world: World) -> None:
    run = next(tool for tool in await tools(world.service, "agent-1") if tool.name == "run")
    assert "user 0" in await run(alias="main_db", query="SELECT * FROM users WHERE id = 1")
    result = await run.result(alias="main_db", query="SELECT id FROM users WHERE id = 1")
    assert json.loads(json.dumps(result))["structuredContent"]["rows"] == [[1]]
    text = await run(alias="main_db", query="DELETE FROM users")
    assert text.startswith("error read_only")
    assert "next: " in text


async def test_the_agent_gets_no_more_than_its_own(world: World) -> None:
    assert await tools(world.service, "agent-2", per_operation=True) == []
    assert "nothing is attached" in await (await tools(world.service, "agent-2"))[0]()
    reader = Principal("acme", "key:reader", Role.MEMBER, agent_id="agent-1", effects=frozenset())
    assert KEYS["reader"]
    found = await tools(world.service.acting_as(reader), "agent-1", per_operation=True)
    assert found == []
    with pytest.raises(errors.Forbidden):
        await tools(world.service.acting_as(reader), "agent-2")
    with pytest.raises(errors.InvalidRequest):
        await tools(world.service, "no such id!")
    put = next(tool for tool in await tools(world.service, "agent-1", per_operation=True) if tool.name == "store__put")
    assert not put.read_only


async def test_an_organization_can_be_named_where_ids_are_shared(world: World) -> None:
    made = await world.service.create(
        {
            "name": "Other",
            "connector_type": "database",
            "provider": "sqlite",
            "config": {"path": "app.db"},
            "organization_id": "beta",
        }
    )
    await world.service.attach_to_agent(made["id"], "agent-1", "theirs")
    (listing, *_) = await tools(world.service, "agent-1", organization_id="beta")
    assert [one["alias"] for one in (await listing.result())["structuredContent"]["connectors"]] == ["theirs"]
