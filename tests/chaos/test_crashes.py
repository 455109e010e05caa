"""Replicas that are stopped and replaced under load; a PostgreSQL that dies; an upstream that is dead."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.chaos.clients import load
from tests.chaos.cluster import Cluster, Upstream
from tests.chaos.report import report

from studio.testing.faults import Fault, FaultProxy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.server, pytest.mark.timeout(400)]


async def test_sigterm_answers_what_was_accepted(cluster: Cluster, upstream: Upstream) -> None:
    connector = await cluster.connector(upstream.url)
    await cluster.attached(connector, "drain")
    replica, paths = cluster.replicas[0], [f"/slow/drain/{number}" for number in range(40)]
    running = [asyncio.create_task(cluster.get("drain", path, replica=replica)) for path in paths]
    await upstream.runs(len(paths))
    stopping = asyncio.create_task(replica.stop())
    await asyncio.sleep(0.5)
    assert not stopping.done()
    upstream.go.set()
    answers = await asyncio.gather(*running, return_exceptions=True)
    took = await stopping
    lost = sum(isinstance(answer, BaseException) or answer[0] != 200 for answer in answers)
    report.measured("drained", lost, of=len(paths))
    report.measured("exit", took, of=1)
    await replica.start()
    assert (lost, replica.process.poll()) == (0, None)


async def test_sigterm_does_not_wait_for_ever(cluster: Cluster, upstream: Upstream) -> None:
    connector = await cluster.connector(upstream.url)
    await cluster.attached(connector, "stuck")
    replica = cluster.replicas[0]
    running = asyncio.create_task(cluster.get("stuck", "/slow/stuck", replica=replica))
    await upstream.runs(1)
    report.measured("exit", await replica.stop(), of=1)
    await asyncio.gather(running, return_exceptions=True)
    await replica.start()


async def test_replicas_are_replaced_under_load_and_no_client_sees_an_error(
    cluster: Cluster, upstream: Upstream, scale: int
) -> None:
    connector = await cluster.connector(upstream.url)
    await cluster.attached(connector, "rolling")
    async with load(
        lambda number: cluster.patient(
            "POST", "agents/agent-1/connectors/rolling/query", {"query": f"GET /rolling/{number}"}
        )
    ) as answers:
        for _ in range(scale):
            for replica in cluster.replicas:
                report.measured("exit", await replica.stop(), of=1)
                await replica.start()
    bad = [answer for answer in answers if isinstance(answer, BaseException) or answer[0] != 200]
    report.measured("rolling", len(bad), of=len(answers))
    assert not bad, bad[:3]


async def test_a_dead_upstream_does_not_slow_the_others(cluster: Cluster, upstream: Upstream) -> None:
    await cluster.attached(await cluster.connector(upstream.url), "alive")
    async with FaultProxy("127.0.0.1", upstream.port) as proxy:
        dead = await cluster.connector(f"http://127.0.0.1:{proxy.port}", timeout_s=60)
        await cluster.attached(dead, "dead")
        assert (await cluster.get("dead", "/dead"))[0] == 200
        before = await p99(cluster)
        await proxy.inject(Fault.BLACK_HOLE)
        waiting = [asyncio.create_task(cluster.get("dead", "/dead")) for _ in range(60)]
        await asyncio.sleep(0.2)
        beside = await p99(cluster)
        assert not any(task.done() for task in waiting)
        await proxy.inject(Fault.NONE)
        assert {status for status, _ in await asyncio.gather(*waiting)} == {200}
    report.measured("bystanders", max(0.0, beside - before) * 1000, of=600)


# -- parts ------------------------------------------------------------------------------------------


async def p99(cluster: Cluster) -> float:
    """Of 600 calls by six clients, seconds."""
    took: list[float] = []

    async def work() -> None:
        for _ in range(100):
            begun = time.monotonic()
            assert (await cluster.get("alive", "/alive"))[0] == 200
            took.append(time.monotonic() - begun)

    await asyncio.gather(*(work() for _ in range(6)))
    return sorted(took)[int(0.99 * len(took))]
