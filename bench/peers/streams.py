"""A million rows at once: each form of ours against Toolbox's one answer, and psql's binary COPY as the limit."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.peers.contenders import Contender, Toolbox, Work, rss_mib
from bench.peers.rounds import Spread
from bench.peers.studio import Studio
from bench.peers.upstream import COLUMNS, ROWS, Events

FORMS = {
    "NDJSON": "application/x-ndjson",
    "JSON array": "application/json; stream=true",
    "CSV": "text/csv",
    "Arrow": "application/vnd.apache.arrow.stream",
}
WORK = Work(ROWS, 1)
TOOLBOX = "Toolbox"
COPY = "psql, binary COPY"


@dataclass(frozen=True)
class Stream:
    """One form: seconds, MiB on the wire, the most extra memory of the server, and ratios of speed."""

    name: str
    seconds: float
    mib: float
    extra_mib: float
    against_toolbox: Spread
    against_copy: Spread


@dataclass(frozen=True)
class _Taken:
    seconds: float
    mib: float
    extra_mib: float


def run(upstream: Events, ours: Studio, toolbox: Toolbox, rounds: int) -> list[Stream]:
    """Everyone once a round, in random order."""
    everyone: dict[str, Callable[[], _Taken]] = {
        **{form: lambda accept=accept: _fetched(ours, accept) for form, accept in FORMS.items()},  # type: ignore[misc]
        TOOLBOX: lambda: _fetched(toolbox, None),
        COPY: lambda: _copied(upstream),
    }
    found: dict[str, list[_Taken]] = {name: [] for name in everyone}
    for each in everyone.values():  # libraries are imported and pools opened by then
        each()
    for number in range(rounds):
        for name in random.sample(list(everyone), len(everyone)):
            print(
                f"\r1,000,000 rows: round {number + 1} of {rounds}, {name}      ", end="", flush=True, file=sys.stderr
            )
            found[name].append(everyone[name]())
    print(file=sys.stderr)
    return [_stream(name, found) for name in everyone]


def _stream(name: str, found: dict[str, list[_Taken]]) -> Stream:
    mine = found[name]

    def against(other: str) -> Spread:
        return Spread.of([o.seconds / m.seconds for m, o in zip(mine, found[other], strict=True)])

    middle = sorted(mine, key=lambda one: one.seconds)[len(mine) // 2]
    extra = max(one.extra_mib for one in mine)
    return Stream(name, middle.seconds, middle.mib, extra, against(TOOLBOX), against(COPY))


def _fetched(server: Contender, accept: str | None) -> _Taken:
    request = server.request(WORK)
    assert request is not None
    assert server.process is not None
    lines = [*request.headers, "content-type: application/json", *([f"accept: {accept}"] if accept else [])]
    headers = [part for line in lines for part in ("-H", line)]
    command = [
        "curl", "-sS", "-o", "/dev/null", "-w", "%{http_code} %{size_download}", *headers, "-d",
        request.template.replace("@id", "1"), f"http://127.0.0.1:{server.port}{request.path}",
    ]  # fmt: skip
    with _Watched(server.process.pid) as watched:
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        took = time.perf_counter() - start
    status, size = done.stdout.split()
    if status != "200" or int(size) < 10 * ROWS:
        raise RuntimeError(f"{server.name}: status {status}, {size} bytes")
    return _Taken(took, int(size) / 2**20, watched.extra_mib)


def _copied(upstream: Events) -> _Taken:
    command = ["psql", "-Xqc", f"COPY (SELECT {COLUMNS} FROM events ORDER BY id) TO STDOUT (FORMAT binary)"]
    path = Path(upstream.dir) / "copied"
    start = time.perf_counter()
    with path.open("wb") as target:
        subprocess.run(command, stdout=target, check=True, env=upstream.programs_environment())
    took = time.perf_counter() - start
    size = path.stat().st_size
    path.unlink()
    return _Taken(took, size / 2**20, 0.0)


class _Watched:
    """The most resident memory of a server while the body runs, above what it had before."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._before = self._most = rss_mib(pid)

    @property
    def extra_mib(self) -> float:
        return self._most - self._before

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self._most = max(self._most, rss_mib(self._pid))

    def __enter__(self) -> _Watched:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._ended.set()
        self._thread.join()
