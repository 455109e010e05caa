"""Both SQL providers inherit the same suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.servers import Postgres

from studio.testing.database import ServerConformance
from studio.testing.sql import SqlConformance


class TestSqlite(SqlConformance):
    """On a file of its own for each test."""

    kind = "sqlite"
    slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"

    @pytest.fixture
    async def config(self, tmp_path: Path) -> dict[str, Any]:
        import apsw

        files = tmp_path / "studio" / "files"
        files.mkdir(parents=True, exist_ok=True)
        apsw.Connection(str(files / "test.db")).execute("CREATE TABLE first (id)").close()
        return {"path": "test.db"}


class TestPostgresql(SqlConformance, ServerConformance):
    """On a database of its own for each test, on a real server."""

    kind = "postgresql"
    slow = "SELECT count(*) FROM generate_series(1, 10000000000) AS n"
    echo = "SELECT CAST(:value AS text) AS value"

    @pytest.fixture
    async def config(self, postgres: Postgres, database: str) -> dict[str, Any]:
        return {
            "host": postgres.host,
            "port": postgres.port,
            "database": database,
            "username": postgres.user,
            "password": postgres.password,
            "ssl": True,
        }
