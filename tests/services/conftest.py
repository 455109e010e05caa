"""A service on an empty folder, and the toy provider in its catalogue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests import toy

from studio.services.connector_service import ConnectorService
from studio.settings import Settings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data")


@pytest.fixture
def toys() -> Iterator[type[toy.Toy]]:
    with toy.installed() as found:
        yield found
        assert not found.live, "sessions were left open"


@pytest.fixture
async def service(settings: Settings, toys: type[toy.Toy]) -> AsyncIterator[ConnectorService]:
    async with ConnectorService(settings) as found:
        yield found
