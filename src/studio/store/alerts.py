"""The outbox of alerts: a row for each alert and channel, written with the change that it is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from studio.models import now
from studio.store.engine import Database
from studio.store.tables import alerts as table

FREE = ""


@dataclass(frozen=True)
class Alert:
    """One delivery. `about` and `channel` are unique together: what was told once is not told again."""

    id: str
    organization_id: str
    connector_id: str
    about: str
    channel: str
    body: str = field(repr=False)
    created_at: str
    due_at: str
    lease_until: str
    attempts: int
    done_at: str | None
    outcome: str | None


async def add(database: Database, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put alerts into the outbox; one that is there already, or was delivered, is left out."""

    def work(connection: Connection) -> None:
        for row in rows:
            known = select(table.c.id).where(table.c.about == row["about"], table.c.channel == row["channel"])
            if connection.execute(known).first() is None:
                connection.execute(insert(table).values(**row))

    await database.write(work)


async def claim(database: Database, *, most: int, lease_s: float) -> list[Alert]:
    """Take alerts that are due; a claim that is not ended becomes due again when its lease is over."""
    time = now()
    due = (
        select(table)
        .where(table.c.done_at.is_(None), table.c.due_at <= time, table.c.lease_until <= time)
        .order_by(table.c.due_at)
        .limit(most)
        .with_for_update(skip_locked=True)
    )

    def work(connection: Connection) -> list[Alert]:
        found = [Alert(*row) for row in connection.execute(due)]
        ids = [one.id for one in found]
        if ids:
            connection.execute(update(table).where(table.c.id.in_(ids)).values(lease_until=now(lease_s)))
        return found

    return await database.write(work)


async def end(database: Database, alert: Alert, outcome: str) -> None:
    """It was delivered, or given up."""
    await _change(database, alert, done_at=now(), outcome=outcome)


async def again(database: Database, alert: Alert, due_at: str, outcome: str) -> None:
    """It was not delivered; try later."""
    await _change(database, alert, due_at=due_at, outcome=outcome)


async def waiting(database: Database) -> int:
    """How many are not delivered yet."""
    statement = select(func.count()).select_from(table).where(table.c.done_at.is_(None))
    return await database.read(lambda connection: connection.scalar(statement) or 0)


async def _change(database: Database, alert: Alert, **values: Any) -> None:
    statement = update(table).where(table.c.id == alert.id)
    new = {"attempts": alert.attempts + 1, "lease_until": FREE, **values}
    await database.write(lambda connection: connection.execute(statement.values(**new)))
