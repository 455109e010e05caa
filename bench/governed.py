"""One governed operation against the bare pooled call of the same driver, on the same server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from bench.runner import Call
from studio.services.connector_service import ConnectorService

Pair = tuple[Call, Call]
Setup = Callable[[ConnectorService, Path], AbstractAsyncContextManager[Pair]]
CASES: dict[str, tuple[str, Setup]] = {}


def case(name: str, note: str) -> Callable[[Setup], Setup]:
    """Register a case: what is called `ours` and `bare` is said by `note`."""

    def add(setup: Setup) -> Setup:
        CASES[name] = (note, setup)
        return setup

    return add


async def governed(service: ConnectorService, kind: str, family: str, config: dict[str, Any], query: str) -> Call:
    """A call as an agent makes it: alias, policy, pool, deadline, caps."""
    made = await service.create(
        {"organization_id": "bench", "name": kind, "connector_type": family, "provider": kind, "config": config}
    )
    await service.attach_to_agent(made["id"], "agent-1", kind)

    async def call() -> object:
        return await service.execute_query(agent_id="agent-1", alias=kind, query=query)

    await call()
    return call


@contextmanager
def started(server: Any) -> Any:
    """A server of the test kit, for one case."""
    try:
        server.start()
        yield server
    finally:
        server.close()


@case("sqlite", "SELECT 1; bare: apsw in this process")
@asynccontextmanager
async def sqlite(service: ConnectorService, folder: Path) -> AsyncIterator[Pair]:
    """The governed one crosses to a worker process that can be killed; the bare one does not."""
    import apsw

    db = apsw.Connection(str(folder / "files" / "bench.db"))
    db.execute("CREATE TABLE t (id)")
    ours = await governed(service, "sqlite", "database", {"path": "bench.db"}, "SELECT 1 AS one")

    async def bare() -> object:
        return db.execute("SELECT 1 AS one").fetchall()

    yield ours, bare
    db.close()


@case("postgresql", "SELECT 1; bare: one asyncpg connection")
@asynccontextmanager
async def postgresql(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """Both without TLS."""
    import asyncpg
    from tests.servers import Postgres

    with started(Postgres()) as server:
        config = {
            "host": server.host, "port": server.port, "database": "postgres", "username": server.user,
            "password": server.password, "ssl": False,
        }  # fmt: skip
        ours = await governed(service, "postgresql", "database", config, "SELECT 1 AS one")
        conn = await asyncpg.connect(
            host=server.host, port=server.port, user=server.user, password=server.password, database="postgres",
            ssl=False,
        )  # fmt: skip
        yield ours, lambda: conn.fetch("SELECT 1 AS one")
        await conn.close()


@case("mysql", "SELECT 1; bare: one asyncmy connection (MariaDB)")
@asynccontextmanager
async def mysql(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """Both without TLS."""
    import asyncmy
    from tests.upstreams.mariadb import Mariadb

    with started(Mariadb()) as server:
        config = server.config(ssl=False)
        ours = await governed(service, "mysql", "database", config, "SELECT 1 AS one")
        conn = await asyncmy.connect(
            host=config["host"], port=config["port"], user=config["username"], password=config["password"],
            db=config["database"],
        )  # fmt: skip

        async def bare() -> object:
            async with conn.cursor() as cursor:
                await cursor.execute("SELECT 1 AS one")
                return await cursor.fetchall()

        yield ours, bare
        conn.close()


@case("redis", "GET of one key; bare: redis-py")
@asynccontextmanager
async def redis(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """Both without TLS."""
    from tests.upstreams.redis import Redis

    with started(Redis()) as server:
        client = server.admin()
        await client.set("key", "value")
        ours = await governed(service, "redis", "database", server.config(), "GET key")
        yield ours, lambda: client.get("key")
        await client.aclose()


@case("mongodb", "find of one document; bare: pymongo (emulator)")
@asynccontextmanager
async def mongodb(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """The emulator dominates both."""
    from tests.upstreams.mongodb import Mongodb

    with started(Mongodb()) as server:
        client = server.client()
        config = server.config(database="bench")
        await client["bench"]["things"].insert_one({"_id": 1, "name": "x"})
        query = json.dumps({"find": "things", "filter": {"_id": 1}})
        ours = await governed(service, "mongodb", "database", config, query)

        async def bare() -> object:
            return await client["bench"]["things"].find({"_id": 1}).to_list()

        yield ours, bare
        await client.close()


@case("rest", "GET of a small JSON document; bare: aiohttp")
@asynccontextmanager
async def rest(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """The server (gunicorn) dominates both."""
    import aiohttp
    from tests.upstreams.httpbin import Httpbin

    with started(Httpbin()) as server:
        ours = await governed(service, "rest", "api", server.config(), "GET /get")
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession())

            async def bare() -> object:
                async with http.get(f"{server.url}/get") as answer:
                    return await answer.json()

            yield ours, bare


@case("graphql", "one field; bare: aiohttp")
@asynccontextmanager
async def graphql(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """The governed one parses the document and checks it against the schema."""
    import aiohttp
    from tests.upstreams.graphql import GraphqlApi

    with started(GraphqlApi()) as server:
        config = server.config()
        ours = await governed(service, "graphql", "api", config, "{ hello }")
        async with aiohttp.ClientSession(headers=_plain_headers(config)) as http:

            async def bare() -> object:
                async with http.post(config["endpoint"], json={"query": "{ hello }"}) as answer:
                    return await answer.json()

            yield ours, bare


@case("soap", "one call without arguments; bare: the same envelope by aiohttp")
@asynccontextmanager
async def soap(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """The server (spyne) dominates both. The governed one reads the answer as the WSDL says."""
    import aiohttp
    from tests.upstreams.soap import SoapService

    envelope = (
        '<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>'
        '<t:version xmlns:t="urn:book"/></s:Body></s:Envelope>'
    )
    with started(SoapService()) as server:
        config = server.config(read_operations=["version"])
        ours = await governed(service, "soap", "api", config, "version")
        headers = {"content-type": "text/xml; charset=utf-8", "soapaction": '"version"'}
        async with aiohttp.ClientSession(headers=headers) as http:

            async def bare() -> object:
                async with http.post(server.url(), data=envelope) as answer:
                    assert answer.status == 200, await answer.text()
                    return await answer.read()

            await bare()
            yield ours, bare


def _plain_headers(config: dict[str, Any]) -> dict[str, str]:
    token = config.get("auth", {}).get("token")
    return {"authorization": f"Bearer {token}"} if token else {}
