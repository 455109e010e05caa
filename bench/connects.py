"""The test of a stored connector against the driver's own connect, one round trip and close."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.governed import Pair, case, started
from bench.page import CONNECTS
from studio.services.connector_service import ConnectorService


async def _pair(
    service: ConnectorService, kind: str, config: dict[str, Any], bare: Callable[[], Awaitable[object]]
) -> Pair:
    made = await service.create(
        {"organization_id": "bench", "name": kind, "connector_type": "database", "provider": kind, "config": config}
    )

    async def ours() -> object:
        answer = await service.test_connection(made["id"])
        assert answer["success"], answer
        return answer

    return ours, bare


@case(CONNECTS + "postgresql", "bare: asyncpg, SELECT 1")
@asynccontextmanager
async def postgresql(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """Without TLS."""
    import asyncpg
    from tests.servers import Postgres

    with started(Postgres()) as server:
        where = {"host": server.host, "port": server.port, "database": "postgres", "password": server.password}

        async def bare() -> None:
            conn = await asyncpg.connect(user=server.user, ssl=False, **where)
            await conn.fetchval("SELECT 1")
            await conn.close()

        yield await _pair(service, "postgresql", {**where, "username": server.user, "ssl": False}, bare)


@case(CONNECTS + "postgresql_tls", "the same with TLS, the certificate checked")
@asynccontextmanager
async def postgresql_tls(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """Both check the server's certificate and name; the driver's context is made once."""
    import ssl

    import asyncpg
    from tests.servers import Postgres

    with started(Postgres()) as server:
        where = {"host": "localhost", "port": server.port, "database": "postgres", "password": server.password}
        context = ssl.create_default_context(cadata=server.ca)

        async def bare() -> None:
            conn = await asyncpg.connect(user=server.user, ssl=context, **where)
            await conn.fetchval("SELECT 1")
            await conn.close()

        config = {**where, "username": server.user, "ssl": "verify-full", "ssl_ca": server.ca}
        yield await _pair(service, "postgresql", config, bare)


@case(CONNECTS + "mysql", "bare: asyncmy, SELECT 1 (MariaDB)")
@asynccontextmanager
async def mysql(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """Without TLS."""
    import asyncmy
    from tests.upstreams.mariadb import Mariadb

    with started(Mariadb()) as server:
        config = server.config(ssl=False)

        async def bare() -> None:
            conn = await asyncmy.connect(
                host=config["host"], port=config["port"], user=config["username"], password=config["password"],
                db=config["database"],
            )  # fmt: skip
            async with conn.cursor() as cursor:
                await cursor.execute("SELECT 1")
                await cursor.fetchall()
            await conn.ensure_closed()

        yield await _pair(service, "mysql", config, bare)


@case(CONNECTS + "redis", "bare: redis-py, PING")
@asynccontextmanager
async def redis(service: ConnectorService, _folder: Path) -> AsyncIterator[Pair]:
    """Without TLS."""
    from tests.upstreams.redis import Redis

    with started(Redis()) as server:

        async def bare() -> None:
            client = server.admin()
            await client.ping()
            await client.aclose()

        yield await _pair(service, "redis", server.config(), bare)
