"""An OpenAPI 3 document as named operations: what is kept of it, and how it becomes schemas.

`servers` and `security` of the document do not count: the connector's base_url and auth do. An
operation that cannot be called here (a cookie parameter that is required, multipart) is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from studio.contract.web import CREDENTIAL_HEADERS, RESERVED_HEADERS
from studio.errors import StudioError
from studio.models import Effect
from studio.providers._http.path import Template
from studio.providers.rest.schema import Components, Schemas, resolve

MAX_TEXT = 1 << 20
MAX_KEPT = 1 << 18
MAX_OPERATIONS = 500
MAX_DEPTH = 64
EFFECTS = {
    "GET": Effect.READ, "HEAD": Effect.READ, "OPTIONS": Effect.READ,
    "POST": Effect.WRITE, "PUT": Effect.WRITE, "PATCH": Effect.WRITE, "DELETE": Effect.DELETE,
}  # fmt: skip
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""RFC 9110, section 9.2.2."""
_KEPT_PARTS = ("schemas", "parameters", "requestBodies")
_KEPT_OF_OPERATION = ("operationId", "summary", "description", "parameters", "requestBody")
_DROPPED = frozenset({"example", "examples", "externalDocs", "xml", "discriminator", "deprecated", "tags", "links"})
_IGNORED_HEADERS = frozenset({"accept", "content-type"})
_MAPS = frozenset({"properties", "schemas", "paths", "parameters", "requestBodies"})
_DESCRIPTION = 300
_NAME = re.compile(r"[^A-Za-z0-9]+")
_OWN_NAMES = frozenset({"request"})


@dataclass(frozen=True)
class Parameter:
    """One argument: where it goes and how it is written there."""

    argument: str
    name: str
    place: str
    explode: bool
    separator: str
    deep: bool


@dataclass(frozen=True)
class Documented:
    """One operation of the document."""

    name: str
    description: str
    method: str
    template: Template
    parameters: tuple[Parameter, ...]
    body_argument: str | None
    body_type: str
    schema: Mapping[str, Any]


def compact(given: Any) -> str:
    """What is kept of a document, as JSON text. Raises ValueError."""
    document = _loaded(given) if isinstance(given, str) else _checked_depth(given)
    if not isinstance(document, dict) or not str(document.get("openapi", "")).startswith("3."):
        raise ValueError("must be an OpenAPI 3 document: an object with openapi: 3.x and paths")
    if not isinstance(document.get("paths"), dict):
        raise ValueError("has no paths")
    parts = document.get("components") or {}
    kept = {
        "openapi": str(document["openapi"]),
        "paths": {str(path): _kept_item(item) for path, item in document["paths"].items() if isinstance(item, dict)},
        "components": {name: parts[name] for name in _KEPT_PARTS if isinstance(parts, dict) and parts.get(name)},
    }
    text = json.dumps(_plain(kept), ensure_ascii=False, separators=(",", ":"))
    if len(text.encode("utf-8", "replace")) > MAX_KEPT:
        raise ValueError(f"is larger than {MAX_KEPT} bytes without examples and answers; keep the paths that matter")
    if not documented(text):
        raise ValueError("has no operation that can be called")
    return text


def _loaded(text: str) -> Any:
    if len(text) > MAX_TEXT:
        raise ValueError(f"is longer than {MAX_TEXT} characters")
    try:
        if text.lstrip().startswith("{"):
            return _checked_depth(json.loads(text))
        return _from_yaml(text)
    except (ValueError, RecursionError) as exc:
        raise ValueError(str(exc) if str(exc).startswith("must") else "is not JSON or YAML that can be read") from None


def _from_yaml(text: str) -> Any:
    import yaml

    try:
        depth = 0
        # Events come from a loop, not from recursion, so depth and aliases are judged before a tree is built.
        for event in yaml.parse(text, Loader=yaml.CSafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError("must not use YAML aliases")  # a few of them unfold to gigabytes
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                raise ValueError("must not be nested that deeply")
        return yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.YAMLError:
        raise ValueError("must be JSON or YAML") from None


def _checked_depth(value: Any) -> Any:
    level = [value]
    for _ in range(MAX_DEPTH):
        nodes = [node for node in level if isinstance(node, dict | list)]
        if not nodes:
            return value
        level = [child for node in nodes for child in (node.values() if isinstance(node, dict) else node)]
    raise ValueError("must not be nested that deeply")


def _kept_item(item: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {"parameters": item["parameters"]} if item.get("parameters") else {}
    for method, entry in item.items():
        if str(method).upper() in EFFECTS and isinstance(entry, dict):
            kept[str(method)] = {name: entry[name] for name in _KEPT_OF_OPERATION if name in entry}
    return kept


def _plain(value: Any, key: str = "", *, names: bool = False) -> Any:
    """JSON only, without examples; descriptions are shortened. `names`: the keys are names, not keywords."""
    if isinstance(value, dict):
        return {
            str(name): _plain(item, "" if names else str(name), names=not names and name in _MAPS)
            for name, item in value.items()
            if names or (name not in _DROPPED and not str(name).startswith("x-"))
        }
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str) and key == "description":
        return value[:_DESCRIPTION]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


@lru_cache(maxsize=32)
def documented(text: str) -> tuple[Documented, ...]:
    """The operations of a compact document. Raises ValueError."""
    document = json.loads(text)
    components = Components(document)
    found: dict[str, Documented] = {}
    for path, item in document["paths"].items():
        for method, entry in item.items():
            if method.upper() in EFFECTS:
                name = _unique(entry.get("operationId") or f"{method} {path}", found)
                made = _Reading(document, components, item, entry).operation(name, method.upper(), path)
                if made is not None:
                    found[name] = made
    if len(found) > MAX_OPERATIONS:
        raise ValueError(f"has more than {MAX_OPERATIONS} operations; keep those that matter")
    return tuple(found.values())


def _unique(wanted: Any, taken: Mapping[str, Any]) -> str:
    stem = _NAME.sub("_", str(wanted)).strip("_")[:56] or "operation"
    name, count = stem, 1
    while name in taken or name in _OWN_NAMES:
        count += 1
        name = f"{stem}_{count}"
    return name


class _Unusable(Exception):
    """The operation cannot be called from here."""


class _Reading:
    """One operation while it is read."""

    def __init__(
        self, document: dict[str, Any], components: Components, item: dict[str, Any], entry: dict[str, Any]
    ) -> None:
        self._document = document
        self._item = item
        self._entry = entry
        self._schemas = Schemas(components)
        self._properties: dict[str, Any] = {}
        self._required: list[str] = []

    def operation(self, name: str, method: str, path: str) -> Documented | None:
        """The operation; None for one that cannot be called from here."""
        try:
            template = Template.parse(path)
            parameters = tuple(self._parameters())
            body_argument, body_type = self._body()
        except (StudioError, _Unusable):
            return None
        if set(template.names) != {made.name for made in parameters if made.place == "path"}:
            return None
        words = str(self._entry.get("summary") or self._entry.get("description") or f"{method} {path}")
        said = " ".join(words.split())[:_DESCRIPTION]
        return Documented(name, said, method, template, parameters, body_argument, body_type, self._schema())

    def _schema(self) -> dict[str, Any]:
        schema: dict[str, Any] = {"type": "object", "properties": self._properties, "additionalProperties": False}
        if self._required:
            schema["required"] = self._required
        if used := self._schemas.used():
            schema["$defs"] = used
        return schema

    def _add(self, argument: str, schema: Any, description: Any, *, required: bool) -> None:
        self._properties[argument] = self._schemas.of(schema, description)
        if required:
            self._required.append(argument)

    def _parameters(self) -> Iterator[Parameter]:
        """Those of the path, then those of the operation, which replace them by name and place."""
        merged: dict[tuple[Any, Any], dict[str, Any]] = {}
        for given in [*(self._item.get("parameters") or []), *(self._entry.get("parameters") or [])]:
            if isinstance(given, dict):
                parameter = resolve(self._document, given)
                merged[parameter.get("name"), parameter.get("in")] = parameter
        for given in merged.values():
            required = bool(given.get("required")) or given.get("in") == "path"
            made = _parameter(given, self._properties)
            if made is not None:
                self._add(made.argument, given.get("schema") or {}, given.get("description"), required=required)
                yield made
            elif required:
                raise _Unusable

    def _body(self) -> tuple[str | None, str]:
        """The argument that holds the body, and the media type that it is sent as."""
        if not isinstance(self._entry.get("requestBody"), dict):
            return None, ""
        body = resolve(self._document, self._entry["requestBody"])
        kind, schema = _content(body)
        if not kind:
            raise _Unusable
        argument = "body" if "body" not in self._properties else "request_body"
        self._add(argument, schema, body.get("description"), required=bool(body.get("required")))
        return argument, kind


def _parameter(given: dict[str, Any], taken: Mapping[str, Any]) -> Parameter | None:
    name, place = given.get("name"), given.get("in")
    if not isinstance(name, str) or place not in {"path", "query", "header"}:
        return None
    if place == "header" and name.lower() in _IGNORED_HEADERS | RESERVED_HEADERS | CREDENTIAL_HEADERS:
        return None
    style = given.get("style") or ("form" if place == "query" else "simple")
    return Parameter(
        argument=name if name not in taken else f"{place}_{name}",
        name=name,
        place=place,
        explode=bool(given.get("explode", style == "form")),
        separator={"spaceDelimited": " ", "pipeDelimited": "|"}.get(style, ","),
        deep=style == "deepObject",
    )


def _content(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The media type to send and its schema; an empty type where there is none that can be sent."""
    content = body.get("content")
    types = {str(name).partition(";")[0].strip().lower(): part for name, part in (content or {}).items()}
    for kind, part in sorted(types.items(), key=lambda pair: not _is_json(pair[0])):
        if not kind.startswith("multipart/") and "*" not in kind:
            schema = part.get("schema") if isinstance(part, dict) else None
            textual = not _is_json(kind) and kind != "application/x-www-form-urlencoded"
            return kind, {"type": "string"} if textual else (schema or {})
    return "", {}


def _is_json(kind: str) -> bool:
    return kind == "application/json" or kind.endswith("+json")
