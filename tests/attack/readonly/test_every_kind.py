"""All kinds: what is not a read is refused under read_only, whichever way it comes. Nothing is dialled for that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.attack import corpus
from tests.attack.report import report
from tests.servers import free_port

from studio import providers
from studio.agents import tools
from studio.errors import OverrideNotAllowed, ReadOnly, StudioError
from studio.models import FAMILIES, Effect
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

KINDS = [(family, kind) for family, kinds in FAMILIES.items() for kind in kinds]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ConnectorService]:
    async with ConnectorService(Settings(data_dir=tmp_path / "studio")) as service:
        yield service


async def made(service: ConnectorService, family: str, kind: str, **more: Any) -> str:
    config = {**corpus.config(kind, "127.0.0.1", free_port(), secret="not-a-secret"), "connect_timeout_s": 0.5, **more}
    fields = {"organization_id": "acme", "name": f"it-{more}", "connector_type": family, "provider": kind}
    record = await service.create({**fields, "config": config})
    return str(record["id"])


def params_of(family: str, text: str) -> dict[str, Any] | None:
    """What a text needs beside itself: verbs of storage and messaging take their content as a parameter."""
    given = {("messaging", "publish"): {"message": "a"}, ("storage", "put"): {"text": "b"}}
    return given.get((family, text.split(" ", 1)[0].lower()))


async def refused(work: Awaitable[Any]) -> bool:
    """Whether it is refused as what a reader may not do."""
    try:
        await work
    except ReadOnly:
        return True
    except StudioError:
        return False
    return False


@pytest.mark.parametrize(("family", "kind"), KINDS)
def test_every_operation_is_named_as_a_read_or_has_calls_that_are_refused(family: str, kind: str) -> None:
    """A new operation fails here until somebody says what it does."""
    table, operations = corpus.read("effects")[kind], providers.load(kind).operations
    writes = {name for name, _ in table["writes"]}
    assert {name for name, one in operations.items() if one.effect is Effect.READ} == set(table["reads"])
    assert {name for name, one in operations.items() if one.effect is not Effect.READ} == writes
    forms = providers.load(kind).byte_forms
    assert all(form.effect is operations[name].effect for name, form in forms.items())


@pytest.mark.parametrize(("family", "kind"), KINDS)
async def test_what_is_not_a_read_is_refused_whichever_way_it_comes(
    service: ConnectorService, family: str, kind: str
) -> None:
    table = corpus.read("effects")[kind]
    reading, writing = await made(service, family, kind), await made(service, family, kind, read_only=False)
    await service.attach_to_agent(reading, "agent", "plain")
    await service.attach_to_agent(writing, "agent", "narrowed", {"read_only": True})
    with pytest.raises(OverrideNotAllowed):
        await service.attach_to_agent(reading, "agent", "widened", {"read_only": False})
    [compact] = [tool for tool in await tools(service, "agent") if not tool.read_only] or [None]
    run = 0
    escaped: list[Any] = []

    async def expect(way: str, what: Any, work: Awaitable[Any]) -> None:
        nonlocal run
        run += 1
        if not await refused(work):
            escaped.append((way, what))

    places: list[dict[str, Any]] = [
        {"connector_id": reading},
        {"agent_id": "agent", "alias": "plain"},
        {"agent_id": "agent", "alias": "narrowed"},
    ]
    for place in places:
        target = await service.target(**place)
        for name, arguments in table["writes"]:
            await expect("operation", (place, name), service.execute(name, arguments, **place))
            if name in target.effective.kind.byte_forms:
                content = {key: value for key, value in arguments.items() if key == "key"}
                await expect(
                    "bytes", name, planned(lambda t=target, n=name, c=content: service.plan(t, n, c, raw=True))
                )
        for text in table["texts"]:
            params = params_of(family, text)
            await expect("query", (place, text), service.execute_query(query=text, params=params, **place))
    for at, text in enumerate(table["texts"]):
        body = {"name": f"saved_{at}", "description": "A write.", "query": text}
        if bound := params_of(family, text):
            body["bound"] = bound
        await service.create_saved_operation(reading, body)
        await expect("saved", text, service.execute(body["name"], {}, agent_id="agent", alias="plain"))
    tried, through = await by_mcp(service, family, table)
    run, escaped = run + tried, escaped + through
    assert compact is None, "a tool over read-only aliases says that it may write"
    report.count("cases", kind, run=run, escapes=len(escaped))
    assert not escaped, escaped


async def by_mcp(service: ConnectorService, family: str, table: Any) -> tuple[int, list[Any]]:
    """The same texts through the tools of an agent: how many were tried, and which got through."""
    escaped: list[Any] = []
    run = 0
    for tool in await tools(service, "agent"):
        for text in table["texts"] if "query" in tool.parameters.get("properties", ()) else ():
            run += 1
            said = await tool.result(alias="plain", query=text, params=params_of(family, text) or {})
            if not said.get("isError") or "read" not in said["content"][0]["text"]:
                escaped.append(("mcp", text))
    writes = {name for name, _ in table["writes"]} - {"command", "request", "presign", "call"}  # these read, too
    per_operation = await tools(service, "agent", per_operation=True)
    return run, escaped + [tool.name for tool in per_operation if tool.name.rpartition("__")[2] in writes]


async def planned(plan: Callable[[], Any]) -> None:
    plan()


@pytest.mark.parametrize(("family", "kind"), KINDS)
async def test_where_writing_is_allowed_the_same_calls_are_not_refused(
    service: ConnectorService, family: str, kind: str
) -> None:
    """The negative control: each of them is a call that works where nothing forbids it."""
    table = corpus.read("effects")[kind]
    writing = await made(service, family, kind, read_only=False)
    target = await service.target(writing)
    for name, arguments in table["writes"]:
        service.plan(target, name, arguments)
    for text in table["texts"]:
        service.plan_query(target, text, params_of(family, text))
