"""`minio` against MinIO's own gateway code."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from tests.upstreams.minio import Minio

from studio.testing.storage import StorageConformance

pytestmark = pytest.mark.server


class TestMinio(StorageConformance):
    kind = "minio"
    secret_field = "secret_key"

    many = 2500  # the server takes 400 a second

    @pytest.fixture
    def place(self, minio: Minio) -> dict[str, Any]:
        return minio.config(prefix=f"{uuid4()}/")

    @pytest.fixture(autouse=True)
    def _server(self, minio: Minio) -> None:
        self.server = minio

    async def fill(self, place: dict[str, Any], names: list[str]) -> None:
        await asyncio.to_thread(self.server.fill, [place["prefix"] + name for name in names])
