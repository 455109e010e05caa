"""The tools of one agent: which there are, and calling one. Two sets of them share this shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from studio.mcp.agent import Agent

Tool = dict[str, Any]


class Tools(ABC):
    """A set of tools. Names, order and schemas are the same for the same attachments and key."""

    instructions: ClassVar[str]
    """For the model, on how to use them."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    @abstractmethod
    async def definitions(self) -> list[Tool]:
        """The definitions, as `tools/list` shows them. Raises StudioError."""

    @abstractmethod
    async def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any] | None:
        """A tool's result, errors included; None where there is no such tool."""


def hints(*, reads: bool, idempotent: bool, external: bool = True) -> dict[str, bool]:
    """What a tool's effect means to a client that asks its user before it calls.

    A write may overwrite or delete (SQL's UPDATE is one), so whatever does not only read is
    announced as destructive.
    """
    return {
        "readOnlyHint": reads,
        "destructiveHint": not reads,
        "idempotentHint": idempotent,
        "openWorldHint": external,
    }


def lean(schema: Any) -> Any:
    """A JSON Schema without what costs tokens and says nothing: `default: null`, and null beside a type.

    Whatever fits the lean one fits the full one: an optional value is left out instead of null.
    """
    if isinstance(schema, list):
        return [lean(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: lean(value) for key, value in schema.items() if not (key == "default" and value is None)}
    options = found.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options and len(options) == 2:
        del found["anyOf"]
        (only,) = (option for option in options if option != {"type": "null"})
        found = {**only, **found}
    return found
