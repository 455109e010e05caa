"""`minio` against MinIO's own gateway code."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from tests.upstreams.minio import Minio

from studio.testing.storage import StorageConformance
from studio.testing.storage_faults import StorageFaults

pytestmark = pytest.mark.server


class TestMinio(StorageConformance, StorageFaults):
    kind = "minio"
    secret_field = "secret_key"

    many = 1200  # the server takes 400 a second

    missing: ClassVar = {"bucket": "no-such-bucket"}

    @pytest.fixture
    def place(self, minio: Minio) -> dict[str, Any]:
        return minio.config(prefix=f"{uuid4()}/")

    @pytest.fixture(autouse=True)
    def _server(self, minio: Minio) -> None:
        self.server = minio

    async def fill(self, place: dict[str, Any], names: list[str]) -> None:
        await asyncio.to_thread(self.server.fill, [place["prefix"] + name for name in names])

    @pytest.fixture
    def own(self, own_minio: Minio) -> Minio:
        return own_minio

    def at(self, place: dict[str, Any], port: int, host: str = "127.0.0.1") -> dict[str, Any]:
        return {**place, "endpoint": f"{host}:{port}", "secure": False}

    def unfinished(self, place: dict[str, Any]) -> list[str]:
        return self.server.uploads(place["prefix"])

    def lure(self, url: str) -> dict[str, str]:
        return {"x-amz-bucket-region": "eu-west-1"}
