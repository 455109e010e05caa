"""A real OpenBao (the Vault API), in its development mode: in memory, unsealed, with a root token of the test's."""

from __future__ import annotations

import json
import secrets
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed, fetch, listening

PROGRAM = Path(__file__).resolve().parents[2] / ".venv-servers" / "bin" / "bao"
POLICY = 'path "secret/data/connectors/*" { capabilities = ["read"] }\n' \
    'path "transit/encrypt/studio" { capabilities = ["update"] }\n' \
    'path "transit/decrypt/studio" { capabilities = ["update"] }\n'  # fmt: skip


class OpenBao(Server):
    """KV version 2 at `secret`, transit at `transit`; `token` may read what the product is to read, and no more."""

    def __init__(self) -> None:
        super().__init__()
        self.root = secrets.token_hex(12)
        self.token = ""

    @property
    def url(self) -> str:
        """The API's base."""
        return f"http://{self.host}:{self.port}"

    def command(self) -> list[str]:
        """`bao server -dev` on loopback."""
        if not PROGRAM.exists():
            raise StartFailed("the servers' environment is missing; run: make servers")
        return [str(PROGRAM), "server", "-dev", f"-dev-root-token-id={self.root}", "-dev-no-store-token",
                f"-dev-listen-address={self.host}:{self.port}", "-log-level=warn"]  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """It wants a home that exists."""
        found = super().identity()
        found["env"]["HOME"] = str(self.dir)
        return found

    def ready(self) -> bool:
        """Once it answers, make the policy and the token."""
        if not listening(self.port):
            return False
        self.call("POST", "sys/mounts/transit", {"type": "transit"})
        self.call("POST", "transit/keys/studio", {})
        self.call("PUT", "sys/policies/acl/studio", {"policy": POLICY})
        self.token = self.call("POST", "auth/token/create", {"policies": ["studio"]})["auth"]["client_token"]
        return True

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """One request with the root token."""
        request = urllib.request.Request(
            f"{self.url}/v1/{path}", None if body is None else json.dumps(body).encode(), method=method,
            headers={"X-Vault-Token": self.root},
        )  # fmt: skip
        with fetch(request, timeout=5) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def put(self, path: str, **values: Any) -> None:
        """Write a new version of a secret."""
        self.call("POST", f"secret/data/{path}", {"data": values})


@pytest.fixture(scope="session")
def openbao() -> Iterator[OpenBao]:
    """The secret store of the whole run."""
    server = OpenBao()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
def own_openbao() -> Iterator[OpenBao]:
    """One that a test may stop."""
    server = OpenBao()
    try:
        server.start()
        yield server
    finally:
        server.close()
