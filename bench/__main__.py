"""`python -m bench [--only NAME …] [--rounds N] [--seconds S]`: run the cases and write bench/RESULTS.md."""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import governed, throughput
from bench.runner import Outcome, pair
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

RESULTS = Path(__file__).parent / "RESULTS.md"
NAMES = sorted({*governed.CASES, *throughput.CASES})
DRIVERS = ("asyncpg", "asyncmy", "apsw", "redis", "pymongo", "aiohttp", "uvicorn", "sqlalchemy")


async def run(names: list[str], rounds: int, seconds: float) -> list[Outcome]:
    """Each case on a service of its own."""
    outcomes = []
    for name, (note, setup) in governed.CASES.items():
        if names and name not in names:
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


async def run_whole(names: list[str], rounds: int) -> list[Outcome]:
    """The throughput cases, each on a service of its own."""
    outcomes = []
    for name in throughput.CASES:
        if names and name not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            async with ConnectorService(Settings(data_dir=Path(folder))) as service:
                print(f"{name} …", file=sys.stderr, flush=True)
                outcomes += await throughput.run(name, service, rounds)
    return outcomes


def page(outcomes: list[Outcome], whole: list[Outcome], rounds: int, seconds: float) -> str:
    """The results as a page."""
    when = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    versions = ", ".join(f"{name} {version(name)}" for name in DRIVERS)
    lines = [
        "# Results",
        "",
        f"Written by `make bench` on {when}. {os.cpu_count()} shared cores, Python {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}; {versions}.",
        "",
        f"Paired and shuffled: {rounds} rounds of {seconds:g} s a contender, one call after the other, all guards on, "
        "the metadata store being SQLite. The ratio is the rate of ours over that of the bare driver, median "
        "(quartiles): below 1, ours is slower. On shared cores the ratios count, the times are an aid.",
        "",
        "## One governed operation against the bare driver call",
        "",
        "| provider | what | bare, µs | ours, µs | on top, µs | ratio | CPU bare, µs | CPU ours, µs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in outcomes:
        lines.append(
            f"| {one.name} | {one.note} | {one.bare_us:.0f} | {one.ours_us:.0f} | {one.overhead_us:.0f} | "
            f"{one.ratio:.2f} ({one.low:.2f} to {one.high:.2f}) | {one.bare_cpu_us:.0f} | {one.ours_cpu_us:.0f} |"
        )
    lines += [
        "",
        "## Whole pieces of work, through the service against the bare client",
        "",
        "| what | bare, s | ours, s | ratio | CPU bare, s | CPU ours, s |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in whole:
        lines.append(
            f"| {one.name} | {one.bare_us / 1e6:.2f} | {one.ours_us / 1e6:.2f} | "
            f"{one.ratio:.2f} ({one.low:.2f} to {one.high:.2f}) | {one.bare_cpu_us / 1e6:.2f} | "
            f"{one.ours_cpu_us / 1e6:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], choices=NAMES, metavar="NAME")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    small = asyncio.run(run(given.only, given.rounds, given.seconds))
    whole = asyncio.run(run_whole(given.only, max(1, given.rounds // 3)))
    text = page(small, whole, given.rounds, given.seconds)
    if given.only:
        print(text)
    else:
        RESULTS.write_text(text)


if __name__ == "__main__":
    main()
