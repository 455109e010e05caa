"""One MCP request as others watch it: a server span under the client's own trace, and a duration.

Source: the OpenTelemetry conventions for MCP (`mcp.server.operation.duration`, `mcp.method.name` …);
trace context travels in `params._meta`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from studio.services import metrics, tracing

_TOOLS = frozenset({"list_connectors", "describe", "run"})
OTHER = "per-operation"
"""Stands for the names that are made of aliases: labels must stay few."""
TOOL_ERROR = "tool_error"


class Outcome:
    """How a request ended: `error` is None, `tool_error`, or a JSON-RPC code as text."""

    error: str | None = None


@contextmanager
def observed(method: str, meta: Mapping[str, Any], tool: str | None, version: str, transport: str) -> Iterator[Outcome]:
    """Watch the body of the `with`, which answers one request of a known method."""
    outcome = Outcome()
    shown = None if tool is None else tool if tool in _TOOLS else OTHER
    attributes = {"mcp.method.name": method, "mcp.protocol.version": version, "network.transport": transport}
    if shown is not None:
        attributes |= {"gen_ai.tool.name": shown, "gen_ai.operation.name": "execute_tool"}
    start = time.perf_counter()
    with tracing.span(f"{method} {shown}" if shown else method, "server", attributes, meta) as span:
        try:
            yield outcome
        except BaseException as exc:
            outcome.error = str(getattr(exc, "code", type(exc).__name__))
            raise
        finally:
            metrics.record_mcp(method, shown or "", outcome.error or "", version, time.perf_counter() - start)
            if outcome.error is not None:
                tracing.failed(span, outcome.error)
