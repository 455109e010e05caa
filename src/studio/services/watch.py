"""What a server does by itself: probes that are due, alerts that wait, secrets whose time is over.

Any number of processes do this beside each other on one store; the leases there are all that they
share. Each finding is kept in one transaction, so a process that dies loses none and repeats at most
a probe or a delivery.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from studio.errors import StudioError
from studio.models import Connector, now
from studio.services import alerts, health, metrics, revocation, rotating, tracing
from studio.services.bound import Bound
from studio.services.core import Core
from studio.store import alerts as outbox
from studio.store import health as rows
from studio.store import probe_queue, rotations
from studio.store.alerts import Alert
from studio.store.health import Found
from studio.store.probe_queue import Health

logger = logging.getLogger(__name__)
TICK_S = 1.0
UPKEEP_S = 60.0
PROBE_LEASE_S = 6 * health.PROBE_S
BUSY_S = 5.0
"""A connector whose sessions are all in use is asked again after this."""
SENDING = 8
"""Alerts that are sent at one time."""
KEPT_S = 90 * 86_400.0
"""History and delivered alerts are kept so long."""


class Watch:
    """The background work of one process."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._probing: set[asyncio.Task[None]] = set()
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Work until cancelled. A store that is away for a while is waited for."""
        kept_up = 0.0
        try:
            while True:
                await _patiently(self.tick)
                if time.monotonic() - kept_up > UPKEEP_S:
                    kept_up = time.monotonic()
                    await _patiently(self.keep_up)
                await asyncio.sleep(TICK_S * random.uniform(0.8, 1.2))  # noqa: S311 - spreads load
        finally:
            tasks = [*self._probing, *self._sending]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def tick(self) -> None:
        """Begin what is due, as far as there is room."""
        settings, database = self._core.settings, self._core.database
        room = settings.health_concurrency - len(self._probing)
        if settings.health_interval_s > 0 and room > 0:
            claims = await probe_queue.claim(
                database, most=room, per_organization=settings.health_per_organization, lease_s=PROBE_LEASE_S
            )
            for claimed, connector in claims:
                _start(self._probing, self._probe(claimed, connector))
        room = SENDING - len(self._sending)
        if alerts.names(settings) and room > 0:
            for alert in await outbox.claim(database, most=room, lease_s=alerts.LEASE_S):
                _start(self._sending, self._send(alert))

    async def keep_up(self) -> None:
        """What need not be done to the second: ended graces, rotations that died, reminders, old history."""
        database = self._core.database
        await rotations.drop_ended(database)
        for connector in await rotations.abandoned(database):
            await self._settle(connector)
        await alerts.remind(self._core)
        await rows.forget(database, before=now(-KEPT_S))
        metrics.health_counted(await rows.counts(database))

    async def idle(self) -> None:
        """Wait until everything that was begun has ended."""
        while tasks := [*self._probing, *self._sending]:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _probe(self, claimed: Health, connector: Connector) -> None:
        with tracing.span(f"probe {connector.provider}", "client", {"studio.provider": connector.provider}) as span:
            try:
                found = await health.probe(self._core, connector)
            except StudioError as exc:  # before anything was sent: its config does not open
                found = Found(exc.code, "config", exc.message)
            if found is not None and found.code:
                tracing.failed(span, found.code)
        if found is None:
            metrics.probed(connector.provider, "busy")
            await probe_queue.put_back(self._core.database, claimed, now(BUSY_S))
            return
        metrics.probed(connector.provider, found.code or "ok")
        await health.record(self._core, connector, found, fence=claimed.fence)

    async def _send(self, alert: Alert) -> None:
        await alerts.deliver(self._core, alert)

    async def _settle(self, connector: Connector) -> None:
        try:
            await rotating.settled(self._core, connector, "watch")
        except StudioError as exc:
            logger.info("a rotation that was cut short is not settled yet: %s", exc.code)


class Watching(Bound):
    """See the method."""

    async def watch(self) -> None:
        """Do a server's background work until cancelled: probes, alerts, reminders, ended rotations and authority."""
        core = await self._home.core()
        async with asyncio.TaskGroup() as group:
            group.create_task(Watch(core).run())
            group.create_task(revocation.watch(core))


def _start(tasks: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(_logged(work), name="studio-watch")
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def _logged(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as exc:
        # Its lease ends by itself, and then somebody tries again. The class alone is safe to log.
        logger.warning("background work failed: %s", type(exc).__name__)


async def _patiently(work: Callable[[], Awaitable[None]]) -> None:
    await _logged(work())
