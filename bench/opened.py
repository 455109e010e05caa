"""The memory of a server with a million connectors registered and a thousand of them open."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers import Postgres

from bench.peers.contenders import rss_mib
from bench.scale import LARGE, ORGANIZATION, connector_id, first_answer, seed, serving
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

OPEN = 1_000
GOAL_MIB = 600
CALLERS = 16


class Roomy(Postgres):
    """With room for a session of each connector."""

    def command(self) -> list[str]:
        """As usual but for the limit."""
        return [*super().command(), "-c", f"max_connections={OPEN + 100}"]


def run(large: int = LARGE) -> list[tuple[str, str, list[list[str]]]]:
    """One table: the server alone, with the store, and with open connectors."""
    lines = [["registered", "open", "memory, MiB", "for each open one, KiB", "first answer or opening, s", "goal"]]
    server = Roomy()
    try:
        server.start()
        for count in (10_000, large):
            with tempfile.TemporaryDirectory() as name:
                print(f"opened: {count:,} connectors …", file=sys.stderr, flush=True)
                lines += _with(server, Path(name), count)
    finally:
        server.close()
    text = (
        f"`studio serve`, one process, SQLite as the store; resident memory. Each open connector has answered a query "
        f"on a PostgreSQL session of its own, {CALLERS} callers at once. The goal is for 10,000 registered."
    )
    return [("Memory with connectors registered and open", text, lines)]


def _with(server: Postgres, folder: Path, count: int) -> list[list[str]]:
    settings = Settings(data_dir=folder)
    upstream = {
        "host": server.host, "port": server.port, "database": server.database, "username": server.user,
        "password": server.password, "ssl": False,
    }  # fmt: skip
    key, chosen = asyncio.run(_seeded(settings, count, upstream))
    seconds, idle = first_answer(folder, None)
    more = {"STUDIO_MAX_SESSIONS": str(2 * OPEN), "STUDIO_ORGANIZATION_RATE_LIMIT_PER_S": "1000000",
            "STUDIO_RATE_LIMIT_PER_S": "1000000", "STUDIO_HEALTH_INTERVAL_S": "0"}  # fmt: skip
    with serving(folder, more) as (process, url):
        before = rss_mib(process.pid)
        start = time.perf_counter()
        with ThreadPoolExecutor(CALLERS) as pool:
            list(pool.map(_query(url, key), chosen))
        took, after = time.perf_counter() - start, rss_mib(process.pid)
    goal = "" if count != 10_000 else f"≤ {GOAL_MIB} MiB: {'reached' if after <= GOAL_MIB else '**missed**'}"
    return [
        [f"{count:,}", "0", f"{idle:.0f}", "", f"{seconds:.2f}", ""],
        [f"{count:,}", f"{OPEN:,}", f"{after:.0f}", f"{(after - before) * 1024 / OPEN:.0f}", f"{took:.1f}", goal],
    ]


async def _seeded(settings: Settings, count: int, upstream: dict[str, object]) -> tuple[str, list[str]]:
    """A key that may query, and the connectors to open: every second one of those that have configs of their own."""
    async with ConnectorService(settings) as service:
        first = await seed(service, count, upstream, real=2 * OPEN)
        made = await service.create_key({"organization_id": ORGANIZATION, "name": "bench", "role": "developer"})
    return str(made["key"]), [connector_id(first + number) for number in range(2 * OPEN) if (first + number) % 2]


def _query(url: str, key: str) -> Callable[[str], None]:
    def query(connector: str) -> None:
        asked = urllib.request.Request(
            f"{url}/api/v1/connectors/{connector}/query", json.dumps({"query": "SELECT 1 AS one"}).encode(),
            {"authorization": f"Bearer {key}", "content-type": "application/json"},
        )  # fmt: skip
        with urllib.request.urlopen(asked, timeout=60) as answer:
            assert json.loads(answer.read())["row_count"] == 1

    return query
