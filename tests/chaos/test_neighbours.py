"""What one tenant or one upstream does to the others: nothing that they would notice."""

from __future__ import annotations

import random
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
"""Clients of each organization."""


async def test_ten_times_the_share_leaves_the_others_alone(cluster: Cluster) -> None:
    settings = cluster.settings()
    settings.files_root.mkdir(parents=True, exist_ok=True)
    sqlite3.connect(settings.files_root / "shared.db").close()
    keys = []
    async with ConnectorService(settings) as service:
        for number in range(ORGANIZATIONS):
            whose = {"organization_id": f"tenant-{number}"}
            made = await service.create(
                {**whose, "name": "shared", "connector_type": "database", "provider": "sqlite", "created_by": "test",
                 "config": {"path": "shared.db", "pool_size": 64}}
            )
            await service.attach_to_agent(made["id"], "agent-1", "shared")
            keys.append((await service.create_key({**whose, "name": "agent", "agent_id": "agent-1"}))["key"])

    def ask(line: Line):
        return line.query("shared", "SELECT 1")

    async with AsyncExitStack() as stack:
        async def lines(key: str, count: int) -> list[Line]:
            return [await stack.enter_async_context(Line(cluster.replicas[0].port, key)) for _ in range(count)]

        greedy = await lines(keys[0], 10 * SHARE)
        others = [line for key in keys[1:] for line in await lines(key, SHARE)]

        @asynccontextmanager
        async def side(disturbed: bool) -> AsyncIterator[None]:
            async with busy(greedy if disturbed else greedy[:SHARE], ask) as answers:
                yield
            print(disturbed, "greedy", len(answers), {s for s, _ in answers})

        found = await paired(8, side, lambda: busy(others, ask), seconds=1, quantiles=(0.5, 0.99))
        for pairs in found:
            print(pairs.ratio(), [f"{a*1000:.1f}/{b*1000:.1f}" for a, b in zip(pairs.without, pairs.beside)])
