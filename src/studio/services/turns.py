"""Whose operation begins next, where several organizations call at one time.

An operation begins with reads of the store, and of these reads a few run at once in a process. While
only one organization is at work it just goes on; otherwise its calls queue for themselves, and the
queues are served in turn. So whoever sends ten times as much as the others waits behind itself: its
calls do not fill the process's loop, and the others keep their pace. A running operation holds no
turn, however long its upstream takes.

The form is round-robin over one queue for each organization (Nagle, RFC 970).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from types import TracebackType
from typing import Self

from studio.errors import RateLimited

AT_ONCE = 2
"""Operations that may begin at one time. Few: what is let in already is served in no order of ours."""
MOST = 1000
"""Calls of one organization that may wait."""
ALONE_S = 1.0
"""An organization is alone when no other has called for so long, seconds."""


class Turns:
    """The queues of one process."""

    def __init__(self) -> None:
        self._left = AT_ONCE
        self._queues: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._last, self._shared_until = "", 0.0

    def of(self, organization_id: str) -> Turn | None:
        """A turn to wait for with `async with`; None where nobody else is at work."""
        now = asyncio.get_running_loop().time()
        if organization_id != self._last:
            self._last, self._shared_until = organization_id, now + ALONE_S
        return Turn(self, organization_id) if now < self._shared_until else None

    async def take(self, organization_id: str) -> None:
        """Wait until it is this organization's turn. Raises RateLimited."""
        if self._left:
            self._left -= 1
            return
        queue = self._queues.setdefault(organization_id, deque())
        if len(queue) >= MOST:
            raise RateLimited("too many calls of this organization wait already; try again shortly", retry_after_s=1)
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # it was given the turn at the same time
                self.give()
            raise

    def give(self) -> None:
        """Pass a turn on to the organization that has waited longest for one."""
        while self._queues:
            name, queue = self._queues.popitem(last=False)
            waiter = queue.popleft()
            if queue:
                self._queues[name] = queue
            if not waiter.done():
                waiter.set_result(None)
                return
        self._left += 1


class Turn:
    """One turn; entering it may raise RateLimited."""

    def __init__(self, turns: Turns, organization_id: str) -> None:
        self._turns, self._organization_id = turns, organization_id

    async def __aenter__(self) -> Self:
        await self._turns.take(self._organization_id)
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        # Not at once: an embedded store answers without giving the loop to anybody else.
        asyncio.get_running_loop().call_soon(self._turns.give)
