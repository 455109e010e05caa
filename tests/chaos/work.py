"""Clients that change things and cause effects, what they were told, and whether that is what is there."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
from tests.chaos.clients import Unknown, asked, insistent, load
from tests.chaos.cluster import Cluster, Replica, Upstream
from tests.chaos.report import report

from studio.models import IN_PROCESS
from studio.services import planning
from studio.services.audited import statement
from studio.services.core import open_core

PAUSE_S = 0.03


class Work:
    """What the clients ask for, and what they were told."""

    def __init__(self, cluster: Cluster, upstream: Upstream) -> None:
        self.cluster, self.upstream = cluster, upstream
        self.prefix = secrets.token_hex(4)
        self.asked = self.unknown = 0
        self.names: dict[str, str | None] = {}
        """The name that each connector was last answered to have, by id; None for one answered to be gone."""
        self.tried: dict[str, set[str | None]] = {}
        """The names that a change without an answer may have given it."""
        self.keys: dict[str, str] = {}
        self.done: set[str] = set()
        """Paths of operations that were answered."""
        self.sent_by: dict[str, Replica] = {}
        """Which replica each path was last asked of."""
        self.well = False
        """Whether every request that begins from now on must be answered with what was asked for."""
        self.answers = 0
        self.wrong: list[Any] = []

    @classmethod
    async def made(cls, cluster: Cluster, upstream: Upstream) -> Work:
        work = cls(cluster, upstream)
        work.target = await cluster.connector(upstream.url)
        await cluster.attached(work.target, work.prefix)
        work.query = f"agents/agent-1/connectors/{work.prefix}/query"
        return work

    async def sender(self) -> Replica:
        """The replica whose effect has reached the upstream this moment, and is not answered yet."""
        late = self.upstream.late
        while not late.empty():
            late.get_nowait()
        return self.sent_by[await late.get()]

    @asynccontextmanager
    async def under_way(self, *more: Callable[[int], Awaitable[None]]) -> AsyncIterator[None]:
        """Two clients of each kind until the block ends."""
        async with AsyncExitStack() as stack:
            loads = [
                await stack.enter_async_context(load(each, clients=2, pause_s=PAUSE_S))
                for each in (self.connector, self.key, self.keyed, self.plain, *more)
            ]
            yield
        failed = [one for answers in loads for one in answers if isinstance(one, BaseException)]
        self.unknown = sum(isinstance(one, Unknown) for one in failed)
        assert self.unknown == len(failed), failed

    async def connector(self, number: int) -> None:
        """Made, renamed, and every third one deleted; each under a key of its own."""
        name = f"{self.prefix}-{number}"
        body = {"name": name, "connector_type": "api", "provider": "rest", "config": {"base_url": self.upstream.url}}
        made = (await self._insist("POST", "connectors", body, f"make-{name}"))["id"]
        self.names[made] = name
        await self._change(made, f"{name}-renamed", "PUT", {"name": f"{name}-renamed"})
        if number % 3 == 0:
            await self._change(made, None, "DELETE", None)

    async def key(self, number: int) -> None:
        """API keys: nothing but the idempotency key keeps two of one name from being made."""
        name = f"{self.prefix}-{number}"
        body = {"name": name, "role": "member"}
        self.keys[name] = (await self._insist("POST", "keys", body, f"key-{name}"))["id"]

    async def keyed(self, number: int) -> None:
        """An effect that is asked for until it is answered."""
        path = f"/late/{self.prefix}/keyed/{number}"
        await self._insist("POST", self.query, {"query": f"POST {path}"}, path, path)
        self.done.add(path)

    async def plain(self, number: int) -> None:
        """An effect that is asked for once."""
        path = f"/late/{self.prefix}/plain/{number}"
        try:
            status, _ = await self._call("POST", self.query, {"query": f"POST {path}"}, path)
        except aiohttp.ClientError:
            return
        if status == 200:
            self.done.add(path)

    async def read(self, number: int) -> None:
        """A read, whose answer says what was asked for."""
        path = f"/read/{number}"
        status, answer = await self._call("POST", self.query, {"query": f"GET {path}"})
        if status == 200 and answer["data"] != {"path": path}:
            self.wrong.append(answer)

    async def _change(self, connector: str, name: str | None, method: str, body: Any) -> None:
        self.tried.setdefault(connector, set()).add(name)
        await self._insist(method, f"connectors/{connector}", body, f"{method}-{connector}")
        self.names[connector] = name
        self.tried[connector].clear()

    async def _insist(self, method: str, path: str, body: Any, key: str, effect: str = "") -> Any:
        self.asked += 1
        return await insistent(lambda: self._call(method, path, body, effect, Idempotency_Key=key))

    async def _call(self, method: str, path: str, body: Any, effect: str = "", **headers: str) -> tuple[int, Any]:
        well, replica = self.well, random.choice(self.cluster.replicas)
        self.sent_by[effect] = replica
        status, answer = await self.cluster.call(method, path, body, replica=replica, **headers)
        self.answers += 1
        if not (200 <= status < 300 or status == 409 or (status >= 500 and not well)):
            self.wrong.append((status, answer))
        return status, answer

    async def judged(self) -> None:
        """Compare what was answered with what is there."""
        rows = await asked(self.cluster, f"SELECT id, name FROM connectors WHERE name LIKE '{self.prefix}-%'")
        there = {row["id"]: row["name"] for row in rows}
        keys = await asked(self.cluster, f"SELECT id, name FROM api_keys WHERE name LIKE '{self.prefix}-%'")
        seen = Counter(path for path in self.upstream.seen if path.startswith(f"/late/{self.prefix}"))
        lost = sum(
            there.get(connector) not in {name, *self.tried.get(connector, ())} for connector, name in self.names.items()
        )
        lost += sum(id_ not in {row["id"] for row in keys} for id_ in self.keys.values())
        lost += sum(path not in seen for path in self.done)
        report.measured("lost", lost, of=len(self.names) + len(self.keys) + len(self.done))
        doubled = sum(count > 1 for count in seen.values())
        doubled += sum(count > 1 for count in Counter(row["name"] for row in keys).values())
        noted = await self._noted()
        doubled += sum(count > 1 for count in noted.values())
        report.measured("doubled", doubled, of=len(seen) + len(keys) + len(noted))
        unrecorded = len(seen.keys() - await self._started(seen))
        unrecorded += sum(("connector.create", id_) not in noted for id_ in there)
        unrecorded += sum(("key.create", row["id"]) not in noted for row in keys)
        report.measured("unrecorded", unrecorded, of=len(seen) + len(there) + len(keys))
        assert (lost, doubled, unrecorded) == (0, 0, 0)
        assert min(len(self.done), len(self.names), len(self.keys)) > 0

    async def _noted(self) -> dict[tuple[str, str], int]:
        """How many rows each change has in the audit log."""
        rows = await asked(
            self.cluster,
            "SELECT event, target, count(*) AS n FROM audit_log WHERE event IN "
            "('connector.create', 'connector.update', 'connector.delete', 'key.create') GROUP BY 1, 2",
        )
        return {(row["event"], row["target"]): row["n"] for row in rows}

    async def _started(self, paths: Iterable[str]) -> set[str]:
        """Those of the paths for which the audit log has a row from before they were sent."""
        rows = await asked(self.cluster, "SELECT DISTINCT digest FROM audit_log WHERE verdict = 'started'")
        digests = {row["digest"] for row in rows}
        async with AsyncExitStack() as stack:
            core = await open_core(self.cluster.settings(), stack)
            target = await planning.by_alias(
                core, core.store.scope("default", "test"), IN_PROCESS, "agent-1", self.prefix
            )

            def digest(path: str) -> str:
                planned = planning.plan_query(IN_PROCESS, target, f"POST {path}", None)
                return core.log.digest(statement(planned.arguments))

            return {path for path in paths if digest(path) in digests}
