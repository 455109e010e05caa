"""Deadlines that cost next to nothing: an event loop has one timer for all of them.

`asyncio.timeout` makes, sorts in and cancels a timer each time, and one operation is under several
deadlines. Here one timer looks every `TICK_S` at whatever is under a deadline, while anything is. So a
deadline is never early, and late by `TICK_S` at most.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

TICK_S = 0.01


class Alarm(ABC):
    """Something that happens at a moment, unless it is put off before."""

    __slots__ = ("_ticker", "at")

    at: float
    """The moment, on the loop's clock."""

    def set(self) -> None:
        """Let it happen. Again and again is the same as once."""
        self._ticker = _ticker()
        self._ticker.add(self)

    def put_off(self) -> None:
        """Let it not happen."""
        self._ticker.alarms.discard(self)

    @abstractmethod
    def ring(self) -> None:
        """The moment has come."""


class Deadline(Alarm):
    """`with` around work of one task that must end by a moment; for one use.

    Raises:
        TimeoutError: the moment came, or `ring` was called; the work was cancelled, as by `asyncio.timeout`.
    """

    __slots__ = ("_before", "_passed", "_task")

    def __init__(self, at: float) -> None:
        self.at = at
        self._passed = False

    @classmethod
    def within(cls, seconds: float) -> Self:
        """The deadline in so many seconds from now."""
        return cls(asyncio.get_running_loop().time() + seconds)

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._before = task, task.cancelling()
        self.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.put_off()
        passed, self._passed = self._passed, True  # from now on `ring` finds nothing to end
        if passed and self._task.uncancel() <= self._before and kind is asyncio.CancelledError:
            raise TimeoutError from exc

    def ring(self) -> None:
        """End the work now, if it runs."""
        if not self._passed:
            self._passed = True
            self.put_off()
            self._task.cancel()


class _Ticker:
    """The alarms of one event loop, and its one timer."""

    __slots__ = ("_loop", "_running", "alarms")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._running = False
        self.alarms: set[Alarm] = set()

    def add(self, alarm: Alarm) -> None:
        self.alarms.add(alarm)
        if not self._running:
            self._running = True
            self._loop.call_later(TICK_S, self._look)

    def _look(self) -> None:
        now = self._loop.time()
        for alarm in [alarm for alarm in self.alarms if alarm.at <= now]:
            self.alarms.discard(alarm)
            alarm.ring()
        self._running = bool(self.alarms)
        if self._running:
            self._loop.call_later(TICK_S, self._look)


class _Here(threading.local):
    loop: asyncio.AbstractEventLoop | None = None
    ticker: _Ticker


_here = _Here()


def _ticker() -> _Ticker:
    """Of the loop that runs in this thread."""
    loop = asyncio.get_running_loop()
    if _here.loop is not loop:
        _here.loop, _here.ticker = loop, _Ticker(loop)
    return _here.ticker
