"""Requests that may be sent again: one row for each `Idempotency-Key`, unique by its id."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sqlalchemy import Connection, bindparam, delete, select

from studio.models import now
from studio.store.engine import Database, upsert
from studio.store.tables import repeats as table

MOST = 100_000
"""Rows of one organization; the oldest go first."""
_SWEEP_EVERY = "0"  # the last digit of a random id: one in sixteen
_BY_ID = select(table).where(table.c.id == bindparam("id"), table.c.expires_at > bindparam("time"))


@dataclass(frozen=True)
class Repeat:
    """`owner` is the attempt that made the row; `done` says whether `token` holds its answer."""

    id: str
    organization_id: str
    owner: str
    done: bool
    token: str
    key_id: str
    created_at: str
    expires_at: str


async def find(database: Database, row_id: str) -> Repeat | None:
    """A row that has not expired."""
    rows = await database.lookup(_BY_ID, {"id": row_id, "time": now()})
    return Repeat(*rows[0]) if rows else None


def claim(connection: Connection, row: Repeat) -> bool:
    """Put the row in, as part of whatever transaction this is; whether it is there as this attempt's own.

    Two replicas that do so at once meet in the primary key: one waits for the other's commit, and is told no.
    """
    connection.execute(delete(table).where(table.c.id == row.id, table.c.expires_at <= row.created_at))
    upsert(connection, table, asdict(row), {})
    return connection.scalar(select(table.c.owner).where(table.c.id == row.id)) == row.owner


async def keep(database: Database, row: Repeat) -> None:
    """Keep the answer beside its key, unless the row is another attempt's; forget what has expired."""

    def work(connection: Connection) -> None:
        if claim(connection, row):
            upsert(connection, table, asdict(row), {"done": row.done, "token": row.token, "key_id": row.key_id})
        if row.owner.endswith(_SWEEP_EVERY):
            sweep(connection, row.organization_id)

    await database.write(work)


def sweep(connection: Connection, organization_id: str, most: int = MOST) -> None:
    """Delete what has expired, and of one organization what is beyond the newest `most`."""
    connection.execute(delete(table).where(table.c.expires_at <= now()))
    mine = table.c.organization_id == organization_id
    newest = select(table.c.created_at).where(mine).order_by(table.c.created_at.desc()).offset(most).limit(1)
    oldest = connection.scalar(newest)
    if oldest is not None:
        connection.execute(delete(table).where(mine, table.c.created_at <= oldest))


async def release(database: Database, row: Repeat) -> None:
    """Forget an attempt that changed nothing."""
    await database.write(
        lambda connection: connection.execute(delete(table).where(table.c.id == row.id, table.c.owner == row.owner))
    )
