"""Health of connectors: what a finding makes of a state, one probe, and what callers see of it.

    unknown ──pass──► healthy ──fail──► degraded ──fails in a row──► error ──passes in a row──► healthy

A single failure is no outage and a single answer no recovery: DOWN failures in a row make an error,
UP passes in a row end it, and a connector that answers now and then stays degraded. A test that
somebody asked for counts at once. The document's `status` is `error` in the state error, and
`active` in the others. Operations are tried in every state.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from studio.errors import BadRequest, PoolBusy
from studio.models import AuditEntry, Connector, Role, now
from studio.services import alerts, execution, metrics, probes
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.core import Core
from studio.services.inputs import WHOLE, Body
from studio.services.planning import Target
from studio.services.sessions import SessionKey
from studio.store import health as rows
from studio.store.health import Event, Found
from studio.store.probe_queue import FREE, Health

UNKNOWN, HEALTHY, DEGRADED, ERROR = "unknown", "healthy", "degraded", "error"
DOWN = 3
"""Failures in a row that make an error."""
UP = 2
"""Passes in a row that end one."""
PROBE_S = 10.0
"""Longest time of one probe, where the connector's own deadline is not shorter."""
JITTER = 0.1
"""Share of the interval by which probes are spread, either way."""


def after(health: Health, *, ok: bool, decisive: bool = False) -> Health:
    """The state, its counts and the time of a change, after a finding. `decisive`: it counts at once."""
    failures, successes = (0, health.successes + 1) if ok else (health.failures + 1, 0)
    if decisive:
        state = HEALTHY if ok else ERROR
    elif ok:
        state = HEALTHY if health.state == UNKNOWN or successes >= UP else health.state
    else:
        state = ERROR if health.state == ERROR or failures >= DOWN else DEGRADED
    time = now()
    changed_at = health.changed_at if state == health.state else time
    return replace(health, state=state, failures=failures, successes=successes, changed_at=changed_at, checked_at=time)


def next_probe(core: Core, health: Health) -> str:
    """When the next probe is due: jittered, and sooner while it is not clear how things stand."""
    interval_s = health.interval_s or core.settings.health_interval_s
    unclear = health.state == DEGRADED or (health.state == ERROR and health.successes)
    spread = random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311 - spreads load, guards nothing
    return now((min(interval_s, max(5.0, interval_s / 4)) if unclear else interval_s) * spread)


async def probe(core: Core, connector: Connector) -> Found | None:
    """Probe a connector as an operation would reach it: its live sessions, else one of its own by the same way.

    None where it is busy with operations: that says nothing, either way.
    """
    target = Target(connector, None, core.configs.effective(connector))
    key = SessionKey(connector.id, connector.version, target.effective.digest)

    def opener(stack: Any) -> Any:
        if core.sessions.has(key):
            size = int(target.effective["pool_size"])
            lease = core.sessions.lease(key, size, lambda own: execution.open_provider(core, target, own), used=False)
            return stack.enter_async_context(lease)
        return execution.open_provider(core, target, stack)

    answer, error = await probes.test(opener, timeout_s=min(target.timeout_s, PROBE_S), quick=True)
    if isinstance(error, PoolBusy):
        return None
    return found_of(answer)


def found_of(answer: Mapping[str, Any]) -> Found:
    """What a test answered, as it is kept: its code, the stage that failed, the message and the usual fix."""
    if answer["success"]:
        return Found()
    failed: Mapping[str, Any] = next((stage for stage in answer["stages"] if not stage["ok"]), {})
    return Found(answer["code"], failed.get("name"), answer["message"], failed.get("fix"))


async def record(
    core: Core,
    connector: Connector,
    found: Found,
    *,
    decisive: bool = False,
    fence: int | None = None,
    entry: AuditEntry | None = None,
) -> Event | None:
    """Keep a finding, tell of a change; see `store.health.record`. `entry` says who asked for it."""

    def step(health: Health) -> Health:
        new = after(health, ok=found.ok, decisive=decisive)
        told = new.state == ERROR or (health.alerted and new.state != HEALTHY)
        return replace(new, due_at=next_probe(core, new), lease_until=FREE, alerted=told)

    def tell(tested: Connector, event: Event, agents: Any) -> list[dict[str, Any]]:
        return alerts.of_change(core, tested, event, agents)

    write: rows.Writer = core.database.write if entry is None else partial(core.log.write, entry=entry)
    event = await rows.record(write, connector, found, step, tell, fence=fence)
    if event is not None:
        metrics.health_changed(connector.provider, event.after)
    return event


class Schedule(Body):
    """How often a connector is probed."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1})

    interval_s: Annotated[int, Field(ge=5, le=86_400), WHOLE] | None = Field(
        None, description="Seconds between two probes; null for the service's own interval."
    )

    @classmethod
    def parse(cls, raw: Mapping[str, Any]) -> Schedule:
        """See `Body.parse`. Raises BadRequest where nothing is named."""
        schedule = super().parse(raw)
        if not schedule.model_fields_set:
            raise BadRequest("the update names nothing: give interval_s, or null for the service's own")
        return schedule


class HealthOf(Bound):
    """See the methods."""

    @refusals("connector.health")
    async def health(self, connector_id: str) -> Record:
        """How a connector is, since when, and what changed before, the newest first. Raises NotFound."""
        core, _, connector = await self._find(connector_id, Role.MEMBER)
        return await _shown(core, connector)

    @refusals("connector.health.set")
    async def set_health(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """Choose how often a connector is probed. Raises NotFound, BadRequest, InvalidRequest."""
        core, _, connector = await self._find(connector_id, Role.ADMIN)
        interval_s = Schedule.parse(body).interval_s
        entry = AuditEntry(
            connector.organization_id,
            "connector.health.set",
            self._principal.subject,
            connector_id=connector.id,
            target=connector.id,
        )
        await rows.set_interval(core.log, connector.id, interval_s, entry)
        return await _shown(core, connector)


async def _shown(core: Core, connector: Connector) -> Record:
    health, events = await rows.of(core.database, connector.id)
    probed = connector.status != "inactive" and core.settings.health_interval_s > 0
    return {
        "id": connector.id,
        "status": connector.status,
        "health": health.state,
        "since": health.changed_at,
        "failures_in_a_row": health.failures,
        "last_tested_at": connector.last_tested_at,
        "last_test_result": connector.last_test_result,
        "last_error": connector.last_error,
        "interval_s": health.interval_s or core.settings.health_interval_s,
        "next_probe_at": health.due_at if probed else None,
        "events": [_event(event) for event in events],
    }


def _event(event: Event) -> Record:
    shown = asdict(event)
    del shown["organization_id"], shown["connector_id"]
    return {name: value for name, value in shown.items() if value is not None}
