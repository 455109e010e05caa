"""The lifetime of a service's parts: opened on first use, closed with the event loop at the latest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

from studio.services.core import Core, open_core
from studio.settings import Settings


class Home:
    """Holds the `Core` that a service and all its bound copies share."""

    def __init__(self, settings: Settings | None) -> None:
        self._settings = settings
        self._core: Core | None = None
        self._opening: asyncio.Future[None] | None = None
        self._keeper: AsyncGenerator[None, None] | None = None
        self.background: set[asyncio.Task[Any]] = set()
        """Small writes that no caller waits for; they end before the store closes."""

    @property
    def opened(self) -> Core | None:
        """The parts, if somebody has asked for them by now."""
        return self._core

    async def core(self) -> Core:
        """The parts, opened once however many callers ask at the same time."""
        if self._core is not None:
            return self._core
        if self._opening is None:
            self._opening = asyncio.ensure_future(self._open())
            self._opening.add_done_callback(self._opened)
        await asyncio.shield(self._opening)
        assert self._core is not None
        return self._core

    async def close(self) -> None:
        """Close the parts; the next use opens them again."""
        if self._opening is not None:
            await asyncio.gather(self._opening, return_exceptions=True)
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            await keeper.aclose()

    async def _open(self) -> None:
        self._keeper = self._keep()
        await anext(self._keeper)

    def _opened(self, _future: asyncio.Future[None]) -> None:
        self._opening = None

    async def _keep(self) -> AsyncGenerator[None, None]:
        """An async generator, because the loop closes those that are left: `asyncio.run()` then ends
        without a word about open sockets, threads or processes (`loop.shutdown_asyncgens`)."""
        async with AsyncExitStack() as stack:
            self._settings = self._settings or Settings()
            core = await open_core(self._settings, stack)
            self._core = core
            try:
                yield
            finally:
                self._core = None
                await asyncio.gather(*self.background, return_exceptions=True)
