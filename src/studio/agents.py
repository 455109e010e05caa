"""An agent's connectors as ready functions for function calling, without a protocol in between.

    for tool in await tools(service, "agent-123"):
        definition = tool.openai()                      # name, description, JSON Schema
        text = await tool(alias="orders", query="…")    # what the model reads

They are the tools of MCP: the same names, schemas, budgets and rules. A call never raises for what a
model can do about it: the text then says what went wrong and what to do next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import orjson

from studio.errors import InvalidRequest
from studio.mcp.agent import Agent
from studio.mcp.tools import Tools
from studio.mcp.toolsets import tools_of
from studio.models import Principal, Role
from studio.services.connector_service import ConnectorService

__all__ = ["AgentTool", "tools"]


@dataclass(frozen=True)
class AgentTool:
    """One function for a model.

    `parameters` is its JSON Schema (2020-12); `read_only` says that no call of it changes anything.
    """

    name: str
    description: str
    parameters: dict[str, Any]
    read_only: bool
    _tools: Tools

    async def __call__(self, **arguments: Any) -> str:
        """What the model reads: the result, or an error with what to do next."""
        return str((await self.result(**arguments))["content"][0]["text"])

    async def result(self, **arguments: Any) -> dict[str, Any]:
        """The same as data: `content`, `structuredContent` and, for an error, `isError`."""
        called = await self._tools.call(self.name, arguments)
        if called is None:
            raise InvalidRequest.at("name", "there is no such tool any more; ask for the tools again")
        plain: dict[str, Any] = orjson.loads(orjson.dumps(called))
        return plain

    def openai(self) -> dict[str, Any]:
        """The definition as OpenAI's Chat Completions API takes it."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": function}

    def anthropic(self) -> dict[str, Any]:
        """The definition as Anthropic's Messages API takes it."""
        return {"name": self.name, "description": self.description, "input_schema": self.parameters}


async def tools(
    service: ConnectorService, agent_id: str, *, per_operation: bool = False, organization_id: str | None = None
) -> list[AgentTool]:
    """The functions of one agent, in the order of their names' making, which does not change.

    Args:
        service: in process, or bound to the principal on whose behalf the agent works.
        agent_id: whose attachments these are.
        per_operation: one function for each alias and operation, in place of three for everything.
        organization_id: whose agent it is, where agents of several organizations share the id.

    Raises:
        StudioError: the agent's id is malformed, or the principal may not act for it.
    """
    found = tools_of(
        Agent(_bound(service, agent_id, organization_id), agent_id), "per-operation" if per_operation else None
    )
    return [
        AgentTool(
            name=tool["name"],
            description=tool["description"],
            parameters=tool["inputSchema"],
            read_only=tool["annotations"]["readOnlyHint"],
            _tools=found,
        )
        for tool in await found.definitions()
    ]


def _bound(service: ConnectorService, agent_id: str, organization_id: str | None) -> ConnectorService:
    """The service as the agent may use it: the trusted in-process caller lends it none of its own rights."""
    principal = service.principal
    if principal.organization_id is not None:
        return service
    if principal.agent_id is not None:
        return service.acting_as(replace(principal, organization_id=organization_id))
    return service.acting_as(Principal(organization_id, f"agent:{agent_id}", Role.MEMBER, agent_id=agent_id))
