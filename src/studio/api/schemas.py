"""What OpenAPI says of bodies and answers that the service itself validates and shapes."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path
from pydantic import BaseModel, Field

from studio.api import answers
from studio.api.answers import Schema
from studio.models import AGENT_ID

Id = Annotated[str, Path(json_schema_extra={"format": "uuid"})]
"""An id of ours in a path. What has not its form names nothing, and is not found rather than refused."""
NAME: Schema = {"type": "string", "pattern": f"^{AGENT_ID.pattern}$"}
Named = Annotated[str, Path(json_schema_extra={"pattern": NAME["pattern"]})]
"""An agent's id or an alias in a path."""
PLAIN = r"^[^\x00-\x1f\x7f]*$"
"""Text of one line, as a pattern that clients know too."""
Words = Annotated[str, Field(max_length=255, pattern=PLAIN)]


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


JSON = "application/json"


def gives(schema: Schema, status: int = 200, /, **more: Any) -> dict[int | str, dict[str, Any]]:
    """`responses` of a route that answers this; `more`: content of other media types."""
    return {status: {"description": "Done", "content": {JSON: {"schema": schema}, **more}}}


PROBLEM: dict[str, Any] = {
    "description": "A problem document (RFC 9457)",
    "content": {"application/problem+json": {"schema": answers.PROBLEM}},
}
PROBLEMS: dict[int | str, dict[str, Any]] = {"4XX": PROBLEM, "5XX": PROBLEM}
"""`responses` of every route."""
