"""The application behind a real server on a free port, in the test's own loop, and a client that looks closely.

Every answer that passes through `Api.call` is searched for the toy's secrets.
"""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import uvicorn
from sqlalchemy import select
from tests import toy

from studio.app import Application
from studio.server import config
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.store.tables import api_keys, connector_counts, connector_instances, connectors

CANARIES = ("p4ssw0rd-c4n4ry", "t0k3n-c4n4ry", "canary-of-the-driver", "h1dd3n-c4n4ry")
HIDDEN = "h1dd3n-c4n4ry"
"""Put it where an answer must not repeat it."""
KEYS: dict[str, dict[str, Any]] = {
    "member": {"organization_id": "acme", "role": "member"},
    "developer": {"organization_id": "acme", "role": "developer"},
    "admin": {"organization_id": "acme", "role": "admin"},
    "agent": {"organization_id": "acme", "agent_id": "agent-1"},
    "other agent": {"organization_id": "acme", "agent_id": "agent-2"},
    "foreign admin": {"organization_id": "beta", "role": "admin"},
}


@dataclass(frozen=True)
class Reply:
    """One answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> dict[str, Any]:
        """The answer as the problem document that it must be."""
        assert self.headers["content-type"] == "application/problem+json", self.body
        document: dict[str, Any] = self.json
        assert {"type", "title", "status", "detail", "code", "retryable"} <= set(document)
        assert document["status"] == self.status
        assert self.headers["x-request-id"]
        assert document.get("request_id", self.headers["x-request-id"]) == self.headers["x-request-id"]
        return document

    @property
    def fields(self) -> list[str]:
        return [entry["field"] for entry in self.problem.get("errors", [])]

    def is_problem(self, status: int, code: str, *fields: str) -> dict[str, Any]:
        found = self.problem
        assert (self.status, found["code"]) == (status, code), found
        if fields:
            assert self.fields == list(fields)
        return found


@dataclass
class Api:
    """A running server, its service, a client, and a key for each kind of caller."""

    base: str
    application: Application
    session: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)
    count: int = 0

    @property
    def service(self) -> ConnectorService:
        return self.application.service

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        who: str | None = "admin",
        raw: bytes | None = None,
        **headers: str,
    ) -> Reply:
        """Send a request and read the answer."""
        sent = {"content-type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        if who is not None:
            sent["authorization"] = f"Bearer {self.keys[who]}"
        text = raw if raw is not None else None if body is None else json.dumps(body).encode()
        data = None if text is None else io.BytesIO(text)  # aiohttp warns of large plain bytes
        async with self.session.request(method, self.base + path, data=data, headers=sent) as answer:
            reply = Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.read())
        text = reply.body.decode("utf-8", "replace") + str(reply.headers)
        assert not [canary for canary in CANARIES if canary in text], "an answer held a secret"
        return reply

    async def create(self, **config: Any) -> dict[str, Any]:
        """A new toy connector of the organization acme, made in process."""
        self.count += 1
        body = {**toy.body(f"toy {self.count}", **config), "organization_id": "acme"}
        return await self.service.create(body)

    async def attached(self, alias: str | None = None, override: Any = None, **config: Any) -> dict[str, Any]:
        """A new connector, attached to agent-1; the instance."""
        made = await self.create(**config)
        return await self.service.attach_to_agent(made["id"], "agent-1", alias or f"a{self.count}", override)

    async def stored(self) -> list[Any]:
        """Everything that the store holds, but for when keys were last used."""
        core = await self.service._home.core()
        columns = [column for column in api_keys.c if column.name != "last_used_at"]
        statements = [select(table) for table in (connectors, connector_counts, connector_instances)]
        return await core.database.read(
            lambda connection: [
                sorted(tuple(row) for row in connection.execute(statement))
                for statement in [*statements, select(*columns)]
            ]
        )


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Api]:
    """Start, make the keys, and stop."""
    application = Application(settings)
    server = uvicorn.Server(config(application, port=0))
    running = asyncio.create_task(server.serve())
    while not server.started:
        assert not running.done(), "the server did not start"
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    timeout = aiohttp.ClientTimeout(total=30)
    try:
        async with aiohttp.ClientSession(timeout=timeout) as session:
            api = Api(f"http://127.0.0.1:{port}", application, session)
            for name, body in KEYS.items():
                api.keys[name] = (await application.service.create_key(body))["key"]
            yield api
    finally:
        server.should_exit = True
        await running
