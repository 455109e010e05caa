"""Fixtures that all tests share. Importing this file needs no driver and starts nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.servers import Postgres

SERVER_FIXTURES = {"postgres", "own_postgres"}
"""A test that uses one of these is marked `server`, so that `-m "not server"` leaves it out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker("server")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """The PostgreSQL server of the whole run; tests isolate themselves by database."""
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of one module's own, to crash and to restart."""
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
