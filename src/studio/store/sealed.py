"""Sealed values of any row, for whoever seals them anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, delete, literal, select, update

from studio.models import AuditEntry, Sealed
from studio.store.audit import STORE, AuditLog
from studio.store.engine import Database, lock_table
from studio.store.tables import audit_keys, connector_instances, connector_secrets, connectors, key_canaries

FIELDS = ("config", "override", "secrets", "audit")
"""The sealed fields: of a connector, of an instance, of a connector's other set of secrets, and the audit log's key."""
_COLUMNS = {
    "config": connectors.c.config_encrypted,
    "override": connector_instances.c.config_override,
    "secrets": connector_secrets.c.token,
    "audit": audit_keys.c.token,
}


@dataclass(frozen=True)
class SealedRow:
    """One sealed value and where it belongs; `field` is one of FIELDS."""

    field: str
    row_id: str
    organization_id: str
    generation: int
    sealed: Sealed


async def not_sealed_by(database: Database, key_id: str, *, field: str, after: str, limit: int) -> Sequence[SealedRow]:
    """Rows that another key seals, in the order of their ids."""
    token = _COLUMNS[field]
    table = token.table
    generation = connectors.c.version if table is connectors else literal(1)
    statement = (
        select(table.c.id, table.c.organization_id, generation, token, table.c.key_id)
        .where(table.c.key_id != key_id, table.c.id > after, token.is_not(None))
        .order_by(table.c.id)
        .limit(limit)
    )
    rows = await database.read(lambda connection: connection.execute(statement).all())
    return [SealedRow(field, row[0], row[1], row[2], Sealed(row[3], row[4])) for row in rows]


async def replace(log: AuditLog, changes: Sequence[tuple[SealedRow, Sealed]], *, by: str) -> None:
    """Put new tokens in place of the ones that were read; a row that changed meanwhile is left alone."""

    def work(connection: Connection) -> None:
        for field, token in _COLUMNS.items():
            table = token.table
            values = [
                {"row": old.row_id, "old": old.sealed.token, "new": new.token, "by": new.key_id}
                for old, new in changes
                if old.field == field
            ]
            statement = (
                update(table)
                .where(table.c.id == bindparam("row"), token == bindparam("old"))
                .values({token.name: bindparam("new"), "key_id": bindparam("by")})
            )
            if values:
                connection.execute(statement, values)

    await log.write(work, AuditEntry(STORE, "encryption.rotate", by, rows=len(changes)))


async def retire_others(log: AuditLog, key_id: str, *, by: str) -> bool:
    """Forget the canaries of all other keys if nothing is sealed by one; whether that was so."""

    def work(connection: Connection) -> bool:
        lock_table(connection, key_canaries)
        for token in _COLUMNS.values():
            table = token.table
            if connection.execute(select(table.c.id).where(table.c.key_id != key_id).limit(1)).first():
                return False
        connection.execute(delete(key_canaries).where(key_canaries.c.key_id != key_id))
        return True

    retired = AuditEntry(STORE, "encryption.retire", by, target=key_id)
    return await log.write(work, lambda done: retired if done else None)
