"""Metadata, handed out through a `Scope` that cannot leave its organization."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, TypeVar

import orjson
from sqlalchemy import ColumnElement, Connection, Select, Table, bindparam, delete, func, insert, select, true, update
from sqlalchemy.exc import IntegrityError

from studio.errors import Conflict, FieldError, NotFound, StudioError
from studio.models import AuditEntry, Connector, ConnectorInstance, now
from studio.store import probe_queue
from studio.store.audit import AuditLog
from studio.store.engine import is_unique_violation, upsert
from studio.store.tables import connector_counts, connector_instances, connector_tallies, connectors

T = TypeVar("T")
NO_CONNECTOR = "no such connector"
NO_INSTANCE = "no such connector instance"
_NAME_TAKEN = "another connector of this organization has this name"


@dataclass(frozen=True)
class Filters:
    """What a listing may be narrowed by; None leaves a field open. `q` is part of the name, any case."""

    connector_type: str | None = None
    provider: str | None = None
    status: str | None = None
    q: str | None = None


@dataclass(frozen=True)
class Page:
    """One page of connectors; `next_id` is the id to go on after, None on the last page."""

    records: list[Connector]
    total: int
    next_id: str | None


_CONNECTOR = select(connectors).where(connectors.c.id == bindparam("id"))
_INSTANCE = select(connector_instances).where(connector_instances.c.id == bindparam("id"))
_ATTACHED = (
    select(*connector_instances.c, *connectors.c)
    .join_from(connector_instances, connectors, connectors.c.id == connector_instances.c.connector_id)
    .order_by(connector_instances.c.id)
)
_ALIAS = _ATTACHED.where(
    connector_instances.c.agent_id == bindparam("agent_id"), connector_instances.c.alias == bindparam("alias")
)


@cache
def _within(statement: Select[Any], table: Table) -> Select[Any]:
    """The statement, narrowed to one organization."""
    return statement.where(table.c.organization_id == bindparam("organization_id"))


class Scope:
    """All metadata of one organization; of all for None (the trusted in-process caller). `by` is who changes things."""

    def __init__(self, log: AuditLog, organization_id: str | None, by: str) -> None:
        self._log = log
        self._database = log.database
        self._organization_id = organization_id
        self._by = by

    def _entry(self, event: str, organization_id: str, connector_id: str, **more: Any) -> AuditEntry:
        return AuditEntry(organization_id, event, self._by, connector_id=connector_id, **more)

    def _mine(self, table: Table) -> ColumnElement[bool]:
        return true() if self._organization_id is None else table.c.organization_id == self._organization_id

    # -- connectors -----------------------------------------------------------------------------

    async def add_connector(self, connector: Connector) -> None:
        """Store a new connector. Raises Conflict where its name is taken."""

        def work(connection: Connection) -> None:
            connection.execute(insert(connectors).values(**asdict(connector)))
            probe_queue.enter(connection, connector)
            _count(connection, connector.organization_id, 1)

        entry = self._entry("connector.create", connector.organization_id, connector.id, target=connector.id)
        await self._write(work, entry, taken=FieldError("name", _NAME_TAKEN))

    async def connector(self, connector_id: str) -> Connector:
        """One connector. Raises NotFound."""
        rows = await self._lookup(_CONNECTOR, connectors, id=connector_id)
        if not rows:
            raise NotFound(NO_CONNECTOR)
        return Connector(*rows[0])

    async def connectors(self, filters: Filters, *, limit: int, after: str | None, offset: int) -> Page:
        """A page in the order of creation. `total` counts all that match, without `after` and `offset`."""
        where = [self._mine(connectors), *_conditions(filters)]
        statement = select(connectors).where(*where).order_by(connectors.c.id).limit(limit + 1).offset(offset)
        if after is not None:
            statement = statement.where(connectors.c.id > after)

        def work(connection: Connection) -> Page:
            total = self._total(connection, filters, where)
            # Where nothing matches, a search could go through a whole index to find that out.
            rows = [Connector(**row) for row in connection.execute(statement).mappings()] if total else []
            more = len(rows) > limit
            return Page(rows[:limit], total, rows[limit - 1].id if more else None)

        return await self._database.read(work)

    def _total(self, connection: Connection, filters: Filters, where: Sequence[ColumnElement[bool]]) -> int:
        if filters.q:  # no count is kept of every part of every name
            return connection.scalar(select(func.count()).select_from(connectors).where(*where)) or 0
        kept = select(func.sum(connector_tallies.c.connectors))
        return connection.scalar(kept.where(self._mine(connector_tallies), *_exact(filters, connector_tallies))) or 0

    async def change_connector(
        self, connector_id: str, *, version: int, values: Mapping[str, Any], changes: Iterable[str] = ()
    ) -> Connector:
        """Apply `values` if the stored version is still `version`, and count it up. `changes` names fields.

        Raises:
            NotFound: no such connector.
            Conflict: it changed meanwhile, or the new name is taken.
        """
        mine, fields = (connectors.c.id == connector_id, self._mine(connectors)), sorted(changes)

        def work(connection: Connection) -> Connector:
            changed = connection.execute(
                update(connectors)
                .where(*mine, connectors.c.version == version)
                .values(**values, version=version + 1, updated_at=now())
            )
            found = _connector(connection, select(connectors).where(*mine))
            if not changed.rowcount:
                raise Conflict("the connector changed since it was read; read it again and repeat the change")
            if "status" in fields and found.status != "inactive":
                probe_queue.hurry(connection, found.id)
            return found

        details = orjson.dumps({"fields": fields, "version": version + 1}).decode()
        return await self._write(
            work,
            lambda new: self._entry("connector.update", new.organization_id, new.id, target=new.id, details=details),
            taken=FieldError("name", _NAME_TAKEN),
        )

    def test_entry(self, tested: Connector, error: StudioError | None) -> AuditEntry:
        """The audit entry of a test that somebody asked for."""
        return self._entry(
            "connector.test", tested.organization_id, tested.id, target=tested.id,
            verdict="failed" if error else "ok", code=error.code if error else None,
        )  # fmt: skip

    async def remove_connector(self, connector_id: str) -> None:
        """Delete a connector and its instances. Raises NotFound."""
        mine = (connectors.c.id == connector_id, self._mine(connectors))

        def work(connection: Connection) -> str:
            found = _connector(connection, select(connectors).where(*mine))
            if not connection.execute(delete(connectors).where(*mine)).rowcount:
                raise NotFound(NO_CONNECTOR)  # somebody else deleted it in this moment
            _count(connection, found.organization_id, -1)
            return found.organization_id

        await self._log.write(work, lambda of: self._entry("connector.delete", of, connector_id, target=connector_id))

    # -- instances ------------------------------------------------------------------------------

    async def add_instance(self, instance: ConnectorInstance) -> None:
        """Attach a connector. Raises Conflict where the alias is taken, NotFound where the connector went away."""
        taken = FieldError("alias", "this agent already has a connector under this alias")
        statement = insert(connector_instances).values(**asdict(instance))
        await self._write(
            lambda connection: connection.execute(statement), self._attachment("attach", instance), taken=taken
        )

    async def instance(self, instance_id: str) -> ConnectorInstance:
        """One attachment. Raises NotFound."""
        rows = await self._lookup(_INSTANCE, connector_instances, id=instance_id)
        if not rows:
            raise NotFound(NO_INSTANCE)
        return ConnectorInstance(*rows[0])

    async def instances_of(self, connector_id: str) -> list[ConnectorInstance]:
        """Who uses a connector, in the order of attaching."""
        statement = (
            select(connector_instances)
            .where(connector_instances.c.connector_id == connector_id, self._mine(connector_instances))
            .order_by(connector_instances.c.id)
        )
        rows = await self._database.read(lambda connection: connection.execute(statement).mappings().all())
        return [ConnectorInstance(**row) for row in rows]

    async def attachment(self, agent_id: str, alias: str) -> list[tuple[ConnectorInstance, Connector]]:
        """What an agent knows under an alias: at most one an organization."""
        rows = await self._lookup(_ALIAS, connector_instances, agent_id=agent_id, alias=alias)
        return [_attached(row) for row in rows]

    async def attachments(self, agent_id: str) -> list[tuple[ConnectorInstance, Connector]]:
        """An agent's attachments with their connectors, in the order of attaching."""
        statement = _ATTACHED.where(connector_instances.c.agent_id == agent_id, self._mine(connector_instances))
        rows = await self._database.read(lambda connection: connection.execute(statement).all())
        return [_attached(row) for row in rows]

    async def remove_instance(self, instance_id: str) -> None:
        """Detach. Raises NotFound."""
        mine = (connector_instances.c.id == instance_id, self._mine(connector_instances))

        def work(connection: Connection) -> ConnectorInstance:
            found = connection.execute(select(connector_instances).where(*mine)).mappings().first()
            if found is None or not connection.execute(delete(connector_instances).where(*mine)).rowcount:
                raise NotFound(NO_INSTANCE)
            return ConnectorInstance(**found)

        await self._log.write(work, lambda instance: self._attachment("detach", instance))

    def _attachment(self, verb: str, instance: ConnectorInstance) -> AuditEntry:
        return self._entry(
            f"connector.{verb}", instance.organization_id, instance.connector_id,
            agent_id=instance.agent_id, alias=instance.alias, target=instance.id,
        )  # fmt: skip

    async def _lookup(self, statement: Select[Any], table: Table, **values: str) -> Sequence[Sequence[Any]]:
        """Rows of this organization; see `Database.lookup`."""
        if self._organization_id is None:
            return await self._database.lookup(statement, values)
        return await self._database.lookup(
            _within(statement, table), {**values, "organization_id": self._organization_id}
        )

    async def _write(
        self, work: Callable[[Connection], T], entry: AuditEntry | Callable[[T], AuditEntry], *, taken: FieldError
    ) -> T:
        try:
            return await self._log.write(work, entry)
        except IntegrityError as exc:
            if is_unique_violation(exc):
                raise Conflict(f"{taken.field}: {taken.message}", fields=[taken]) from None
            raise NotFound(NO_CONNECTOR) from None


def _attached(row: Sequence[Any]) -> tuple[ConnectorInstance, Connector]:
    width = len(connector_instances.c)
    return ConnectorInstance(*row[:width]), Connector(*row[width:])


class Store:
    """Hands out scopes. What belongs to no organization stands in `studio.store.keys`."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def scope(self, organization_id: str | None, by: str) -> Scope:
        """The metadata of one organization, as used by a subject; of all for the trusted in-process caller (None)."""
        return Scope(self._log, organization_id, by)


def _connector(connection: Connection, statement: Select[Any]) -> Connector:
    row = connection.execute(statement).mappings().first()
    if row is None:
        raise NotFound(NO_CONNECTOR)
    return Connector(**row)


def _exact(filters: Filters, table: Table) -> list[ColumnElement[bool]]:
    exact = {"connector_type": filters.connector_type, "provider": filters.provider, "status": filters.status}
    return [table.c[name] == value for name, value in exact.items() if value]


def _conditions(filters: Filters) -> list[ColumnElement[bool]]:
    part = func.lower(connectors.c.name).contains((filters.q or "").lower(), autoescape=True)
    return [*_exact(filters, connectors), *([part] if filters.q else [])]


def _count(connection: Connection, organization_id: str, by: int) -> None:
    kept = connector_counts.c.connectors
    upsert(
        connection,
        connector_counts,
        {"organization_id": organization_id, "connectors": max(by, 0)},
        {"connectors": kept + by},
    )
