"""A running operation ends where its authority is taken away, over whichever surface it runs."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

import aiohttp
import pytest
from tests.chaos.cluster import Cluster, Upstream
from tests.chaos.report import report
from tests.servers import Postgres

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.server, pytest.mark.timeout(300)]
EACH = 3
"""Operations of each form on each replica."""
FORMS = {"ndjson": "application/x-ndjson", "arrow": "application/vnd.apache.arrow.stream"}
ROWS = "SELECT i, CASE WHEN i > 5000 THEN pg_sleep(0.02)::text END AS t FROM generate_series(1, 1000000) AS i"


async def test_calls_of_mcp_end(cluster: Cluster, upstream: Upstream, scale: int) -> None:
    for round_ in range(scale):
        alias = f"mcp{round_}"
        connector = await cluster.connector(upstream.url)
        await cluster.attached(connector, alias)
        key = await cluster.made("POST", "keys", {"name": "agent", "agent_id": "agent-1"})
        paths = [f"/slow/{alias}/{number}" for number in range(EACH * len(cluster.replicas))]
        running = [asyncio.create_task(called(cluster, at, alias, path, key["key"])) for at, path in enumerate(paths)]
        await upstream.runs(len(paths))
        await cluster.made("PUT", f"connectors/{connector}", {"status": "inactive"})
        answered = time.monotonic()
        for text in await asyncio.gather(*running):
            assert "taken away" in text
        await upstream.runs(0)
        measured([upstream.ended[path] - answered for path in paths])


async def test_streams_end(cluster: Cluster, own_postgres: Postgres, scale: int) -> None:
    config = own_postgres.config(max_rows=1_000_000, max_bytes=1 << 30, timeout_s=60, pool_size=16)
    for round_ in range(scale):
        body = {"name": f"rows{round_}", "connector_type": "database", "provider": "postgresql", "config": config}
        connector = str((await cluster.made("POST", "connectors", body))["id"])
        for form in FORMS:
            instance = await cluster.attached(connector, f"{form}{round_}")
            streams = [Stream(cluster, at, f"{form}{round_}", form) for at in range(EACH * len(cluster.replicas))]
            async with asyncio.TaskGroup() as group:
                for stream in streams:
                    group.create_task(stream.read())
                async with asyncio.timeout(30):
                    await asyncio.gather(*(stream.begun.wait() for stream in streams))
                await cluster.made("DELETE", f"connectors/instances/{instance}")
                answered = time.monotonic()
            assert all(stream.told() for stream in streams)
            measured([stream.ended - answered for stream in streams])


def measured(took: list[float]) -> None:
    """Note when each ended, seconds from the answer."""
    took.sort()
    report.measured("ended", max(0.0, took[-1]) * 1000, of=len(took))
    report.measured("p99", max(0.0, took[math.ceil(0.99 * len(took)) - 1]) * 1000, of=len(took))


async def called(cluster: Cluster, at: int, alias: str, path: str, key: str) -> str:
    """One call of a tool; the answer's text."""
    arguments = {"alias": alias, "query": f"GET {path}"}
    params = {"name": "run", "arguments": arguments}
    sent = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    headers = {
        "authorization": f"Bearer {key}", "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-11-25",
    }  # fmt: skip
    url = cluster.replicas[at % len(cluster.replicas)].url + "/mcp"
    async with cluster.session.post(url, json=sent, headers=headers) as answer:
        return await answer.text()


class Stream:
    """A client of one stream."""

    def __init__(self, cluster: Cluster, at: int, alias: str, form: str) -> None:
        self._cluster, self._form = cluster, form
        replica = cluster.replicas[at % len(cluster.replicas)]
        self._url = f"{replica.url}/api/v1/agents/agent-1/connectors/{alias}/query"
        self.begun = asyncio.Event()
        self.ended = 0.0
        self._body = b""
        self._cut = False

    async def read(self) -> None:
        """Take the rows until the end, however it comes."""
        headers = {"authorization": f"Bearer {self._cluster.key}", "accept": FORMS[self._form]}
        body: dict[str, Any] = {"query": ROWS}
        async with self._cluster.session.post(self._url, json=body, headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            try:
                async for chunk in answer.content.iter_any():
                    self._body = (self._body + chunk)[-1000:]
                    self.begun.set()
            except aiohttp.ClientPayloadError:
                self._cut = True
        self.ended = time.monotonic()

    def told(self) -> bool:
        """Whether the end says why, or the answer at least is incomplete."""
        return self._cut if self._form == "arrow" else b"taken away" in self._body
