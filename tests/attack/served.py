"""The real server process under hostile work, and what each piece of work costs it.

Bounds: `ROOM` more resident memory than the warm server has, and `GRACE_S` past the deadline. How long it kept others
waiting is asked by requests beside the work. Other processes share the machine: how long the kernel kept the server, or
this process that asks, waiting for a processor (`/proc/<pid>/schedstat`) is taken off. What is still late, or went
over, is tried again, at most twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest
from tests import poison
from tests.attack import corpus
from tests.attack.report import report

from studio import providers

MIB = 1 << 20
PAGE = os.sysconf("SC_PAGE_SIZE")
ROOM = 32 * MIB
LEFT = ROOM
"""What all requests together may leave behind: caches, open sessions, and what the allocator keeps for the next one."""
GRACE_S = 0.1
HELD_S = 0.5
"""Not promised, and watched: the longest that one request kept the others waiting."""
DEADLINE_S = 1.0
LIMITS = {"timeout_s": DEADLINE_S, "connect_timeout_s": 0.5}
AGAIN = 2
NO_ANSWER = {500, *range(505, 600)}
"""Statuses that no bomb may have: a defect, or nothing that we say."""
PLAIN_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
"""What is freed goes back to the kernel at once, so that what one bomb left cannot hide what the next one takes."""


@dataclass(frozen=True)
class Cost:
    """Of one request: bytes and seconds.

    `rise` is the most resident memory above what there was just before it, `left` how much of that those before it had left
    above the warm server; `late` is past the deadline, `held` what others waited, the machine's share taken off.
    """

    status: int
    seconds: float
    rise: int
    left: int
    late: float
    held: float
    code: str

    @property
    def in_time(self) -> bool:
        """Whether neither the deadline passed nor somebody else waited too long."""
        return self.late <= GRACE_S and self.held <= HELD_S

    @property
    def holds(self) -> bool:
        """Whether it kept within all bounds."""
        return self.in_time and self.rise <= ROOM and self.left <= LEFT and self.status not in NO_ANSWER

    def __str__(self) -> str:
        return (
            f"{self.status} {self.code}, {self.seconds:.2f} s, {self.rise / MIB:.1f} MiB on top of {self.left / MIB:.1f}, "
            f"{self.late * 1000:.0f} ms late, held for {self.held * 1000:.0f} ms"
        )


def _told(pid: int | str, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return ""


class Waited(NamedTuple):
    """Seconds without a processor: the server's and this process's."""

    server: float
    own: float

    def since(self, before: Waited) -> float:
        """The longer of the two waits: they may have been at one time."""
        return max(self.server - before.server, self.own - before.own)


@dataclass
class Served:
    """A running server, by its process, and an administrator's way in."""

    http: aiohttp.ClientSession
    beside: aiohttp.ClientSession
    pid: int
    home: Path
    warmed: int = 0

    # -- what the kernel says of it ---------------------------------------------------------------

    def resident(self) -> int:
        """Memory of the process, in bytes."""
        return int(_told(self.pid, "statm").split()[1]) * PAGE

    def workers(self) -> int:
        """Memory of its workers, in bytes."""
        own = _told(self.pid, "cmdline")
        children = _told(self.pid, f"task/{self.pid}/children").split()
        known = [pid for pid in children if _told(pid, "cmdline") != own]  # before its exec, one is the process itself
        return sum(int((_told(pid, "statm") or "0 0").split()[1]) * PAGE for pid in known)

    def most(self) -> int:
        """The most memory of the process since `forget`, in bytes."""
        line = next(line for line in _told(self.pid, "status").splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024

    def forget(self) -> None:
        """Let `most` begin anew (proc(5), clear_refs)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def kept_waiting(self) -> Waited:
        """Seconds that its event loop's thread, and this process's, were ready to run and had no processor."""
        found = (int(_told(pid, f"task/{pid}/schedstat").split()[1]) / 1e9 for pid in (self.pid, os.getpid()))
        return Waited(*found)

    # -- requests ---------------------------------------------------------------------------------

    async def create(self, kind: str, given: dict[str, Any]) -> str:
        """Register a connector; its id."""
        family = providers.load(kind).family
        base = {"name": f"{kind} {time.monotonic_ns()}", "connector_type": family, "provider": kind}
        async with self.http.post("/api/v1/connectors", json={**base, "config": given}) as reply:
            made = await reply.json()
            assert "id" in made, made
            return str(made["id"])

    async def query(self, connector_id: str, query: str, params: Any = None) -> Cost:
        """Run a query through a connector."""
        return await self.post(f"/api/v1/connectors/{connector_id}/query", {"query": query, "params": params})

    async def operate(self, connector_id: str, operation: str, **arguments: Any) -> Cost:
        """Run an operation of a connector."""
        return await self.post(f"/api/v1/connectors/{connector_id}/operations/{operation}", arguments)

    async def post(self, path: str, body: Any, **headers: str) -> Cost:
        """One request, measured. `body` is JSON, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.forget()
        start, waited = time.monotonic(), self.kept_waiting()
        async with self._watched(start) as seen:
            sent = self.http.post(path, data=data, headers={"Content-Type": "application/json", **headers})
            async with sent as reply:
                text = await reply.text()
            seconds = time.monotonic() - start
            excused = self.kept_waiting().since(seen["waited_at_deadline"] or waited)
        late = max(0.0, seconds - DEADLINE_S - excused) if seconds > DEADLINE_S else 0.0
        rise = self.most() - seen["before"] + seen["workers"]
        left = max(0, seen["before"] - (self.warmed or seen["before"]))
        return Cost(reply.status, seconds, rise, left, late, seen["held"], _code(text))

    @asynccontextmanager
    async def _watched(self, start: float) -> AsyncIterator[dict[str, Any]]:
        before = self.workers()
        seen: dict[str, Any] = {"before": self.resident(), "workers": 0, "held": 0.0, "waited_at_deadline": None}

        async def memory() -> None:
            while True:
                seen["workers"] = max(seen["workers"], self.workers() - before)
                if time.monotonic() - start < DEADLINE_S:
                    seen["waited_at_deadline"] = self.kept_waiting()
                await asyncio.sleep(0.01)

        ended = asyncio.Event()

        async def others() -> None:
            while not ended.is_set():
                began, waited = time.monotonic(), self.kept_waiting()
                async with self.beside.get("/healthz") as reply:
                    await reply.read()
                took = time.monotonic() - began
                seen["held"] = max(seen["held"], took - self.kept_waiting().since(waited))
                await asyncio.sleep(0.005)

        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(memory())
            tasks.create_task(others())  # the one that is under way when the answer comes was held longest: it counts
            yield seen
            ended.set()
            watching.cancel()

    async def warm(self, *calls: Callable[[], Awaitable[Cost]]) -> None:
        """What is imported on first use is no bomb's doing."""
        for _ in range(2):
            for call in calls:
                await call()
        self.warmed = self.resident()


def _code(text: str) -> str:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return "?"
    return str(found.get("code", "ok")) if isinstance(found, dict) else "?"


class Bounds:
    """What a part's bombs cost, counted in the report; `broken` says which went over a bound."""

    def __init__(self, part: str) -> None:
        self.broken: list[str] = []
        self._part = part

    async def hold(self, name: str, call: Callable[[], Awaitable[Cost]]) -> None:
        """Set off one bomb; where time or memory went over, again: it may be what the one before had left."""
        costs = [await call()]
        while len(costs) <= AGAIN and not costs[-1].holds:
            await asyncio.sleep(0.2)
            costs.append(await call())
        last = costs[-1]
        for cost in costs if len(costs) > 1 or os.environ.get("STUDIO_ATTACK_VERBOSE") else []:
            print(f"{self._part}, {name}: {cost}")
        if not last.holds:
            self.broken.append(f"{name}: " + "; ".join(map(str, costs)))
        report.count(
            "exhaustion", self._part, bombs=1, again=len(costs) - 1, broken=0 if last.holds else 1,
            mib=round(last.rise / MIB), left=round(last.left / MIB), late=round(last.late * 1000), held=round(last.held * 1000),
        )  # fmt: skip


@pytest.fixture(scope="package")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], int, Path]]:
    """One server for all bombs: what it said at its start, its process id, and its home."""
    home = tmp_path_factory.mktemp("served")
    environment = poison.program(home, **PLAIN_MALLOC)
    command = [str(Path(sys.executable).parent / "studio"), "serve", "--port", "0", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline()), process.pid, home
        process.terminate()


@pytest.fixture
async def served(program: tuple[dict[str, Any], int, Path]) -> AsyncIterator[Served]:
    """The server, to be used by one test."""
    said, pid, home = program
    key = {"Authorization": f"Bearer {said['first_key']}"}
    async with (
        aiohttp.ClientSession(said["url"], headers=key) as http,
        aiohttp.ClientSession(said["url"]) as beside,
    ):
        yield Served(http, beside, pid, home)


def config(kind: str, port: int) -> dict[str, Any]:
    """A config that leads to a port of this machine."""
    return corpus.config(kind, "127.0.0.1", port, None if kind == "gcs" else "k3pt-s3cret")
