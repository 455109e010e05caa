"""PostgreSQL is away for a while: stopped, cut off, or silent, while clients read, change things and cause effects."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from tests.chaos.cluster import Cluster, Replica, Upstream, serving
from tests.chaos.report import report
from tests.chaos.scale import SCALE
from tests.chaos.work import Work

from studio.testing.faults import Fault, FaultProxy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.server, pytest.mark.timeout(300)]
AWAY_S = 5.0
Change = Callable[[], Awaitable[Any]]
ENDS = [signal.SIGKILL, signal.SIGINT][:SCALE]
FAULTS = [Fault.BLACK_HOLE, Fault.RESET][:SCALE]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proxied(
    cluster: Cluster, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Cluster, FaultProxy]]:
    """Two replicas that reach the same PostgreSQL through a fault proxy, with a database of their own."""
    server = cluster.postgres
    async with (
        FaultProxy(server.host, server.port) as proxy,
        serving(server, tmp_path_factory.mktemp("proxied"), replicas=2, port=proxy.port) as made,
    ):
        yield made, proxy


@pytest.mark.parametrize("how", ENDS)
async def test_postgresql_that_ended_comes_back(cluster: Cluster, upstream: Upstream, how: signal.Signals) -> None:
    await away(
        cluster,
        upstream,
        lambda: asyncio.to_thread(cluster.postgres.stop, how),
        lambda: asyncio.to_thread(cluster.postgres.launch),
    )


@pytest.mark.parametrize("fault", FAULTS, ids=[fault.name.lower() for fault in FAULTS])
async def test_postgresql_that_was_cut_off_comes_back(
    proxied: tuple[Cluster, FaultProxy], upstream: Upstream, fault: Fault
) -> None:
    cluster, proxy = proxied
    await away(cluster, upstream, lambda: proxy.inject(fault), lambda: proxy.inject(Fault.NONE))


async def away(cluster: Cluster, upstream: Upstream, go: Change, back: Change) -> None:
    """Take it away for a while; judge every answer, and when all replicas are well again."""
    work = await Work.made(cluster, upstream)
    async with work.under_way(work.read):
        await asyncio.sleep(0.5)
        before = max([await all_healthy(cluster, work) for _ in range(3)])
        await go()
        await asyncio.sleep(AWAY_S)
        await back()
        # What the same look took before is the machine's share, and this load's.
        report.measured("healthy", max(0.0, await all_healthy(cluster, work) - before), of=len(cluster.replicas))
        work.well = True
        await asyncio.sleep(0.5)
    report.measured("wrong", len(work.wrong), of=work.answers)
    await work.judged()
    assert not work.wrong, work.wrong[:3]


async def all_healthy(cluster: Cluster, work: Work) -> float:
    """How long that takes, seconds."""
    begun = time.monotonic()
    await asyncio.gather(*(healthy(cluster, replica, work) for replica in cluster.replicas))
    return time.monotonic() - begun


async def healthy(cluster: Cluster, replica: Replica, work: Work) -> None:
    """Wait until a replica says so, reads and writes. Raises TimeoutError after 30 s."""
    async with asyncio.timeout(30):
        while True:
            async with cluster.session.get(replica.url + "/readyz") as answer:
                ready = answer.status == 200
            read, _ = await cluster.call("POST", work.query, {"query": "GET /healthy"}, replica=replica)
            wrote, _ = await cluster.call("POST", "keys", {"name": "healthy", "role": "member"}, replica=replica)
            if (ready, read, wrote) == (True, 200, 201):
                return
            await asyncio.sleep(0.02)
