"""One agent's view of the service: its aliases, what it may do there, and doing it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studio.errors import InvalidRequest
from studio.models import Effect
from studio.services.bound import Record
from studio.services.connector_service import ConnectorService
from studio.services.planning import Planned

NO_AGENT = "this key belongs to no agent: name one with ?agent=AGENT_ID in the URL, or use an agent's own key"


@dataclass(frozen=True)
class Agent:
    """The service as one agent uses it. `agent_id` None: nobody was named; every call then says so."""

    service: ConnectorService
    agent_id: str | None
    organization_id: str | None = None

    async def connectors(self) -> list[Record]:
        """Its attachments that this key may use, by alias."""
        records = await self.service.list_agent_connectors(self._id(), organization_id=self.organization_id)
        return sorted(records, key=lambda record: str(record["alias"]))

    async def connector(self, alias: str) -> Record | None:
        """One of them."""
        return next((record for record in await self.connectors() if record["alias"] == alias), None)

    async def operations(self, alias: str) -> list[Record]:
        """What this key may do there. Raises NotFound."""
        return await self.service.operations(self._id(), alias, organization_id=self.organization_id)

    async def plan(
        self,
        alias: str,
        operation: str | None,
        arguments: Mapping[str, Any],
    ) -> Planned:
        """Look up and decide, as the HTTP API does. Without an operation the arguments are a query and its params.

        Raises:
            StudioError: any that `execute` has.
        """
        target = await self.service.target(
            agent_id=self._id(), alias=alias, organization_id=self.organization_id, operation=operation
        )
        if operation is None:
            return self.service.plan_query(target, arguments["query"], arguments.get("params"))
        return self.service.plan(target, operation, arguments)

    def only_reads(self, record: Record) -> bool:
        """Whether nothing but reads can happen through an attachment with this key."""
        effects = self.service.principal.effects
        return bool(record["config"]["read_only"]) or (effects is not None and effects <= {Effect.READ})

    def _id(self) -> str:
        if self.agent_id is None:
            raise InvalidRequest.at("agent", NO_AGENT)
        return self.agent_id
