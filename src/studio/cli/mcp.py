"""`studio mcp`: an agent's connectors as MCP tools on stdin and stdout."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import click

from studio.cli.given import read_text
from studio.cli.where import Where, opened, own_settings, settings, where_options
from studio.errors import BadRequest

if TYPE_CHECKING:
    from studio.mcp.stdio import Answer
    from studio.mcp.tools import Tools
    from studio.services.connector_service import ConnectorService


@click.command()
@click.option("--agent", "agent_id", help="The agent whose connectors these are; follows from an agent's own key.")
@click.option(
    "--tools", type=click.Choice(["compact", "per-operation"]), default="compact", show_default=True,
    help="Three tools for everything, or one for each alias and operation.",
)  # fmt: skip
@where_options()
@click.pass_context
def mcp(context: click.Context, agent_id: str | None, tools: str) -> None:
    """Speak the Model Context Protocol on stdin and stdout, for clients that start a program.

    Without --url on the embedded store: with an API key (--key, STUDIO_API_KEY) as whoever it belongs
    to, or with --agent as that agent. With --url every message goes to the server's /mcp.
    """
    import asyncio

    asyncio.run(_serve(Where.of(context), agent_id, tools))


async def _serve(where: Where, agent_id: str | None, tools: str) -> None:
    from studio.mcp.stdio import Stdio
    from studio.services import tracing

    key = read_text(where.key, "--key").strip() if where.key else None
    chosen = settings()
    async with AsyncExitStack() as stack:
        stack.callback(tracing.use_environment())
        if where.url:
            from studio.client.bridge import Bridge

            answer: Answer = (
                await stack.enter_async_context(Bridge(where.url, key, agent_id=agent_id, tools=tools))
            ).answer
        else:
            answer = await _embedded(stack, where, key, agent_id, tools)
        await Stdio(answer, source=0, sink=1, max_bytes=chosen.max_body_bytes).serve()


async def _embedded(stack: AsyncExitStack, where: Where, key: str | None, agent_id: str | None, tools: str) -> Answer:
    from studio.mcp.agent import Agent
    from studio.mcp.stdio import answering
    from studio.mcp.toolsets import tools_of
    from studio.models import Principal, Role
    from studio.services.connector_service import ConnectorService

    if key is None and agent_id is None:
        raise BadRequest("give --agent AGENT_ID, or an API key (--key @FILE, STUDIO_API_KEY)")
    service: ConnectorService = await opened(stack, ConnectorService(own_settings()))

    async def found() -> Tools:
        if key is not None:
            caller = await service.authenticate(key)
            return tools_of(Agent(caller, agent_id or caller.principal.agent_id), tools)
        agent = Principal(where.organization, f"agent:{agent_id}", Role.MEMBER, agent_id=agent_id)
        return tools_of(Agent(service.acting_as(agent), agent_id), tools)

    await found()  # a key that does not hold is better told now than to a model later
    return answering(found)
