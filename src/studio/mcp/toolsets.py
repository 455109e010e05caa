"""Which of the two sets of tools a client gets."""

from __future__ import annotations

from studio.mcp.agent import Agent
from studio.mcp.compact import CompactTools
from studio.mcp.single import OperationTools
from studio.mcp.tools import Tools


def tools_of(agent: Agent, kind: str | None) -> Tools:
    """The set that `?tools=` names; three tools by default."""
    return OperationTools(agent) if kind == OperationTools.kind else CompactTools(agent)
