"""What happened, on its way to the audit log: gathered in this process, written in batches.

* A read's row waits in memory for `FLUSH_S` at most. The buffer is bounded: past that calls wait before
  they begin, and are refused where the log stays shut. Nothing is dropped.
* An effect's first row is durable before the effect is sent; calls that wait together share one commit.
* In each book this process says that it began, and at its end how many rows it wrote. One that was
  killed is so found by `studio audit verify`; of its reads the last `FLUSH_S` may be missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from studio.errors import Internal
from studio.models import AuditEntry, new_id
from studio.store.audit import AuditLog, Batch

logger = logging.getLogger(__name__)
FLUSH_S = 0.05
CAPACITY = 10_000
"""Rows that may wait in memory."""
REFUSALS, WINDOW_S = 20, 10.0
"""Refusals of one caller with one code that get a row each in a window; the rest share one, with a count."""
_RETRY_S = 0.5


class Unrecorded(Internal):
    """The audit log cannot be written, and nothing may happen that it does not know of. Nothing was sent."""

    retryable = True


def unrecorded() -> Unrecorded:
    """The error, in its one wording."""
    return Unrecorded(
        "the audit log cannot be written, so nothing was sent; try again shortly, and have an operator look at "
        "the metadata database"
    )


@dataclass
class _Flood:
    """Refusals of one kind in the present window."""

    seen: int = 0
    folded: AuditEntry | None = None


class Recorder:
    """The buffer of one process. Its methods run on the event loop."""

    def __init__(self, log: AuditLog) -> None:
        self.id = new_id()
        self._log = log
        self._buffer: list[AuditEntry] = []
        self._batches: list[Batch] = []
        self._counts: dict[str, int] = {}
        self._ready: set[str] = set()
        self._floods: dict[tuple[str, str, str | None], _Flood] = {}
        self._waiting: list[asyncio.Future[None]] = []
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, entry: AuditEntry) -> None:
        """Take a row in; it is written soon."""
        organization_id = entry.organization_id
        self._open(organization_id)
        self._counts[organization_id] += 1
        entry.writer = self.id
        self._buffer.append(entry)
        if self._task is None:
            self._task = asyncio.create_task(self._work())

    def refuse(self, entry: AuditEntry) -> None:
        """As `add`, for a call that was refused. A flood of them by one caller becomes a few rows with counts."""
        kind = (entry.organization_id, entry.subject, entry.code)
        flood = self._floods.get(kind)
        if flood is None:
            flood = self._floods[kind] = _Flood()
            asyncio.get_running_loop().call_later(WINDOW_S, self._end_of_window, kind)
        flood.seen += 1
        if flood.seen <= REFUSALS:
            self.add(entry)
        elif flood.folded is None:
            # What differs between them is left out.
            flood.folded = replace(entry, agent_id=None, alias=None, operation=None, connector_id=None, target=None)
        else:
            flood.folded.count += 1

    def admits(self, organization_id: str) -> bool:
        """Before a read: whether its book knows of this process, and there is room for its row."""
        return organization_id in self._ready and len(self._buffer) < CAPACITY

    async def admit(self, organization_id: str) -> None:
        """Wait until it `admits`. Raises Unrecorded."""
        await self.room()
        if organization_id not in self._ready:
            self._open(organization_id)
            await self.written()

    async def room(self) -> None:
        """Wait while too many rows wait. Raises Unrecorded where they cannot be written."""
        while len(self._buffer) + sum(len(batch.entries) for batch in self._batches) >= CAPACITY:
            await self.written()

    async def written(self) -> None:
        """Everything that was added before is durable. Raises Unrecorded."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._hurry.set()
        if self._task is None:
            self._task = asyncio.create_task(self._work())
        await waiter

    async def flush(self) -> None:
        """Everything that happened before stands in the log, refusals that are only counted so far too."""
        self._unfold()
        if self._buffer or self._batches:
            await self.written()

    async def close(self) -> None:
        """Write everything, and say in each book that this process ended."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        self._unfold()
        for organization_id, count in self._counts.items():
            self._buffer.append(self._said(organization_id, "writer.closed", {"rows": count}))
        if not await self._write():
            logger.error("the last rows of the audit log were not written; studio audit verify shows which process")

    # -- parts ----------------------------------------------------------------------------------

    def _open(self, organization_id: str) -> None:
        if organization_id not in self._counts:
            self._counts[organization_id] = 0
            self._buffer.append(self._said(organization_id, "writer.opened", _process()))

    def _said(self, organization_id: str, event: str, details: dict[str, Any]) -> AuditEntry:
        said = orjson.dumps(details).decode()
        return AuditEntry(organization_id, event, "studio", writer=self.id, details=said, request_id=new_id())

    def _end_of_window(self, kind: tuple[str, str, str | None]) -> None:
        flood = self._floods.pop(kind, None)
        if flood is not None and flood.folded is not None:
            self.add(flood.folded)

    def _unfold(self) -> None:
        for flood in self._floods.values():
            if flood.folded is not None:
                self.add(flood.folded)
                flood.folded = None

    async def _work(self) -> None:
        """Write until nothing is left; the next row begins anew."""
        while self._buffer or self._batches or self._waiting:
            if not self._waiting:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._hurry.wait(), FLUSH_S)
            self._hurry.clear()
            waiting, self._waiting = self._waiting, []
            done = await self._write()
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None) if done else waiter.set_exception(unrecorded())
            if not done:
                await asyncio.sleep(_RETRY_S)
        self._task = None

    async def _write(self) -> bool:
        """What waits by now, oldest first; whether all of it is durable."""
        if self._buffer:
            self._batches.append(Batch(self._buffer))
            self._buffer = []
        while self._batches:
            batch = self._batches[0]
            try:
                await self._log.write_batch(batch)
            except Exception as exc:
                logger.error("the audit log cannot be written: %s", type(exc).__name__)
                return False
            self._batches.pop(0)
            self._ready.update({entry.organization_id for entry in batch.entries} - self._ready)
        return True


def _process() -> dict[str, Any]:
    return {"host": platform.node(), "pid": os.getpid(), "start": _started(os.getpid())}


def _started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's own count (proc(5)); None where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def state_of(process: dict[str, Any]) -> str:
    """Whether a process that a book knows of still runs, as far as this machine can tell."""
    if process.get("host") != platform.node() or process.get("start") is None:
        return "on another machine: it runs there, or ended without closing the book"
    return "running" if _started(process["pid"]) == process["start"] else "ended without closing the book"
