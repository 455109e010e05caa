"""A wire emulator of MongoDB behind a front that adds log-in and TLS; no registry has MongoDB itself.

`STUDIO_TEST_MONGODB=mongodb://user:password@host:port` points the suite at a real one. What only a
server of our own can show (crashes, TLS, hostile passwords) still runs on the emulator.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from tests.servers import Server, StartFailed, certificates, free_port, listening

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / ".venv-servers" / "bin" / "nx-27017"
READ = ["find", "listCollections", "listIndexes", "collStats", "dbStats"]
READ_WRITE = [*READ, "insert", "update", "remove"]


class Emulator(Server):
    """nx-27017: neither log-in nor TLS. One in-memory database a name."""

    def command(self) -> list[str]:
        """`nx-27017` in the foreground."""
        if not PROGRAM.exists():
            raise StartFailed("nx-27017 is not installed in .venv-servers; run: make servers (make test does it)")
        return [
            str(PROGRAM), "--data-dir", str(self.dir), "--host", self.host, "-p", str(self.port), "-j", "MEMORY",
            "--log-file", str(self.dir / "log"), "--pid-file", str(self.dir / "pid"),
        ]  # fmt: skip


class Mongodb(Server):
    """The front, with the emulator behind it."""

    user = "app"

    def __init__(self) -> None:
        super().__init__()
        self.tls_port = free_port()
        self.backend = Emulator()
        self.password = secrets.token_urlsafe(16)
        self.users: dict[str, Any] = {}

    @property
    def ca(self) -> str:
        """The CA of the server's certificate, as PEM."""
        return certificates().ca

    def prepare(self) -> None:
        """Start the emulator; write certificate and users."""
        self.backend.start()
        self.write("server.crt", certificates().cert)
        self.write("server.key", certificates().key)
        self.add_user(self.user, self.password, READ_WRITE)

    def add_user(self, name: str, password: str, actions: list[str], *, mechanisms: list[str] | None = None) -> None:
        """Let a user log in from now on."""
        privilege = {"resource": {"db": "", "collection": ""}, "actions": actions}
        self.users[name] = {
            "password": password,
            "mechanisms": mechanisms or ["SCRAM-SHA-256", "SCRAM-SHA-1"],
            "privileges": [privilege],
        }
        self.write("users.json", json.dumps(self.users))

    def command(self) -> list[str]:
        """The front."""
        return [
            sys.executable, str(Path(__file__).with_name("mongodb_front.py")), str(self.backend.port), str(self.port),
            str(self.tls_port), "server.crt", "server.key", "users.json",
        ]  # fmt: skip

    def ready(self) -> bool:
        """Both ports accept."""
        return listening(self.port) and listening(self.tls_port)

    def crash(self) -> None:
        """End both as a power cut would."""
        super().crash()
        self.backend.crash()

    def restart(self) -> None:
        """Start both again on the same ports."""
        self.backend.restart()
        super().restart()

    def close(self) -> None:
        """Stop and remove both."""
        super().close()
        self.backend.close()

    def client(self) -> Any:
        """pymongo's own client, past the front; the caller closes it."""
        from pymongo import AsyncMongoClient

        return AsyncMongoClient(self.host, self.backend.port, directConnection=True)

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server, with some fields changed; None leaves one out."""
        fields = {
            "host": self.host, "port": self.port, "database": "app", "username": self.user,
            "password": self.password, "connect_timeout_s": 10.0, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


class External:
    """A real server that somebody else runs."""

    def __init__(self, uri: str) -> None:
        split = urlsplit(uri)
        self.uri = uri
        self.host, self.port = str(split.hostname), split.port or 27_017
        self.user, self.password = unquote(split.username or ""), unquote(split.password or "")

    config = Mongodb.config

    def client(self) -> Any:
        """pymongo's own client; the caller closes it."""
        from pymongo import AsyncMongoClient

        return AsyncMongoClient(self.uri, directConnection=True)


@pytest.fixture(scope="session")
def mongodb_server() -> Iterator[Mongodb | External]:
    """The MongoDB server of the whole run."""
    if uri := os.environ.get("STUDIO_TEST_MONGODB"):
        yield External(uri)
        return
    server = Mongodb()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def mongodb_emulator() -> Iterator[Mongodb]:
    """An emulator with log-in and TLS, whatever the run is pointed at."""
    server = Mongodb()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def mongodb_database(mongodb_server: Mongodb) -> AsyncIterator[str]:
    """The name of an empty database of the shared server."""
    name = f"test_{secrets.token_hex(6)}"
    yield name
    client = mongodb_server.client()
    with contextlib.suppress(Exception):
        await client.drop_database(name)
    await client.close()
