"""The queue of probes: the rows of `connector_health`, in the order in which they are due.

It needs no other coordination than the database's: a claim is a lease on a row that others pass over,
and each claim raises the row's `fence`, so a claim that was overtaken records nothing. What a claim
costs does not grow with the number of connectors: it looks at the head of the queue, and only where
that is full of organizations that have their share already, at the first of each organization.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

from sqlalchemy import Connection, Select, func, insert, select, update

from studio.models import Connector, now
from studio.store.engine import Database
from studio.store.tables import connector_health, connectors

AHEAD = 256
"""Rows at the head of the queue that one claim looks at, or eight for each that it may take."""
ASIDE_S = 6 * 3600.0
"""An inactive connector is taken out of the head of the queue for so long; making it active ends that at once."""


FREE = ""
"""`lease_until` of a row that nobody holds: before every time."""


@dataclass(frozen=True)
class Health:
    """The row of a connector. `state`: unknown, healthy, degraded or error; counts are of probes in a row.

    `alerted` says whether somebody was told of the present error, and so waits for the recovery.
    """

    connector_id: str
    organization_id: str
    state: str
    failures: int
    successes: int
    interval_s: int | None
    due_at: str
    lease_until: str
    fence: int
    changed_at: str
    checked_at: str | None
    alerted: bool


class _Due(NamedTuple):
    connector_id: str
    organization_id: str


def enter(connection: Connection, connector: Connector) -> None:
    """Put a new connector into the queue: nobody has probed it, and its first probe is due at once."""
    row = Health(
        connector.id, connector.organization_id, "unknown", failures=0, successes=0, interval_s=None,
        due_at=connector.created_at, lease_until=FREE, fence=0, changed_at=connector.created_at, checked_at=None,
        alerted=False,
    )  # fmt: skip
    connection.execute(insert(connector_health).values(**asdict(row)))


def hurry(connection: Connection, connector_id: str) -> None:
    """Let a connector's probe be due now, wherever in the queue it is."""
    mine = connector_health.c.connector_id == connector_id
    connection.execute(update(connector_health).where(mine).values(due_at=now()))


async def claim(
    database: Database, *, most: int, per_organization: int, lease_s: float
) -> list[tuple[Health, Connector]]:
    """Take up to `most` connectors whose probe is due, the longest due first.

    Of one organization, those that are claimed already and those taken now are `per_organization`
    at most, as far as other replicas' claims can be seen.
    """
    time = now()
    chosen, inactive = await database.read(
        lambda connection: _chosen(connection, time, most=most, per_organization=per_organization)
    )
    if not chosen and not inactive:
        return []
    return await database.write(lambda connection: _taken(connection, time, chosen, inactive, lease_s))


def _chosen(connection: Connection, time: str, *, most: int, per_organization: int) -> tuple[list[str], list[str]]:
    """Ids to claim, and ids of inactive connectors that lie in front. Nothing is locked yet."""
    ahead = max(AHEAD, 8 * most)
    head = [_Due(*row) for row in connection.execute(_head(time, ahead))]
    if not head:
        return [], []
    # Asked apart: in a join, the planners go through all connectors where they expect many to be due.
    off = select(connectors.c.id).where(connectors.c.id.in_([row.connector_id for row in head]))
    inactive = set(connection.scalars(off.where(connectors.c.status == "inactive")))
    table = connector_health
    held = select(table.c.organization_id).where(table.c.lease_until > time)  # few; to group them, SQLite reads all
    taken = Counter(connection.scalars(held))
    chosen: list[str] = []

    def choose(rows: Iterable[_Due]) -> None:
        for row in rows:
            if len(chosen) == most:
                return
            if row.connector_id not in inactive and taken[row.organization_id] < per_organization:
                taken[row.organization_id] += 1
                chosen.append(row.connector_id)

    choose(head)
    if len(chosen) < most and len(head) == ahead:
        seen = {row.connector_id for row in head}
        rows = [_Due(*row) for row in connection.execute(_heads(time))]
        choose(row for row in rows if row.connector_id not in seen)
    return chosen, sorted(inactive)


def _head(time: str, limit: int) -> Select[str, str]:
    table = connector_health
    return (
        select(table.c.connector_id, table.c.organization_id)
        .where(table.c.due_at <= time, table.c.lease_until <= time)
        .order_by(table.c.due_at)
        .limit(limit)
    )


def _heads(time: str) -> Select[str, str]:
    """The first due connector of every organization, which is found from the one before by the index."""
    table, other, due = connector_health, connector_health.alias(), connector_health.alias()
    first = select(func.min(table.c.organization_id).label("id")).cte("organizations", recursive=True)
    following = select(func.min(other.c.organization_id)).where(other.c.organization_id > first.c.id).scalar_subquery()
    organizations = first.union_all(select(following).where(first.c.id.is_not(None)))
    mine = (
        select(due.c.connector_id)
        .join(connectors, connectors.c.id == due.c.connector_id)
        .where(due.c.organization_id == organizations.c.id, due.c.due_at <= time, due.c.lease_until <= time)
        .where(connectors.c.status != "inactive")
        .order_by(due.c.due_at)
        .limit(1)
        .correlate(organizations)
        .scalar_subquery()
    )
    # Without MATERIALIZED PostgreSQL asks for the head of each organization once for each connector.
    heads = select(mine.label("id")).select_from(organizations).cte("heads").prefix_with("MATERIALIZED")
    return (
        select(table.c.connector_id, table.c.organization_id)
        .join(heads, heads.c.id == table.c.connector_id)
        .order_by(table.c.due_at)
    )


def _taken(
    connection: Connection, time: str, chosen: Sequence[str], inactive: Sequence[str], lease_s: float
) -> list[tuple[Health, Connector]]:
    table = connector_health
    if inactive:
        still = select(connectors.c.id).where(connectors.c.id.in_(inactive), connectors.c.status == "inactive")
        aside = update(table).where(table.c.connector_id.in_(still), table.c.due_at <= time)
        connection.execute(aside.values(due_at=now(ASIDE_S)))
    free = (
        select(table)
        # Asked again of the row itself: it may have been claimed since it was chosen.
        .where(table.c.connector_id.in_(chosen), table.c.due_at <= time, table.c.lease_until <= time)
        .order_by(table.c.due_at)
        .with_for_update(skip_locked=True)
    )
    rows = [Health(*row) for row in connection.execute(free)]
    ids = [row.connector_id for row in rows]
    if not ids:
        return []
    mine = table.c.connector_id.in_(ids)
    connection.execute(update(table).where(mine).values(lease_until=now(lease_s), fence=table.c.fence + 1))
    found = {row.id: Connector(*row) for row in connection.execute(select(connectors).where(connectors.c.id.in_(ids)))}
    return [(replace(row, fence=row.fence + 1), found[row.connector_id]) for row in rows if row.connector_id in found]


async def put_back(database: Database, claimed: Health, due_at: str) -> None:
    """Give a claim back without a finding."""
    statement = (
        update(connector_health)
        .where(connector_health.c.connector_id == claimed.connector_id, connector_health.c.fence == claimed.fence)
        .values(lease_until=FREE, due_at=due_at)
    )
    await database.write(lambda connection: connection.execute(statement))
