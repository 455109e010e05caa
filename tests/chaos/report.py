"""What the chaos run measured, each figure beside its promise; `tests/chaos/conftest.py` prints it at the end.

report.measured("detached", ran=0)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """A figure that must not exceed `most`, where something was promised.

    The sentence holds `{value}`, and `{of}` where it is one of many.
    """

    says: str
    most: float | None


PROMISES = {
    "revoked": Promise("{value:g} of {of:,} operations begun after a revocation was answered ran", 0),
    "ended": Promise("{value:.0f} ms from a revocation until the last of {of:,} running operations ended", 2_000),
    "p99": Promise("{value:.0f} ms at the 99th percentile of {of:,} such ends", 500),
    "unnotified": Promise("{value:.0f} ms until the last of {of:,} ended with NOTIFY cut", 2_000),
    "drained": Promise("{value:g} of {of:,} requests under way at SIGTERM were lost", 0),
    "exit": Promise("{value:.2f} s from SIGTERM to the exit, the longest of {of:,}", 10),
    "rolling": Promise("{value:g} of {of:,} requests failed while every replica was restarted", 0),
    "kills": Promise("{of:,} kills of replicas and {value:g} of PostgreSQL", None),
    "unknown": Promise("{value:g} of {of:,} requests under a key were cut short, and their clients told so", None),
    "lost": Promise("{value:g} of {of:,} acknowledged changes were lost over kills", 0),
    "doubled": Promise("{value:g} of {of:,} changes took effect twice over kills", 0),
    "unrecorded": Promise("{value:g} of {of:,} effects had no row in the audit log", 0),
    "wrong": Promise("{value:g} of {of:,} answers were wrong while PostgreSQL was away for 5 s and came back", 0),
    "healthy": Promise(
        "{value:.2f} s more than before until all of {of:,} replicas were healthy after PostgreSQL was back", 2
    ),
    "share": Promise(
        "{value:.2f} times as long took the others' calls, at the median, beside an organization at ten times its "
        "share ({of:,} calls of it)",
        1.5,
    ),
    "share_p99": Promise("{value:.2f} times as long at the 99th percentile", None),
    # Of what may as well be this machine's other work, nothing is counted; nor what is within a tenth.
    "bystanders": Promise(
        "{value:.1f} ms more, surely, at the 99th percentile of calls to {of:,} others beside dead upstreams", 2
    ),
    "bystanders_p50": Promise("{value:.1f} ms more at the median", 2),
}


class Report:
    """The worst value of each promise, and over how many it was taken."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[float, int]] = {}

    def measured(self, name: str, value: float, *, of: int) -> None:
        """Note a figure: counts (a promise of none) add up, of the others the worst stays. Raises KeyError."""
        before, count = self._found.get(name, (0, 0))
        value = max(before, value) if PROMISES[name].most else before + value
        self._found[name] = (value, count + of)

    def lines(self) -> list[str]:
        """A line for each figure that was measured."""
        return [
            f"{name:<16}{PROMISES[name].says.format(value=value, of=of)}{_promised(PROMISES[name].most)}"
            for name, (value, of) in self._found.items()
        ]

    def broken(self) -> list[str]:
        """The promises that did not hold."""
        return [
            f"{name}: {value:g} is above its promise"
            for name, (value, _) in self._found.items()
            if (most := PROMISES[name].most) is not None and value > most
        ]


def _promised(most: float | None) -> str:
    return "" if most is None else f" (promised: at most {most:g})"


report = Report()
"""The one of this run."""
