"""Several `studio serve` processes on one PostgreSQL, an upstream that counts, and a client of them all."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self

import aiohttp
from aiohttp import web
from tests import poison
from tests.servers import Postgres, StartFailed, _end_with_parent, free_port

from studio.settings import Settings

STUDIO = str(Path(sys.executable).with_name("studio"))
WITHIN = aiohttp.ClientTimeout(total=30)


class Upstream:
    """An HTTP API that remembers each path that was asked for; one below /slow is answered when it is told,
    one below /late after a moment."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.running: set[str] = set()
        self.ended: dict[str, float] = {}
        """When the caller of a slow path was gone, on the monotonic clock, seconds."""
        self.late: asyncio.Queue[str] = asyncio.Queue()
        """Late paths in the order of their coming."""
        self.go = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.port = self._runner.addresses[0][1]
        self.url = f"http://127.0.0.1:{self.port}"
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._runner.cleanup()

    async def runs(self, count: int) -> None:
        """Wait until so many slow paths are being answered. Raises TimeoutError after 20 s."""
        async with asyncio.timeout(20):
            while len(self.running) != count:  # noqa: ASYNC110 - the server's handlers tell nobody
                await asyncio.sleep(0.005)

    async def _answer(self, request: web.Request) -> web.Response:
        path = request.path
        self.seen.append(path)
        if path.startswith("/slow"):
            self.running.add(path)
            try:
                await self.go.wait()
            finally:
                self.running.discard(path)
                self.ended[path] = time.monotonic()
        elif path.startswith("/late"):
            self.late.put_nowait(path)
            await asyncio.sleep(random.uniform(0, 0.05))
        return web.json_response({"path": path})


class Durable(Postgres):
    """A PostgreSQL whose commits outlive its own death, though not the machine's; killed as `kill -9` does it."""

    crash_signal = signal.SIGKILL

    def command(self) -> list[str]:
        """See `Server.command`."""
        return [*super().command(), "-c", "synchronous_commit=on"]

    def launch(self) -> None:
        """See `Server.launch`. What the dead one's processes still hold is free a moment after it."""
        for _ in range(50):
            try:
                return super().launch()
            except StartFailed:
                time.sleep(0.1)
        return super().launch()


class Replica:
    """One process of `studio serve`, on a port that it keeps over restarts."""

    def __init__(self, environment: dict[str, str], folder: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment, self._folder = environment, folder

    async def start(self) -> dict[str, Any]:
        """Start it; what it announced. It serves when this returns."""
        with (self._folder / f"{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [STUDIO, "serve", "--port", str(self.port), "--json", "--log-level", "warning"],
                env=self._environment, stdout=subprocess.PIPE, stderr=log, preexec_fn=_end_with_parent,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = await asyncio.to_thread(self.process.stdout.readline)
        assert line, (self._folder / f"{self.port}.log").read_text()[-3000:]
        return dict(json.loads(line))

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """End it and wait; how long that took, seconds."""
        begun = time.monotonic()
        self.process.send_signal(how)
        await asyncio.to_thread(self.process.wait, 30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return time.monotonic() - begun


class Cluster:
    """The replicas, an admin's key, and a client. `call` asks each in turn."""

    def __init__(
        self, postgres: Postgres, database: str, environment: dict[str, str], replicas: list[Replica], key: str,
        session: aiohttp.ClientSession,
    ) -> None:  # fmt: skip
        self.postgres, self.database, self._environment = postgres, database, environment
        self.replicas, self.key, self.session = replicas, key, session
        self._turn = itertools.cycle(replicas)

    def settings(self) -> Settings:
        """Of the replicas, for work on their store in this process."""
        names = Settings.model_fields.keys()
        given = {name.removeprefix("STUDIO_").lower(): value for name, value in self._environment.items()}
        return Settings.model_validate({name: value for name, value in given.items() if name in names})

    async def call(
        self, method: str, path: str, body: Any = None, *, replica: Replica | None = None, key: str | None = None,
        **headers: str,
    ) -> tuple[int, Any]:  # fmt: skip
        """Status and answer of one request to one replica. Raises aiohttp.ClientError."""
        sent = {"authorization": f"Bearer {key or self.key}"} | {n.replace("_", "-"): v for n, v in headers.items()}
        url = (replica or next(self._turn)).url + "/api/v1/" + path
        async with self.session.request(method, url, json=body, headers=sent) as answer:
            return answer.status, await answer.json(content_type=None)

    async def patient(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """As `call`; where nobody listens, the next replica is asked."""
        while True:
            try:
                return await self.call(method, path, body, **more)
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)

    async def made(self, method: str, path: str, body: Any = None) -> Any:
        """The answer of a call that must succeed."""
        status, answer = await self.call(method, path, body)
        assert status < 300, answer
        return answer

    async def connector(self, url: str, **config: Any) -> str:
        """A new `rest` connector that may write; its id."""
        body = {
            "name": secrets.token_hex(6), "connector_type": "api", "provider": "rest",
            "config": {"base_url": url, "read_only": False, "timeout_s": 30, "pool_size": 64, **config},
        }  # fmt: skip
        return str((await self.made("POST", "connectors", body))["id"])

    async def attached(self, connector: str, alias: str) -> str:
        """Attach it to agent-1; the instance's id."""
        body = {"agent_id": "agent-1", "alias": alias}
        return str((await self.made("POST", f"connectors/{connector}/attach", body))["id"])

    async def get(self, alias: str, path: str, **more: Any) -> tuple[int, Any]:
        """One read of the upstream's path through an agent's alias."""
        return await self.call("POST", f"agents/agent-1/connectors/{alias}/query", {"query": f"GET {path}"}, **more)


@asynccontextmanager
async def serving(
    postgres: Postgres, folder: Path, *, replicas: int, port: int | None = None, **settings: str
) -> AsyncIterator[Cluster]:
    """That many replicas on an empty database of the server, reached on `port` where that is not its own."""
    async with AsyncExitStack() as stack:
        name = await stack.enter_async_context(postgres.fresh_database())
        address = f"{postgres.host}:{port or postgres.port}"
        environment = poison.program(folder) | {
            "STUDIO_DATABASE_URL": f"postgresql://{postgres.user}:{postgres.password}@{address}/{name}",
            "STUDIO_RATE_LIMIT_PER_S": "0", "STUDIO_ORGANIZATION_RATE_LIMIT_PER_S": "0",
            "STUDIO_FAILED_LOGIN_LIMIT_PER_S": "0", "STUDIO_HEALTH_INTERVAL_S": "0", **settings,
        }  # fmt: skip
        upgrade = [STUDIO, "db", "upgrade"]
        await asyncio.to_thread(subprocess.run, upgrade, env=environment, check=True, capture_output=True)
        started = [Replica(environment, folder) for _ in range(replicas)]
        key = (await started[0].start())["first_key"]
        for one in started:
            stack.callback(_killed, one)
        await asyncio.gather(*(one.start() for one in started[1:]))
        # Less than the servers keep an idle connection: a request on one that they close just then fails.
        session = await stack.enter_async_context(
            aiohttp.ClientSession(timeout=WITHIN, connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=2))
        )
        yield Cluster(postgres, name, environment, started, key, session)


def _killed(replica: Replica) -> None:
    if hasattr(replica, "process"):
        replica.process.kill()
        replica.process.wait()
        if replica.process.stdout is not None:
            replica.process.stdout.close()
