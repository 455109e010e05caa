"""The queue of health probes with a thousand and with a million connectors: what one claim costs.

    python -m bench.health [ROWS [STORE …]] [--plans]

A claim is made about once a second by each process, whether anything is due or not.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Connection, event, text
from tests.servers import Postgres

from bench.scale import LARGE, SMALL, _database, _environment
from studio.models import now
from studio.services.core import open_store
from studio.services.watch import PROBE_LEASE_S
from studio.settings import Settings
from studio.store import probe_queue
from studio.store.engine import Database

ORGANIZATIONS = 1_000
CLAIMS = 15
MOST, PER_ORGANIZATION = 16, 4
FUTURE = "2999-01-01T00:00:00.000000Z"


@dataclass(frozen=True)
class Case:
    """What is in the queue: SQL conditions on the number `n` of a connector, the lowest due first."""

    name: str
    due: str
    paused: str = "n < 0"
    organization: str = f"n % {ORGANIZATIONS}"


_HALF = f"n / :half * (n % {ORGANIZATIONS})"
CASES = (
    Case("nothing is due", "n < 0"),
    Case("a second's share is due", "n % 300 = 0"),
    Case("all are due", "n >= 0"),
    Case(
        "all are due, the first half of one organization", "n >= 0", organization=f"n / :half * (n % {ORGANIZATIONS})"
    ),
    Case("a third is inactive", "n % 300 = 1", paused="n % 3 = 0"),
)


def run(
    large: int = LARGE, *, stores: Sequence[str] = ("SQLite", "PostgreSQL"), plans: bool = False
) -> list[tuple[str, str, list[list[str]]]]:
    """A table: store, case, ms of one claim at both sizes."""
    lines = [["store", "in the queue", f"at {SMALL:,}, ms", f"at {large:,}, ms"]]
    with ExitStack() as stack:
        server = Postgres()
        stack.callback(server.close)
        server.start()
        for name in stores:
            times: dict[int, dict[str, float]] = {}
            for count in (SMALL, large):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                url = None if name == "SQLite" else asyncio.run(_database(server, f"health{count}"))
                settings = Settings(data_dir=folder, database_url=url)  # type: ignore[arg-type]
                upgrade = [str(Path(sys.executable).with_name("studio")), "db", "upgrade"]
                environment = _environment(folder) | ({"STUDIO_DATABASE_URL": url} if url else {})
                subprocess.run(upgrade, check=True, capture_output=True, env=environment)
                times[count] = asyncio.run(_measured(settings, count, plans=plans and count == large))
            lines += [[name, case.name, *(f"{times[count][case.name]:.2f}" for count in times)] for case in CASES]
    return [("One claim of the queue of probes", f"Median of {CLAIMS}, up to {MOST} connectors each.", lines)]


async def _measured(settings: Settings, count: int, *, plans: bool) -> dict[str, float]:
    async with AsyncExitStack() as stack:
        database = await open_store(settings, stack)
        times = {}
        seeded = None
        for case in CASES:
            print(f"{'PostgreSQL' if settings.database_url else 'SQLite'}, {count:,}: {case.name} …", file=sys.stderr)
            again, seeded = seeded != (layout := (case.organization, case.paused)), layout
            await database.write(partial(_seed, count=count, case=case, connectors=again))
            if plans:
                await _plans(database, case)
            taken = []
            for _ in range(CLAIMS):
                start = time.perf_counter()
                claimed = await _claim(database)
                taken.append((time.perf_counter() - start) * 1000)
                for one, _connector in claimed:
                    await probe_queue.put_back(database, one, one.due_at)
            times[case.name] = statistics.median(taken)
            print(f"    {times[case.name]:.2f} ms", file=sys.stderr, flush=True)
        return times


async def _claim(database: Database) -> list[tuple[probe_queue.Health, object]]:
    found = await probe_queue.claim(database, most=MOST, per_organization=PER_ORGANIZATION, lease_s=PROBE_LEASE_S)
    return list(found)


def _seed(connection: Connection, count: int, case: Case, *, connectors: bool) -> None:
    numbers = (
        f"generate_series(0, {count - 1}) AS n"
        if connection.dialect.name == "postgresql"
        else f"(WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {count - 1}) SELECT n FROM s)"
    )
    twelve = "lpad(n::text, 12, '0')" if connection.dialect.name == "postgresql" else "printf('%012d', n)"
    identity = f"'01900000-0000-7000-8000-' || {twelve}"
    organization = f"'org' || ({case.organization.replace(':half', str(count // 2))})"
    at = now()
    empty = "TRUNCATE" if connection.dialect.name == "postgresql" else "DELETE FROM"  # rows that are dead cost as well
    connection.execute(text(f"{empty} connector_health"))
    if connectors:
        for drop in _unneeded(connection):
            connection.execute(text(drop))
        for table in ("connectors", "connector_tallies", "connector_counts"):
            connection.execute(text(f"{empty} {table}" + (" CASCADE" if empty == "TRUNCATE" else "")))
        connection.execute(
            text(f"""
            INSERT INTO connectors (id, organization_id, name, connector_type, provider, config_encrypted, status,
                created_by, created_at, updated_at, version, key_id)
            SELECT {identity}, {organization}, 'connector ' || n, 'database', 'postgresql', '{"x" * 400}',
                CASE WHEN {case.paused} THEN 'inactive' ELSE 'active' END, 'bench', '{at}', '{at}', 1, 'k'
            FROM {numbers}
        """)
        )
    connection.execute(
        text(f"""
        INSERT INTO connector_health (connector_id, organization_id, state, failures, successes, due_at, lease_until,
            fence, changed_at, alerted)
        SELECT {identity}, {organization}, 'healthy', 0, 0,
            CASE WHEN {case.due} OR {case.paused} THEN '2000-01-01T00:0' || {twelve} ELSE '{FUTURE}' END,
            '', 0, '{at}', false
        FROM {numbers}
    """)
    )
    connection.execute(text("ANALYZE"))


def _unneeded(connection: Connection) -> list[str]:
    """What a claim does not use and makes a million rows take minutes: indexes and triggers of lists."""
    if connection.dialect.name == "postgresql":
        found = connection.scalars(text(
            "SELECT format('DROP INDEX %I', indexname) FROM pg_indexes WHERE tablename = 'connectors' "
            "AND indexname LIKE 'ix_%' UNION ALL "
            "SELECT format('DROP TRIGGER %I ON connectors', tgname) FROM pg_trigger "
            "WHERE tgrelid = 'connectors'::regclass AND NOT tgisinternal"
        ))  # fmt: skip
    else:
        found = connection.scalars(text(
            "SELECT 'DROP ' || type || ' ' || name FROM sqlite_master WHERE tbl_name = 'connectors' AND "
            "(type = 'trigger' OR name LIKE 'ix_%')"
        ))  # fmt: skip
    return list(found)


async def _plans(database: Database, case: Case) -> None:
    """Print the plan of each statement of one claim."""
    seen: list[tuple[str, object]] = []
    engine = getattr(database, "_engine", None) or database._read_engine
    listen = getattr(engine, "sync_engine", engine)

    def note(_c: object, _cursor: object, statement: str, parameters: object, *_: object) -> None:
        seen.append((statement, parameters))

    event.listen(listen, "before_cursor_execute", note)
    claimed = await _claim(database)
    event.remove(listen, "before_cursor_execute", note)
    for one, _connector in claimed:
        await probe_queue.put_back(database, one, one.due_at)
    for statement, parameters in seen:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")) and "connector_health" in statement:
            print(case.name, "|", " ".join(statement.split())[:3000], parameters, file=sys.stderr)


if __name__ == "__main__":
    given = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    count, *stores = given or [str(LARGE)]
    for title, note, rows in run(int(count), stores=stores or ("SQLite", "PostgreSQL"), plans="--plans" in sys.argv):
        print(f"\n{title}. {note}")
        for row in rows:
            print(" | ".join(row))
