"""What the conformance suites of the storage family share: a place of their own, and connectors on it."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest

from studio.providers import load
from studio.services.connector_service import ConnectorService
from studio.testing.harness import call, open_provider
from studio.testing.provider import ProviderConformance


class StorageBase(ProviderConformance):
    """Fixtures; see `studio.testing.storage`."""

    family = "storage"
    one = "get hello.txt"
    secret_field: ClassVar[str]
    """The config field whose value no answer may repeat."""
    many: ClassVar[int] = 10_000
    """Keys that are stored and listed in pages."""

    @pytest.fixture
    def place(self) -> dict[str, Any]:
        """How to reach a bucket, below a prefix that nobody else uses. To be overridden."""
        raise NotImplementedError

    @pytest.fixture
    async def config(self, place: dict[str, Any]) -> dict[str, Any]:
        """The place, with one object in it."""
        async with open_provider(load(self.kind), {**place, "read_only": False}) as provider:
            await call(provider, "put", key="hello.txt", text="hello")
        return place

    @pytest.fixture
    async def writable(self, service: ConnectorService, config: dict[str, Any]) -> str:
        """A connector that may write."""
        return await self.connect(service, config, name="writable", read_only=False)

    async def fill(self, place: dict[str, Any], names: list[str]) -> None:
        """Store an object under each name, quickly; a member may do it another way."""
        async with open_provider(load(self.kind), {**place, "read_only": False, "pool_size": 16}) as provider:
            left = iter(names)

            async def work() -> None:
                for name in left:
                    await call(provider, "put", key=name, text="x")

            await asyncio.gather(*(work() for _ in range(16)))
