"""Saved operations of one organization's connectors."""

from __future__ import annotations

from dataclasses import asdict

from sqlalchemy import Connection, bindparam, delete, func, insert, select
from sqlalchemy.exc import IntegrityError

from studio.errors import Conflict, FieldError, InvalidRequest, NotFound
from studio.models import AuditEntry, SavedOperation
from studio.store.audit import AuditLog
from studio.store.engine import is_unique_violation
from studio.store.store import NO_CONNECTOR
from studio.store.tables import saved_operations as table

MOST = 200
"""Saved operations of one connector."""
NO_SAVED = "no such saved operation"
_OF = select(table).where(
    table.c.organization_id == bindparam("organization_id"), table.c.connector_id == bindparam("connector_id")
)
_ALL = _OF.order_by(table.c.name)
_NAMED = _OF.where(table.c.name == bindparam("name"))


class Saved:
    """A handle that cannot leave its organization."""

    def __init__(self, log: AuditLog, organization_id: str) -> None:
        self._log = log
        self._database = log.database
        self._organization_id = organization_id

    async def add(self, saved: SavedOperation) -> None:
        """Store one. Raises Conflict where its name is taken, InvalidRequest past MOST, NotFound."""

        def work(connection: Connection) -> None:
            here = table.c.connector_id == saved.connector_id
            if (connection.scalar(select(func.count()).select_from(table).where(here)) or 0) >= MOST:
                raise InvalidRequest(f"a connector has {MOST} saved operations at most; delete one first")
            connection.execute(insert(table).values(**asdict(saved)))

        try:
            await self._log.write(work, self._entry("create", saved.connector_id, saved.name, saved.created_by))
        except IntegrityError as exc:
            if not is_unique_violation(exc):
                raise NotFound(NO_CONNECTOR) from None
            taken = FieldError("name", "this connector already has a saved operation of this name")
            raise Conflict(f"{taken.field}: {taken.message}", fields=[taken]) from None

    async def all(self, connector_id: str) -> list[SavedOperation]:
        """A connector's saved operations, by name."""
        values = {"organization_id": self._organization_id, "connector_id": connector_id}
        return [SavedOperation(*row) for row in await self._database.lookup(_ALL, values)]

    async def named(self, connector_id: str, name: str) -> SavedOperation | None:
        """One of them."""
        values = {"organization_id": self._organization_id, "connector_id": connector_id, "name": name}
        rows = await self._database.lookup(_NAMED, values)
        return SavedOperation(*rows[0]) if rows else None

    async def remove(self, connector_id: str, name: str, *, by: str) -> None:
        """Delete one. Raises NotFound."""
        statement = delete(table).where(
            table.c.organization_id == self._organization_id,
            table.c.connector_id == connector_id,
            table.c.name == name,
        )

        def work(connection: Connection) -> None:
            if not connection.execute(statement).rowcount:
                raise NotFound(NO_SAVED)

        await self._log.write(work, self._entry("delete", connector_id, name, by))

    def _entry(self, verb: str, connector_id: str, name: str, by: str) -> AuditEntry:
        event = f"saved_operation.{verb}"
        return AuditEntry(self._organization_id, event, by, connector_id=connector_id, operation=name, target=name)
