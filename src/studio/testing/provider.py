"""Conformance of every provider, of whichever family. Inherit the family's suite, which builds on this one.

Everything goes through `ConnectorService`, as a caller would. Needs pytest and pytest-asyncio
(`asyncio_mode = "auto"`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from studio.errors import Conflict, Inactive, NotFound
from studio.services.connector_service import ConnectorService
from studio.settings import Settings


class ProviderConformance:
    """What every provider does."""

    kind: ClassVar[str]
    family: ClassVar[str]
    one: ClassVar[str]
    """A query that answers one row or one value."""

    @pytest.fixture
    async def config(self) -> dict[str, Any]:
        """How to reach a server that the test may write to. To be overridden."""
        raise NotImplementedError

    @pytest.fixture
    async def service(self, tmp_path: Path) -> AsyncIterator[ConnectorService]:
        """A service on an empty embedded store; afterwards no task may be left."""
        async with ConnectorService(Settings(data_dir=tmp_path / "studio")) as service:
            yield service
        left = [task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("studio-")]
        assert not left, f"tasks left behind: {left}"

    async def connect(self, service: ConnectorService, config: dict[str, Any], name: str = "it", **more: Any) -> str:
        """Register a connector; its id."""
        made = await service.create(
            {
                "organization_id": "acme",
                "name": name,
                "connector_type": self.family,
                "provider": self.kind,
                "config": {**config, **more},
            }
        )
        return str(made["id"])

    # -- tests ----------------------------------------------------------------------------------

    async def test_it_registers_tests_attaches_and_answers_through_the_alias(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config)
        tested = await service.test_connection(connector_id)
        assert tested["success"], tested
        assert tested["latency_ms"] > 0
        await service.attach_to_agent(connector_id, "agent-123", "main_db", {"max_rows": 10})
        result = await service.execute_query(agent_id="agent-123", alias="main_db", query=self.one)
        assert result["success"] is True
        assert result["row_count"] == 1
        record = await service.get(connector_id)
        assert (record["status"], record["last_test_result"], record["last_error"]) == ("active", "success", None)

    async def test_the_catalogue_describes_config_and_operations(self, service: ConnectorService) -> None:
        described = await service.describe_type(self.kind)
        assert described["connector_type"] == self.family
        assert all(operation["description"] and operation["effect"] for operation in described["operations"])
        json.dumps(described)

    async def test_no_answer_holds_a_secret(self, service: ConnectorService, config: dict[str, Any]) -> None:
        connector_id = await self.connect(service, config)
        shown = json.dumps([await service.get(connector_id), await service.list(), await service.types()])
        secret = config.get("password")
        assert secret is None or secret not in shown

    async def test_a_hundred_calls_at_once_share_a_pool_of_four(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, pool_size=4)
        results = await asyncio.gather(*(service.execute_query(connector_id, self.one) for _ in range(100)))
        assert [result["row_count"] for result in results] == [1] * 100

    async def test_an_inactive_connector_does_nothing(self, service: ConnectorService, config: dict[str, Any]) -> None:
        connector_id = await self.connect(service, config)
        await service.update(connector_id, {"status": "inactive"})
        with pytest.raises(Inactive):
            await service.execute_query(connector_id, self.one)
        await service.update(connector_id, {"status": "active"})
        assert (await service.execute_query(connector_id, self.one))["row_count"] == 1

    async def test_a_deleted_connector_is_gone_for_the_next_call(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config)
        await service.attach_to_agent(connector_id, "agent-123", "it")
        await service.execute_query(agent_id="agent-123", alias="it", query=self.one)
        await service.delete(connector_id)
        with pytest.raises(NotFound):
            await service.execute_query(agent_id="agent-123", alias="it", query=self.one)

    async def test_a_name_is_taken_once(self, service: ConnectorService, config: dict[str, Any]) -> None:
        await self.connect(service, config)
        with pytest.raises(Conflict):
            await self.connect(service, config)
