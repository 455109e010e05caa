"""`s3` against SeaweedFS, a real object store."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from tests.upstreams.seaweedfs import Seaweedfs

from studio.testing.storage import StorageConformance

pytestmark = pytest.mark.server


class TestS3(StorageConformance):
    kind = "s3"
    secret_field = "secret_access_key"

    @pytest.fixture
    def place(self, seaweedfs: Seaweedfs) -> dict[str, Any]:
        return seaweedfs.config(prefix=f"{uuid4()}/")

    @pytest.fixture(autouse=True)
    def _server(self, seaweedfs: Seaweedfs) -> None:
        self.server = seaweedfs

    async def fill(self, place: dict[str, Any], names: list[str]) -> None:
        await asyncio.to_thread(self.server.fill, [place["prefix"] + name for name in names])
