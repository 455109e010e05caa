"""What a caller asks for, as the parts of a request: query, headers, body, and the language of `execute_query`."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qsl, urlencode

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from studio.contract.web import RESERVED_HEADERS
from studio.errors import InvalidRequest
from studio.models import Effect
from studio.providers._http.path import Template, scalar, whole
from studio.providers.rest.openapi import EFFECTS, Documented, Parameter

Pairs = tuple[tuple[str, str], ...]
USUAL_HEADERS = frozenset({
    "accept", "accept-language", "content-type", "idempotency-key", "if-match", "if-modified-since",
    "if-none-match", "if-range", "if-unmodified-since", "prefer", "range",
})  # fmt: skip
"""Headers that a caller may set on every connector."""
_OPTIONS = ("query", "headers", "json", "body", "form", "paginate", "full")
_QUERY = re.compile(r"\s*([A-Za-z]+)\s+(\S+)\s*")
_PLACE = re.compile(r"\{([A-Za-z_][A-Za-z0-9_.-]*)\}")
_VALUE = re.compile(r"[\t\x20-\x7e\u00a0-\ud7ff\ue000-\U0010ffff]*")

Method = Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]


class _Given(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True)


class Base64Body(_Given):
    """A binary body."""

    base64: str


class Paginate(_Given):
    """How to go on to the next page: by the Link header, or by a cursor in the answer."""

    link: bool = Field(False, description="Follow Link: <...>; rel=next (RFC 8288).")
    cursor_field: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Where an answer holds the next cursor, as a dotted path."
    )
    cursor_param: Annotated[str, Field(min_length=1)] | None = Field(None, description="Query parameter that takes it.")
    items_field: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Where an answer holds its items, as a dotted path; the answer itself if left out."
    )
    max_pages: int = Field(10, ge=1, le=1000)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        cursor = (self.cursor_field is not None, self.cursor_param is not None)
        if (self.link, *cursor) not in {(True, False, False), (False, True, True)}:
            raise ValueError("give either link, or cursor_field and cursor_param")
        return self


def effect_of(arguments: Mapping[str, Any]) -> Effect:
    """The effect of a call is that of its method."""
    return EFFECTS[arguments["method"]]


def parse_query(text: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """`GET /users/{id}?active=true` and its parameters, as arguments of `request`. Raises InvalidRequest."""
    found = _QUERY.fullmatch(text)
    if not found or found[1].upper() not in EFFECTS:
        raise InvalidRequest.at(
            "query", f"must be a method and a path: GET /users/{{id}}; methods: {', '.join(EFFECTS)}"
        )
    path, _, fixed = found[2].partition("?")
    given = dict(params or {})
    arguments: dict[str, Any] = {"method": found[1].upper(), "path": path}
    names = dict.fromkeys(Template.parse(path).names)
    arguments["path_params"] = {name: given.pop(name) for name in names if name in given}
    query = _fixed_query(fixed, given)
    unknown = [name for name in given if name not in _OPTIONS]
    if unknown:
        raise InvalidRequest.at(
            f"params.{unknown[0]}"[:200], f"fills no place in the query; beside those there are: {', '.join(_OPTIONS)}"
        )
    if query and not isinstance(given.get("query", {}), dict):
        raise InvalidRequest.at("params.query", "must be an object")
    if query:
        given["query"] = {**query, **given.get("query", {})}
    return {**arguments, **given}


def _fixed_query(text: str, given: dict[str, Any]) -> dict[str, Any]:
    """The parameters that stand in the query itself; a `{name}` among them is taken out of `given`."""
    found: dict[str, Any] = {}
    used: set[str] = set()
    for name, value in parse_qsl(text, keep_blank_values=True):
        if place := _PLACE.fullmatch(value):
            if place[1] not in given:
                raise InvalidRequest.at(f"params.{place[1]}", "is missing: the query needs it")
            used.add(place[1])
            item: Any = given[place[1]]
        else:
            item = value
        found[name] = item if name not in found else [*_listed(found[name]), *_listed(item)]
    for name in used:
        del given[name]
    return found


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def pairs(query: Mapping[str, Any] | None, where: str = "query") -> Pairs:
    """Names and values in order: a list repeats its name, null leaves it out. Raises InvalidRequest."""
    return tuple(
        (whole(where, name), scalar(f"{where}.{name}", item))
        for name, value in (query or {}).items()
        for item in _listed(value)
        if item is not None
    )


def headers(given: Mapping[str, str] | None, allowed: Iterable[str], closed: frozenset[str]) -> dict[str, str]:
    """The caller's headers.

    Args:
        allowed: names beside the usual ones.
        closed: lower-case names that the connector sets itself.

    Raises:
        InvalidRequest: one that callers may not set, or a value that would be more than one line.
    """
    may = (USUAL_HEADERS | {name.lower() for name in allowed}) - closed - RESERVED_HEADERS
    for name, value in (given or {}).items():
        if name.lower() not in may:
            raise InvalidRequest.at(f"headers.{name}"[:200], f"may not be set; these may: {', '.join(sorted(may))}")
        if not isinstance(value, str) or not _VALUE.fullmatch(value):
            raise InvalidRequest.at(f"headers.{name}", "must be text on one line")
    if len({name.lower() for name in given or ()}) != len(given or ()):
        raise InvalidRequest.at("headers", "name one header twice")
    return dict(given or {})


def body(
    json: Any = None, body: str | Base64Body | None = None, form: Mapping[str, Any] | None = None
) -> tuple[bytes, str | None]:
    """The body's bytes and its media type. Raises InvalidRequest."""
    if sum(part is not None for part in (json, body, form)) > 1:
        raise InvalidRequest.at("body", "give one of json, body and form")
    if json is not None:
        return _json(json), "application/json"
    if form is not None:
        return urlencode(pairs(form, "form")).encode(), "application/x-www-form-urlencoded"
    if isinstance(body, str):
        return whole("body", body).encode(), "text/plain; charset=utf-8"
    if body is not None:
        try:
            return base64.b64decode(body.base64, validate=True), "application/octet-stream"
        except (binascii.Error, ValueError):
            raise InvalidRequest.at("body.base64", "is not base64") from None
    return b"", None


def _json(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:
        raise InvalidRequest.at("json", "holds something that JSON does not have") from None


class Arguments:
    """The arguments of a documented operation, sorted into the parts of a request. Raises InvalidRequest."""

    def __init__(self, operation: Documented, given: Mapping[str, Any]) -> None:
        self.path: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        query: list[tuple[str, str]] = []
        for parameter in operation.parameters:
            value = given.get(parameter.argument)
            if value is None:
                continue
            if parameter.place == "path":
                self.path[parameter.name] = _joined(parameter, value)
            elif parameter.place == "header":
                self.headers[parameter.name] = _joined(parameter, value)
            else:
                query += _spread(parameter, value)
        self.query: Pairs = tuple(query)
        sent = given.get(operation.body_argument) if operation.body_argument else None
        self.body: bytes = b""
        self.media_type: str | None = None
        if sent is not None:
            self.body, self.media_type = _encoded(operation.body_type, sent)


def _joined(parameter: Parameter, value: Any) -> str:
    return parameter.separator.join(scalar(parameter.argument, item) for item in _listed(value))


def _spread(parameter: Parameter, value: Any) -> Pairs:
    if isinstance(value, dict):
        if parameter.deep:
            return pairs({f"{parameter.name}[{key}]": item for key, item in value.items()}, parameter.argument)
        if parameter.explode:
            return pairs(value, parameter.argument)
        flat = [part for key, item in value.items() for part in (key, scalar(parameter.argument, item))]
        return ((parameter.name, ",".join(flat)),)
    if isinstance(value, list) and not parameter.explode:
        return ((parameter.name, _joined(parameter, value)),)
    return pairs({parameter.name: value}, parameter.argument)


def _encoded(media_type: str, value: Any) -> tuple[bytes, str]:
    if media_type == "application/x-www-form-urlencoded":
        return urlencode(pairs(value, "body")).encode(), media_type
    if media_type == "application/json" or media_type.endswith("+json"):
        return _json(value), media_type
    return scalar("body", value).encode(), media_type
