"""How connectors are: a row each, which is also its place in the queue of probes (`probe_queue`), and the history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, bindparam, case, delete, func, insert, select, update

from studio.errors import NotFound
from studio.models import AuditEntry, Connector, new_id, now
from studio.store.audit import AuditLog
from studio.store.engine import Database
from studio.store.probe_queue import FREE, Health
from studio.store.store import NO_CONNECTOR
from studio.store.tables import alerts, connector_health, connector_instances, connectors, health_events

KEPT_EVENTS = 200
"""Changes that a history answers."""
AGENTS = 100
"""Agents that an alert names."""


@dataclass(frozen=True)
class Event:
    """A change of state, and what was found then."""

    id: str
    organization_id: str
    connector_id: str
    at: str
    before: str
    after: str
    code: str | None
    stage: str | None
    message: str | None
    fix: str | None


@dataclass(frozen=True)
class Found:
    """What a probe or a test found; all None where it passed. No field holds a value of a config."""

    code: str | None = None
    stage: str | None = None
    message: str | None = None
    fix: str | None = None

    @property
    def ok(self) -> bool:
        """Whether it passed."""
        return self.code is None


_LOCKED = select(connector_health).where(connector_health.c.connector_id == bindparam("tested")).with_for_update()
_ROW = update(connector_health).where(connector_health.c.connector_id == bindparam("tested"))
_OUTCOME = (
    update(connectors)
    .where(connectors.c.id == bindparam("tested"), connectors.c.version == bindparam("at"))
    .values(
        status=case((connectors.c.status == "inactive", "inactive"), else_=bindparam("found")),
        last_tested_at=bindparam("time"),
        last_test_result=bindparam("result"),
        last_error=bindparam("error"),
    )
)
"""Constants: to build and key such a statement anew costs ten times of what the database takes for it."""

Step = Callable[[Health], Health]
Writer = Callable[[Callable[[Connection], Event | None]], Awaitable[Event | None]]
Tell = Callable[[Connector, Event, Sequence[str]], Sequence[Mapping[str, Any]]]
"""Rows of `alerts` for a change, given the connector and the agents that have it."""


async def record(
    write: Writer, tested: Connector, found: Found, step: Step, tell: Tell, *, fence: int | None = None
) -> Event | None:
    """Keep what was found, with the history and the alerts of a change, in one transaction.

    The connector's own `status` and `last_…` follow, unless its config changed meanwhile; an
    inactive one stays inactive. The change is answered, if there was one.

    Args:
        write: runs one transaction, with an audit row where somebody asked for this test.
        fence: of the claim; where another one overtook it, nothing is kept.
    """
    mine = {"tested": tested.id}

    def work(connection: Connection) -> Event | None:
        row = connection.execute(_LOCKED, mine).first()
        if row is None:
            return None  # the connector was deleted
        before = Health(*row)
        if fence is not None and before.fence != fence:
            return None
        after = step(before)
        outcome = {
            "at": tested.version,
            "found": "error" if after.state == "error" else "active",
            "time": now(),
            "result": "success" if found.ok else "failed",
            "error": found.message,
        }
        if not connection.execute(_OUTCOME, mine | outcome).rowcount:
            # Found of a config that is not in force any more: it says nothing of the present one.
            connection.execute(_ROW, mine | {"lease_until": FREE, "due_at": now()})
            return None
        connection.execute(_ROW, mine | vars(after))
        if after.state == before.state:
            return None
        event = Event(
            new_id(), tested.organization_id, tested.id, after.changed_at, before.state, after.state, **asdict(found)
        )
        connection.execute(insert(health_events).values(**asdict(event)))
        for alert in tell(tested, event, _agents(connection, tested.id)):
            connection.execute(insert(alerts).values(**alert))
        return event

    return await write(work)


def _agents(connection: Connection, connector_id: str) -> Sequence[str]:
    """Some of those who use a connector, as many as an alert names."""
    agent_id = connector_instances.c.agent_id
    mine = connector_instances.c.connector_id == connector_id
    return connection.scalars(select(agent_id).where(mine).distinct().order_by(agent_id).limit(AGENTS)).all()


async def of(database: Database, connector_id: str) -> tuple[Health, list[Event]]:
    """A connector's row and its history, the newest change first. Raises NotFound."""
    events = (
        select(health_events)
        .where(health_events.c.connector_id == connector_id)
        .order_by(health_events.c.id.desc())
        .limit(KEPT_EVENTS)
    )

    def work(connection: Connection) -> tuple[Health, list[Event]]:
        row = connection.execute(
            select(connector_health).where(connector_health.c.connector_id == connector_id)
        ).first()
        if row is None:
            raise NotFound(NO_CONNECTOR)
        return Health(*row), [Event(*event) for event in connection.execute(events)]

    return await database.read(work)


async def set_interval(log: AuditLog, connector_id: str, interval_s: int | None, entry: AuditEntry) -> None:
    """Probe a connector at its own interval; None for the service's. The next probe is due now."""
    statement = (
        update(connector_health)
        .where(connector_health.c.connector_id == connector_id)
        .values(interval_s=interval_s, due_at=now())
    )
    await log.write(lambda connection: connection.execute(statement), entry)


async def counts(database: Database) -> dict[str, int]:
    """How many connectors are in each state."""
    statement = select(connector_health.c.state, func.count()).group_by(connector_health.c.state)
    rows = await database.read(lambda connection: connection.execute(statement).all())
    return {str(state): int(count) for state, count in rows}


async def expiring(database: Database, *, before: str, after: str) -> list[tuple[Connector, list[str]]]:
    """Connectors whose secrets end before one time and after another, with the agents that have them."""
    ends = connectors.c.secret_expires_at
    return await _with_agents(database, ends <= before, ends > after)


async def aged(database: Database, *, before: str) -> list[tuple[Connector, list[str]]]:
    """Connectors whose secrets were given before a time and have no end, with the agents that have them."""
    return await _with_agents(database, connectors.c.secret_set_at <= before, connectors.c.secret_expires_at.is_(None))


async def _with_agents(database: Database, *where: ColumnElement[bool]) -> list[tuple[Connector, list[str]]]:
    statement = select(connectors).where(*where, connectors.c.status != "inactive").limit(1000)

    def work(connection: Connection) -> list[tuple[Connector, list[str]]]:
        found = [Connector(*row) for row in connection.execute(statement)]
        agents: dict[str, list[str]] = {one.id: [] for one in found}
        having = select(connector_instances.c.connector_id, connector_instances.c.agent_id).distinct()
        for connector_id, agent_id in connection.execute(
            having.where(connector_instances.c.connector_id.in_(list(agents))).order_by(connector_instances.c.agent_id)
        ):
            agents[connector_id].append(agent_id)
        return [(one, agents[one.id][:AGENTS]) for one in found]

    return await database.read(work)


async def forget(database: Database, *, before: str) -> None:
    """Drop history and delivered alerts that are older."""

    def work(connection: Connection) -> None:
        connection.execute(delete(health_events).where(health_events.c.at < before))
        connection.execute(delete(alerts).where(alerts.c.done_at < before))

    await database.write(work)
