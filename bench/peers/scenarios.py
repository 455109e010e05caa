"""Studio beside its peers, scenario by scenario: one configuration of each for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypeVar

from tests.servers import Postgres

from bench.peers import rounds, streams
from bench.peers.contenders import Dbhub, Limit, Naive, Pgbench, Toolbox, Work
from bench.peers.rounds import Row
from bench.peers.studio import Studio
from bench.peers.upstream import Events

SCENARIOS: dict[str, tuple[str, Work]] = {
    "one_row_1": ("1 row, 1 caller", Work(1, 1)),
    "one_row_16": ("1 row, 16 callers", Work(1, 16)),
    "one_row_64": ("1 row, 64 callers", Work(1, 64)),
    "hundred_rows": ("100 rows, 16 callers", Work(100, 16)),
    "ten_thousand_rows": ("10,000 rows, 4 callers", Work(10_000, 4)),
    "adhoc": ("1 row, every text new, 16 callers", Work(1, 16, "adhoc")),
    "mcp_one": ("MCP tools/call, 1 row, 16 callers", Work(1, 16, "mcp")),
    "mcp_hundred": ("MCP tools/call, 100 rows, 16 callers", Work(100, 16, "mcp")),
}
STREAMS = "streams"
POOLS = "many_pools"
NAMES = [*SCENARIOS, POOLS, STREAMS]
WORKERS = 2
T = TypeVar("T", bound=Any)


def wanted(name: str, only: list[str]) -> bool:
    """Whether a name was asked for, by itself or by its beginning (`one_row`)."""
    return not only or any(name.startswith(each) for each in only)


def run(only: list[str], count: int, seconds: float) -> Iterator[tuple[str, list[Row], list[streams.Stream]]]:
    """Start everybody that the scenarios need, and time them; each scenario as soon as it is finished."""
    if not any(wanted(name, only) for name in NAMES):
        return
    with ExitStack() as stack:

        def up(one: T) -> T:
            stack.callback(one.close)
            one.start()
            return one

        upstream = up(Events())
        ours = up(Studio(upstream, workers=WORKERS))
        for name, row in _rows(only, count, seconds, upstream, ours, up):
            yield name, [row], []
        if wanted(POOLS, only):
            yield POOLS, _many_pools(ours, count, seconds), []
        if wanted(STREAMS, only):
            yield STREAMS, [], streams.run(upstream, ours, up(Toolbox(upstream, 8)), max(3, count // 3))


def _rows(
    only: list[str], count: int, seconds: float, upstream: Events, ours: Studio, up: Callable[[T], T]
) -> Iterator[tuple[str, Row]]:
    asked = {name: found for name, found in SCENARIOS.items() if wanted(name, only)}
    if not asked:
        return
    metadata = up(Postgres())
    store = f"postgresql+asyncpg://{metadata.user}:{metadata.password}@{metadata.host}:{metadata.port}/app"
    toolboxes = [up(Toolbox(upstream, size)) for size in (4, 8, 16)]
    others = [up(Studio(upstream, "Studio, 1 worker")), up(Dbhub(upstream)), up(Naive(upstream)), up(Limit(upstream))]
    # The other store and the server's own tool say at one row what they have to say.
    once = [
        up(Studio(upstream, "Studio, store in PostgreSQL", workers=WORKERS, store=store)),
        up(Pgbench(upstream)),
    ]
    for key, (name, work) in asked.items():
        strongest = rounds.best(work, toolboxes)
        chosen = [*others, *once] if work == SCENARIOS["one_row_16"][1] else others
        yield key, rounds.run(name, work, ours, [strongest, *chosen], rounds=count, seconds=seconds)


class _Spread:
    """Studio with requests spread over many connectors, each with a session of its own."""

    def __init__(self, studio: Studio, number: int) -> None:
        self._studio, self.number = studio, number
        self.name = f"{number} connectors in use"

    def can(self, work: Work) -> bool:
        return True

    def measure(self, work: Work, seconds: float) -> Any:
        request = self._studio.request(work)
        assert request is not None
        path = request.path.replace("/events/", f"/@alias{self.number}/")
        return self._studio.load(type(request)(path, request.template, request.headers), work.callers, seconds)


def _many_pools(ours: Studio, count: int, seconds: float) -> list[Row]:
    for number in range(1, 1001):
        ours.attach(f"many{number}", "bench")
    one, *others = (_Spread(ours, number) for number in (1, 100, 1000))
    for each in others:
        _settle(each)
    row = rounds.run("1 row, 16 callers, by connectors in use", Work(1, 16), one, others, rounds=count, seconds=seconds)
    return [row]


def _settle(one: _Spread) -> None:
    """Load it until each worker has opened its pools: several requests for each, and no faster any more."""
    made, now = 0.0, 1.0
    for _ in range(25):
        last, now = now, one.measure(Work(1, 16), 4).per_s
        made += 4 * now
        if made > 6 * one.number and now < last * 1.2:
            return
