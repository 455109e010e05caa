"""The results as a page: goals beside what was measured, rows that a peer wins included."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version

from bench.peers.rounds import Row, shown
from bench.peers.streams import Stream
from bench.runner import Outcome

DRIVERS = (
    "asyncpg", "asyncmy", "apsw", "redis", "pymongo", "aiohttp", "uvicorn", "httptools", "sqlalchemy", "pyarrow",
)  # fmt: skip
GOALS = {
    "1 row, 1 caller": {"Toolbox": 1.0, "DBHub": 4, "naive": 25, "asyncpg": 0.5},
    "1 row, 16 callers": {"Toolbox": 1.2, "DBHub": 4, "naive": 25, "asyncpg": 0.5},
    "1 row, 64 callers": {"Toolbox": 1.2, "DBHub": 4, "naive": 25, "asyncpg": 0.5},
    "100 rows, 16 callers": {"Toolbox": 2.0, "asyncpg": 0.6},
    "10,000 rows, 4 callers": {"Toolbox": 3.0, "asyncpg": 0.95},
    "1 row, every text new, 16 callers": {"Toolbox": 1.0},
    "MCP tools/call, 1 row, 16 callers": {"Toolbox": 1.2},
    "MCP tools/call, 100 rows, 16 callers": {"Toolbox": 2.0},
}
STREAM_GOALS = {"NDJSON": 3.0, "Arrow": 5.0}
STREAM_MEMORY_MIB = 32.0
CPU_GOAL = 0.8


@dataclass
class Measured:
    """Everything that one run of the benchmark found."""

    rows: list[Row] = field(default_factory=list)
    streams: list[Stream] = field(default_factory=list)
    small: list[Outcome] = field(default_factory=list)
    whole: list[Outcome] = field(default_factory=list)
    tables: list[tuple[str, str, list[list[str]]]] = field(default_factory=list)
    """Further tables: title, what it says, and lines whose first is the head."""


def page(found: Measured, rounds: int, seconds: float, took_s: float) -> str:
    """The whole page."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(f"{name} {version(name)}" for name in DRIVERS)
    parts = [
        "# Results",
        f"Written by `make bench` on {when}, in {took_s / 60:.0f} minutes. {os.cpu_count()} cores ({_processor()}), "
        f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}; "
        f"{versions}; MCP Toolbox 1.12.0, DBHub 1.4.0 on Node 22.23.3, wrk 4.1.0.",
        f"Paired and shuffled: {rounds} rounds of {seconds:g} s a contender after a warm-up, all of them up, in "
        "random order each round. A ratio is our rate over theirs in the same round, as median (quartiles): "
        "**below 1, the other one is faster**. On shared cores the ratios count; times are an aid.",
    ]
    if found.rows:
        parts += _peers(found.rows)
    if found.streams:
        parts += _streams(found.streams)
    for title, text, lines in found.tables:
        parts += [f"## {title}", text, table(lines)]
    if found.small:
        parts += _small(found.small)
    if found.whole:
        parts += _whole(found.whole)
    return "\n\n".join(part for part in parts if part) + "\n"


def table(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first line is its head."""
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


def _processor() -> str:
    with open("/proc/cpuinfo") as found:
        return next((line.split(":")[1].strip() for line in found if line.startswith("model name")), "unknown")


def _goal(goals: dict[str, float], other: str) -> float | None:
    return next((goal for name, goal in goals.items() if other.startswith(name)), None)


def _met(value: float, goal: float | None) -> str:
    return "" if goal is None else f"≥ {goal:g}x: {'reached' if value >= goal else '**missed**'}"


def _peers(rows: list[Row]) -> list[str]:
    lines = [
        ["scenario", "against", "ratio", "goal", "ours /s", "theirs /s", "CPU ours, µs", "CPU theirs", "CPU ratio"]
    ]
    for row in rows:
        for one in row.against:
            lines.append([
                row.name, one.other, str(one.ratio), _met(one.ratio.middle, _goal(GOALS.get(row.name, {}), one.other)),
                f"{row.per_s:.0f}", f"{one.other_per_s:.0f}", _us(row.cpu_us), _us(one.other_cpu_us),
                "" if one.cpu is None else f"{one.cpu:.2f}",
            ])  # fmt: skip
    return [
        "## Beside the peers",
        "One upstream (PostgreSQL, `events`, a million rows of six columns, no TLS on either side), one load generator "
        "(wrk: one thread of C with a Lua body; a Python one was slower than the servers). Ours is `studio serve "
        "--workers 2` with every guard on: agent key, alias, policy, caps, deadline, audit, metrics. The peers check "
        "no key and read no metadata; of Toolbox's pools (4, 8, 16) the fastest is taken for each scenario. CPU is "
        "utime and stime of the contender's own processes for each request; its goal against Toolbox is ≤ "
        f"{CPU_GOAL:g}x.",
        table(lines),
    ]


def _us(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"


def _streams(streams: list[Stream]) -> list[str]:
    lines = [["form", "s", "MiB", "extra memory, MiB", "against Toolbox", "goal", "against COPY"]]
    for one in streams:
        lines.append([
            one.name, f"{one.seconds:.2f}", f"{one.mib:.0f}", f"{one.extra_mib:.0f}", str(one.against_toolbox),
            _met(one.against_toolbox.middle, STREAM_GOALS.get(one.name)), str(one.against_copy),
        ])  # fmt: skip
    return [
        "## A million rows in one answer",
        "Read by curl. Ratios are of speed. Extra memory is the most that the server's processes held above what "
        f"they had before, over all rounds; the goal for ours is ≤ {STREAM_MEMORY_MIB:g} MiB.",
        table(lines),
    ]


def _small(outcomes: list[Outcome]) -> list[str]:
    head = ["provider", "what", "bare, µs", "ours, µs", "on top, µs", "ratio", "CPU bare, µs", "CPU ours, µs"]
    lines = [head]
    for one in outcomes:
        lines.append([
            one.name, one.note, f"{one.bare_us:.0f}", f"{one.ours_us:.0f}", f"{one.overhead_us:.0f}",
            f"{one.ratio:.2f} ({one.low:.2f} to {one.high:.2f})", f"{one.bare_cpu_us:.0f}", f"{one.ours_cpu_us:.0f}",
        ])  # fmt: skip
    text = "In one process, one call after the other, the metadata store being SQLite."
    return ["## One governed operation against the bare driver call", text, table(lines)]


def _whole(outcomes: list[Outcome]) -> list[str]:
    lines = [["what", "bare, s", "ours, s", "ratio", "CPU bare, s", "CPU ours, s"]]
    for one in outcomes:
        lines.append([
            one.name, f"{one.bare_us / 1e6:.2f}", f"{one.ours_us / 1e6:.2f}",
            f"{shown(one.ratio)} ({shown(one.low)} to {shown(one.high)})", f"{one.bare_cpu_us / 1e6:.2f}",
            f"{one.ours_cpu_us / 1e6:.2f}",
        ])  # fmt: skip
    return ["## Whole pieces of work, through the service against the bare client", table(lines)]
