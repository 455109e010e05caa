"""Clients that go on calling while something breaks, and one that insists as an idempotency key allows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from tests.chaos.cluster import Cluster

GIVES_UP_S = 4.0
"""After so long of "still under way" a client stops asking: whoever carried it out is dead."""


class Unknown(Exception):
    """A request under a key of which the client will not learn how it ended."""


@asynccontextmanager
async def load(
    call: Callable[[int], Awaitable[Any]], *, clients: int = 8, pause_s: float = 0.01
) -> AsyncIterator[list[Any]]:
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
            await asyncio.sleep(pause_s)

    tasks = [asyncio.create_task(work(client)) for client in range(clients)]
    try:
        yield answers
    finally:
        over.set()
        await asyncio.gather(*tasks)


async def insistent(ask: Callable[[], Awaitable[tuple[int, Any]]]) -> Any:
    """Ask under one idempotency key until there is an answer for good.

    Raises Unknown where the first attempt was cut short: no answer of it will come.
    """
    under_way_since = None
    async with asyncio.timeout(60):
        while True:
            try:
                status, answer = await ask()
            except aiohttp.ClientError:
                status, answer = 0, None
            if 200 <= status < 300:
                return answer
            if status == 409:
                now = asyncio.get_running_loop().time()
                under_way_since = under_way_since or now
                if not answer["retryable"] or now - under_way_since > GIVES_UP_S:
                    raise Unknown
            else:
                assert status == 0 or status >= 500, (status, answer)
            await asyncio.sleep(0.05)


async def asked(cluster: Cluster, statement: str) -> list[Any]:
    """Rows of the replicas' store."""
    admin = await cluster.postgres.admin(cluster.database)
    try:
        return list(await admin.fetch(statement))
    finally:
        await admin.close()
