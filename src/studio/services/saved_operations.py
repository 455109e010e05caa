"""Use cases on saved operations: statements that an owner stores on a connector under a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from studio.errors import Conflict, FieldError
from studio.models import Role, SavedOperation, new_id, now
from studio.services import saved
from studio.services.audited import refusals
from studio.services.bound import Bound, Record
from studio.services.inputs import Body, Name
from studio.services.parameters import Bound as BoundValues
from studio.services.parameters import Parameters
from studio.store.saved import Saved


class NewSavedOperation(Body):
    """A statement to save, with the parameters that callers give and those that the platform binds."""

    name: Annotated[
        str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$", description="Lower case, digits and _; the operation's name.")
    ]
    description: Annotated[Name, Field(max_length=1000, description="For whoever chooses it, a model for one.")]
    query: Annotated[str, Field(min_length=1, max_length=100_000, description="In the provider's own language.")]
    parameters: Parameters = Field(default_factory=dict, max_length=50, description="By name, as JSON Schema.")
    bound: BoundValues = Field(
        default_factory=dict,
        max_length=50,
        description='Filled in by the platform, never shown to an agent: a value, or {"from": "agent_id"}. No secrets.',
    )


class SavedOperations(Bound):
    """See the methods."""

    @refusals("saved_operation.create")
    async def create_saved_operation(self, connector_id: str, body: Mapping[str, Any]) -> Record:
        """Save a statement under a name; it then is one of the connector's operations.

        Raises:
            NotFound, Forbidden.
            InvalidRequest: a field is wrong, or the statement does not take the parameters.
            Conflict: the connector has an operation of this name.
        """
        core, _, connector = await self._find(connector_id, Role.DEVELOPER)
        given = NewSavedOperation.parse(body)
        effective = core.configs.effective(connector)
        if given.name in effective.operations:
            taken = FieldError("name", f"{connector.provider} itself has an operation of this name")
            raise Conflict(f"{taken.field}: {taken.message}", fields=[taken])
        shown = given.model_dump(mode="json", by_alias=True, exclude_unset=True)
        row = SavedOperation(
            id=new_id(),
            connector_id=connector.id,
            name=given.name,
            description=given.description,
            query=given.query,
            parameters=saved.as_json(shown.get("parameters", {})),
            bound=saved.as_json(shown.get("bound", {})),
            created_by=self._principal.subject,
            created_at=now(),
            organization_id=connector.organization_id,
        )
        saved.of(row).check(effective)
        await Saved(core.log, connector.organization_id).add(row)
        return _shown(row)

    @refusals("saved_operation.list")
    async def list_saved_operations(self, connector_id: str) -> list[Record]:
        """A connector's saved operations with their statements, by name. Raises NotFound."""
        core, _, connector = await self._find(connector_id, Role.MEMBER)
        return [_shown(row) for row in await Saved(core.log, connector.organization_id).all(connector.id)]

    @refusals("saved_operation.delete")
    async def delete_saved_operation(self, connector_id: str, name: str) -> Record:
        """Delete one; calls that begin later do not find it. Raises NotFound."""
        core, _, connector = await self._find(connector_id, Role.DEVELOPER)
        await Saved(core.log, connector.organization_id).remove(connector.id, name, by=self._principal.subject)
        return {"message": "Saved operation deleted", "name": name}


def _shown(row: SavedOperation) -> Record:
    return {
        "id": row.id,
        "connector_id": row.connector_id,
        "name": row.name,
        "description": row.description,
        "query": row.query,
        "parameters": json.loads(row.parameters),
        "bound": json.loads(row.bound),
        "created_by": row.created_by,
        "created_at": row.created_at,
    }
