"""What an operation stands on, as it is now: its key, its attachment, its active connector."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, or_, select

from studio.models import ApiKey, now
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


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of it: valid keys, attachments, and the versions of connectors that are not switched off."""

    keys: Mapping[str, ApiKey]
    instances: AbstractSet[str]
    versions: Mapping[str, int]

    def holds(self, asked: Authority) -> bool:
        """Whether every row is there."""
        return (
            (asked.key_id is None or asked.key_id in self.keys)
            and (asked.instance_id is None or asked.instance_id in self.instances)
            and asked.connector_id in self.versions
        )


async def standing(database: Database, asked: AbstractSet[Authority]) -> Standing:
    """The rows that all of them stand on, as they are now."""

    def work(connection: Connection) -> Standing:
        valid = api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now())
        keys = _found(connection, select(api_keys).where(*valid), {one.key_id for one in asked})
        instances = _found(connection, select(connector_instances.c.id), {one.instance_id for one in asked})
        active = select(connectors.c.id, connectors.c.version).where(connectors.c.status != "inactive")
        versions = _found(connection, active, {one.connector_id for one in asked})
        return Standing({row[0]: ApiKey(*row) for row in keys}, {row[0] for row in instances}, dict(versions))

    return await database.read(work)


def _found(connection: Connection, statement: Select[Any], ids: AbstractSet[str | None]) -> list[Any]:
    """Those of the rows with these ids; the id is the first column."""
    column = statement.selected_columns[0]
    wanted = sorted(one for one in ids if one is not None)
    found: list[Any] = []
    for at in range(0, len(wanted), _AT_ONCE):
        found += [tuple(row) for row in connection.execute(statement.where(column.in_(wanted[at : at + _AT_ONCE])))]
    return found
