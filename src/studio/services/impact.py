"""What a change would touch before it is made: who uses the connector, and what would not work afterwards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from studio.errors import Conflict
from studio.models import Connector, ConnectorInstance, Role, SavedOperation, now
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.configs import Effective
from studio.services.core import Core
from studio.services.inputs import ConnectorChange
from studio.services.rotating import NewSecrets
from studio.store import audit_uses
from studio.store.saved import Saved
from studio.store.store import Scope

USED_WITHIN_S = 7 * 86_400.0


@dataclass(frozen=True)
class Use:
    """Who and what hangs on a connector now. `running` counts operations of this process alone."""

    connector: Connector
    instances: Sequence[ConnectorInstance]
    saved: Sequence[SavedOperation]
    running: int

    @property
    def token(self) -> str:
        """Proof of having seen this use: it is another one as soon as anything but `running` changes."""
        seen = [
            self.connector.id,
            self.connector.version,
            [one.id for one in self.instances],
            [s.id for s in self.saved],
        ]
        return hashlib.sha256(json.dumps(seen).encode()).hexdigest()[:32]

    def shown(self) -> Record:
        """As callers see it."""
        return {
            "dry_run": True,
            "id": self.connector.id,
            "name": self.connector.name,
            "version": self.connector.version,
            "instances": [{"id": i.id, "agent_id": i.agent_id, "alias": i.alias} for i in self.instances],
            "agents": sorted({instance.agent_id for instance in self.instances}),
            "saved_operations": [saved.name for saved in self.saved],
            "running_operations": self.running,
        }


async def use_of(core: Core, scope: Scope, connector: Connector) -> Use:
    """Look it up."""
    saved = await Saved(core.log, connector.organization_id).all(connector.id)
    return Use(connector, await scope.instances_of(connector.id), saved, core.sessions.running(connector.id))


def must_be_confirmed(core: Core, use: Use, confirm: str | None) -> None:
    """Raises Conflict where the setting asks for the preview's token, and `confirm` is not it."""
    asks = core.settings.confirm_delete
    in_use = use.running or (use.instances and asks == "attached")
    if asks == "never" or not in_use or confirm == use.token:
        return
    if confirm is not None:
        raise Conflict("confirm: the use of this connector changed since that preview; look at ?dry_run=true again")
    agents = len({instance.agent_id for instance in use.instances})
    raise Conflict(
        f"the connector is in use ({use.running} operations run, {agents} agents have it): "
        "look at ?dry_run=true, and give its token as ?confirm=<token>"
    )


class Impact(Bound):
    """See the methods. Nothing is changed by any of them, and nothing is sent upstream."""

    @refusals("connector.delete")
    async def preview_delete(self, connector_id: str) -> Record:
        """What deleting would break; `confirm` is the token that `delete` may ask for. Raises NotFound."""
        core, use = await self._use(connector_id)
        return {**use.shown(), "last_7_days": await _used(core, use.connector), "confirm": use.token}

    @refusals("connector.update")
    async def preview_update(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """What an update would change, and which attachments would not work any more (`unfit`).

        Raises:
            What the update itself would raise for this body.
        """
        core, use = await self._use(connector_id)
        change, connector = ConnectorChange.parse(body), use.connector
        new = core.configs.merged(connector, change.config or {})
        fields = core.configs.differing(connector, new)
        for name in ("name", "status"):
            if getattr(change, name) not in {None, getattr(connector, name)}:
                fields.append(name)
        candidate = core.configs.drafted(connector, new)
        unfit = {one.id: core.configs.effective(candidate, one).unfit for one in use.instances}
        return {
            **use.shown(),
            "last_7_days": await _used(core, use.connector),
            "changes": fields,
            "unfit": [
                {"id": one.id, "agent_id": one.agent_id, "alias": one.alias, "fields": list(unfit[one.id])}
                for one in use.instances
                if unfit[one.id]
            ],
            "stops": change.status == "inactive" and connector.status != "inactive",
        }

    @refusals("connector.rotate")
    async def preview_rotate(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """Who would use the new secrets, and whether the service could make them itself."""
        core, use = await self._use(connector_id)
        NewSecrets.parse(body)
        effective = core.configs.effective(use.connector)
        return {
            **use.shown(),
            "last_7_days": await _used(core, use.connector),
            "secrets_set": list(effective.secrets_set),
            "can_generate": _can_generate(effective),
            "secret_set_at": use.connector.secret_set_at,
            "secret_expires_at": use.connector.secret_expires_at,
        }

    async def _use(self, connector_id: str) -> tuple[Core, Use]:
        core, scope, connector = await self._find(connector_id, Role.ADMIN)
        return core, await use_of(core, scope, connector)


def _can_generate(effective: Effective) -> bool:
    through = effective.kind.rotates_through
    return effective.kind.rotates in effective.secrets_set and (through is None or bool(effective.public.get(through)))


async def _used(core: Core, connector: Connector) -> Record:
    """Operations of the last seven days as the audit log has them: how many, and of which agents."""
    await core.recorder.flush()
    rows = await audit_uses.of(core.database, connector.organization_id, connector.id, since=now(-USED_WITHIN_S))
    return {
        "operations": sum(row.operations for row in rows),
        "agents": [
            {"agent_id": row.agent_id, "alias": row.alias, "operations": row.operations, "last_at": row.last_at}
            for row in rows
            if row.agent_id is not None
        ],
    }
