"""What OpenAPI says of bodies and answers that the service itself validates and shapes."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel


def inline(model: type[BaseModel]) -> dict[str, Any]:
    """A model's JSON Schema with its definitions in place, so that it can stand anywhere."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def resolved(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolved(definitions[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolved(value) for key, value in node.items()}
        return [resolved(item) for item in node] if isinstance(node, list) else node

    found: dict[str, Any] = resolved(schema)
    return found


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """`openapi_extra` of a route that reads this body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": inline(model)}}}}


PROBLEM: dict[str, Any] = {
    "description": "A problem document (RFC 9457)",
    "content": {
        "application/problem+json": {
            "schema": {
                "type": "object",
                "required": ["type", "title", "status", "detail", "code", "retryable"],
                "properties": {
                    "type": {"type": "string"},
                    "title": {"type": "string"},
                    "status": {"type": "integer"},
                    "detail": {"type": "string"},
                    "code": {"type": "string"},
                    "retryable": {"type": "boolean"},
                    "request_id": {"type": "string"},
                    "errors": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "properties": {"field": {"type": "string"}, "message": {"type": "string"}},
                        },
                    },
                },
            }
        }
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {"4XX": PROBLEM, "5XX": PROBLEM}
"""`responses` of every route."""

RESULT: dict[str, Any] = {
    "type": "object",
    "required": ["success", "data", "row_count", "columns", "truncated", "next_cursor", "execution_time_ms"],
    "properties": {
        "success": {"const": True},
        "data": {},
        "row_count": {"type": "integer"},
        "columns": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": {"type": "string"}, "type": {"type": "string"}}},
        },
        "truncated": {"type": "boolean", "description": "Exact: more rows were there, past the caps."},
        "next_cursor": {"type": ["string", "null"]},
        "execution_time_ms": {"type": "number"},
    },
}
