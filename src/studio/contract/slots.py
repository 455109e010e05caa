"""Places in a pool: a semaphore that gives a free one without a coroutine."""

from __future__ import annotations

import asyncio


class Slots(asyncio.Semaphore):
    """As `asyncio.Semaphore`, first come, first served."""

    def take_now(self) -> bool:
        """Take a place if one is free and nobody waits for it; whether it was so."""
        if self._value <= 0 or self._waiters:
            return False
        self._value -= 1
        return True
