"""What one tenant or one upstream does to the others: nothing that they would notice."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Self, cast

import pytest
from tests.chaos.cluster import Cluster
from tests.chaos.report import report
from tests.chaos.rounds import Line, busy, paired
from tests.chaos.scale import SCALE

from studio.services.connector_service import ConnectorService
from studio.testing.faults import Fault, FaultProxy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.server, pytest.mark.timeout(400)]
ORGANIZATIONS = 5
SHARE = 2
"""Clients of each organization; together they keep one process busy."""
ROUNDS = 7
LIVE = 2
"""Clients of the connectors that are well."""
DEAD = 60
"""Calls that wait for dead upstreams."""
SETTLES_S = 0.7
"""That many calls at one time are work like any other, until all of them wait."""


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


@pytest.fixture
async def dead() -> AsyncIterator[tuple[FaultProxy, int]]:
    """An upstream that takes connections and never answers, and a port that does not even take them."""
    async with FaultProxy("127.0.0.1", 1, fault=Fault.BLACK_HOLE) as proxy:
        with socket.socket() as silent, contextlib.ExitStack() as stack:
            silent.bind(("127.0.0.1", 0))
            silent.listen(0)
            for _ in range(8):  # its queue is full: further packets are dropped
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(silent.getsockname())
            yield proxy, silent.getsockname()[1]


async def dead_upstreams_do_not_slow_the_others(cluster: Cluster, dead: tuple[FaultProxy, int], scale: int) -> None:
    """Round by round there are calls of two dead upstreams that wait, or none."""
    proxy, silent = dead
    count = 100 * min(scale, 10)
    async with Lean() as lean, AsyncExitStack() as stack:
        key = await registered(cluster, lean.port, count, mute=proxy.port, silent=silent)
        port = cluster.replicas[0].port
        alive = [await stack.enter_async_context(Line(port, key)) for _ in range(LIVE)]

        async def wait_for(alias: str) -> int:
            async with Line(port, key) as line:
                return (await line.query(alias, "GET /"))[0]

        async def live(line: Line) -> tuple[int, float]:
            return await line.query(f"many-{random.randrange(count)}", "GET /")

        for number in range(count):
            await alive[0].query(f"many-{number}", "GET /")

        @asynccontextmanager
        async def side(disturbed: bool) -> AsyncIterator[None]:
            if not disturbed:
                yield
                return
            tasks = [asyncio.create_task(wait_for(("mute", "silent")[at % 2])) for at in range(DEAD)]
            await asyncio.sleep(SETTLES_S)
            yield
            assert not any(task.done() for task in tasks)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        middle, slowest = await paired(
            (ROUNDS + 2) * scale, side, lambda: busy(alive, live), seconds=0.4, quantiles=(0.5, 0.99)
        )
    for name, pairs in (("bystanders", slowest), ("bystanders_p50", middle)):
        surely = pairs.surely()
        report.measured(name, 1000 * surely if surely > 0.1 * pairs.usual() else 0, of=count)


if SCALE > 1:  # it takes minutes on a machine that is busy
    test_a_dead_upstream_among_many_does_not_slow_the_others = dead_upstreams_do_not_slow_the_others


async def registered(cluster: Cluster, port: int, count: int, *, mute: int, silent: int) -> str:
    """So many connectors of one upstream and two of dead ones, attached to an agent; its key."""
    whose = {"organization_id": "many"}
    left = iter([*((f"many-{number}", port) for number in range(count)), ("mute", mute), ("silent", silent)])
    async with ConnectorService(cluster.settings()) as service:

        async def some() -> None:
            for name, at in left:
                config = {"base_url": f"http://127.0.0.1:{at}", "pool_size": 64, "connect_timeout_s": 2}
                made = await service.create(
                    {
                        **whose, "name": name, "connector_type": "api", "provider": "rest", "config": config,
                        "created_by": "test",
                    }
                )  # fmt: skip
                await service.attach_to_agent(made["id"], "agent-1", name)

        await asyncio.gather(*(some() for _ in range(8)))
        made = await service.create_key({**whose, "name": "agent", "agent_id": "agent-1"})
    return str(made["key"])


class Lean(asyncio.Protocol):
    """An HTTP upstream that costs next to nothing: one answer for everything."""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.get_running_loop().create_server(Lean, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self._server.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if not data.endswith(b"\r\n\r\n"):  # the rest of the head, or a body, comes on its own
            return
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")


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
