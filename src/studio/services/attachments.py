"""Use cases on attachments: attach, detach, and who uses what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from studio.errors import NotFound
from studio.models import ConnectorInstance, Role, new_id, now
from studio.security import policy
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.inputs import NewAttachment, agent_id_of, is_id
from studio.services.shapes import instance_dict
from studio.store.store import NO_INSTANCE


class Attachments(Bound):
    """See the methods."""

    async def attach_to_agent(
        self, connector_id: str, agent_id: str, alias: str, config_override: Mapping[str, Any] | None = None
    ) -> Record:
        """Attach a connector under an alias. `config_override` may only narrow.

        Raises:
            NotFound, InvalidRequest, InvalidConfig, OverrideNotAllowed.
            Conflict: the agent has this alias already.
        """
        body = {"agent_id": agent_id, "alias": alias, "config_override": config_override}
        return await self.attach(connector_id, body)

    @refusals("connector.attach")
    async def attach(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """As `attach_to_agent`, with the fields in one mapping; unknown ones are refused."""
        core, scope, connector = await self._find(connector_id, Role.DEVELOPER)
        given = NewAttachment.parse(body)
        instance_id, sealed = new_id(), None
        if given.config_override:
            core.configs.narrowed(connector, given.config_override)
            sealed = core.configs.seal_override(connector.organization_id, instance_id, given.config_override)
        instance = ConnectorInstance(
            id=instance_id,
            connector_id=connector.id,
            agent_id=given.agent_id,
            alias=given.alias,
            config_override=sealed.token if sealed else None,
            created_at=now(),
            organization_id=connector.organization_id,
            key_id=sealed.key_id if sealed else None,
            saved_only=given.saved_only,
        )
        await scope.add_instance(instance)
        return instance_dict(instance, connector, core.configs.effective(connector, instance))

    @refusals("connector.detach")
    async def detach_from_agent(self, instance_id: str) -> Record:
        """Detach. Raises NotFound."""
        if self._principal.agent_id is not None:  # it learns nothing about which ids exist
            policy.require_role(self._principal, Role.DEVELOPER)
        _, scope = await self._scope()
        if not is_id(instance_id):
            raise NotFound(NO_INSTANCE)
        instance = await scope.instance(instance_id)
        policy.require_role(self._principal, Role.DEVELOPER)
        await scope.remove_instance(instance.id)
        return {"message": "Connector detached", "id": instance.id}

    @refusals("connector.instances")
    async def list_instances(self, connector_id: str) -> Record:
        """Who uses a connector. Raises NotFound."""
        core, scope, connector = await self._find(connector_id, Role.MEMBER)
        used = await scope.instances_of(connector.id)
        effective = core.configs.effective_or_none
        records = [instance_dict(instance, connector, effective(connector, instance), row=True) for instance in used]
        return {"records": records, "total": len(records)}

    @refusals("agent.connectors")
    async def list_agent_connectors(self, agent_id: str, *, organization_id: str | None = None) -> list[Record]:
        """An agent's attachments, each with its connector and effective non-secret config."""
        policy.require_agent(self._principal, agent_id_of(agent_id), Role.MEMBER)
        core, scope = await self._scope(organization_id)
        return [
            instance_dict(instance, connector, core.configs.effective_or_none(connector, instance), row=True)
            for instance, connector in await scope.attachments(agent_id)
            if policy.allows_alias(self._principal, instance.alias)
        ]
