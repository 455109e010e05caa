"""The official Python SDK's client, unchanged, in both eras of the protocol."""

from __future__ import annotations

from typing import Any

import pytest
from tests.mcp.conftest import World

ERAS = [pytest.param("auto", id="modern"), pytest.param("legacy", id="legacy")]


def text_of(result: Any) -> str:
    return "".join(block.text for block in result.content)


@pytest.mark.parametrize("mode", ERAS)
async def test_the_client_finds_the_version_of_its_era(world: World, mode: str) -> None:
    async with world.client(mode) as client:
        assert client.session.protocol_version == {"auto": "2026-07-28", "legacy": "2025-11-25"}[mode]
        assert client.server_info is not None
        assert client.server_info.name == "studio-connectors"
        assert "untrusted" in (client.instructions or "")


@pytest.mark.parametrize("mode", ERAS)
async def test_an_agent_finds_describes_and_queries_its_connectors(world: World, mode: str) -> None:
    async with world.client(mode) as client:
        tools = (await client.list_tools()).tools
        assert [tool.name for tool in tools] == ["list_connectors", "describe", "run"]
        listed = await client.call_tool("list_connectors", {})
        assert [one["alias"] for one in listed.structured_content["connectors"]] == ["main_db", "store"]
        table = await client.call_tool("describe", {"alias": "main_db", "object": "users"})
        assert [column["name"] for column in table.structured_content["data"]["columns"]] == ["id", "name", "city"]
        query = {"alias": "main_db", "query": "SELECT id, name FROM users WHERE id = :id", "params": {"id": 7}}
        found = await client.call_tool("run", query)
        assert found.structured_content["rows"] == [[7, "user 6"]]
        assert "user 6" in text_of(found)
        other = await client.call_tool("run", {"alias": "store", "operation": "put", "args": {"key": "a"}})
        assert other.structured_content["data"] == {"key": "a", "value": None}


@pytest.mark.parametrize("mode", ERAS)
async def test_each_operation_is_a_tool_with_its_own_schema_where_asked_for(world: World, mode: str) -> None:
    async with world.client(mode, at="?tools=per-operation") as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert {"main_db__query", "main_db__describe_table", "store__put", "store__drop"} <= set(tools)
        assert tools["store__put"].input_schema["required"] == ["key"]
        found = await client.call_tool("main_db__query", {"query": "SELECT count(*) AS n FROM users"})
        assert found.structured_content["rows"] == [[250]]


@pytest.mark.parametrize("mode", ERAS)
async def test_an_error_reaches_the_model_with_what_to_do_next(world: World, mode: str) -> None:
    async with world.client(mode) as client:
        refused = await client.call_tool("run", {"alias": "main_db", "query": "DELETE FROM users"})
        assert refused.is_error
        assert "read_only" in text_of(refused)
        assert "next: " in text_of(refused)
