"""The upstream of all contenders: a PostgreSQL of its own with a table of a million events."""

from __future__ import annotations

import asyncio
import os

from tests.servers import Postgres

ROWS = 1_000_000
COLUMNS = "id, user_id, name, amount, active, created_at"
FILL = f"""
CREATE TABLE events (
    id bigint PRIMARY KEY, user_id int NOT NULL, name text NOT NULL, amount double precision NOT NULL,
    active boolean NOT NULL, created_at timestamptz NOT NULL
);
INSERT INTO events SELECT n, n % 50000, 'event number ' || n, (n::bigint * 7919 % 1000003) / 100.0, n % 3 <> 0,
    timestamptz '2024-01-01 00:00:00Z' + n * interval '13.37 seconds' FROM generate_series(1, {ROWS}) n;
"""


class Events(Postgres):
    """PostgreSQL with the table in its cache, room for many pools, and no TLS asked for."""

    def command(self) -> list[str]:
        return [*super().command(), "-c", "shared_buffers=256MB", "-c", "max_connections=3000"]

    def start(self) -> Events:
        super().start()
        asyncio.run(self._fill())
        return self

    async def _fill(self) -> None:
        admin = await self.admin()
        try:
            await admin.execute(FILL)
            await admin.execute("VACUUM ANALYZE events")
        finally:
            await admin.close()

    def dsn(self, scheme: str = "postgresql") -> str:
        """As a URL, log-in included."""
        return f"{scheme}://{self.user}:{self.password}@{self.host}:{self.port}/{self.database}"

    def driver(self) -> dict[str, object]:
        """As asyncpg's arguments."""
        return {
            "host": self.host, "port": self.port, "user": self.user, "password": self.password,
            "database": self.database, "ssl": False,
        }  # fmt: skip

    def programs_environment(self) -> dict[str, str]:
        """For psql and pgbench."""
        return {
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "PGHOST": self.host, "PGPORT": str(self.port),
            "PGUSER": self.user, "PGPASSWORD": self.password, "PGDATABASE": self.database, "PGSSLMODE": "disable",
        }  # fmt: skip
