"""What would break, told before it does; and deleting what is in use."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests import toy

from studio.errors import Conflict, SecretsRequired
from studio.services import impact
from studio.services.connector_service import ConnectorService
from studio.settings import Settings


async def made(service: ConnectorService, **config: Any) -> str:
    return str((await service.create({**toy.body(**config), "organization_id": "acme"}))["id"])


async def used(service: ConnectorService) -> str:
    connector_id = await made(service)
    await service.attach_to_agent(connector_id, "agent-2", "b", {"max_rows": 50})
    await service.attach_to_agent(connector_id, "agent-1", "a")
    await service.create_saved_operation(connector_id, {"name": "one", "description": "One row.", "query": "rows 1"})
    return connector_id


async def test_a_preview_names_agents_aliases_saved_and_running_operations(
    service: ConnectorService, toys: type[toy.Toy]
) -> None:
    connector_id = await used(service)
    toys.gate = asyncio.Event()
    running = asyncio.create_task(service.execute_query(query="hold", agent_id="agent-1", alias="a"))
    while not toys.log["hold"]:  # noqa: ASYNC110 - the toy counts, it does not tell
        await asyncio.sleep(0.001)
    rotation = await service.preview_rotate(connector_id, {"generate": True})
    for preview in (
        await service.preview_delete(connector_id),
        await service.preview_update(connector_id, {"name": "other"}),
        rotation,
    ):
        assert preview["agents"] == ["agent-1", "agent-2"]
        assert [(one["agent_id"], one["alias"]) for one in preview["instances"]] == [("agent-2", "b"), ("agent-1", "a")]
        assert preview["saved_operations"] == ["one"]
        assert preview["running_operations"] == 1
    assert (rotation["secrets_set"], rotation["can_generate"]) == (["login.token", "password"], False)
    toys.gate.set()
    await running
    assert (await service.preview_delete(connector_id))["running_operations"] == 0


async def test_a_preview_tells_the_use_of_the_last_seven_days(
    service: ConnectorService, monkeypatch: pytest.MonkeyPatch
) -> None:
    connector_id = await used(service)
    for _ in range(3):
        await service.execute_query(query="rows 1", agent_id="agent-1", alias="a")
    await service.execute_query(query="rows 1", agent_id="agent-2", alias="b")
    await service.execute_query(connector_id, "rows 1")
    for preview in (
        await service.preview_delete(connector_id),
        await service.preview_update(connector_id, {"name": "other"}),
        await service.preview_rotate(connector_id, {"generate": True}),
    ):
        found = preview["last_7_days"]
        assert found["operations"] == 5
        assert [(one["agent_id"], one["alias"], one["operations"]) for one in found["agents"]] == [
            ("agent-1", "a", 3),
            ("agent-2", "b", 1),
        ]
    monkeypatch.setattr(impact, "USED_WITHIN_S", -1.0)
    assert (await service.preview_delete(connector_id))["last_7_days"] == {"operations": 0, "agents": []}


async def test_a_preview_of_an_update_names_what_changes_and_which_attachment_would_stop(
    service: ConnectorService,
) -> None:
    connector_id = await made(service, prefix="a")
    await service.attach_to_agent(connector_id, "agent-1", "x", {"prefix": "ab"})
    before = await service.get(connector_id)
    change = {"name": "other", "status": "inactive", "config": {"prefix": "c", "password": "n3w"}}
    preview = await service.preview_update(connector_id, change)
    assert preview["changes"] == ["config.prefix", "config.password", "name", "status"]
    assert [(one["alias"], one["fields"]) for one in preview["unfit"]] == [("x", ["prefix"])]
    assert preview["stops"]
    with pytest.raises(SecretsRequired):
        await service.preview_update(connector_id, {"config": {"host": "elsewhere.example"}})
    assert await service.get(connector_id) == before
    await service.update(connector_id, {"config": {"prefix": "c"}})
    with pytest.raises(Exception, match="does not lie within"):
        await service.execute_query(query="rows 1", agent_id="agent-1", alias="x")


async def test_an_idle_connector_goes_at_once_with_its_attachments(service: ConnectorService) -> None:
    """As `connector-management.md` has it: DELETE, and nothing else."""
    connector_id = await used(service)
    await service.execute_query(query="rows 1", agent_id="agent-1", alias="a")
    assert (await service.delete(connector_id))["detached"] == 2


async def test_deleting_what_runs_asks_for_the_token_of_the_preview(
    service: ConnectorService, toys: type[toy.Toy]
) -> None:
    connector_id = await used(service)
    toys.gate = asyncio.Event()
    running = asyncio.create_task(service.execute_query(query="hold", agent_id="agent-1", alias="a"))
    while not toys.log["hold"]:  # noqa: ASYNC110 - the toy counts, it does not tell
        await asyncio.sleep(0.001)
    with pytest.raises(Conflict, match="dry_run=true"):
        await service.delete(connector_id)
    seen = await service.preview_delete(connector_id)
    await service.attach_to_agent(connector_id, "agent-3", "c")
    with pytest.raises(Conflict, match="changed since"):
        await service.delete(connector_id, confirm=seen["confirm"])
    seen = await service.preview_delete(connector_id)
    assert (await service.delete(connector_id, confirm=seen["confirm"]))["detached"] == 3
    toys.gate.set()
    await running


@pytest.mark.parametrize(("asks", "refused"), [("attached", True), ("running", False), ("never", False)])
async def test_an_operator_chooses_what_counts_as_use(
    settings: Settings, toys: type[toy.Toy], asks: str, refused: bool
) -> None:
    chosen = settings.model_copy(update={"confirm_delete": asks})
    async with ConnectorService(chosen) as service:
        connector_id = await used(service)
        if refused:
            with pytest.raises(Conflict):
                await service.delete(connector_id)
            seen = await service.preview_delete(connector_id)
            await service.delete(connector_id, confirm=seen["confirm"])
        else:
            await service.delete(connector_id)
