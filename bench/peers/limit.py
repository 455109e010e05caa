"""The limit: asyncpg and a JSON encoder in one process on uvloop, no HTTP, no key. Commands on stdin, JSON out."""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time

import asyncpg
import orjson
import uvloop

SQL = "SELECT id, user_id, name, amount, active, created_at FROM events WHERE id >= $1 ORDER BY id LIMIT $2"
SIZE = 16


async def work(conn: asyncpg.Connection, rows: int, until: float) -> int:
    statement = await conn.prepare(SQL)
    count = 0
    while time.perf_counter() < until or not count:
        records = await statement.fetch(random.randint(1, 980_000), rows)
        orjson.dumps([dict(record) for record in records])
        count += 1
    return count


async def main() -> None:
    config = json.loads(os.environ["BENCH_CONFIG"])
    conns = [await asyncpg.connect(**config) for _ in range(SIZE)]
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        rows, callers, seconds = line.split()
        start, cpu = time.perf_counter(), time.process_time()
        until = start + float(seconds)
        counts = await asyncio.gather(*(work(conn, int(rows), until) for conn in conns[: min(SIZE, int(callers))]))
        took = time.perf_counter() - start
        print(json.dumps({"requests": sum(counts), "s": took, "cpu": time.process_time() - cpu}), flush=True)


uvloop.run(main())
