"""Who used a connector, counted from the audit log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from sqlalchemy import func, select

from studio.store.engine import Database
from studio.store.tables import audit_log as table


class Uses(NamedTuple):
    """How often an agent used a connector under an alias; without an agent: everybody else."""

    agent_id: str | None
    alias: str | None
    operations: int
    last_at: str


async def of(database: Database, organization_id: str, connector_id: str, *, since: str) -> Sequence[Uses]:
    """The uses since a time, the most frequent first. What was refused was no use."""
    operations = func.sum(table.c.count).label("operations")
    statement = (
        select(table.c.agent_id, table.c.alias, operations, func.max(table.c.at))
        .where(table.c.organization_id == organization_id, table.c.connector_id == connector_id)
        # An effect has a row before and one after it; the one after it counts.
        .where(table.c.event == "execute", table.c.at >= since, table.c.verdict.not_in(["started", "refused"]))
        .group_by(table.c.agent_id, table.c.alias)
        .order_by(operations.desc())
    )
    rows = await database.read(lambda connection: connection.execute(statement).all())
    return [Uses(row[0], row[1], int(row[2]), row[3]) for row in rows]
