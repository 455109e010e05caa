"""What one `studio serve` takes: memory by what is registered and open, and connections to its PostgreSQL.

    python -m bench.memory [SESSIONS]

Memory is that of `/proc/PID/smaps_rollup`: resident of the process, and proportional (what is shared counts
by its share) with all processes below it. Probes of health go on, as they do by default.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
from sqlalchemy import Connection, insert
from tests.servers import Postgres

from bench.peers.contenders import tree
from bench.scale import _database, _environment, serving
from studio.models import Connector, new_id, now
from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.store import probe_queue
from studio.store.tables import connectors

ORGANIZATION = "acme"
REGISTERED = (1_000, 10_000)
SESSIONS = 1_000
SQLITE = (20, 100)
AT_ONCE = 100
STUDIO = str(Path(sys.executable).with_name("studio"))


class Roomy(Postgres):
    """A server with room for a thousand sessions."""

    def command(self) -> list[str]:
        """As before, with more connections."""
        return [*super().command(), "-c", "max_connections=1300"]


def run(sessions: int = SESSIONS) -> list[tuple[str, str, list[list[str]]]]:
    """Two tables: memory by state, and connections to the store."""
    with ExitStack() as stack:
        server, upstream = Postgres(), Roomy()  # the store itself is never dialled for a connector
        for each in (server, upstream):
            stack.callback(each.close)
            each.start()
        rows = [["state", "resident, MiB", "proportional with children, MiB", "processes"]]
        links = [["connections to the store", "of one process"]]
        url = asyncio.run(_database(server, "sizes"))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        more = {"STUDIO_DATABASE_URL": url, "STUDIO_MAX_SESSIONS": str(sessions + 100), "STUDIO_SESSION_IDLE_S": "3600"}
        environment = _environment(folder) | more
        subprocess.run([STUDIO, "db", "upgrade"], check=True, capture_output=True, env=environment)
        given = [STUDIO, "keys", "create", "--organization", ORGANIZATION, "--role", "admin", "--json"]
        key = json.loads(subprocess.run(given, check=True, capture_output=True, env=environment).stdout)["key"]
        settings = Settings(data_dir=folder, database_url=url)  # type: ignore[arg-type]
        config = {
            "host": upstream.host, "port": upstream.port, "database": upstream.database, "username": upstream.user,
            "password": upstream.password, "pool_size": 1, "ssl": False,
        }  # fmt: skip
        with serving(folder, more) as (process, base):
            note(rows, "idle", process.pid)
            links.append(["idle", str(asyncio.run(connections(server)))])
            ids: list[str] = []
            for count in REGISTERED:
                ids += asyncio.run(registered(settings, "postgresql", config, count - len(ids)))
                asyncio.run(listed(base, key))
                note(rows, f"{count:,} registered", process.pid)
            for count in (sessions // 10, sessions):
                asyncio.run(opened(base, key, ids[:count]))
                note(rows, f"{REGISTERED[-1]:,} registered, {count:,} `postgresql` sessions open", process.pid)
            links.append([f"after {AT_ONCE} operations at once", str(asyncio.run(connections(server)))])
            found = asyncio.run(connections(upstream, upstream.database)) - 1  # this one
            assert found >= sessions, f"of {sessions} sessions {found} are open"
        files = folder / "files"
        files.mkdir(exist_ok=True)
        (files / "one.db").touch()
        with serving(folder, more) as (process, base):
            ids = asyncio.run(registered(settings, "sqlite", {"path": "one.db", "pool_size": 1}, SQLITE[-1]))
            for count in SQLITE:
                asyncio.run(opened(base, key, ids[:count]))
                note(rows, f"{count:,} `sqlite` sessions open", process.pid)
    return [
        ("Memory of one process", "`studio serve`, its store on PostgreSQL; each session has `pool_size` 1.", rows),
        ("Connections to the store", "Counted in pg_stat_activity.", links),
    ]


def note(rows: list[list[str]], state: str, pid: int) -> None:
    """Measure, and add a row."""
    time.sleep(3)
    family = tree(pid)
    resident, proportional = memory(pid)[0], sum(memory(each)[1] for each in family)
    rows.append([state, f"{resident:.0f}", f"{proportional:.0f}", str(len(family))])
    print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)


def memory(pid: int) -> tuple[float, float]:
    """Resident and proportional memory of a process, MiB; none of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
    return found["Rss"], found["Pss"]


async def registered(settings: Settings, provider: str, raw: dict[str, Any], count: int) -> list[str]:
    """Register that many connectors, straight into the store; their ids."""
    async with ConnectorService(settings) as service:
        core = await service._home.core()
        config, made = load(provider).Config.parse(raw), []
        for number in range(count):
            one, at = new_id(), now()
            sealed = core.configs.seal(ORGANIZATION, one, 1, config)
            made.append(Connector(
                id=one, organization_id=ORGANIZATION, name=f"{provider} {one} {number}", connector_type="database",
                provider=provider, config_encrypted=sealed.token, status="active", last_tested_at=None,
                last_test_result=None, last_error=None, created_by="bench", created_at=at, updated_at=at, version=1,
                key_id=sealed.key_id, secret_set_at=at, secret_expires_at=None,
            ))  # fmt: skip

        def work(connection: Connection) -> None:
            connection.execute(insert(connectors), [asdict(one) for one in made])
            for one in made:
                probe_queue.enter(connection, one)

        await core.database.write(work)
    return [one.id for one in made]


async def listed(base: str, key: str) -> None:
    """Read a few pages of the list."""
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:
        for _ in range(10):
            async with session.get(f"{base}/api/v1/connectors?limit=200") as answer:
                assert answer.status == 200, await answer.text()
                await answer.read()


async def opened(base: str, key: str, ids: list[str]) -> None:
    """Run one operation on each, many at once."""
    turn = asyncio.Semaphore(AT_ONCE)
    async with aiohttp.ClientSession(headers={"authorization": f"Bearer {key}"}) as session:

        async def one(connector_id: str) -> None:
            async with turn:
                url = f"{base}/api/v1/connectors/{connector_id}/query"
                async with session.post(url, json={"query": "SELECT 1 AS one"}) as answer:
                    assert answer.status == 200, await answer.text()

        await asyncio.gather(*map(one, ids))


async def connections(server: Postgres, name: str = "sizes") -> int:
    """Connections to a database now; that of the store."""
    admin = await server.admin()
    try:
        return int(await admin.fetchval("SELECT count(*) FROM pg_stat_activity WHERE datname = $1", name))
    finally:
        await admin.close()


if __name__ == "__main__":
    for title, about, table in run(int(sys.argv[1]) if len(sys.argv) > 1 else SESSIONS):
        print(f"\n{title}. {about}\n")
        print("\n".join(" | ".join(row) for row in table))
