"""The results as a page: goals beside what was measured, rows that a peer wins included."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

from bench.parts import Part
from bench.peers.rounds import Row, shown
from bench.peers.streams import Stream
from bench.runner import Outcome

DRIVERS = (
    "asyncpg", "asyncmy", "apsw", "redis", "pymongo", "aiohttp", "uvicorn", "uvloop", "httptools", "sqlalchemy",
    "pyarrow",
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
CONNECTS = "connect_"
TEST_GOAL = 1.2


def page(parts: Sequence[Part], missed: str) -> str:
    """The whole page; `missed` says, by heading, what there is to say of goals that were missed."""
    versions = ", ".join(f"{name} {version(name)}" for name in DRIVERS)
    sections = [
        _peers([row for part in parts for row in part.rows]),
        _streams([stream for part in parts for stream in part.streams]),
        *([title, text, table(lines)] for part in parts for title, text, lines in part.tables),
        *_small([one for part in parts for one in part.small]),
        _whole([one for part in parts for one in part.whole]),
        _taken(parts),
    ]
    said = _by_heading(missed)
    body = [part for one in sections if one for part in (f"## {one[0]}", *one[1:], *_of_missed(said.pop(one[0], "")))]
    for heading, text in said.items():  # of a part that was not measured, or misspelt: nothing is lost
        body += [f"## {heading}", *_of_missed(text)]
    return (
        "\n\n".join(
            [
                "# Results",
                f"Written by `make bench`. {os.cpu_count()} cores ({_processor()}), "
                f"Python {platform.python_version()}, {platform.system()} {platform.release()} {platform.machine()}; "
                f"{versions}; MCP Toolbox 1.12.0, DBHub 1.4.0 on Node 22.23.3, wrk 4.1.0.",
                "Paired and shuffled: rounds of each contender after a warm-up, all of them up, in random order each "
                "round; how many and when stands at the end. A ratio is our rate over theirs in the same round, as "
                "median (quartiles): **below 1, the other one is faster**. On shared cores the ratios count; times are "
                "an aid.",
                *body,
            ]
        )
        + "\n"
    )


def _by_heading(text: str) -> dict[str, str]:
    """What stands under each `## heading`."""
    pieces = [piece.partition("\n") for piece in ("\n" + text).split("\n## ")[1:]]
    return {heading.strip(): body.strip() for heading, _, body in pieces if body.strip()}


def _of_missed(text: str) -> list[str]:
    return ["### Where a goal is missed", text] if text else []


def _taken(parts: Sequence[Part]) -> list[str]:
    lines = [["part", "measured", "rounds", "of s", "took, s"]]
    lines += [[one.name, one.at, str(one.rounds), f"{one.seconds:g}", f"{one.took_s:.0f}"] for one in parts]
    whole = sum(one.took_s for one in parts) / 60
    return ["How it was measured", f"{whole:.0f} minutes in all. A table takes its own number of rounds.", table(lines)]


def table(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first line is its head."""
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


def _processor() -> str:
    with open("/proc/cpuinfo") as found:
        return next((line.split(":")[1].strip() for line in found if line.startswith("model name")), "unknown")


def _goal(goals: dict[str, float], other: str) -> float | None:
    return next((goal for name, goal in goals.items() if other.startswith(name)), None)


def _met(value: float, goal: float | None, form: str = "g") -> str:
    return "" if goal is None else f"≥ {goal:{form}}x: {'reached' if value >= goal else '**missed**'}"


def _peers(rows: list[Row]) -> list[str]:
    if not rows:
        return []
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
        "Beside the peers",
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
    if not streams:
        return []
    lines = [["form", "s", "MiB", "extra memory, MiB", "against Toolbox", "goal", "against COPY"]]
    for one in streams:
        lines.append([
            one.name, f"{one.seconds:.2f}", f"{one.mib:.0f}", f"{one.extra_mib:.0f}", str(one.against_toolbox),
            _met(one.against_toolbox.middle, STREAM_GOALS.get(one.name)), str(one.against_copy),
        ])  # fmt: skip
    return [
        "A million rows in one answer",
        "Read by curl. Ratios are of speed. Extra memory is the most that the server's processes held above what "
        f"they had before, over all rounds; the goal for ours is ≤ {STREAM_MEMORY_MIB:g} MiB.",
        table(lines),
    ]


def _small(outcomes: list[Outcome]) -> list[list[str]]:
    tests = [one for one in outcomes if one.name.startswith(CONNECTS)]
    others = [one for one in outcomes if one not in tests]
    sections = []
    if others:
        text = "In one process, one call after the other, the metadata store being SQLite."
        sections.append(["One governed operation against the bare driver call", text, _table_of(others, None)])
    if tests:
        text = (
            "Ours is the test of a stored connector: resolve, connect, log in and the first answer as stages, on a "
            "session of its own; the row of the audit log and the state of health are committed before it answers. "
            f"Bare is the driver's own connect, one round trip, and close. The goal is ≤ {TEST_GOAL:g}x of its time."
        )
        sections.append(["Test of a connection against the driver's own connect", text, _table_of(tests, TEST_GOAL)])
    return sections


def _table_of(outcomes: list[Outcome], most: float | None) -> str:
    """`most`: the goal for our time over theirs."""
    head = ["provider", "what", "bare, µs", "ours, µs", "on top, µs", "ratio", "CPU bare, µs", "CPU ours, µs"]
    lines = [[*head, *(["goal"] if most else [])]]
    for one in outcomes:
        lines.append([
            one.name.removeprefix(CONNECTS), one.note, f"{one.bare_us:.0f}", f"{one.ours_us:.0f}",
            f"{one.overhead_us:.0f}", f"{one.ratio:.2f} ({one.low:.2f} to {one.high:.2f})", f"{one.bare_cpu_us:.0f}",
            f"{one.ours_cpu_us:.0f}", *([_met(one.ratio, 1 / most, ".2f")] if most else []),
        ])  # fmt: skip
    return table(lines)


def _whole(outcomes: list[Outcome]) -> list[str]:
    if not outcomes:
        return []
    lines = [["what", "bare, s", "ours, s", "ratio", "CPU bare, s", "CPU ours, s"]]
    for one in outcomes:
        lines.append([
            one.name, f"{one.bare_us / 1e6:.2f}", f"{one.ours_us / 1e6:.2f}",
            f"{shown(one.ratio)} ({shown(one.low)} to {shown(one.high)})", f"{one.bare_cpu_us / 1e6:.2f}",
            f"{one.ours_cpu_us / 1e6:.2f}",
        ])  # fmt: skip
    return ["Whole pieces of work, through the service against the bare client", table(lines)]
