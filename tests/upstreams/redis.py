"""A real Redis: TLS on a second port, an administrator, and ACL users. Tests isolate by database number."""

from __future__ import annotations

import contextlib
import itertools
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from tests.servers import Server, StartFailed, certificates, free_port, listening

HOSTILE = ["a b", "#x", "@x", "p/x", "a:b", "100%", 'q"q', "s's", "b\\b", "ünï", "-x", "$(x) `y` {z}"]
"""Passwords that some driver or shell would stumble over."""


class Redis(Server):
    """Redis without persistence. `default` is the administrator; `app` may do anything but administer."""

    user = "app"

    def __init__(self) -> None:
        super().__init__()
        self.tls_port = free_port()
        self.admin_password = secrets.token_urlsafe(16)
        self.password = secrets.token_urlsafe(16)
        self.numbers = itertools.cycle(range(1, 1000))
        program = shutil.which("redis-server")
        if program is None:
            raise StartFailed("Redis is not installed; run: apt-get install redis-server (make test does it)")
        self.program = program

    @property
    def ca(self) -> str:
        """The CA of the server's certificate, as PEM."""
        return certificates().ca

    def prepare(self) -> None:
        """Write the certificate."""
        self.write("server.crt", certificates().cert)
        self.write("server.key", certificates().key)
        self.write("ca.crt", certificates().ca)

    def command(self) -> list[str]:
        """`redis-server` in the foreground, with everything in its configuration file."""
        lines = [
            f"bind {self.host}", f"port {self.port}", f"dir {self.dir}", 'save ""', "appendonly no", "databases 1000",
            f"tls-port {self.tls_port}", "tls-cert-file server.crt", "tls-key-file server.key",
            "tls-ca-cert-file ca.crt", "tls-auth-clients no", f"requirepass {self.admin_password}",
            f"user {self.user} on >{self.password} ~* &* +@all -@admin",
        ]  # fmt: skip
        self.write("redis.conf", "\n".join(lines) + "\n")
        return [self.program, str(self.dir / "redis.conf")]

    def ready(self) -> bool:
        """Both ports accept."""
        return listening(self.port) and listening(self.tls_port)

    def admin(self, db: int = 0, **more: Any) -> Any:
        """redis-py's own client as the administrator; the caller closes it."""
        import redis.asyncio

        fields = {"host": self.host, "port": self.port, "password": self.admin_password, "db": db, **more}
        return redis.asyncio.Redis(**fields)

    @contextlib.asynccontextmanager
    async def fresh_database(self) -> AsyncIterator[int]:
        """The number of an empty database, emptied again at the end."""
        number = next(self.numbers)
        admin = self.admin(number)
        try:
            await admin.flushdb()
            yield number
            await admin.flushdb()
        finally:
            await admin.aclose()

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server, with some fields changed; None leaves one out."""
        fields = {
            "host": self.host, "port": self.port, "username": self.user, "password": self.password,
            "connect_timeout_s": 10.0, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Redis]:
    """The Redis server of the whole run."""
    server = Redis()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis server of one test's own, to crash and to restart."""
    server = Redis()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def module_redis() -> Iterator[Redis]:
    """A Redis server of one module's own, to change its settings."""
    server = Redis()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def redis_db(redis_server: Redis) -> AsyncIterator[int]:
    """An empty database of the shared server, by number."""
    async with redis_server.fresh_database() as number:
        yield number
