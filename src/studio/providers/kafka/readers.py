"""The members that a connector has in its group: one a topic, for one call at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from studio.errors import StudioError
from studio.providers.kafka.cluster import Cluster
from studio.providers.kafka.reader import Reader


class Readers:
    """The members that one connector has in its group, one a topic; those that nobody uses leave it."""

    def __init__(self, make: Callable[[str], Reader], idle_s: float) -> None:
        self._make = make
        self._idle_s = idle_s
        self._readers: dict[str, Reader] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def use(self, topic: str, cluster: Cluster) -> AsyncIterator[Reader]:
        """The member for a topic, for one call at a time. Raises NotFound, and what joining raises."""
        reader = await self._locked(topic)
        try:
            self.used(reader)
            await reader.joined(cluster)
            yield reader
        except BaseException as exc:
            if reader.failed or _broke(exc):
                self._drop(reader)
            raise
        finally:
            reader.rest()
            reader.lock.release()

    async def _locked(self, topic: str) -> Reader:
        while True:
            reader = self._readers.get(topic) or self._readers.setdefault(topic, self._make(topic))
            await reader.lock.acquire()
            if self._readers.get(topic) is reader:
                return reader
            reader.lock.release()  # it was dropped meanwhile

    def used(self, reader: Reader) -> None:
        """Note that somebody works with it."""
        reader.last_used = asyncio.get_running_loop().time()
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep(), name="kafka-readers")

    def _drop(self, reader: Reader) -> None:
        """End a member, in the background: a broker that is silent must not keep a caller."""
        if self._readers.get(reader.topic) is reader:
            del self._readers[reader.topic]
        task = asyncio.ensure_future(reader.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _sweep(self) -> None:
        while self._readers:
            await asyncio.sleep(self._idle_s / 4)
            limit = asyncio.get_running_loop().time() - self._idle_s
            for reader in list(self._readers.values()):
                if reader.last_used < limit and not reader.ledger.out and not reader.lock.locked():
                    self._drop(reader)

    async def close(self) -> None:
        """End every member."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for reader in list(self._readers.values()):
            self._drop(reader)
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)


def _broke(exc: BaseException) -> bool:
    """Whether a member is of no use after this. A caller who was cancelled has done it no harm."""
    if isinstance(exc, StudioError):
        return exc.code in {"unreachable", "auth_failed", "egress_denied"}
    return isinstance(exc, Exception)
