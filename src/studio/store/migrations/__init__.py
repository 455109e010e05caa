"""Schema migrations (Alembic). `HEAD` is compared first, so that a current store never imports Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from studio.store.engine import Database

HEAD = "0006"
"""The newest revision; a test holds it against the files."""
_ADVISORY_LOCK = 0x57D10


def revision(connection: Connection) -> str | None:
    """The store's revision, None for an empty database."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    found: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return found


async def current(database: Database) -> bool:
    """Whether the store's schema is this version's."""
    return await database.read(revision) == HEAD


async def upgrade(database: Database, to: str = "head") -> None:
    """Bring the schema up to `to` in one transaction; processes that start together take turns."""
    await database.write(lambda connection: _upgrade(connection, to))


def _upgrade(connection: Connection, to: str) -> None:
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    command.upgrade(config, to)
