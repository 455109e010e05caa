"""What a connection test says of a port where something listens that is not the upstream: no firewall, no password."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from studio.providers import kinds
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

USER = {"username": "app", "password": "pässword"}
CONFIGS: dict[str, dict[str, Any]] = {
    "postgresql": {"database": "app", "ssl": False, **USER},
    "mysql": {"database": "app", "ssl": False, **USER},
    "mongodb": {"database": "app", **USER},
    "redis": USER,
    "redis_pubsub": USER,
    "rabbitmq": USER,
    "kafka": {},
}
CHECK_THE_PORT = "check that such a server speaks on that port"


@asynccontextmanager
async def listener(greeting: bytes | None) -> AsyncIterator[int]:
    """The port of a server that greets with that and hangs up, or with None takes connections and says nothing."""

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if greeting is None:
                await reader.read(-1)
            else:
                writer.write(greeting)
                await writer.drain()
                await reader.read(1)
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def outcome(folder: Path, provider: str, port: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer of a connection test, and its failing stage."""
    where = {"bootstrap_servers": f"127.0.0.1:{port}"} if provider == "kafka" else {"host": "127.0.0.1", "port": port}
    family = next(family for family, names in kinds().items() if provider in names)
    config = {**CONFIGS[provider], **where, "connect_timeout_s": 0.4, "timeout_s": 5}
    async with ConnectorService(Settings(data_dir=folder)) as service:
        answer = await service.test_config({
            "organization_id": "acme", "connector_type": family, "provider": provider, "config": config,
        })  # fmt: skip
    return answer, next(stage for stage in answer["stages"] if not stage["ok"])


@pytest.mark.parametrize("provider", CONFIGS)
async def test_a_server_that_takes_the_connection_and_stays_silent_is_not_told_as_a_firewall(
    tmp_path: Path, provider: str
) -> None:
    async with listener(None) as port:
        answer, failed = await outcome(tmp_path, provider, port)
    assert answer["code"] == "unreachable"
    assert answer["message"].startswith("the connection was taken, but nothing was said")
    assert (failed["name"], failed["fix"][: len(CHECK_THE_PORT)]) == ("login", CHECK_THE_PORT)


@pytest.mark.parametrize(
    "greeting",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"-ERR unknown command\r\n", b"220 mail\r\n"],
)
async def test_what_is_no_postgresql_server_is_unreachable_and_not_a_refused_log_in(
    tmp_path: Path, greeting: bytes
) -> None:
    async with listener(greeting) as port:
        answer, failed = await outcome(tmp_path, "postgresql", port)
    assert (answer["code"], failed["name"]) == ("unreachable", "login")
    assert "no PostgreSQL server" in answer["message"]
    assert failed["fix"].startswith(CHECK_THE_PORT)


async def test_a_postgresql_server_that_asks_for_too_much_is_still_a_refused_log_in(tmp_path: Path) -> None:
    async with listener(b"R\0\0\0\x08\0\0\0\x03") as port:  # the password in clear text, without TLS
        answer, failed = await outcome(tmp_path, "postgresql", port)
    assert answer["code"] == "auth_failed"
    assert "clear text" in answer["message"]
    assert "password" in failed["fix"]
