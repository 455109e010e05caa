"""One store of each kind, empty and of the newest schema; every test of this folder runs on both."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from tests.servers import Postgres

from studio.store import migrations
from studio.store.audit import AuditLog
from studio.store.engine import Database, open_database
from studio.store.store import Scope, Store
from studio.store.tables import metadata

KEY = bytes(32)
"""Of the audit log."""
KINDS = [pytest.param("sqlite"), pytest.param("postgresql", marks=pytest.mark.server)]


@dataclass(frozen=True)
class Home:
    """Where a store is: its URL (None: SQLite in the folder), and a folder."""

    kind: str
    url: str | None
    folder: Path

    def open(self) -> Database:
        """A handle of its own, as another process would have one."""
        return open_database(self.url, self.folder)

    @property
    def environment(self) -> dict[str, str]:
        """Settings for a process that uses this store."""
        more = {"STUDIO_DATABASE_URL": self.url} if self.url else {}
        return {"STUDIO_DATA_DIR": str(self.folder), **more}


def url_of(postgres: Postgres, name: str) -> str:
    return f"postgresql+asyncpg://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{name}"


@pytest.fixture(params=KINDS)
async def bare(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Home]:
    """A store without any schema."""
    if request.param == "sqlite":
        yield Home("sqlite", None, tmp_path)
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    async with postgres.fresh_database() as name:
        yield Home("postgresql", url_of(postgres, name), tmp_path)


@pytest.fixture(params=KINDS)
async def home(
    request: pytest.FixtureRequest, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Home]:
    """An empty store of the newest schema, migrated once: a copy of the file, or the same database emptied."""
    if request.param == "sqlite":
        shutil.copytree(await _sqlite_template(tmp_path_factory), tmp_path, dirs_exist_ok=True)
        yield Home("sqlite", None, tmp_path)
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    yield Home("postgresql", url_of(postgres, await _postgres_emptied(postgres)), tmp_path)


@pytest.fixture
async def database(home: Home) -> AsyncIterator[Database]:
    found = home.open()
    yield found
    await found.close()


@pytest.fixture
async def other(home: Home) -> AsyncIterator[Database]:
    """A second handle on the same store."""
    found = home.open()
    yield found
    await found.close()


@pytest.fixture
def acme(database: Database) -> Scope:
    return Store(AuditLog(database, KEY)).scope("acme", "test")


@cache
def _made() -> dict[str, str]:
    return {}


async def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = _made()
    if "sqlite" not in made:
        folder = tmp_path_factory.mktemp("store")
        await _migrate(open_database(None, folder))
        made["sqlite"] = str(folder)
    return Path(made["sqlite"])


async def _postgres_emptied(postgres: Postgres) -> str:
    made, name = _made(), "store_of_tests"
    if made.get("postgresql") != postgres.password:  # of this server
        admin = await postgres.admin()
        await admin.execute(f"CREATE DATABASE {name}")
        await admin.close()
        await _migrate(open_database(url_of(postgres, name), Path()))
        made["postgresql"] = postgres.password
    admin = await postgres.admin(name)
    await admin.execute(f"TRUNCATE {', '.join(table.name for table in metadata.sorted_tables)}")
    await admin.close()
    return name


async def _migrate(database: Database) -> None:
    await migrations.upgrade(database)
    await database.close()
