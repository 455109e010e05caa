"""Sealed values of any row, for whoever seals them anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, Table, bindparam, delete, literal, select, update

from studio.models import Sealed
from studio.store.engine import Database, lock_table
from studio.store.tables import connector_instances, connectors, key_canaries

_COLUMNS = {connectors: "config_encrypted", connector_instances: "config_override"}


@dataclass(frozen=True)
class SealedRow:
    """One sealed value and where it belongs: a connector's config, or (`override`) an instance's override."""

    override: bool
    row_id: str
    organization_id: str
    generation: int
    sealed: Sealed


def _table(override: bool) -> Table:
    return connector_instances if override else connectors


async def not_sealed_by(
    database: Database, key_id: str, *, override: bool, after: str, limit: int
) -> Sequence[SealedRow]:
    """Rows that another key seals, in the order of their ids."""
    table = _table(override)
    token = table.c[_COLUMNS[table]]
    generation = literal(1) if override else connectors.c.version
    statement = (
        select(table.c.id, table.c.organization_id, generation, token, table.c.key_id)
        .where(table.c.key_id != key_id, table.c.id > after, token.is_not(None))
        .order_by(table.c.id)
        .limit(limit)
    )
    rows = await database.read(lambda connection: connection.execute(statement).all())
    return [SealedRow(override, row[0], row[1], row[2], Sealed(row[3], row[4])) for row in rows]


async def replace(database: Database, changes: Sequence[tuple[SealedRow, Sealed]]) -> None:
    """Put new tokens in place of the ones that were read; a row that changed meanwhile is left alone."""

    def work(connection: Connection) -> None:
        for override in (False, True):
            table = _table(override)
            values = [
                {"row": old.row_id, "old": old.sealed.token, "new": new.token, "by": new.key_id}
                for old, new in changes
                if old.override is override
            ]
            token = table.c[_COLUMNS[table]]
            statement = (
                update(table)
                .where(table.c.id == bindparam("row"), token == bindparam("old"))
                .values({token.name: bindparam("new"), "key_id": bindparam("by")})
            )
            if values:
                connection.execute(statement, values)

    await database.write(work)


async def retire_others(database: Database, key_id: str) -> bool:
    """Forget the canaries of all other keys if nothing is sealed by one; whether that was so."""

    def work(connection: Connection) -> bool:
        lock_table(connection, key_canaries)
        for table in _COLUMNS:
            if connection.execute(select(table.c.id).where(table.c.key_id != key_id).limit(1)).first():
                return False
        connection.execute(delete(key_canaries).where(key_canaries.c.key_id != key_id))
        return True

    return await database.write(work)
