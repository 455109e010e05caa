"""Shuffled rounds of several contenders, and what is made of them."""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.peers.contenders import BadRound, Sample, Work


class Timed(Protocol):
    """Whoever can be timed."""

    name: str

    def can(self, work: Work) -> bool: ...
    def measure(self, work: Work, seconds: float) -> Sample: ...


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one round's ratios."""

    low: float
    middle: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4)
        return cls(low, middle, high)

    def __str__(self) -> str:
        return f"{shown(self.middle)} ({shown(self.low)} to {shown(self.high)})"


def shown(value: float) -> str:
    """Two decimals where they mean something."""
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.0f}"


@dataclass(frozen=True)
class Against:
    """Ours against one contender: the ratio of the rates, and of processor time for each request."""

    other: str
    ratio: Spread
    cpu: float | None
    other_per_s: float
    other_cpu_us: float | None


@dataclass(frozen=True)
class Row:
    """One scenario."""

    name: str
    ours: str
    per_s: float
    cpu_us: float | None
    against: list[Against]
    rounds: int


def run(name: str, work: Work, ours: Timed, others: Sequence[Timed], *, rounds: int, seconds: float) -> Row:
    """Each contender for some seconds in random order, again and again, after a warm-up."""
    everyone = [one for one in (ours, *others) if one.can(work)]
    found: dict[str, list[Sample]] = {one.name: [] for one in everyone}
    for one in everyone:
        one.measure(work, 1)
    for number in range(rounds):
        print(f"\r{name}: round {number + 1} of {rounds}   ", end="", flush=True, file=sys.stderr)
        for one in random.sample(everyone, len(everyone)):
            found[one.name].append(_again(one, work, seconds))
    row = compare(name, found, ours.name)
    print(f"\r{summary(row)}", file=sys.stderr, flush=True)
    return row


def _again(one: Any, work: Work, seconds: float) -> Sample:
    """A round; once more where it failed, since machines are shared. A second failure is one."""
    try:
        return one.measure(work, seconds)  # type: ignore[no-any-return]
    except BadRound as exc:
        print(f"\n  again: {exc}", file=sys.stderr)
        return one.measure(work, seconds)  # type: ignore[no-any-return]


def compare(name: str, found: dict[str, list[Sample]], ours: str) -> Row:
    """The row of a scenario from the samples of everyone."""
    mine = found[ours]
    against = []
    for other, samples in found.items():
        if other == ours:
            continue
        ratios = [m.per_s / s.per_s for m, s in zip(mine, samples, strict=True)]
        cpu = _cpu(samples)
        own = _cpu(mine)
        against.append(Against(other, Spread.of(ratios), own / cpu if own and cpu else None, _rate(samples), cpu))
    return Row(name, ours, _rate(mine), _cpu(mine), against, len(mine))


def best(work: Work, candidates: Sequence[Timed], seconds: float = 1.0) -> Timed:
    """The fastest of some variants of one contender, each tried twice after a warm-up."""
    rates = {}
    for one in candidates:
        one.measure(work, seconds)
        rates[one.name] = max(one.measure(work, seconds).per_s for _ in range(2))
    return max(candidates, key=lambda one: rates[one.name])


def summary(row: Row) -> str:
    """A row on one line."""
    parts = [f"{shown(one.ratio.middle)}x {one.other}" for one in row.against]
    return f"{row.name}: {row.per_s:.0f}/s, " + ", ".join(parts)


def _rate(samples: Sequence[Sample]) -> float:
    return statistics.median(one.per_s for one in samples)


def _cpu(samples: Sequence[Sample]) -> float | None:
    values = [one.cpu_us for one in samples if one.cpu_us is not None]
    return statistics.median(values) if values else None
