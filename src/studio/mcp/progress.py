"""Progress of a long call, for a client that gave a `progressToken`.

Source: https://modelcontextprotocol.io/specification/2026-07-28/basic/utilities/progress.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from studio.contract.caps import told_of_rows

Tell = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends the client a notification while its request is being answered."""
EVERY_S = 1.0
"""Time between two notifications; a call that takes less has none."""


@asynccontextmanager
async def reporting(token: str | int, tell: Tell) -> AsyncIterator[None]:
    """Tell how many seconds the body of the `async with` has taken, and how many rows it has read."""
    rows = 0

    def count(more: int) -> None:
        nonlocal rows
        rows += more

    async def report() -> None:
        start = time.monotonic()
        while True:
            await asyncio.sleep(EVERY_S)
            said = {"progressToken": token, "progress": round(time.monotonic() - start, 1)}
            said["message"] = f"{rows} rows read" if rows else "running"
            await tell({"jsonrpc": "2.0", "method": "notifications/progress", "params": said})

    before = told_of_rows.set(count)
    task = asyncio.create_task(report())
    try:
        yield
    finally:
        told_of_rows.reset(before)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
