"""What the processes of one server database tell each other: that something changed, by LISTEN and NOTIFY."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

CHANNEL = "studio_changed"
logger = logging.getLogger(__name__)


class Listener:
    """One connection that listens for as long as somebody asks. Used by one task at a time."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._driver: Any = None
        self._told = asyncio.Event()

    async def changed(self, within_s: float) -> None:
        """Return at the next notice, or when the time is over. Without a connection, only time counts."""
        try:
            async with asyncio.timeout(within_s):
                await self._listen()
                await self._told.wait()
        except TimeoutError:
            pass
        except Exception as exc:
            logger.info("changes are not announced at present: %s", type(exc).__name__)
            await asyncio.sleep(within_s)
        self._told.clear()

    async def close(self) -> None:
        """Give the connection up: what listens must not go back to the pool."""
        connection, self._connection, driver, self._driver = self._connection, None, self._driver, None
        if connection is not None:
            with suppress(Exception):  # it may be lost
                driver.terminate()
                await connection.invalidate()
                await connection.close()

    async def _listen(self) -> None:
        if self._driver is not None and not self._driver.is_closed():
            return
        await self.close()
        self._connection = await self._engine.connect()
        self._driver = (await self._connection.get_raw_connection()).driver_connection
        await self._driver.add_listener(CHANNEL, lambda *_: self._told.set())
