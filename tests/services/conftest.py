"""A service on an empty folder, and the toy provider in its catalogue."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests import toy

from studio.services.connector_service import ConnectorService
from studio.settings import Settings


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store of the newest schema and its key."""
    folder = tmp_path_factory.mktemp("made") / "data"

    async def make() -> None:
        async with ConnectorService(Settings(data_dir=folder)):
            pass

    asyncio.run(make())
    return folder


@pytest.fixture
def settings(made_once: Path, tmp_path: Path) -> Settings:
    """A copy of that folder: migrating is tested elsewhere."""
    return Settings(data_dir=shutil.copytree(made_once, tmp_path / "data"))


@pytest.fixture
def toys() -> Iterator[type[toy.Toy]]:
    with toy.installed() as found:
        yield found
        assert not found.live, "sessions were left open"


@pytest.fixture
async def service(settings: Settings, toys: type[toy.Toy]) -> AsyncIterator[ConnectorService]:
    async with ConnectorService(settings) as found:
        yield found
