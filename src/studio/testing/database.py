"""Conformance of the database family. Inherit, say how to reach a real server, and run with pytest.

    class TestMyDatabase(SqlConformance, ServerConformance):     # SqlConformance: see `studio.testing.sql`
        kind = "mydatabase"

        @pytest.fixture
        async def config(self, my_server):          # a database of its own for each test
            return {"host": …, "username": …, "password": …}

Everything goes through `ConnectorService`, as a caller would. Needs pytest and pytest-asyncio
(`asyncio_mode = "auto"`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from studio.errors import Conflict, Inactive, NotFound, StudioError, Timeout, Unreachable
from studio.services.connector_service import ConnectorService
from studio.settings import Settings


class DatabaseConformance:
    """What every database provider does, whatever its language. `SqlConformance` adds the SQL verbs."""

    kind: ClassVar[str]
    one: ClassVar[str]
    """A query that answers one row."""
    slow: ClassVar[str]
    """A query that would run for a minute or more."""
    broken: ClassVar[str]
    """A query that the upstream refuses as malformed."""

    @pytest.fixture
    async def config(self) -> dict[str, Any]:
        """How to reach a server that the test may write to. To be overridden."""
        raise NotImplementedError

    @pytest.fixture
    async def service(self, tmp_path: Path) -> AsyncIterator[ConnectorService]:
        """A service on an empty embedded store; afterwards nothing may be left open."""
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
                "connector_type": "database",
                "provider": self.kind,
                "config": {**config, **more},
            }
        )
        return str(made["id"])

    # -- the main job ---------------------------------------------------------------------------

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

    async def test_a_test_names_its_stages_and_says_who_enforces_read_only(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        tested = await service.test_connection(await self.connect(service, config))
        assert all(stage["ok"] and stage["ms"] >= 0 for stage in tested["stages"])
        assert [stage["name"] for stage in tested["stages"]][-2:] == ["privileges", "sample"]
        assert tested["privileges"]["enforced_by"] in {"account", "service"}

    async def test_the_catalogue_describes_config_and_operations(self, service: ConnectorService) -> None:
        described = await service.describe_type(self.kind)
        assert described["connector_type"] == "database"
        assert all(operation["description"] and operation["effect"] for operation in described["operations"])
        json.dumps(described)

    async def test_no_answer_holds_a_secret(self, service: ConnectorService, config: dict[str, Any]) -> None:
        connector_id = await self.connect(service, config)
        shown = json.dumps([await service.get(connector_id), await service.list(), await service.types()])
        secret = config.get("password")
        assert secret is None or secret not in shown

    # -- faults ---------------------------------------------------------------------------------

    async def test_what_the_upstream_refuses_is_an_error_that_says_why(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config)
        with pytest.raises(StudioError) as caught:
            await service.execute_query(connector_id, self.broken)
        assert caught.value.code in {"upstream_error", "invalid_request"}
        assert len(caught.value.message) > 10

    async def test_the_deadline_ends_a_slow_operation_and_the_next_one_works(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, timeout_s=0.5)
        await service.execute_query(connector_id, self.one)
        start = time.perf_counter()
        with pytest.raises(Timeout):
            await service.execute_query(connector_id, self.slow)
        assert time.perf_counter() - start < 1.5
        assert (await service.execute_query(connector_id, self.one))["row_count"] == 1

    async def test_a_cancelled_call_leaves_a_usable_connector(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, pool_size=1)
        await service.execute_query(connector_id, self.one)
        task = asyncio.create_task(service.execute_query(connector_id, self.slow))
        await asyncio.sleep(0.2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await service.execute_query(connector_id, self.one))["row_count"] == 1

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


class ServerConformance(DatabaseConformance):
    """For providers that reach a server over the network, by `host` and `port`."""

    async def test_a_closed_port_is_unreachable_at_once(
        self, service: ConnectorService, config: dict[str, Any], unused_tcp_port: int
    ) -> None:
        connector_id = await self.connect(service, config, port=unused_tcp_port)
        start = time.perf_counter()
        with pytest.raises(Unreachable):
            await service.execute_query(connector_id, self.one)
        assert time.perf_counter() - start < 2
        tested = await service.test_connection(connector_id)
        failed = [stage for stage in tested["stages"] if not stage["ok"]]
        assert (tested["success"], tested["code"]) == (False, "unreachable")
        assert failed[0]["name"] == "connect"
        assert failed[0]["fix"]
        assert (await service.get(connector_id))["status"] == "error"

    async def test_a_server_that_never_answers_costs_the_connect_timeout_and_no_more(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        async def swallow(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                await asyncio.sleep(30)
            finally:
                writer.close()

        server = await asyncio.start_server(swallow, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        connector_id = await self.connect(service, config, port=port, connect_timeout_s=0.5)
        start = time.perf_counter()
        with pytest.raises(StudioError) as caught:
            await service.execute_query(connector_id, self.one)
        assert caught.value.code in {"unreachable", "timeout"}
        assert time.perf_counter() - start < 3
        server.close()

    async def test_a_wrong_password_is_auth_failed_and_no_answer_repeats_it(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        wrong = 'wr0ng#@/:%" pässword'
        connector_id = await self.connect(service, config, password=wrong)
        tested = await service.test_connection(connector_id)
        assert (tested["success"], tested["code"]) == (False, "auth_failed")
        assert wrong not in json.dumps(tested, ensure_ascii=False)
        assert wrong not in json.dumps(await service.get(connector_id), ensure_ascii=False)

    async def test_a_new_password_keeps_the_rest_of_the_config(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, {**config, "password": "wrong"})
        before = (await service.get(connector_id))["config"]
        after = await service.update(connector_id, {"config": {"password": config["password"]}})
        assert after["config"] == before
        assert (await service.test_connection(connector_id))["success"]
