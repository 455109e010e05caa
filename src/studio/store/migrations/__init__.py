"""Schema migrations (Alembic). `HEAD` is compared first, so that a current store never imports Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, inspect, text

from studio.errors import Internal
from studio.store.engine import Database

HEAD = "0008"
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
    """Bring the schema up to `to` in one transaction; processes that start together take turns.

    Raises:
        Internal: a newer version made the store.
    """
    await database.write(lambda connection: _upgrade(connection, to))


def _upgrade(connection: Connection, to: str) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.attributes["connection"] = connection
    found = revision(connection)
    if found is not None and found not in {
        script.revision for script in ScriptDirectory.from_config(config).walk_revisions()
    }:
        raise Internal(
            f"the store's schema is of revision {found}, and this version knows them up to {HEAD}: a newer version"
            " made it; run that one, or restore a backup from before"
        )
    command.upgrade(config, to)
