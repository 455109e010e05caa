"""Running one operation for a model: what both sets of tools do once they know which."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from studio.errors import InvalidRequest
from studio.mcp.agent import Agent
from studio.mcp.results import Wanted, digest_of, read_cursor, tool_result
from studio.models import Effect
from studio.services.planning import Planned


async def run(
    agent: Agent, alias: str, operation: str | None, arguments: dict[str, Any], *, wanted: Wanted, cursor: str | None
) -> dict[str, Any]:
    """Plan, run and shape. Raises StudioError."""
    given = arguments

    def digest() -> str:
        return digest_of(agent.agent_id, alias, operation, given)

    if cursor is not None:
        wanted = replace(wanted, place=read_cursor(cursor, digest()))
        if wanted.place.page is not None:
            arguments = {**arguments, "cursor": wanted.place.page}
    planned = await agent.plan(alias, operation, arguments)
    repeatable = planned.operation.effect_of(planned.arguments) is Effect.READ
    if cursor is not None and not repeatable:
        # A page after the first is had by running it again, which only a read may be.
        raise InvalidRequest.at("cursor", "is for read operations; this one would take effect again")
    result = await agent.service.run(planned)
    return tool_result(result, wanted, source=alias, digest=digest if repeatable else None, paged=takes_cursor(planned))


def takes_cursor(planned: Planned) -> bool:
    """Whether the operation itself pages, by a parameter `cursor`."""
    return "cursor" in planned.operation.arguments.model_fields
