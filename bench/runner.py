"""Paired, shuffled rounds: each contender runs for a moment, in random order, again and again.

A figure is a ratio of one round's two rates; what is quoted is the median of those ratios and their
quartiles. Absolute times on shared cores prove nothing; they stand beside the ratios as an aid.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

Call = Callable[[], Awaitable[object]]


@dataclass
class Rounds:
    """What one contender did, round by round."""

    per_call_us: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Outcome:
    """Two contenders side by side. `ratio` is the rate of ours over that of the other: above 1, ours is faster."""

    name: str
    note: str
    ours_us: float
    bare_us: float
    ratio: float
    low: float
    high: float
    ours_cpu_us: float
    bare_cpu_us: float

    @property
    def overhead_us(self) -> float:
        """What one governed operation costs on top, microseconds."""
        return self.ours_us - self.bare_us


async def pair(name: str, note: str, ours: Call, bare: Call, *, rounds: int, seconds: float) -> Outcome:
    """Time two contenders, one call after the other, in `rounds` shuffled rounds of `seconds` each."""
    taken = {"ours": Rounds(), "bare": Rounds()}
    calls = {"ours": ours, "bare": bare}
    for call in calls.values():
        await _for(call, seconds / 2)
    for _ in range(rounds):
        for who in random.sample(sorted(calls), 2):
            count, wall, cpu = await _for(calls[who], seconds)
            taken[who].per_call_us.append(wall / count * 1e6)
            taken[who].cpu_us.append(cpu / count * 1e6)
    return _outcome(name, note, taken["ours"], taken["bare"])


async def once(name: str, note: str, ours: Call, bare: Call, *, rounds: int) -> Outcome:
    """Time two whole pieces of work, each run once a round."""
    taken = {"ours": Rounds(), "bare": Rounds()}
    calls = {"ours": ours, "bare": bare}
    for _ in range(rounds):
        for who in random.sample(sorted(calls), 2):
            wall, cpu = time.perf_counter(), time.process_time()
            await calls[who]()
            taken[who].per_call_us.append((time.perf_counter() - wall) * 1e6)
            taken[who].cpu_us.append((time.process_time() - cpu) * 1e6)
    return _outcome(name, note, taken["ours"], taken["bare"])


async def _for(call: Call, seconds: float) -> tuple[int, float, float]:
    count, start, cpu = 0, time.perf_counter(), time.process_time()
    while (wall := time.perf_counter() - start) < seconds or not count:
        await call()
        count += 1
    return count, wall, time.process_time() - cpu


def _outcome(name: str, note: str, ours: Rounds, bare: Rounds) -> Outcome:
    ratios = sorted(b / o for o, b in zip(ours.per_call_us, bare.per_call_us, strict=True))
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    middle = statistics.median
    return Outcome(
        name, note, middle(ours.per_call_us), middle(bare.per_call_us), middle(ratios), quartiles[0], quartiles[2],
        middle(ours.cpu_us), middle(bare.cpu_us),
    )  # fmt: skip
