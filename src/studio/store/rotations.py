"""The sets of secrets beside the one in force: `staged` while a new one is brought in, `previous` for a grace."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Connection, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from studio.errors import Conflict, NotFound
from studio.models import AuditEntry, Connector, Sealed, now
from studio.store.audit import AuditLog
from studio.store.engine import Database, is_unique_violation
from studio.store.store import NO_CONNECTOR
from studio.store.tables import connector_secrets as table
from studio.store.tables import connectors

STAGED, PREVIOUS = "staged", "previous"
_OF = select(table).where(table.c.connector_id == bindparam("connector_id"))


@dataclass(frozen=True)
class OtherSecrets:
    """A sealed set of secrets. `until`: of a staged one, how long its maker may take; of a previous one, its end."""

    id: str
    organization_id: str
    connector_id: str
    kind: str
    token: str = field(repr=False)
    key_id: str
    until: str

    @property
    def sealed(self) -> Sealed:
        """The token with its key's id."""
        return Sealed(self.token, self.key_id)

    @property
    def over(self) -> bool:
        """Whether `until` has passed."""
        return self.until <= now()


async def of(database: Database, connector_id: str) -> dict[str, OtherSecrets]:
    """A connector's other sets by kind, those that have ended included."""
    found = [OtherSecrets(*row) for row in await database.lookup(_OF, {"connector_id": connector_id})]
    return {one.kind: one for one in found}


async def stage(log: AuditLog, staged: OtherSecrets, *, by: str) -> None:
    """Keep a new set before the upstream is told of it. Raises Conflict where one is staged, NotFound."""
    try:
        statement = insert(table).values(**asdict(staged))
        await log.write(lambda connection: connection.execute(statement), _entry("staged", staged, by))
    except IntegrityError as exc:
        if is_unique_violation(exc):
            raise Conflict(
                "another rotation of this connector is under way; read the connector again in a moment"
            ) from None
        raise NotFound(NO_CONNECTOR) from None


async def discard(log: AuditLog, staged: OtherSecrets, *, by: str) -> None:
    """Forget a set."""
    statement = delete(table).where(table.c.id == staged.id)
    await log.write(lambda connection: connection.execute(statement), _entry("discarded", staged, by))


def _entry(what: str, staged: OtherSecrets, by: str) -> AuditEntry:
    event = f"rotation.{what}"
    return AuditEntry(staged.organization_id, event, by, connector_id=staged.connector_id, target=staged.id)


async def swap(
    log: AuditLog,
    connector: Connector,
    values: Mapping[str, Any],
    *,
    staged: OtherSecrets | None,
    previous: OtherSecrets | None,
    by: str,
) -> Connector | None:
    """Put a new set in force, keep the old one as `previous`, and forget the staged one: all in one transaction.

    None where the connector is not at the version that was read, or where `staged` is gone, because
    somebody else ended this rotation. Raises NotFound.
    """
    mine = connectors.c.id == connector.id

    def work(connection: Connection) -> Connector | None:
        row = connection.execute(select(connectors).where(mine).with_for_update()).mappings().first()
        if row is None:
            raise NotFound(NO_CONNECTOR)
        if row["version"] != connector.version:
            return None
        if staged is not None and not connection.execute(delete(table).where(table.c.id == staged.id)).rowcount:
            return None
        connection.execute(delete(table).where(table.c.connector_id == connector.id, table.c.kind == PREVIOUS))
        if previous is not None:
            connection.execute(insert(table).values(**asdict(previous)))
        new = {**values, "version": connector.version + 1, "updated_at": now()}
        connection.execute(update(connectors).where(mine).values(**new))
        return Connector(**connection.execute(select(connectors).where(mine)).mappings().one())

    rotated = AuditEntry(
        connector.organization_id, "connector.rotate", by, connector_id=connector.id, target=connector.id
    )
    return await log.write(work, lambda new: rotated if new else None)


async def abandoned(database: Database) -> list[Connector]:
    """Connectors with a staged set whose maker has taken too long."""
    statement = (
        select(connectors)
        .join(table, table.c.connector_id == connectors.c.id)
        .where(table.c.kind == STAGED, table.c.until <= now())
        .limit(100)
    )
    return await database.read(lambda connection: [Connector(*row) for row in connection.execute(statement)])


async def drop_ended(database: Database) -> int:
    """Forget every previous set whose grace is over; how many there were."""
    ended = delete(table).where(table.c.kind == PREVIOUS, table.c.until <= now())
    return await database.write(lambda connection: connection.execute(ended).rowcount)
