"""Lookups on connections of a server database that stay checked out: a pool's turn costs four times such a read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from studio.errors import StoreAway

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_GONE = ("08", "57P")
"""Classes of SQLSTATE by which a server says that it is not there: connections, and its own shutdown."""
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


@contextmanager
def reading() -> Iterator[None]:
    """Around a read of a server's database. Raises StoreAway where the server is what failed."""
    try:
        yield
    except Exception as exc:
        if not _is_away(exc):
            raise
        raise StoreAway(
            "the metadata database does not answer, so nothing was done; try again shortly", retry_after_s=1
        ) from exc


def _is_away(exc: BaseException | None) -> bool:
    """Whether the connection or the server was lost, as the driver or SQLAlchemy tells it."""
    if isinstance(exc, DBAPIError):
        return exc.connection_invalidated or _is_away(exc.orig)
    state = str(getattr(exc, "sqlstate", None) or "")
    return isinstance(exc, OSError | PoolTimeout) or state.startswith(_GONE) or type(exc).__name__ == "InterfaceError"
