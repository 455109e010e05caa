"""Latencies of live requests, taken in rounds with and without what is said to disturb them, in random order.

On a machine that does other work beside, one figure says nothing: what differs within a pair does.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self


class Line:
    """One connection that asks one thing at a time. It costs a tenth of what a request costs the server."""

    def __init__(self, port: int, key: str) -> None:
        self._port, self._key = port, key

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def _open(self) -> None:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)

    async def __aexit__(self, *_exc: object) -> None:
        self._writer.transport.abort()

    async def query(self, alias: str, text: str, agent: str = "agent-1") -> tuple[int, float]:
        """Status, and seconds."""
        body = json.dumps({"query": text})
        head = (
            f"POST /api/v1/agents/{agent}/connectors/{alias}/query HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
            f"authorization: Bearer {self._key}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        if self._reader.at_eof():  # a server ends what is idle for long
            self._writer.transport.abort()
            await self._open()
        begun = time.perf_counter()
        self._writer.write((head + body).encode())
        found = await self._reader.readuntil(b"\r\n\r\n")
        size = int(found.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        await self._reader.readexactly(size)
        return int(found[9:12]), time.perf_counter() - begun


@asynccontextmanager
async def busy(lines: Sequence[Line], ask: Callable[[Line], Any]) -> AsyncIterator[list[tuple[int, float]]]:
    """Each line asks one thing after the other until the block ends; what was answered."""
    answers: list[tuple[int, float]] = []
    over = False

    async def work(line: Line) -> None:
        while not over:
            answers.append(await ask(line))

    tasks = [asyncio.create_task(work(line)) for line in lines]
    try:
        yield answers
    finally:
        over = True
        await asyncio.gather(*tasks)


@dataclass
class Pairs:
    """Quantiles of the two sides, seconds, one pair a round."""

    without: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)

    def ratio(self) -> float:
        """The median over the rounds of how many times slower."""
        return statistics.median(b / a for a, b in zip(self.without, self.beside, strict=True))

    def usual(self) -> float:
        """The median of the undisturbed side, seconds."""
        return statistics.median(self.without)

    def surely(self) -> float:
        """How much slower at the least, seconds: the lower end of the median's interval that holds in 39 of 40 runs.

        By the sign test: it takes nothing for granted about how the machine's own noise is distributed.
        """
        differences = sorted(b - a for a, b in zip(self.without, self.beside, strict=True))
        chance, rank = 0.0, 0
        while (chance := chance + math.comb(len(differences), rank) / 2 ** len(differences)) <= 0.025:
            rank += 1
        return differences[max(0, rank - 1)]


async def paired(
    rounds: int,
    side: Callable[[bool], AbstractAsyncContextManager[Any]],
    measured: Callable[[], AbstractAsyncContextManager[list[tuple[int, float]]]],
    *,
    seconds: float,
    quantiles: Sequence[float],
) -> list[Pairs]:
    """For each quantile its pairs. `side(True)` is under way while a round of the disturbed side is measured."""
    found = [Pairs() for _ in quantiles]
    for _ in range(rounds):
        for disturbed in random.sample((True, False), 2):
            async with side(disturbed), measured() as answers:
                await asyncio.sleep(seconds)
            assert {status for status, _ in answers} == {200}
            took = sorted(one for _, one in answers)
            for pairs, quantile in zip(found, quantiles, strict=True):
                value = took[math.ceil(quantile * len(took)) - 1]
                (pairs.beside if disturbed else pairs.without).append(value)
    return found
