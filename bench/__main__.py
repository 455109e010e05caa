"""`python -m bench [--only NAME …] [--rounds N] [--seconds S]`: run the cases and write bench/RESULTS.md."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

import bench.audit  # noqa: F401 - registers its case
from bench import governed, scale, startup, throughput
from bench.page import Measured, page
from bench.peers import scenarios
from bench.peers.scenarios import wanted
from bench.runner import Outcome, pair
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

RESULTS = Path(__file__).parent / "RESULTS.md"
TABLES = {"startup": startup.run, "scale": scale.run}
NAMES = sorted({*TABLES, *governed.CASES, *throughput.CASES, *scenarios.NAMES})


async def run(only: list[str], rounds: int, seconds: float) -> list[Outcome]:
    """Each case on a service of its own."""
    outcomes = []
    for name, (note, setup) in governed.CASES.items():
        if not wanted(name, only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "files").mkdir()
            async with ConnectorService(Settings(data_dir=Path(folder))) as service:
                print(f"{name} …", end=" ", flush=True, file=sys.stderr)
                async with setup(service, Path(folder)) as (ours, bare):
                    outcome = await pair(name, note, ours, bare, rounds=rounds, seconds=seconds)
        print(f"{outcome.overhead_us:.0f} µs on top, {outcome.ratio:.2f}x", file=sys.stderr)
        outcomes.append(outcome)
    return outcomes


async def run_whole(only: list[str], rounds: int) -> list[Outcome]:
    """The throughput cases, each on a service of its own."""
    outcomes = []
    for name in throughput.CASES:
        if not wanted(name, only):
            continue
        with tempfile.TemporaryDirectory() as folder:
            async with ConnectorService(Settings(data_dir=Path(folder))) as service:
                print(f"{name} …", file=sys.stderr, flush=True)
                outcomes += await throughput.run(name, service, rounds)
    return outcomes


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help=f"names or their beginnings: {NAMES}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    if unknown := [name for name in given.only if not any(each.startswith(name) for each in NAMES)]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    start = time.monotonic()
    found = Measured()
    if any(wanted(name, given.only) for name in scenarios.NAMES):
        found.rows, found.streams = scenarios.run(given.only, given.rounds, given.seconds)
    for name, table in TABLES.items():
        if wanted(name, given.only):
            found.tables += table()
    found.small = asyncio.run(run(given.only, given.rounds, given.seconds / 2))
    found.whole = asyncio.run(run_whole(given.only, max(1, given.rounds // 3)))
    text = page(found, given.rounds, given.seconds, time.monotonic() - start)
    if given.only:
        print(text)
    else:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
