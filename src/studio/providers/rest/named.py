"""The operations of an OpenAPI document as operations of a connector."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from studio.contract import Operation, Result
from studio.errors import InvalidRequest
from studio.providers._http.path import Pattern, allowed, literal
from studio.providers.rest.call import Arguments
from studio.providers.rest.openapi import EFFECTS, IDEMPOTENT, Documented, documented
from studio.providers.rest.schema import problems


@dataclass(frozen=True)
class NamedOperation(Operation):
    """One operation of the document: described, validated and sent as the document says."""

    document: Documented
    shape: Mapping[str, Any]

    @property
    def description(self) -> str:
        """The document's summary."""
        return self.document.description

    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the arguments."""
        return dict(self.shape)

    def parse(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments as they were given, if they fit the schema. Raises InvalidRequest."""
        fields = problems(self.shape, dict(given))
        if fields:
            said = "; ".join(f"{error.field}: {error.message}" for error in fields)
            raise InvalidRequest(f"operation {self.name}: {said}", fields=fields)
        return {"arguments": dict(given)}


def named(text: str, base_path: str, patterns: tuple[str, ...]) -> dict[str, Operation]:
    """The operations of a compact document that base_path and allowed_paths let through.

    A `{name}` that stands where base_path has a segment is filled with that segment.
    """
    prefix = literal(base_path).parts if base_path else ()
    rules = [Pattern.parse(pattern) for pattern in patterns]
    found: dict[str, Operation] = {}
    for entry in documented(text):
        stems = entry.template.literals
        pinned = _pinned(entry, prefix)
        if pinned is not None and allowed(rules, (*prefix, *stems[len(prefix) :])):
            found[entry.name] = _operation(entry, pinned)
    return found


def _pinned(entry: Documented, prefix: tuple[str, ...]) -> dict[str, str] | None:
    """The values that base_path gives to names in the path; None where the path is not below it."""
    segments = entry.template.segments
    if len(segments) < len(prefix):
        return None
    values: dict[str, str] = {}
    for part, segment, stem in zip(prefix, segments, entry.template.literals, strict=False):
        if stem is None and len(segment) == 1:
            values[segment[0][0]] = part
        elif stem != part:
            return None
    return values


def _operation(entry: Documented, pinned: Mapping[str, str]) -> NamedOperation:
    fixed = {
        made.argument: pinned[made.name] for made in entry.parameters if made.place == "path" and made.name in pinned
    }

    async def run(provider: Any, arguments: Mapping[str, Any]) -> Result:
        given = Arguments(entry, {**arguments, **fixed})
        path = entry.template.fill(given.path)
        request = provider.build(entry.method, path, given.query, given.headers, given.body, given.media_type)
        result: Result = provider.shape(request, await provider.follow(request))
        return result

    return NamedOperation(
        entry.name, run, EFFECTS[entry.method], entry.method in IDEMPOTENT, entry, _without(entry.schema, fixed)
    )


def _without(schema: Mapping[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    if not names:
        return dict(schema)
    properties = {name: part for name, part in schema["properties"].items() if name not in names}
    required = [name for name in schema.get("required", ()) if name not in names]
    rest = {key: part for key, part in schema.items() if key not in {"properties", "required"}}
    return {**rest, "properties": properties, **({"required": required} if required else {})}
