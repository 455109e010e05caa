"""Lookups on connections of a server database that stay checked out: a pool's turn costs four times such a read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

LOOKUPS = 10
"""Connections that only look up, at most."""


class Lookups:
    """Nothing begins on such a connection and nothing is set, so there is nothing to reset.

    One that failed, or whose read was cancelled, is not used again. `engine` commits by itself.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._slots = asyncio.Semaphore(LOOKUPS)
        self._idle: list[tuple[AsyncConnection, Any]] = []

    async def fetch(self, text: str, arguments: Sequence[Any]) -> list[Sequence[Any]]:
        """The rows of a statement of ours."""
        async with self._slots:
            if self._idle:
                with suppress(Exception):  # it may be lost by now; a read can be repeated on a new one
                    return await self._fetched(*self._idle.pop(), arguments, text)
            connection = await self._engine.connect()
            driver = (await connection.get_raw_connection()).driver_connection
            return await self._fetched(connection, driver, arguments, text)

    async def _fetched(
        self, connection: AsyncConnection, driver: Any, arguments: Sequence[Any], text: str
    ) -> list[Sequence[Any]]:
        try:
            rows: list[Sequence[Any]] = await driver.fetch(text, *arguments)
        except BaseException:
            driver.terminate()
            await asyncio.shield(connection.invalidate())
            await asyncio.shield(connection.close())
            raise
        self._idle.append((connection, driver))
        return rows

    async def close(self) -> None:
        """Close what is idle."""
        while self._idle:
            await self._idle.pop()[0].close()
