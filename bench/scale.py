"""The metadata store with a thousand and with a million connectors: what a call costs must not grow with them."""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Table
from tests.servers import Postgres, free_port

from bench.peers.contenders import rss_mib
from studio.models import Connector, ConnectorInstance, now
from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.store.tables import connector_instances, connectors

SMALL, LARGE = 1_000, 1_000_000
ORGANIZATION = "acme"
REAL = 1_000
"""Rows in the middle with configs that open; the others carry a copy, since sealing each takes minutes."""
EACH = 10
"""Attachments of one agent."""
CALLS = 200
CHUNK = 20_000
Call = Callable[[], Awaitable[object]]


def run(large: int = LARGE) -> list[tuple[str, str, list[list[str]]]]:
    """A table for both stores, and one for the start with that many."""
    lines = [["store", "call", "at 1,000, ms", f"at {large:,}, ms", "ratio", "goal"]]
    starts = [["store", "connectors", "first answer, s", "memory of the server, MiB"]]
    with ExitStack() as stack:
        server = Postgres()
        stack.callback(server.close)
        server.start()
        for name in ("SQLite", "PostgreSQL"):
            every: dict[int, Settings] = {}
            for count in (SMALL, large):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = None if name == "SQLite" else asyncio.run(_database(server, f"scale{count}"))
                print(f"store: {name} with {count:,} connectors …", file=sys.stderr, flush=True)
                every[count] = Settings(data_dir=folder, database_url=url)  # type: ignore[arg-type]
                if url:
                    upgrade = [str(Path(sys.executable).with_name("studio")), "db", "upgrade"]
                    environment = _environment(folder) | {"STUDIO_DATABASE_URL": url}
                    subprocess.run(upgrade, check=True, capture_output=True, env=environment)
                asyncio.run(_seeded(every[count], count))
                seconds, memory = first_answer(folder, url)
                starts.append([name, f"{count:,}", f"{seconds:.2f}", f"{memory:.0f}"])
            times = asyncio.run(_measured(every))
            for call, small in times[SMALL].items():
                ratio = times[large][call] / small
                met = "≤ 1.5x: " + ("reached" if ratio <= 1.5 else "**missed**")
                lines.append([name, call, f"{small:.3f}", f"{times[large][call]:.3f}", f"{ratio:.2f}", met])
    return [
        ("The store with a million connectors", f"In process, median of {CALLS} calls, shuffled.", lines),
        ("The start with a million connectors", "`studio serve`, until `/healthz` answers.", starts),
    ]


async def _database(server: Postgres, name: str) -> str:
    admin = await server.admin()
    try:
        await admin.execute(f"CREATE DATABASE {name}")
    finally:
        await admin.close()
    return f"postgresql+asyncpg://{server.user}:{server.password}@{server.host}:{server.port}/{name}"


async def _seeded(settings: Settings, count: int) -> None:
    async with ConnectorService(settings) as service:
        await seed(service, count)


async def _measured(every: dict[int, Settings]) -> dict[int, dict[str, float]]:
    """Medians in ms, by size and call; both sizes in one loop, so that a busy moment hits both."""
    async with AsyncExitStack() as stack:
        calls = {}
        for count, settings in every.items():
            service = await stack.enter_async_context(ConnectorService(settings))
            first = (count - min(REAL, count)) // 2
            calls |= {(count, name): call for name, call in _calls(service, first, min(REAL, count)).items()}
        found: dict[tuple[int, str], list[float]] = {key: [] for key in calls}
        for _ in range(CALLS):
            for key in random.sample(list(calls), len(calls)):
                start = time.perf_counter()
                await calls[key]()
                found[key].append((time.perf_counter() - start) * 1000)
    times: dict[int, dict[str, float]] = {count: {} for count in every}
    for (count, name), taken in found.items():
        times[count][name] = statistics.median(taken[CALLS // 10 :])
    return times


def _calls(service: ConnectorService, first: int, count: int) -> dict[str, Call]:
    def number() -> int:
        return first + random.randrange(count // 2)

    def agent() -> str:
        return f"agent-{number() // EACH}"

    async def resolve() -> object:
        chosen = number()
        return await service.target(
            agent_id=f"agent-{chosen // EACH}", alias=f"a{chosen}", organization_id=ORGANIZATION
        )

    def page(**filters: Any) -> Call:
        return lambda: service.list(organization_id=ORGANIZATION, limit=50, cursor=connector_id(number()), **filters)

    return {
        "resolve an alias": resolve,
        "a page of the list": page(),
        "a page, one provider": page(provider="postgresql"),
        "a page, one type": page(connector_type="database"),
        "a page, one status": page(status="inactive"),
        "a page, provider and status": page(provider="mysql", status="inactive"),
        "a page, provider and type that exclude each other": page(provider="mysql", connector_type="api"),
        "a page, part of a name": page(q="ctor 5"),
        "an agent's connectors": lambda: service.list_agent_connectors(agent(), organization_id=ORGANIZATION),
        "types": service.types,
    }


def _status(number: int) -> str:
    return "inactive" if number % 4 == 0 else "error" if number % 500 == 2 else "active"


def connector_id(number: int) -> str:
    """Ids in the order of creation, in the form of UUIDv7."""
    return f"01900000-0000-7000-8000-{number:012x}"


async def seed(service: ConnectorService, count: int, raw: dict[str, Any] | None = None, real: int = REAL) -> int:
    """Fill an empty store; the number of the first connector whose config is its own and opens."""
    core = await service._home.core()
    first, real = (count - min(real, count)) // 2, min(real, count)
    raw = raw or {"host": "db.example.com", "database": "app", "username": "app", "password": "secret-of-the-benchmark"}
    config = load("postgresql").Config.parse(raw)
    copy = core.configs.seal(ORGANIZATION, connector_id(first), 1, config)
    at = now()

    def connector(number: int) -> dict[str, Any]:
        inside = first <= number < first + real
        sealed = core.configs.seal(ORGANIZATION, connector_id(number), 1, config) if inside else copy
        row = Connector(
            id=connector_id(number), organization_id=ORGANIZATION, name=f"connector {number}",
            connector_type="database", provider="postgresql" if number % 2 else "mysql",
            config_encrypted=sealed.token, status=_status(number), last_tested_at=None, last_test_result=None,
            last_error=None, created_by="bench", created_at=at, updated_at=at, version=1, key_id=sealed.key_id,
        )  # fmt: skip
        return {column.name: getattr(row, column.name, None) for column in connectors.c}

    def instance(number: int) -> dict[str, Any]:
        row = ConnectorInstance(
            id=connector_id(number), connector_id=connector_id(number), agent_id=f"agent-{number // EACH}",
            alias=f"a{number}", config_override=None, created_at=at, organization_id=ORGANIZATION, key_id=None,
        )  # fmt: skip
        return {column.name: getattr(row, column.name, None) for column in connector_instances.c}

    for table, make in ((connectors, connector), (connector_instances, instance)):
        await _fill(core.database, table, (make(number) for number in range(count)))
    await core.database.write(lambda connection: connection.exec_driver_sql("ANALYZE"))
    return first


async def _fill(database: Any, table: Table, rows: Iterator[dict[str, Any]]) -> None:
    names = [column.name for column in table.c]
    while chunk := [tuple(row[name] for name in names) for _, row in zip(range(CHUNK), rows, strict=False)]:
        if database.embedded:
            marks = ", ".join("?" * len(names))
            text = f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})"
            await database.write(lambda connection, chunk=chunk, text=text: connection.exec_driver_sql(text, chunk))
            continue
        async with database._engine.connect() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            await driver.copy_records_to_table(table.name, records=chunk, columns=names)


def first_answer(folder: Path, url: str | None) -> tuple[float, float]:
    """Seconds from the start of `studio serve` to its first answer, and its memory then, MiB."""
    start = time.perf_counter()
    with serving(folder, {"STUDIO_DATABASE_URL": url} if url else {}) as (process, _):
        return time.perf_counter() - start, rss_mib(process.pid)


@contextmanager
def serving(folder: Path, more: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """`studio serve` on a data folder, from its first answer on; the process and its URL."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("studio")), "serve", "--port", str(port), "--log-level", "warning"]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(command, env=_environment(folder) | more, stdout=subprocess.DEVNULL, stderr=said)
        try:
            while not _answers(f"http://127.0.0.1:{port}"):
                if process.poll() is not None:
                    said.seek(0)
                    raise RuntimeError(said.read().decode()[-2000:])
                time.sleep(0.005)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait()


def _answers(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/healthz", timeout=5).read()
    except OSError:
        return False
    return True


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "STUDIO_DATA_DIR": str(folder)}
