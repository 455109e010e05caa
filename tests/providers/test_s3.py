"""`s3` against SeaweedFS, a real object store."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from tests.upstreams.seaweedfs import Seaweedfs

from studio.testing.storage import StorageConformance
from studio.testing.storage_faults import StorageFaults

pytestmark = pytest.mark.server


class TestS3(StorageConformance, StorageFaults):
    kind = "s3"
    secret_field = "secret_access_key"

    missing: ClassVar = {"bucket": "no-such-bucket"}

    @pytest.fixture
    def place(self, seaweedfs: Seaweedfs) -> dict[str, Any]:
        return seaweedfs.config(prefix=f"{uuid4()}/")

    @pytest.fixture(autouse=True)
    def _server(self, seaweedfs: Seaweedfs) -> None:
        self.server = seaweedfs

    async def fill(self, place: dict[str, Any], names: list[str]) -> None:
        await asyncio.to_thread(self.server.fill, [place["prefix"] + name for name in names])

    @pytest.fixture
    def own(self, own_seaweedfs: Seaweedfs) -> Seaweedfs:
        return own_seaweedfs

    def at(self, place: dict[str, Any], port: int, host: str = "127.0.0.1") -> dict[str, Any]:
        return {**place, "endpoint_url": f"http://{host}:{port}"}

    def unfinished(self, place: dict[str, Any]) -> list[str]:
        return self.server.uploads(place["prefix"])

    def lure(self, url: str) -> dict[str, str]:
        return {"x-amz-bucket-region": "eu-west-1"}
