"""The schemas of an OpenAPI document as JSON Schema, and a check of arguments against them.

The check covers what an agent gets wrong (names, types, enums, required fields, bounds, lengths).
Keywords that it does not know pass: the upstream judges them. `pattern` is among these, because a
pattern of somebody else's can take minutes to match.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any

from studio.errors import FieldError

_PREFIX = "#/components/schemas/"
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_MAPS = ("properties", "patternProperties")
_SINGLE = ("items", "additionalProperties", "not")
_PLAIN = frozenset({
    "type", "enum", "const", "default", "format", "description", "title", "required", "minimum", "maximum",
    "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength", "pattern", "minItems", "maxItems",
    "uniqueItems", "minProperties", "maxProperties", "multipleOf",
})  # fmt: skip
_TYPES: dict[Any, type] = {"string": str, "object": dict, "array": list, "null": type(None), "boolean": bool}
_MAX_REFS = 20
_MAX_DEPTH = 40
_MAX_STEPS = 20_000
_MAX_FOUND = 20
_NUMBER: dict[str, Callable[[Any, Any], bool]] = {
    "minimum": operator.ge, "maximum": operator.le, "exclusiveMinimum": operator.gt, "exclusiveMaximum": operator.lt,
}  # fmt: skip
_BOUNDS: dict[type, dict[str, Callable[[Any, Any], bool]]] = {
    int: _NUMBER,
    float: _NUMBER,
    str: {"minLength": operator.ge, "maxLength": operator.le},
    list: {"minItems": operator.ge, "maxItems": operator.le},
    dict: {"minProperties": operator.ge, "maxProperties": operator.le},
}


def resolve(document: Mapping[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    """What a local `$ref` leads to; an empty object where it leads nowhere."""
    for _ in range(_MAX_REFS):
        ref = node.get("$ref")
        if not isinstance(ref, str):
            return node
        at: Any = document
        for part in ref.removeprefix("#/").split("/"):
            at = at.get(part.replace("~1", "/").replace("~0", "~")) if isinstance(at, dict) else None
        node = at if isinstance(at, dict) else {}
    return {}


class Components:
    """The schemas of a document, each rewritten once and shared by all operations."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        parts = (document.get("components") or {}).get("schemas")
        self._all: Mapping[str, Any] = parts if isinstance(parts, dict) else {}
        self._made: dict[str, tuple[dict[str, Any], set[str]]] = {}

    def made(self, name: str) -> tuple[dict[str, Any], set[str]]:
        """A schema by name, and the names that it refers to."""
        if name not in self._made:
            refs: set[str] = set()
            self._made[name] = (self.rewritten(self._all[name], refs), refs)
        return self._made[name]

    def rewritten(self, schema: Any, refs: set[str], depth: int = 0) -> dict[str, Any]:
        """JSON Schema (2020-12) of an OpenAPI 3.0 or 3.1 schema; what it refers to is added to `refs`."""
        if not isinstance(schema, dict) or depth > _MAX_DEPTH:
            return {}
        if "$ref" in schema:
            return self._reference(str(schema["$ref"]), refs)
        made: dict[str, Any] = {key: schema[key] for key in _PLAIN if key in schema}
        for key in _LISTS:
            if isinstance(schema.get(key), list):
                made[key] = [self.rewritten(part, refs, depth + 1) for part in schema[key]]
        for key in _MAPS:
            if isinstance(schema.get(key), dict):
                made[key] = {name: self.rewritten(part, refs, depth + 1) for name, part in schema[key].items()}
        for key in _SINGLE:
            part = schema.get(key)
            if isinstance(part, dict | bool):
                made[key] = part if isinstance(part, bool) else self.rewritten(part, refs, depth + 1)
        return _modern(made, nullable=schema.get("nullable") is True)

    def _reference(self, ref: str, refs: set[str]) -> dict[str, Any]:
        name = ref.removeprefix(_PREFIX)
        if not ref.startswith(_PREFIX) or name not in self._all:
            return {}
        refs.add(name)
        return {"$ref": f"#/$defs/{name}"}


class Schemas:
    """The schemas of one operation, and all that they refer to."""

    def __init__(self, components: Components) -> None:
        self._components = components
        self._refs: set[str] = set()

    def of(self, schema: Any, description: Any = None) -> dict[str, Any]:
        """The schema of one argument."""
        made = self._components.rewritten(schema, self._refs)
        if isinstance(description, str) and "description" not in made:
            made = {**made, "description": description[:300]}
        return made

    def used(self) -> dict[str, Any]:
        """The schemas that were referred to, directly or not, by name."""
        found: dict[str, Any] = {}
        waiting = sorted(self._refs)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found[name], refs = self._components.made(name)
                waiting += sorted(refs)
        return found


def _modern(made: dict[str, Any], *, nullable: bool) -> dict[str, Any]:
    """OpenAPI 3.0 wrote three things in its own way."""
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if isinstance(made.get(exclusive), bool):
            strict = made.pop(exclusive)
            if strict and bound in made:
                made[exclusive] = made.pop(bound)
    if nullable and isinstance(made.get("type"), str):
        made["type"] = [made["type"], "null"]
    if nullable and isinstance(made.get("enum"), list) and None not in made["enum"]:
        made["enum"] = [*made["enum"], None]
    return made


def problems(schema: Mapping[str, Any], value: Any) -> list[FieldError]:
    """What is wrong with the arguments of an operation; values are not repeated."""
    checker = _Checker(schema.get("$defs") or {})
    return list(islice(checker.check(schema, value, "", 0), _MAX_FOUND))


class _Checker:
    """Checks values, in a bounded number of steps: schemas that refer to each other can branch without end."""

    def __init__(self, defs: Mapping[str, Any]) -> None:
        self._defs = defs
        self._left = _MAX_STEPS

    def check(self, schema: Any, value: Any, where: str, depth: int) -> Iterator[FieldError]:
        """What does not fit. Past the bounds everything fits, and the upstream judges."""
        self._left -= 1
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or self._left < 0:
            return
        if "$ref" in schema:
            target = self._defs.get(str(schema["$ref"]).removeprefix("#/$defs/"))
            yield from self.check(target, value, where, depth + 1)
            return
        wanted = schema.get("type")
        kinds = [wanted] if isinstance(wanted, str) else wanted if isinstance(wanted, list) else []
        if kinds and not any(_is(value, kind) for kind in kinds):
            yield FieldError(where, f"must be of type {' or '.join(map(str, kinds))}")
            return
        yield from _check_value(schema, value, where)
        yield from self._combined(schema, value, where, depth + 1)
        if isinstance(value, dict):
            yield from self._object(schema, value, where, depth + 1)
        elif isinstance(value, list):
            for at, item in enumerate(value):
                yield from self.check(schema.get("items"), item, f"{where}.{at}", depth + 1)

    def _combined(self, schema: Mapping[str, Any], value: Any, where: str, depth: int) -> Iterator[FieldError]:
        for part in schema.get("allOf") or []:
            yield from self.check(part, value, where, depth)
        for key in ("anyOf", "oneOf"):
            parts = schema.get(key) or []
            if parts and all(next(self.check(part, value, where, depth), None) for part in parts):
                yield FieldError(where, "fits none of the forms that the schema allows")

    def _object(self, schema: Mapping[str, Any], value: dict[str, Any], where: str, depth: int) -> Iterator[FieldError]:
        known, others = schema.get("properties") or {}, schema.get("additionalProperties")
        for name in schema.get("required") or []:
            if name not in value:
                yield FieldError(_join(where, name), "is missing")
        for name, item in value.items():
            if name in known:
                yield from self.check(known[name], item, _join(where, name), depth)
            elif others is False and not schema.get("patternProperties"):
                yield FieldError(_join(where, name), f"is not known; known: {', '.join(list(known)[:30])}")
            else:
                yield from self.check(others, item, _join(where, name), depth)


def _check_value(schema: Mapping[str, Any], value: Any, where: str) -> Iterator[FieldError]:
    choices = schema.get("enum")
    if isinstance(choices, list) and value not in choices:
        yield FieldError(where, f"must be one of {', '.join(map(str, choices[:30]))}")
    if isinstance(value, bool) or not isinstance(value, str | list | dict | int | float):
        return
    measured = value if isinstance(value, int | float) else len(value)
    for key, fits in _BOUNDS[type(value)].items():
        bound = schema.get(key)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and not fits(measured, bound):
            yield FieldError(where, f"does not keep to {key} {bound}")


def _join(where: str, name: Any) -> str:
    return f"{where}.{name}"[:200] if where else str(name)[:200]


def _is(value: Any, kind: Any) -> bool:
    if isinstance(value, bool):
        return bool(kind == "boolean")
    if kind == "integer":
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value) and value.is_integer())
    if kind == "number":
        return isinstance(value, int | float)
    wanted = _TYPES.get(kind)
    return wanted is None or isinstance(value, wanted)
