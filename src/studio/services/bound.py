"""What every group of use cases stands on: the shared parts, and the principal who asks."""

from __future__ import annotations

from typing import Any, Self

from studio.errors import NotFound, StudioError
from studio.models import IN_PROCESS, AuditEntry, Connector, Principal, Role
from studio.security import policy
from studio.services import identity, metrics
from studio.services.core import Core
from studio.services.home import Home
from studio.services.inputs import is_id, named
from studio.services.repeats import Repeatable
from studio.settings import Settings
from studio.store.store import NO_CONNECTOR, Scope

Record = dict[str, Any]


class Bound:
    """A service bound to one principal. `acting_as` is the only way for a remote surface to get one."""

    def __init__(self, settings: Settings | None = None) -> None:
        self._home = Home(settings)
        self._principal: Principal = IN_PROCESS

    @property
    def principal(self) -> Principal:
        """Who asks."""
        return self._principal

    def acting_as(self, principal: Principal) -> Self:
        """The same service as one principal sees it: in its organization, under its role."""
        bound = object.__new__(type(self))
        bound._home, bound._principal = self._home, principal
        return bound

    async def authenticate(self, bearer: str | None) -> Self:
        """The service of whoever holds this key or token. Raises Unauthenticated, and as `identity.identify`."""
        core = await self._home.core()
        return self.acting_as(await identity.identify(core, bearer, self._home.background))

    async def metrics(self) -> bytes:
        """The process's counters in Prometheus' text format. They name nothing of anybody's, so a member sees them."""
        policy.require_role(self._principal, Role.MEMBER)
        return metrics.render()

    async def repeatable(self, key: str, request: bytes) -> Repeatable:
        """A request of this caller under an Idempotency-Key. Raises InvalidRequest."""
        return Repeatable(await self._home.core(), self._principal, key, request)

    async def ready(self) -> None:
        """Raises where the store cannot answer."""
        core = await self._home.core()
        await core.database.ping()

    async def __aenter__(self) -> Self:
        await self._home.core()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close pools and store; the next call would open them again."""
        await self._home.close()

    async def _scope(self, organization_id: str | None = None) -> tuple[Core, Scope]:
        """The principal's organization; the in-process caller may name one, or mean all."""
        core = await self._home.core()
        return core, core.store.scope(self._principal.organization_id or organization_id, self._principal.subject)

    def _refused(
        self,
        event: str,
        exc: StudioError,
        *,
        connector_id: str | None = None,
        organization_id: str | None = None,
        agent_id: str | None = None,
        alias: str | None = None,
        operation: str | None = None,
    ) -> None:
        """Note a call that was refused. Of what the caller gave, only what has the form of a name is kept."""
        core = self._home.opened
        organization_id = organization_id or self._principal.organization_id
        if core is None or organization_id is None:
            return
        core.recorder.refuse(
            AuditEntry(
                organization_id,
                event,
                self._principal.subject,
                "refused",
                exc.code,
                agent_id=named(agent_id) or self._principal.agent_id,
                alias=named(alias),
                connector_id=connector_id if connector_id and is_id(connector_id) else None,
                operation=operation,
            )
        )

    async def _find(self, connector_id: str, needs: Role) -> tuple[Core, Scope, Connector]:
        """A connector for a caller of role `needs`: first not found, only then forbidden.

        An agent's key finds no connector by its id: it learns nothing about which exist.
        """
        if self._principal.agent_id is not None:
            policy.require_role(self._principal, needs)
        core, scope = await self._scope()
        if not is_id(connector_id):
            raise NotFound(NO_CONNECTOR)
        connector = await scope.connector(connector_id)
        policy.require_role(self._principal, needs)
        return core, scope, connector
