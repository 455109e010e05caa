"""Azurite, Microsoft's own emulator of Azure Storage; keys and signatures are checked."""

from __future__ import annotations

import base64
import secrets
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Server, StartFailed
from tests.upstreams.seaweedfs import BUCKET, running

SCRIPT = (
    Path(__file__).resolve().parents[1]
    / "servers_env"
    / "node_modules"
    / "azurite"
    / "dist"
    / "src"
    / "blob"
    / "main.js"
)


class Azurite(Server):
    """The blob service of one account."""

    account = None  # of the machine; the storage account is below
    storage_account = "studiotests"
    container = BUCKET

    def __init__(self) -> None:
        super().__init__()
        self.key = base64.b64encode(secrets.token_bytes(64)).decode()

    def identity(self) -> dict[str, Any]:
        """The account and its key travel in the environment: that is Azurite's way."""
        given = super().identity()
        return {**given, "env": {**given["env"], "AZURITE_ACCOUNTS": f"{self.storage_account}:{self.key}"}}

    def command(self) -> list[str]:
        """node itself, not npx, so that signals reach the server."""
        node = shutil.which("node")
        if node is None or not SCRIPT.exists():
            raise StartFailed("the servers' npm packages are missing; run: make servers")
        return [
            node, str(SCRIPT), "--blobHost", self.host, "--blobPort", str(self.port), "--silent", "--disableTelemetry",
            "--skipApiVersionCheck", "--location", str(self.dir),
        ]  # fmt: skip

    def ready(self) -> bool:
        """It takes the key, and the container is there."""
        try:
            with self._service() as service:
                names = [found.name for found in service.list_containers()]
                if BUCKET not in names:
                    service.create_container(BUCKET)
        except Exception:  # not listening yet, or not initialised yet
            return False
        return True

    def _service(self) -> Any:
        from azure.storage.blob import BlobServiceClient

        credential = {"account_name": self.storage_account, "account_key": self.key}
        return BlobServiceClient(self.url, credential=credential, retry_total=0, use_env_settings=False)

    @property
    def url(self) -> str:
        """The account's endpoint."""
        return f"http://{self.host}:{self.port}/{self.storage_account}"

    def sas(self, rights: str, **more: Any) -> str:
        """A signature for the container."""
        from azure.storage.blob import generate_container_sas

        end = datetime.now(UTC) + timedelta(hours=1)
        return generate_container_sas(
            self.storage_account, BUCKET, account_key=self.key, permission=rights, expiry=end, **more
        )

    def config(self, **changes: Any) -> dict[str, Any]:
        """A connector's configuration for this server; None leaves a field out."""
        fields = {
            "endpoint": self.url, "account": self.storage_account, "container": BUCKET, "account_key": self.key, **changes,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


@pytest.fixture(scope="session")
def azurite() -> Iterator[Azurite]:
    """The one of the whole run; tests isolate themselves by prefix."""
    yield from running(Azurite())


@pytest.fixture
def own_azurite() -> Iterator[Azurite]:
    """One of a test's own, to kill and restart."""
    yield from running(Azurite())
