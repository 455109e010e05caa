"""Replicas that are stopped, replaced and killed under load; a PostgreSQL that dies; an upstream that is dead."""

from __future__ import annotations

import asyncio
import random
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest
from tests.chaos.cluster import Cluster, Replica, Upstream
from tests.chaos.report import report

from studio.testing.faults import Fault, FaultProxy

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.server, pytest.mark.timeout(400)]
KILLS = 1
"""Of the short form, in each test that kills; CHAOS_SCALE=50 makes the 50 of the promise."""


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


async def test_kills_lose_nothing_and_repeat_nothing(cluster: Cluster, upstream: Upstream, scale: int) -> None:
    """Connectors are made under idempotency keys, each tried until it is answered, while replicas are killed."""
    prefix = secrets.token_hex(4)
    made: dict[str, str] = {}

    async def make(number: int) -> None:
        name = f"{prefix}-{number}"
        body = {"name": name, "connector_type": "api", "provider": "rest", "config": {"base_url": upstream.url}}
        made[name] = (await insistent(cluster, "POST", "connectors", body, Idempotency_Key=f"make-{name}"))["id"]

    async with load(make, clients=4) as answers:
        for _ in range(KILLS * scale):
            await asyncio.sleep(random.uniform(0.05, 0.4))
            await killed(random.choice(cluster.replicas))
    assert not [answer for answer in answers if isinstance(answer, BaseException)]
    rows = await asked(cluster, f"SELECT name, id FROM connectors WHERE name LIKE '{prefix}-%'")
    found = {row["name"]: row["id"] for row in rows}
    noted = await asked(
        cluster, "SELECT target, count(*) AS n FROM audit_log WHERE event = 'connector.create' GROUP BY 1"
    )
    creates = {row["target"]: row["n"] for row in noted}
    report.measured("lost", sum(found.get(name) != id_ for name, id_ in made.items()), of=len(made))
    report.measured("doubled", len(rows) - len(found) + sum(creates[id_] > 1 for id_ in found.values()), of=len(rows))
    report.measured("unrecorded", sum(id_ not in creates for id_ in found.values()), of=len(rows))
    assert made


async def test_no_effect_of_a_killed_replica_is_without_a_row(cluster: Cluster, upstream: Upstream, scale: int) -> None:
    connector = await cluster.connector(upstream.url)
    await cluster.attached(connector, "effects")

    async def post(number: int) -> None:
        body = {"query": f"POST /effects/{number}"}
        try:
            await cluster.call("POST", "agents/agent-1/connectors/effects/query", body)
        except aiohttp.ClientError:
            await asyncio.sleep(0.02)

    async with load(post, clients=4):
        for _ in range(KILLS * scale):
            await asyncio.sleep(random.uniform(0.1, 0.3))
            await killed(random.choice(cluster.replicas))
    [row] = await asked(
        cluster, f"SELECT count(*) AS n FROM audit_log WHERE connector_id = '{connector}' AND verdict = 'started'"
    )
    effects = sum(path.startswith("/effects/") for path in upstream.seen)
    report.measured("unrecorded", max(0, effects - row["n"]), of=effects)
    assert effects


async def test_postgresql_may_die_under_load(cluster: Cluster, upstream: Upstream, scale: int) -> None:
    connector = await cluster.connector(upstream.url)
    await cluster.attached(connector, "store")
    for _ in range(scale):
        async with load(lambda number: cluster.get("store", f"/store/{number}")) as answers:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(cluster.postgres.crash)
            await asyncio.sleep(2)
            await asyncio.to_thread(cluster.postgres.launch)
            back = time.monotonic()
            await asyncio.gather(*(healthy(cluster, replica) for replica in cluster.replicas))
            report.measured("healthy", time.monotonic() - back, of=len(cluster.replicas))
            at = len(answers)
            await asyncio.sleep(0.5)
        wrong = [one for one in answers if isinstance(one, BaseException) or (one[0] != 200 and one[0] < 500)]
        wrong += [one for one in answers[at + 16 :] if one not in wrong and one[0] != 200]
        report.measured("wrong", len(wrong), of=len(answers))
        assert not wrong, wrong[:3]


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


@asynccontextmanager
async def load(call: Callable[[int], Awaitable[Any]], *, clients: int = 8) -> AsyncIterator[list[Any]]:
    """Calls one after the other by some clients until the block ends; all answers and exceptions."""
    answers: list[Any] = []
    over = asyncio.Event()

    async def work(client: int) -> None:
        number = client
        while not over.is_set():
            try:
                answers.append(await call(number))
            except Exception as exc:
                answers.append(exc)
            number += clients
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(work(client)) for client in range(clients)]
    try:
        yield answers
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def insistent(cluster: Cluster, method: str, path: str, body: Any, **headers: str) -> Any:
    """Ask any replica until one answers for good, as a client with an idempotency key may."""
    async with asyncio.timeout(60):
        while True:
            try:
                status, answer = await cluster.call(method, path, body, **headers)
            except aiohttp.ClientError:
                status, answer = 0, None
            if 200 <= status < 300:
                return answer
            assert status in {0, 409, 503}, (status, answer)
            await asyncio.sleep(0.05)


async def killed(replica: Replica) -> None:
    await replica.stop(signal.SIGKILL)
    await replica.start()


async def asked(cluster: Cluster, statement: str) -> list[Any]:
    admin = await cluster.postgres.admin(cluster.database)
    try:
        return list(await admin.fetch(statement))
    finally:
        await admin.close()


async def healthy(cluster: Cluster, replica: Replica) -> None:
    async with asyncio.timeout(30):
        while True:
            async with cluster.session.get(replica.url + "/readyz") as answer:
                if answer.status == 200 and (await cluster.get("store", "/store", replica=replica))[0] == 200:
                    return
            await asyncio.sleep(0.02)


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
