"""What was read of the store and made of it, for exactly as long as nothing in the store has changed.

An embedded store tells by a number whether anybody, this process or another, has committed anything since
(`Database.version`); a key that was revoked, an alias that was detached or a connector that was switched off
is so read anew by the very next call. A server's store tells nothing without a round trip: nothing is kept.

The number is asked for once in a turn of the event loop. A request that is taken up in a turn had arrived
before it, so nothing that was committed later can have been answered before the request was sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from studio.store.engine import Database

T = TypeVar("T")
MOST = 10_000


class Fresh:
    """The kept things of one process. Its methods run on the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._version: int | None = None
        self._kept: dict[Hashable, Any] = {}
        self._sure = False
        """Whether the version was asked for in this turn of the loop."""

    def now(self, key: Hashable) -> Any:
        """What is kept under a key and holds at this moment, else None."""
        if not self._sure:
            self._look()
        return self._kept.get(key)

    async def read(self, key: Hashable, read: Callable[[], Awaitable[T]]) -> T:
        """Read what is not kept, and keep it. The version comes first: what is read is that state, or a later one."""
        if not self._sure:
            self._look()
        version = self._version
        found = await read()
        if version is not None and version == self._version and len(self._kept) < MOST:
            self._kept[key] = found
        return found

    def _look(self) -> None:
        version = self._database.version()
        if version is None:
            return
        if version != self._version:
            self._version = version
            self._kept.clear()
        self._sure = True
        asyncio.get_running_loop().call_soon(self._doubt)

    def _doubt(self) -> None:
        self._sure = False
