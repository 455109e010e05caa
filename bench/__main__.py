"""`python -m bench [--only NAME …] [--rounds N] [--seconds S] [--keep]`: run the cases.

A whole run keeps each part in bench/results/ as soon as it is finished, and writes bench/RESULTS.md anew from
all parts that are there; a run with `--only` does so with `--keep`, and prints what it found otherwise.
`--page` measures nothing and writes the page. What is said of goals that were missed stands in bench/MISSED.md.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import bench.audit
import bench.connects  # noqa: F401 - registers its cases
from bench import governed, opened, scale, startup, throughput
from bench.page import page
from bench.parts import Part, Table, keep, kept
from bench.peers import scenarios
from bench.peers.scenarios import wanted
from bench.runner import Outcome, pair
from studio.loop import run
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

RESULTS = Path(__file__).parent / "RESULTS.md"
MISSED = Path(__file__).parent / "MISSED.md"
TABLES: dict[str, Callable[[], list[Table]]] = {"startup": startup.run, "scale": scale.run, "opened": opened.run}
NAMES = [*scenarios.NAMES, *TABLES, *governed.CASES, *throughput.CASES]
"""In the order of the page."""


async def small(name: str, rounds: int, seconds: float) -> Outcome:
    """One governed operation against the bare call, on a service of its own."""
    note, setup = governed.CASES[name]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "files").mkdir()
        async with (
            ConnectorService(Settings(data_dir=Path(folder))) as service,
            setup(service, Path(folder)) as (ours, bare),
        ):
            return await pair(name, note, ours, bare, rounds=rounds, seconds=seconds)


async def whole(name: str, rounds: int) -> list[Outcome]:
    """The pieces of work of a case, on a service of their own."""
    with tempfile.TemporaryDirectory() as folder:
        async with ConnectorService(Settings(data_dir=Path(folder))) as service:
            return await throughput.run(name, service, rounds)


def parts(only: list[str], rounds: int, seconds: float) -> Iterator[Part]:
    """Each part as soon as it is finished. Whole pieces of work take long, so they have a fifth of the rounds."""
    names = [name for name in NAMES if wanted(name, only)]
    for name, rows, streams in scenarios.run(only, rounds, seconds):
        yield Part(name, rounds, seconds, rows=rows, streams=streams)
    for name in names:
        if name in TABLES:
            yield Part(name, 1, 0, tables=TABLES[name]())
        elif name in governed.CASES:
            yield Part(name, rounds, seconds / 2, small=[run(small(name, rounds, seconds / 2))])
        elif name in throughput.CASES:
            few = max(1, rounds // 5)
            yield Part(name, few, 0, whole=run(whole(name, few)))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help=f"names or their beginnings: {NAMES}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--keep", action="store_true", help="put what --only names on the page")
    parser.add_argument("--page", action="store_true", help="write the page from what is kept")
    given = parser.parse_args()
    if unknown := [name for name in given.only if not any(each.startswith(name) for each in NAMES)]:
        parser.error(f"no such case: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    found, keeps = [], given.keep or not given.only
    start = time.monotonic()
    for part in () if given.page else parts(given.only, given.rounds, given.seconds):
        part.took_s, start = time.monotonic() - start, time.monotonic()
        print(f"{part.name}: {part.took_s:.0f} s", file=sys.stderr, flush=True)
        found.append(part)
        if keeps:
            keep(part)
            RESULTS.write_text(page(kept(NAMES), MISSED.read_text()))
    if given.page:
        RESULTS.write_text(page(kept(NAMES), MISSED.read_text()))
    elif not keeps:
        print(page(found, ""))


if __name__ == "__main__":
    main()
