"""What the OpenAPI document says of `/mcp`: the envelope. The messages themselves are specified by MCP."""

from __future__ import annotations

from typing import Any

from studio.api.answers import TEXT, maybe, record
from studio.api.schemas import JSON, PROBLEM, gives

_ID = maybe({"type": ["string", "integer"]})
_MESSAGE: dict[str, Any] = {
    "type": "object",
    "properties": {
        "jsonrpc": {"const": "2.0"},
        "id": {"type": ["string", "integer"]},
        "method": TEXT,
        "params": {"type": "object"},
    },
    "required": ["jsonrpc", "method"],
}
_FAILURE = record(
    jsonrpc={"const": "2.0"},
    id=_ID,
    error=record({"data": {}}, code={"type": "integer"}, message=TEXT),
)
_RESULT = record(jsonrpc={"const": "2.0"}, id=_ID, result={"type": "object"})
_REFUSED = {**PROBLEM, "content": {**PROBLEM["content"], JSON: {"schema": _FAILURE}}}
OPENAPI_PATHS: dict[str, Any] = {
    "/mcp": {
        "post": {
            "tags": ["agents"],
            "summary": "Send an MCP message",
            "description": "Streamable HTTP: one JSON-RPC message, answered by one, or by a stream of events.",
            "operationId": "mcp",
            "parameters": [
                {"name": "agent", "in": "query", "description": "Whose tools, for a key of no agent.", "schema": TEXT},
                {"name": "tools", "in": "query", "schema": {"const": "per-operation"}},
            ],
            "requestBody": {"required": True, "content": {JSON: {"schema": _MESSAGE}}},
            "responses": {
                **{
                    str(status): one
                    for status, one in gives(
                        {"anyOf": [_RESULT, _FAILURE]}, **{"text/event-stream": {"schema": TEXT}}
                    ).items()
                },
                "202": {"description": "A notification; no content"},
                "4XX": _REFUSED,
                "5XX": _REFUSED,
            },
            "security": [{"HTTPBearer": []}],
        }
    }
}
