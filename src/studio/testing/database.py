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
from typing import Any, ClassVar

import pytest

from studio.errors import StudioError, Timeout, Unreachable
from studio.services.connector_service import ConnectorService
from studio.testing.harness import says_who_enforces
from studio.testing.provider import ProviderConformance


class DatabaseConformance(ProviderConformance):
    """What every database provider does, whatever its language. `SqlConformance` adds the SQL verbs."""

    family = "database"
    slow: ClassVar[str]
    """A query that would run for a minute or more."""
    broken: ClassVar[str]
    """A query that the upstream refuses as malformed."""

    # -- the main job ---------------------------------------------------------------------------

    async def test_a_test_names_its_stages_and_says_who_enforces_read_only(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        tested = await service.test_connection(await self.connect(service, config))
        assert all(stage["ok"] and stage["ms"] >= 0 for stage in tested["stages"])
        assert [stage["name"] for stage in tested["stages"]][-2:] == ["privileges", "sample"]
        says_who_enforces(tested)

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
