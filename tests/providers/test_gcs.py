"""`gcs` against fake-gcs-server, an emulator, behind a front that checks credentials."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from tests.upstreams.gcs import Gcs, service_account

from studio.testing.storage import StorageConformance
from studio.testing.storage_faults import StorageFaults

pytestmark = pytest.mark.server


class TestGcs(StorageConformance, StorageFaults):
    kind = "gcs"
    secret_field = "service_account"
    missing: ClassVar = {"bucket": "no-such-bucket"}
    many = 1200  # the emulator goes through all of its objects for each page

    @pytest.fixture
    def place(self, gcs: Gcs) -> dict[str, Any]:
        return gcs.config(prefix=f"{uuid4()}/")

    @pytest.fixture(autouse=True)
    def _server(self, gcs: Gcs) -> None:
        self.server = gcs

    async def fill(self, place: dict[str, Any], names: list[str]) -> None:
        await asyncio.to_thread(self.server.fill, [place["prefix"] + name for name in names])

    @pytest.fixture
    def own(self, own_gcs: Gcs) -> Gcs:
        return own_gcs

    def with_secret(self, secret: str) -> dict[str, Any]:
        other = service_account("wr0ng@studio-tests.iam.gserviceaccount.com")
        return {"service_account": {**other, "client_email": service_account()["client_email"]}}

    def at(self, place: dict[str, Any], port: int, host: str = "127.0.0.1") -> dict[str, Any]:
        return {**place, "endpoint": f"http://{host}:{port}"}
