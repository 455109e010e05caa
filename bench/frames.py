"""`python -m bench.frames`: one request of a row and of a hundred, frame by frame, into bench/PROFILE.md.

The application runs in this process and is called as an ASGI server calls it, one request after the
other; cProfile adds to every Python call, so shares count, and the total is measured without it.
"""

from __future__ import annotations

import asyncio
import cProfile
import json
import os
import platform
import pstats
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.peers.contenders import SQL
from bench.peers.studio import EVERYTHING, RATES
from bench.peers.upstream import Events
from studio.app import Application
from studio.loop import run
from studio.server import settle
from studio.settings import Settings

RESULT = Path(__file__).parent / "PROFILE.md"
CALLS = 2000
SHOWN = 40
Request = Callable[[], Awaitable[None]]


def main() -> None:
    """Write the page."""
    os.environ |= RATES
    upstream = Events()
    try:
        upstream.start()
        parts = run(_profiled(upstream))
    finally:
        upstream.close()
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    RESULT.write_text(
        f"# Profile of one request\n\nWritten by `python -m bench.frames` on {when}; {os.cpu_count()} cores, Python "
        f"{platform.python_version()}.\n{(__doc__ or '').split(chr(10), 2)[2]}\n" + "\n".join(parts)
    )


async def _profiled(upstream: Events) -> list[str]:
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        application = Application(Settings(data_dir=Path(folder)))
        async with application.service as service:
            config = {
                "host": upstream.host, "port": upstream.port, "database": upstream.database,
                "username": upstream.user, "password": upstream.password, "ssl": False, **EVERYTHING,
            }  # fmt: skip
            made = await service.create(
                {"organization_id": "bench", "name": "events", "connector_type": "database", "provider": "postgresql",
                 "config": config}
            )  # fmt: skip
            await service.attach_to_agent(made["id"], "bench", "events")
            settle()
            key = await service.create_key({"organization_id": "bench", "agent_id": "bench", "name": "bench"})
            for rows in (1, 100):
                request = _request(application, key["key"], rows)
                await _many(request)
                start, cpu = time.perf_counter(), time.process_time()
                await _many(request)
                wall, spent = time.perf_counter() - start, time.process_time() - cpu
                profile = cProfile.Profile()
                profile.enable()
                await _many(request)
                profile.disable()
                parts.append(_page(rows, wall, spent, pstats.Stats(profile)))
    return parts


async def _many(request: Request) -> None:
    for _ in range(CALLS):
        await request()


def _request(application: Application, key: str, rows: int) -> Request:
    headers = [
        (b"host", b"127.0.0.1"), (b"authorization", f"Bearer {key}".encode()), (b"content-type", b"application/json"),
    ]  # fmt: skip
    text = SQL.format(id=":id", n=":n")
    path = "/api/v1/agents/bench/connectors/events/query"

    async def request() -> None:
        body = json.dumps({"query": text, "params": {"id": random.randint(1, 980_000), "n": rows}}).encode()
        messages: list[Any] = [{"type": "http.request", "body": body, "more_body": False}]
        status = []

        async def receive() -> Any:
            return messages.pop() if messages else await asyncio.Event().wait()

        async def send(message: Any) -> None:
            status.append(message.get("status", 200))

        scope = {
            "type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "query_string": b"",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "scheme": "http",
            "root_path": "", "http_version": "1.1", "state": {},
        }  # fmt: skip
        await application(scope, receive, send)
        assert status[0] == 200

    return request


def _page(rows: int, wall: float, cpu: float, stats: Any) -> str:
    total = sum(entry[2] for entry in stats.stats.values())
    lines = [
        f"\n## {rows} row{'s' if rows > 1 else ''}\n",
        f"{wall / CALLS * 1e6:.0f} µs, of them {cpu / CALLS * 1e6:.0f} µs of this process's processor time; the rest "
        f"is the database's. Under the profiler {total / CALLS * 1e6:.0f} µs, which the columns below are parts of.\n",
        "| own µs | with callees µs | calls | frame |",
        "| --- | --- | --- | --- |",
    ]
    order = sorted(stats.stats.items(), key=lambda item: -item[1][2])
    for (file, line, name), (_, calls, own, with_callees, _) in order[:SHOWN]:
        place = file.split("site-packages/")[-1].split("src/")[-1].split("python3.11/")[-1].split("/bench/")[-1]
        where = name if file == "~" else f"{place}:{line} {name}"
        lines.append(
            f"| {own / CALLS * 1e6:.1f} | {with_callees / CALLS * 1e6:.1f} | {calls / CALLS:.1f} | `{where}` |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
