"""Alerts: what is told of a change, to whom, and how it gets there.

An alert is written into the outbox in the transaction of the change that it is about, once for each
channel, and delivered from there until it has arrived: a process that dies takes none with it. It
names the connector, the failing stage, the usual fix and the agents; it never holds a value of a
config.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, cast

from studio.errors import InvalidRequest, StudioError, as_studio
from studio.models import Connector, Role, new_id, now
from studio.security import policy
from studio.services import channels, metrics, tracing
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.core import Core
from studio.settings import Settings
from studio.store import alerts as outbox
from studio.store import health as rows
from studio.store.alerts import FREE, Alert
from studio.store.health import Event

logger = logging.getLogger(__name__)
GROUP = "studio.alerts"
"""Entry points of other packages: `async def send(alert: Mapping) -> None`, named in STUDIO_ALERT_PLUGINS."""
Channel = Callable[[Mapping[str, Any]], Awaitable[None]]
ATTEMPTS = 12
"""Deliveries that are tried; with the pauses between them that takes about nine hours."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 10.0, 3600.0
LEASE_S = 120.0
REMIND_BEFORE_S = 7 * 86_400.0


def names(settings: Settings) -> list[str]:
    """The channels that the settings name."""
    built_in = {"webhook": settings.alert_webhook_url, "email": settings.alert_email_to}
    return [*(name for name, given in built_in.items() if given), *settings.alert_plugins]


def channel(core: Core, name: str) -> Channel:
    """How to send to a channel. Raises InvalidRequest where no package offers it."""
    if name == "webhook":
        return lambda alert: channels.webhook(core.settings, core.egress.for_operator(), alert)
    if name == "email":
        return lambda alert: channels.email(core.settings, core.egress.for_operator(), alert)
    for point in entry_points(group=GROUP, name=name):
        return cast(Channel, point.load())
    raise InvalidRequest(f"STUDIO_ALERT_PLUGINS: no installed package offers {name} under {GROUP}")


def of_change(core: Core, connector: Connector, event: Event, agents: Sequence[str]) -> list[dict[str, Any]]:
    """The rows to store for a change; none for one that nobody need act on."""
    if event.after == "error":
        what = "failing"
    elif event.before == "error":
        what = "recovered"
    else:
        return []
    body = {
        **_about(what, connector, agents),
        "at": event.at,
        "code": event.code,
        "stage": event.stage,
        "message": event.message,
        "fix": event.fix,
    }
    return _rows(core, connector, event.id, body)


async def remind(core: Core) -> None:
    """Put reminders of secrets that end soon, or have ended, into the outbox; each is told once."""
    soon, time = now(REMIND_BEFORE_S), now()
    for connector, agents in await rows.expiring(core.database, before=soon, after=now(-REMIND_BEFORE_S)):
        ends = cast(str, connector.secret_expires_at)
        what = "secret_expired" if ends <= time else "secret_expires"
        body = {
            **_about(what, connector, agents),
            "at": time,
            "message": f"the secrets of this connector {'have ended' if ends <= time else 'end'} at {ends}",
            "fix": "rotate them: studio connectors rotate",
        }
        await outbox.add(core.database, _rows(core, connector, f"{what} {connector.id} {ends}", body))
    if core.settings.secret_max_age_days:
        await _remind_of_age(core, core.settings.secret_max_age_days)


async def _remind_of_age(core: Core, days: int) -> None:
    for connector, agents in await rows.aged(core.database, before=now(-86_400.0 * days)):
        body = {
            **_about("secret_old", connector, agents),
            "at": now(),
            "message": f"the secrets of this connector are older than {days} days; given at {connector.secret_set_at}",
            "fix": "rotate them: studio connectors rotate",
        }
        about = f"secret_old {connector.id} {connector.secret_set_at}"
        await outbox.add(core.database, _rows(core, connector, about, body))


def _about(what: str, connector: Connector, agents: Sequence[str]) -> dict[str, Any]:
    return {
        "alert": what,
        "organization_id": connector.organization_id,
        "connector": {
            "id": connector.id,
            "name": connector.name,
            "connector_type": connector.connector_type,
            "provider": connector.provider,
        },
        "agents": list(agents),
    }


def _rows(core: Core, connector: Connector, about: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    time = now()
    return [
        {
            "id": new_id(),
            "organization_id": connector.organization_id,
            "connector_id": connector.id,
            "about": about,
            "channel": name,
            "body": json.dumps({key: value for key, value in body.items() if value is not None}),
            "created_at": time,
            "due_at": time,
            "lease_until": FREE,
            "attempts": 0,
        }
        for name in names(core.settings)
    ]


async def deliver(core: Core, alert: Alert) -> None:
    """Send one and note how it went. Nothing is raised."""
    try:
        with tracing.span(f"alert {alert.channel}", "client", {"studio.alert.channel": alert.channel}) as span:
            try:
                await channel(core, alert.channel)({"id": alert.id, **json.loads(alert.body)})
            except Exception as exc:
                tracing.failed(span, as_studio(exc).code)
                raise
    except Exception as exc:
        outcome = as_studio(exc).code
        metrics.alerted(alert.channel, outcome)
        if alert.attempts + 1 >= ATTEMPTS:
            logger.error("an alert was given up after %d attempts on the channel %s", ATTEMPTS, alert.channel)
            await outbox.end(core.database, alert, outcome)
            return
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**alert.attempts) * random.uniform(0.5, 1)  # noqa: S311
        await outbox.again(core.database, alert, now(pause_s), outcome)
    else:
        metrics.alerted(alert.channel, "ok")
        await outbox.end(core.database, alert, "ok")


class Alerts(Bound):
    """See the method."""

    @refusals("alerts.test")
    async def test_alerts(self) -> Record:
        """Send a test alert on every channel at once; how each went.

        Returns:
            `{"success", "channels": [{"channel", "success", "message"}]}`; no channel is no success.
        """
        policy.require_role(self._principal, Role.ADMIN)
        core = await self._home.core()
        alert: dict[str, Any] = {
            "id": new_id(),
            "alert": "test",
            "organization_id": self._principal.organization_id,
            "at": now(),
            "message": "a test: alerts of connectors come this way",
            "agents": [],
        }
        found = [await _tried(core, name, alert) for name in names(core.settings)]
        return {"success": bool(found) and all(one["success"] for one in found), "channels": found}


async def _tried(core: Core, name: str, alert: Mapping[str, Any]) -> Record:
    try:
        await channel(core, name)(alert)
    except Exception as exc:
        error: StudioError = as_studio(exc)
        return {"channel": name, "success": False, "message": error.message}
    return {"channel": name, "success": True, "message": "sent"}
