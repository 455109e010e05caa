"""Replicas that are stopped and replaced under load; a PostgreSQL that dies; an upstream that is dead."""

from __future__ import annotations

import asyncio

import pytest
from tests.chaos.clients import load
from tests.chaos.cluster import Cluster, Upstream
from tests.chaos.report import report

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
