"""`studio mcp`: the same messages as lines, on the embedded store and through a server."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from mcp.client import Client
from mcp.client.stdio import StdioServerParameters
from tests import poison
from tests.mcp.conftest import META, World, request, until
from tests.toy import Toy

from studio.mcp.stdio import Stdio
from studio.settings import Settings

STUDIO = [sys.executable, "-c", "from studio.cli import main; main()", "mcp"]


def environment(settings: Settings, **more: str) -> dict[str, str]:
    return poison.program(settings.data_dir.parent, **more)


def talk(settings: Settings, messages: Iterable[Any], *arguments: str, **more: str) -> list[Any]:
    """Everything that comes back for some lines, by id."""
    lines = [message if isinstance(message, str) else json.dumps(message) for message in messages]
    done = subprocess.run(
        [*STUDIO, *arguments],
        input="\n".join(lines) + "\n",
        env=environment(settings, **more),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return sorted(map(json.loads, done.stdout.splitlines()), key=lambda one: str(one["id"]))


@pytest.fixture(autouse=True)
async def attached(world: World) -> None:
    """agent-2 has one connector, of a kind that other processes know too."""
    await world.attach("main", "main_db", "agent-2")


@pytest.fixture(params=["embedded", "embedded by key", "server"])
def where(request: pytest.FixtureRequest, world: World, settings: Settings) -> StdioServerParameters:
    key = {"STUDIO_API_KEY": world.keys["other agent"]}
    arguments: dict[str, tuple[list[str], dict[str, str]]] = {
        "embedded": (["--agent", "agent-2", "--organization", "acme"], {}),
        "embedded by key": ([], key),
        "server": (["--url", world.base], key),
    }
    more, variables = arguments[request.param]
    return StdioServerParameters(command=STUDIO[0], args=[*STUDIO[1:], *more], env=environment(settings, **variables))


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_uses_an_agents_connectors(where: StdioServerParameters, mode: str) -> None:
    async with Client(where, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["list_connectors", "describe", "run"]
        found = await client.call_tool("run", {"alias": "main_db", "query": "SELECT count(*) AS n FROM users"})
        assert found.structured_content is not None
        assert found.structured_content["rows"] == [[250]]


async def test_both_eras_are_told_apart_by_each_message(world: World, settings: Settings) -> None:
    legacy = {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    answers = await asyncio.to_thread(
        talk,
        settings,
        [
            request("initialize", legacy, "a"),
            {"jsonrpc": "2.0", "method": "notifications/initialized"},
            request("ping", request_id="b"),
            request("server/discover", {"_meta": META}, "c"),
            request("server/discover", {}, "d"),
            request("ping", {"_meta": META}, "e"),
            request("tools/list", {"_meta": {**META, "io.modelcontextprotocol/protocolVersion": "1900-01-01"}}, "f"),
            "no json",
            "",
            "[1]",
        ],
        *("--agent", "agent-2", "--organization", "acme"),
    )
    found = {one["id"]: one["result"] if "result" in one else one["error"]["code"] for one in answers if one["id"]}
    assert found["a"]["protocolVersion"] == "2025-11-25"
    assert found["b"] == {}
    assert found["c"]["resultType"] == "complete"
    assert (found["d"], found["e"], found["f"]) == (-32602, -32601, -32022)
    assert [one["error"]["code"] for one in answers if one["id"] is None] == [-32700, -32700]


async def test_the_set_of_tools_can_be_chosen(world: World, settings: Settings) -> None:
    choice = ("--tools", "per-operation", "--agent", "agent-2")
    for more in (["--organization", "acme"], ["--url", world.base, "--key", world.keys["other agent"]]):
        (answer,) = await asyncio.to_thread(talk, settings, [request("tools/list")], *choice, *more)
        assert "main_db__query" in [tool["name"] for tool in answer["result"]["tools"]]


async def test_a_revoked_key_counts_for_the_next_message(world: World, settings: Settings) -> None:
    process = await asyncio.create_subprocess_exec(
        *STUDIO,
        env=environment(settings, STUDIO_API_KEY=world.keys["other agent"]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None

    async def ask() -> Any:
        process.stdin.write(json.dumps(request("tools/list")).encode() + b"\n")
        return json.loads(await process.stdout.readline())

    assert "result" in await ask()
    keys = await world.service.list_keys(organization_id="acme")
    for key in keys:
        await world.service.revoke_key(key["id"])
    assert (await ask())["error"]["data"]["code"] == "unauthenticated"
    process.stdin.close()
    assert await process.wait() == 0


def test_without_an_agent_or_a_key_it_says_what_is_missing(settings: Settings) -> None:
    done = subprocess.run(STUDIO, input="", env=environment(settings), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--agent" in done.stderr


@asynccontextmanager
async def piped(answer: Any) -> AsyncIterator[tuple[int, int, asyncio.Task[None]]]:
    """The loop on two pipes: where to write, where to read."""
    (source, writing), (reading, sink) = os.pipe(), os.pipe()
    serving = asyncio.create_task(Stdio(answer, source=source, sink=sink, max_bytes=1000).serve())
    try:
        yield writing, reading, serving
    finally:
        for handle in (reading, sink):
            os.close(handle)


async def test_a_cancelled_request_stops_and_gets_no_answer(world: World) -> None:
    Toy.gate = asyncio.Event()

    async def answer(message: Any, _tell: Any) -> Any:
        if message["method"] == "wait":
            return await world.call("run", alias="store", query="hold")
        return {"jsonrpc": "2.0", "id": message["id"], "result": {}}

    async with piped(answer) as (writing, reading, serving):
        os.write(writing, json.dumps(request("wait", request_id=7)).encode() + b"\n")
        await until("hold")
        cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}
        os.write(
            writing, json.dumps(cancel).encode() + b"\n" + json.dumps(request("ping", request_id=8)).encode() + b"\n"
        )
        os.close(writing)
        await serving
        assert [json.loads(line)["id"] for line in os.read(reading, 10_000).splitlines()] == [8]
    await until("cancelled")


async def test_a_line_that_is_too_long_is_refused_and_the_next_one_answered(world: World) -> None:
    async def answer(message: Any, _tell: Any) -> Any:
        return {"jsonrpc": "2.0", "id": message["id"], "result": {}}

    async with piped(answer) as (writing, reading, serving):
        os.write(writing, b'{"a":"' + b"x" * 5000 + b'"}\n' + json.dumps(request("ping")).encode())
        os.close(writing)
        await serving
        first, second = map(json.loads, os.read(reading, 10_000).splitlines())
    assert first["error"]["code"] == -32700
    assert second["id"] == 1
