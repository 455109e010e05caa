"""What was taken away on one replica is gone on all, from the answer on."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass
from typing import Any

import pytest
from tests.chaos.cluster import Cluster, Replica, Upstream
from tests.chaos.report import report

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.server]
EACH = 250
"""Operations begun after each revocation; eight kinds make the 2,000 of the promise."""
AT_ONCE = 25
RUNNING = 6
"""Operations that run on each replica when the authority is taken away."""
KINDS = ("detach", "disable", "delete", "read_only", "key", "role", "effects", "aliases")


@pytest.mark.timeout(300)
async def test_no_operation_begun_after_a_revocation_was_answered_runs(
    cluster: Cluster, upstream: Upstream, scale: int
) -> None:
    for round_ in range(scale):
        for kind in KINDS:
            given = await Given.made(cluster, upstream, f"{kind}{round_}", kind)
            for replica in cluster.replicas:  # each has an open session and has seen the key
                assert (await given.call("/before", replica=replica))[0] == 200
            await given.taken_away()
            await refused_all(given, f"/after/{given.alias}")
            ran = sum(path.startswith(f"/after/{given.alias}") for path in upstream.seen)
            report.measured("revoked", ran, of=EACH)
            assert ran == 0
    assert upstream.seen.count("/before") == 3 * len(KINDS) * scale


@pytest.mark.timeout(300)
async def test_running_operations_end_soon_after_a_revocation(cluster: Cluster, upstream: Upstream, scale: int) -> None:
    took: list[float] = []
    for round_ in range(scale):
        for kind in KINDS:
            took += await ends(cluster, upstream, kind, f"run-{kind}{round_}")
    took.sort()
    report.measured("ended", took[-1] * 1000, of=len(took))
    report.measured("p99", took[math.ceil(0.99 * len(took)) - 1] * 1000, of=len(took))


@pytest.mark.timeout(300)
async def test_they_end_where_the_announcement_is_lost(cluster: Cluster, upstream: Upstream, scale: int) -> None:
    took: list[float] = []
    for round_ in range(scale):
        took += await ends(cluster, upstream, "detach", f"cut{round_}", cut=True)
    report.measured("unnotified", max(took) * 1000, of=len(took))


async def ends(cluster: Cluster, upstream: Upstream, kind: str, alias: str, *, cut: bool = False) -> list[float]:
    """How long after the answer each operation that ran on any replica was over at the upstream, seconds."""
    given = await Given.made(cluster, upstream, alias, kind)
    paths = [f"/slow/{alias}/{number}" for number in range(RUNNING * len(cluster.replicas))]
    running = [asyncio.create_task(given.call(path)) for path in paths]
    other = await Given.made(cluster, upstream, f"{alias}-stays", kind)
    stays = asyncio.create_task(other.call(f"/slow/{other.alias}"))
    await upstream.runs(len(paths) + 1)
    if cut:
        await unheard(cluster)
    await given.taken_away()
    answered = time.monotonic()
    for task in asyncio.as_completed(running):
        status, problem = await task
        assert (status, problem["code"]) == (403, "forbidden")
    await upstream.runs(1)
    assert upstream.running == {f"/slow/{other.alias}"}
    upstream.go.set()
    assert (await stays)[0] == 200
    upstream.go.clear()
    return [max(0.0, upstream.ended[path] - answered) for path in paths]


async def unheard(cluster: Cluster) -> None:
    """Cut every listener's connection."""
    admin = await cluster.postgres.admin(cluster.database)
    cut = await admin.fetch("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%'")
    await admin.close()
    assert len(cut) == len(cluster.replicas)


@dataclass
class Given:
    """What lets agent-1 use an upstream: a connector, an attachment, a key."""

    cluster: Cluster
    kind: str
    """How it will be taken away."""
    alias: str
    connector: str
    instance: str
    key_id: str
    key: str

    @classmethod
    async def made(cls, cluster: Cluster, upstream: Upstream, alias: str, kind: str) -> Given:
        connector = await cluster.connector(upstream.url)
        instance = await cluster.attached(connector, alias)
        body: dict[str, Any] = {"name": kind}
        body |= {"role": "developer"} if kind == "role" else {"agent_id": "agent-1", "aliases": [alias, "another"]}
        key = await cluster.made("POST", "keys", body)
        return cls(cluster, kind, alias, connector, instance, key["id"], key["key"])

    async def call(self, path: str, replica: Replica | None = None) -> tuple[int, Any]:
        """A read; an effect where that is what is taken away."""
        verb = "POST" if self.kind in {"effects", "read_only"} else "GET"
        body = {"query": f"{verb} {path}"}
        where = f"agents/agent-1/connectors/{self.alias}/query"
        return await self.cluster.call("POST", where, body, replica=replica, key=self.key)

    async def taken_away(self) -> None:
        kind, made, path = self.kind, self.cluster.made, f"connectors/{self.connector}"
        if kind == "detach":
            await made("DELETE", f"connectors/instances/{self.instance}")
        elif kind == "disable":
            await made("PUT", path, {"status": "inactive"})
        elif kind == "delete":
            preview = await made("DELETE", path + "?dry_run=true")
            await made("DELETE", f"{path}?confirm={preview['confirm']}")
        elif kind == "read_only":
            await made("PUT", path, {"config": {"read_only": True}})
        elif kind == "key":
            await made("DELETE", f"keys/{self.key_id}")
        else:
            less = {"role": "member", "effects": ["read"], "aliases": ["another"]}
            await made("PUT", f"keys/{self.key_id}", {kind: less[kind]})


async def refused_all(given: Given, path: str) -> None:
    left = iter(range(EACH))

    async def one_after_the_other() -> None:
        for number in left:
            status, answer = await given.call(f"{path}/{number}")
            assert status in {401, 403, 404, 409}, (status, answer)

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
