"""Whether what an operation stands on is still there: its key, its attachment, its active connector."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, or_, select

from studio.models import now
from studio.store.engine import Database
from studio.store.tables import api_keys, connector_instances, connectors

_AT_ONCE = 500
"""Ids in one statement; a driver takes so many parameters and no more."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Ids of the rows that a running operation was allowed by; None where it needs none of that kind."""

    key_id: str | None
    instance_id: str | None
    connector_id: str


async def without_authority(database: Database, asked: AbstractSet[Authority]) -> set[Authority]:
    """Those of which a row is gone, revoked, expired or inactive by now."""

    def work(connection: Connection) -> set[Authority]:
        valid = api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now())
        keys = _present(connection, select(api_keys.c.id).where(*valid), {one.key_id for one in asked})
        instances = _present(connection, select(connector_instances.c.id), {one.instance_id for one in asked})
        active = select(connectors.c.id).where(connectors.c.status != "inactive")
        actives = _present(connection, active, {one.connector_id for one in asked})
        return {
            one
            for one in asked
            if one.key_id not in keys or one.instance_id not in instances or one.connector_id not in actives
        }

    return await database.read(work)


def _present(connection: Connection, statement: Select[Any], ids: AbstractSet[str | None]) -> set[str | None]:
    """Those ids that the statement finds, and None, which stands for no row."""
    (column,) = statement.selected_columns
    wanted = sorted(one for one in ids if one is not None)
    found: set[str | None] = {None}
    for at in range(0, len(wanted), _AT_ONCE):
        found.update(connection.scalars(statement.where(column.in_(wanted[at : at + _AT_ONCE]))))
    return found
