"""A dump of PostgreSQL and the keys, restored into an empty database: everything is there and opens."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

from tests import poison
from tests.servers import Postgres, postgres_programs


def studio(environment: dict[str, str], *arguments: str) -> str:
    program = str(Path(sys.executable).with_name("studio"))
    done = subprocess.run([program, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def environment_of(postgres: Postgres, name: str, folder: Path) -> dict[str, str]:
    """Settings of a service on that database with a data folder of its own."""
    (folder / "data" / "files").mkdir(parents=True)
    sqlite3.connect(folder / "data" / "files" / "shop.db").close()
    url = f"postgresql+asyncpg://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{name}"
    return poison.program(folder, STUDIO_DATABASE_URL=url)


async def test_a_dump_and_the_keys_bring_a_service_back(postgres: Postgres, tmp_path: Path) -> None:
    async with postgres.fresh_database() as old, postgres.fresh_database() as new:
        before = environment_of(postgres, old, tmp_path / "old")
        before["STUDIO_ENCRYPTION_KEYS"] = studio(before, "encryption", "new-key").strip()
        studio(before, "db", "upgrade")
        studio(before, "connectors", "create", "--name", "Shop", "--provider", "sqlite", "--set", "path=shop.db")
        server = ["-h", postgres.host, "-p", str(postgres.port), "-U", postgres.user]
        tools = poison.clean(PGPASSWORD=postgres.password)
        dump, bin_ = str(tmp_path / "dump"), postgres_programs()
        for command in (
            [str(bin_ / "pg_dump"), *server, "--format=custom", "--file", dump, old],
            [str(bin_ / "pg_restore"), *server, "--no-owner", "--clean", "--if-exists", "--dbname", new, dump],
        ):
            await asyncio.to_thread(subprocess.run, command, env=tools, check=True)
        after = environment_of(postgres, new, tmp_path / "new")
        after["STUDIO_ENCRYPTION_KEYS"] = before["STUDIO_ENCRYPTION_KEYS"]
        assert studio(after, "encryption", "status").startswith("ok")
        assert "success" in studio(after, "connectors", "test", "Shop")
        assert "whole" in studio(after, "audit", "verify")
