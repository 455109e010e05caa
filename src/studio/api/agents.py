"""Routes of agents: what they have, and what they may do with it."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from studio.api import answers
from studio.api.auth import Caller
from studio.api.schemas import PROBLEMS, Named, gives
from studio.api.wire import answer

router = APIRouter(prefix="/api/v1/agents", tags=["agents"], responses=PROBLEMS)


@router.get("/{agent_id}/connectors", summary="List an agent's connectors", responses=gives(answers.INSTANCES))
async def list_agent_connectors(caller: Caller, agent_id: Named) -> Response:
    """Each attachment with its connector and effective non-secret config."""
    records = await caller.list_agent_connectors(agent_id)
    return answer({"records": records, "total": len(records)})


@router.get(
    "/{agent_id}/connectors/{alias}/operations",
    summary="List what an alias can do",
    responses=gives(answers.OPERATIONS),
)
async def list_operations(caller: Caller, agent_id: Named, alias: Named) -> Response:
    """The operations that this caller may run there, with their schemas."""
    return answer({"operations": await caller.operations(agent_id, alias)})
