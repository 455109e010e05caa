"""The few workers of one connector, shared by its operations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from studio.providers.sqlite.process import Worker

_CLOSE_S = 1.0
"""How long a worker may take to close its files when the pool is closed."""


class Pool:
    """At most `size` workers; the one used last is used next, so that quiet times need few.

    `current` tells what a worker should have `opened`; one that opened something else is replaced.
    """

    def __init__(self, size: int, start: Callable[[], Worker], current: Callable[[], object]) -> None:
        self._start = start
        self._current = current
        self._slots = asyncio.Semaphore(size)
        self._idle: list[Worker] = []
        self._all: set[Worker] = set()
        self._closed = False

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that are there now."""
        return [worker.pid for worker in self._all]

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Worker]:
        """A worker for one operation. One that still owes an answer when it comes back is killed at once."""
        async with self._slots:
            worker = self._take()
            try:
                yield worker
            finally:
                if worker.usable and not self._closed:
                    self._idle.append(worker)
                else:
                    worker.kill()

    def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.usable and worker.opened == self._current():
                return worker
            worker.kill()
        worker = self._start()
        self._all.add(worker)
        worker.gone.add_done_callback(lambda _: self._all.discard(worker))
        return worker

    async def close(self) -> None:
        """End all workers: idle ones close their files first, others are killed."""
        self._closed = True
        for worker in self._all:
            if worker.usable:
                worker.tell(("bye",))
            else:
                worker.kill()
        for _ in range(2):
            waiting = [worker.gone for worker in self._all]
            if not waiting:
                return
            await asyncio.wait(waiting, timeout=_CLOSE_S)
            for worker in self._all:
                worker.kill()
