"""A long call tells how far it is, to clients that asked and can hear it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from tests.mcp.conftest import LEGACY, META, MODERN, World, request, until
from tests.toy import Toy

from studio.client.bridge import Bridge
from studio.mcp import progress
from studio.mcp.agent import Agent
from studio.mcp.stdio import answering
from studio.mcp.toolsets import tools_of

SLOW = {"alias": "store", "query": "sleep 0.6"}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.1)


def calling(query: str, token: Any = "t-1", *, modern: bool = True) -> dict[str, Any]:
    meta = {**(META if modern else {}), **({} if token is None else {"progressToken": token})}
    return request("tools/call", {"name": "run", "arguments": {"alias": "store", "query": query}, "_meta": meta})


def events(body: bytes) -> list[Any]:
    return [json.loads(event.partition("data: ")[2]) for event in body.decode().split("\n\n") if event]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_official_client_hears_of_a_long_call(world: World, mode: str) -> None:
    heard: list[tuple[float, str | None]] = []

    async def listen(done: float, _total: float | None, message: str | None) -> None:
        heard.append((done, message))

    async with world.client(mode) as client:
        result = await client.call_tool("run", SLOW, progress_callback=listen)
    assert not result.is_error
    assert len(heard) >= 2
    assert [done for done, _ in heard] == sorted({done for done, _ in heard})
    assert heard[0][1] == "running"


async def test_the_rows_that_were_read_are_counted(world: World) -> None:
    headers = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "run"}
    Toy.gate = asyncio.Event()
    async with asyncio.timeout(20):
        reply = await world.send(calling("slow-rows 40"), **headers)
    *told, last = events(reply.body)
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert {one["method"] for one in told} == {"notifications/progress"}
    assert {one["params"]["progressToken"] for one in told} == {"t-1"}
    assert told[-1]["params"]["message"].endswith("rows read")
    assert last["result"]["structuredContent"]["row_count"] > 0


async def test_without_a_token_or_an_ear_for_events_there_is_one_answer(world: World) -> None:
    headers: dict[str, Any] = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "run"}
    for body, more in (
        (calling("sleep 0.3", None), {}),
        (calling("rows 1"), {}),  # over before there is anything to tell
        (calling("sleep 0.3", modern=False), {"mcp_method": None, "mcp_name": None, "mcp_protocol_version": LEGACY,
                                              "accept": "application/json"}),
    ):  # fmt: skip
        reply = await world.send(body, **{**headers, **more})
        assert reply.headers["content-type"] == "application/json"
        assert "result" in reply.json


async def test_whoever_leaves_in_the_middle_of_the_events_ends_the_work(world: World) -> None:
    Toy.gate = asyncio.Event()
    Toy.log.clear()
    headers = {"authorization": f"Bearer {world.keys['agent']}", "accept": "application/json, text/event-stream"}
    async with aiohttp.ClientSession() as session:
        body = calling("hold", modern=False)
        async with session.post(f"{world.base}/mcp", json=body, headers=headers) as answer:
            await answer.content.readuntil(b"\n\n")
    await until("cancelled")


async def test_a_program_between_hears_it_too(world: World) -> None:
    for answer in (
        Bridge(world.base, world.keys["agent"]),
        answering(lambda: found(world)),
    ):
        heard: list[dict[str, Any]] = []

        async def tell(message: dict[str, Any], heard: list[dict[str, Any]] = heard) -> None:
            heard.append(message["params"])

        if isinstance(answer, Bridge):
            async with answer as bridge:
                got = await bridge.answer(calling("sleep 0.6", 7), tell)
        else:
            got = await answer(calling("sleep 0.6", 7), tell)
        assert got is not None
        assert got["result"]["structuredContent"]["row_count"] == 1
        assert len(heard) >= 2
        assert {one["progressToken"] for one in heard} == {7}


async def found(world: World) -> Any:
    return tools_of(Agent(await world.service.authenticate(world.keys["agent"]), "agent-1"), None)
