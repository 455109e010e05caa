"""A real server with two connectors of different kinds, and keys; messages sent raw or by the official SDK's client."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared._httpx_utils import create_mcp_http_client
from tests import poison, toy

from studio.app import Application
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

MODERN, LEGACY = "2026-07-28", "2025-11-25"
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_KEY = "io.modelcontextprotocol/clientCapabilities"
META = {VERSION_KEY: MODERN, CAPABILITIES_KEY: {}}
KEYS: dict[str, dict[str, Any]] = {
    "agent": {"agent_id": "agent-1"},
    "reader": {"agent_id": "agent-1", "effects": ["read"]},
    "main only": {"agent_id": "agent-1", "aliases": ["main_db"]},
    "other agent": {"agent_id": "agent-2"},
    "developer": {"role": "developer"},
    "member": {"role": "member"},
}


@dataclass(frozen=True)
class Reply:
    """One HTTP answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        assert self.status == 200, self.body
        return self.json["result"]

    def is_error(self, status: int, code: int) -> dict[str, Any]:
        assert (self.status, self.json["error"]["code"]) == (status, code), self.body
        error: dict[str, Any] = self.json["error"]
        return error


@dataclass
class World:
    """The server, its service, and what was made in it."""

    base: str
    application: Application
    session: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    @property
    def service(self) -> ConnectorService:
        return self.application.service

    async def send(
        self, body: Any, *, who: str | None = "agent", at: str = "", method: str = "POST", **headers: str | None
    ) -> Reply:
        """One request as it stands; a header that is None is left out."""
        sent = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
        if who is not None:
            sent["authorization"] = f"Bearer {self.keys[who]}"
        for name, value in headers.items():
            sent.pop(name.replace("_", "-"), None)
            if value is not None:
                sent[name.replace("_", "-")] = value
        data = io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self.session.request(method, f"{self.base}/mcp{at}", data=data, headers=sent) as answer:
            return Reply(answer.status, {k.lower(): v for k, v in answer.headers.items()}, await answer.read())

    async def modern(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Reply:
        """A complete request of the modern era."""
        params = {**(params or {}), "_meta": META}
        headers = {"mcp_protocol_version": MODERN, "mcp_method": method}
        if "name" in params:
            headers["mcp_name"] = params["name"]
        return await self.send(request(method, params), **{**headers, **more})

    async def legacy(self, method: str, params: dict[str, Any] | None = None, **more: Any) -> Reply:
        """A request as clients of 2025-11-25 send it after `initialize`."""
        return await self.send(request(method, params), **{"mcp_protocol_version": LEGACY, **more})

    async def call(self, tool: str, /, *, who: str = "agent", at: str = "", **arguments: Any) -> dict[str, Any]:
        """A tool's result."""
        reply = await self.modern("tools/call", {"name": tool, "arguments": arguments}, who=who, at=at)
        found: dict[str, Any] = reply.result
        return found

    async def data(self, tool: str, /, **more: Any) -> dict[str, Any]:
        """The structured content of a tool's result that is no error."""
        result = await self.call(tool, **more)
        assert not result.get("isError"), result
        found: dict[str, Any] = result["structuredContent"]
        return found

    @asynccontextmanager
    async def client(self, mode: str = "auto", *, who: str = "agent", at: str = "") -> AsyncIterator[Client]:
        """The official SDK's client."""
        with poison.lifted():
            made = create_mcp_http_client(headers={"authorization": f"Bearer {self.keys[who]}"})
        async with (
            made as http,
            Client(streamable_http_client(f"{self.base}/mcp{at}", http_client=http), mode=mode) as client,
        ):
            yield client

    async def attach(self, connector: str, alias: str, agent: str = "agent-1", **body: Any) -> dict[str, Any]:
        given = {"agent_id": agent, "alias": alias, **body}
        return await self.service.attach(self.ids[connector], given)


def request(method: str, params: dict[str, Any] | None = None, request_id: Any = 1) -> dict[str, Any]:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id, "method": method}
    return message if params is None else {**message, "params": params}


async def until(what: str) -> None:
    """Wait until the toy's log holds this."""
    async with asyncio.timeout(10):
        while not toy.Toy.log[what]:  # noqa: ASYNC110 - the toy has no event for it
            await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Made:
    """A data folder in which everything is made already: writing it for each test would take most of its time."""

    folder: Path
    keys: dict[str, str]
    ids: dict[str, str]


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`main_db` (sqlite, read only) and `store` (a toy that may write) attached to agent-1, and a key for each of KEYS."""
    folder = tmp_path_factory.mktemp("mcp") / "data"
    keys, ids = {}, {}

    async def make() -> None:
        async with ConnectorService(Settings(data_dir=folder)) as service:
            for name, body in KEYS.items():
                keys[name] = (await service.create_key({**body, "organization_id": "acme"}))["key"]
            sqlite = {"name": "Main", "connector_type": "database", "provider": "sqlite", "config": {"path": "app.db"}}
            for name, body, alias in (("main", sqlite, "main_db"), ("toy", toy.body("Toy", read_only=False), "store")):
                ids[name] = (await service.create({**body, "organization_id": "acme"}))["id"]
                await service.attach_to_agent(ids[name], "agent-1", alias)

    with toy.installed():
        asyncio.run(make())
    with closing(sqlite3.connect(folder / "files" / "app.db")) as database:
        database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, city TEXT)")
        rows = [(f"user {n}", "Oslo" if n % 2 else "Lima") for n in range(250)]
        database.executemany("INSERT INTO users (name, city) VALUES (?, ?)", rows)
        database.commit()
    return Made(folder, keys, ids)


@pytest.fixture
def settings(made_once: Made, tmp_path: Path) -> Settings:
    return Settings(data_dir=shutil.copytree(made_once.folder, tmp_path / "data"))


@pytest.fixture(autouse=True)
def toys() -> Iterator[type[toy.Toy]]:
    with toy.installed() as found:
        yield found


@asynccontextmanager
async def running(application: Callable[..., Any], port: int = 0) -> AsyncIterator[str]:
    """An application behind uvicorn on a port, a free one for 0; its URL."""
    config = uvicorn.Config(
        application, port=port, http="httptools", ws="none", log_config=None, access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True  # without waiting for idle connections
        await task


@asynccontextmanager
async def serving(settings: Settings, made: Made, port: int = 0) -> AsyncIterator[World]:
    """A server on a copy of what was made."""
    application = Application(settings)
    async with application.service, aiohttp.ClientSession() as session, running(application, port) as base:
        yield World(base, application, session, dict(made.keys), made.ids)


@pytest.fixture
async def world(settings: Settings, made_once: Made) -> AsyncIterator[World]:
    """A server of the test's own."""
    async with serving(settings, made_once) as found:
        yield found
