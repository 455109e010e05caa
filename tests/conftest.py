"""Fixtures that all tests share. Importing this file needs no driver and starts nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.servers import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of the whole run; tests isolate themselves by database."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture
async def database(postgres: Postgres) -> AsyncIterator[str]:
    """An empty database of the shared server, by name."""
    async with postgres.fresh_database() as name:
        yield name
