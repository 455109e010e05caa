"""What one tenant or one upstream does to the others: nothing that they would notice."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from tests.chaos.cluster import Cluster
from tests.chaos.report import report
from tests.chaos.rounds import Line, busy, paired

from studio.services.connector_service import ConnectorService

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.server, pytest.mark.timeout(400)]
ORGANIZATIONS = 5
SHARE = 2
"""Clients of each organization; together they keep one process busy."""
ROUNDS = 7


async def test_ten_times_the_share_leaves_the_others_alone(cluster: Cluster, scale: int) -> None:
    """Round by round one of several organizations has as many clients as the others, or ten times as many."""
    keys = await tenants(cluster)
    async with AsyncExitStack() as stack:

        async def lines(key: str, count: int) -> list[Line]:
            port = cluster.replicas[0].port
            return [await stack.enter_async_context(Line(port, key)) for _ in range(count)]

        greedy = await lines(keys[0], 10 * SHARE)
        others = [line for key in keys[1:] for line in await lines(key, SHARE)]
        for line in [*greedy, *others]:
            await ask(line)
        asked = 0

        @asynccontextmanager
        async def side(disturbed: bool) -> AsyncIterator[None]:
            nonlocal asked
            async with busy(greedy if disturbed else greedy[:SHARE], ask) as answers:
                yield
            asked += len(answers)

        middle, slowest = await paired(
            ROUNDS * scale, side, lambda: busy(others, ask), seconds=0.5, quantiles=(0.5, 0.99)
        )
    report.measured("share", middle.ratio(), of=asked)
    report.measured("share_p99", slowest.ratio(), of=asked)


async def ask(line: Line) -> tuple[int, float]:
    return await line.query("shared", "SELECT 1")


async def tenants(cluster: Cluster) -> list[str]:
    """Organizations that have a connector of the same kind each; the keys of their agents."""
    settings, keys = cluster.settings(), []
    settings.files_root.mkdir(parents=True, exist_ok=True)
    sqlite3.connect(settings.files_root / "shared.db").close()
    async with ConnectorService(settings) as service:
        for number in range(ORGANIZATIONS):
            whose = {"organization_id": f"tenant-{number}"}
            made = await service.create(
                {
                    **whose, "name": "shared", "connector_type": "database", "provider": "sqlite",
                    "config": {"path": "shared.db", "pool_size": 16}, "created_by": "test",
                }
            )  # fmt: skip
            await service.attach_to_agent(made["id"], "agent-1", "shared")
            keys.append((await service.create_key({**whose, "name": "agent", "agent_id": "agent-1"}))["key"])
    return keys
