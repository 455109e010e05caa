"""A GraphQL API made with strawberry on uvicorn, from the servers' own virtual environment."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed, certificates, fetch

PYTHON = Path(__file__).resolve().parents[2] / ".venv-servers" / "bin" / "python"
SCRIPT = Path(__file__).with_name("graphql_app.py")


class GraphqlApi(Server):
    """A small address book. `token` must come as a bearer token; TLS if asked for."""

    def __init__(self, *, tls: bool = False) -> None:
        super().__init__()
        self.token = 't#k3n@/:%" ' + secrets.token_urlsafe(12)
        self.tls = tls

    def prepare(self) -> None:
        """The certificate of a server with TLS."""
        if self.tls:
            self.write("cert.pem", certificates().cert)
            self.write("key.pem", certificates().key)

    def command(self) -> list[str]:
        """Our script on the servers' Python."""
        if not PYTHON.exists():
            raise StartFailed("the servers' environment is missing; run: make servers")
        self.write("token", self.token)
        # -P: else our own graphql.py stands in the way of the package of that name.
        return [str(PYTHON), "-P", str(SCRIPT), str(self.port), str(self.dir / "token"), *(["tls"] if self.tls else [])]

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}/graphql"

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server."""
        return {"endpoint": self.url, "auth": {"type": "bearer", "token": self.token}, **changes}

    def state(self) -> dict[str, Any]:
        """What the server holds and how many slow fields run, seen past the API."""
        with fetch(f"http://{self.host}:{self.port}/state", timeout=5) as answer:
            seen: dict[str, Any] = json.load(answer)
        return seen


def _running(**options: Any) -> Iterator[GraphqlApi]:
    server = GraphqlApi(**options)
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def graphql_api() -> Iterator[GraphqlApi]:
    """The GraphQL server of the whole run."""
    yield from _running()


@pytest.fixture(scope="session")
def graphql_tls() -> Iterator[GraphqlApi]:
    """The same over TLS."""
    yield from _running(tls=True)


@pytest.fixture
def own_graphql() -> Iterator[GraphqlApi]:
    """One of a test's own, to kill and restart."""
    yield from _running()
