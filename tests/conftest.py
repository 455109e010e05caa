"""Fixtures that all tests share. Importing this file needs no driver and starts nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from tests.servers import Postgres

SERVER_FIXTURES = {"postgres", "own_postgres"}
"""With those of `tests.upstreams`: a test that uses one is marked `server`, so that `-m "not server"` leaves it out."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        found = getattr(item, "_fixtureinfo", None)
        for name, definitions in found.name2fixturedefs.items() if found else ():
            if name in SERVER_FIXTURES or definitions[-1].func.__module__.startswith("tests.upstreams"):
                item.add_marker("server")
                break


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
