"""`azure_blob` against Azurite, Microsoft's own emulator."""

from __future__ import annotations

import base64
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from tests.upstreams.azurite import Azurite

from studio.testing.storage import StorageConformance
from studio.testing.storage_faults import StorageFaults

pytestmark = pytest.mark.server


class TestAzureBlob(StorageConformance, StorageFaults):
    kind = "azure_blob"
    secret_field = "account_key"
    missing: ClassVar = {"container": "no-such-container"}
    many = 1200  # the emulator takes 300 a second

    @pytest.fixture
    def place(self, azurite: Azurite) -> dict[str, Any]:
        return azurite.config(prefix=f"{uuid4()}/")

    @pytest.fixture
    def own(self, own_azurite: Azurite) -> Azurite:
        return own_azurite

    def with_secret(self, secret: str) -> dict[str, Any]:
        return {"account_key": base64.b64encode(f"wr0ng{secret}wr0ng".encode()).decode()}

    def at(self, place: dict[str, Any], port: int, host: str = "127.0.0.1") -> dict[str, Any]:
        return {**place, "endpoint": f"http://{host}:{port}/{place['account']}"}
