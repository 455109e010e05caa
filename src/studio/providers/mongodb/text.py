"""MongoDB's language: the arguments of operations, and a command document as text turned into these."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from studio.contract.sql import MAX_TEXT
from studio.errors import InvalidRequest

Collection = Annotated[str, Field(min_length=1, max_length=255, description="A collection's name.")]
Condition = Annotated[
    dict[str, Any] | None, Field(description='A condition in Extended JSON; values as {"$param": "name"}.')
]
Pipeline = Annotated[list[dict[str, Any]], Field(max_length=200, description="Stages in Extended JSON.")]
Documents = Annotated[Any, Field(description='Documents in Extended JSON, or {"$param": "name"}.')]
Update = Annotated[
    dict[str, Any] | list[dict[str, Any]],
    Field(description='Update operators such as {"$set": …}, a whole new document, or a pipeline.'),
]
Path = Annotated[str, Field(min_length=1, max_length=255, description="A field's path.")]
Options = dict[str, Any] | None
Hint = Annotated[str | dict[str, Any] | None, Field(description="An index, by name or by its fields.")]
Count = Annotated[int | None, Field(ge=1)]
Skip = Annotated[int, Field(ge=0)]

_COMMON = {"filter": "filter", "skip": "skip", "limit": "limit", "hint": "hint", "collation": "collation"}
_COMMANDS: dict[str, tuple[str, dict[str, str]]] = {
    # MongoDB's name: our operation, and its options' names
    "find": ("find", {**_COMMON, "projection": "projection", "sort": "sort"}),
    "aggregate": ("aggregate", {"pipeline": "pipeline", "hint": "hint", "collation": "collation", "cursor": ""}),
    "count": ("count", {**_COMMON, "query": "filter"}),
    "distinct": ("distinct", {"key": "key", "query": "filter", "collation": "collation"}),
    "listCollections": ("list_collections", {"nameOnly": "", "authorizedCollections": ""}),
    "insert": ("insert", {"documents": "documents", "ordered": "ordered"}),
    "update": ("update", {"updates": ""}),
    "delete": ("delete", {"deletes": ""}),
}
_UPDATE = {"q": "filter", "u": "update", "multi": "many", "upsert": "upsert", "collation": "collation", "hint": "hint"}
_DELETE = {"q": "filter", "limit": "", "collation": "collation", "hint": "hint"}
_NUMBERS = ("skip", "limit")


def translate(text: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """The operation's name and its arguments.

    Raises:
        InvalidRequest: no JSON object, or a command or an option that is not taken.
    """
    command = _parse(text)
    name = next(iter(command), "")
    if name not in _COMMANDS:
        raise InvalidRequest.at("query", f"must begin with the name of a command: {', '.join(_COMMANDS)}")
    operation, options = _COMMANDS[name]
    arguments = _renamed({key: value for key, value in command.items() if key != name}, options)
    if name != "listCollections":
        arguments["collection"] = command[name]
    if name == "update":
        statement = _single(command, "updates")
        arguments.update(_renamed(statement, _UPDATE))
    elif name == "delete":
        statement = _single(command, "deletes")
        arguments.update(_renamed(statement, _DELETE))
        arguments["many"] = statement.get("limit") == 0
    given = dict(params or {})
    _put_numbers(arguments, given)
    if given or name != "listCollections":
        arguments["params"] = given or None
    return operation, arguments


def _parse(text: str) -> dict[str, Any]:
    if len(text) > MAX_TEXT:
        raise InvalidRequest.at("query", f"must be at most {MAX_TEXT} characters")
    try:
        command = json.loads(text)
    except RecursionError:
        raise InvalidRequest.at("query", "is nested too deeply") from None
    except ValueError as exc:
        at = f" (at character {exc.pos})" if isinstance(exc, json.JSONDecodeError) else ""
        raise InvalidRequest.at("query", f'is not JSON{at}; write a command such as {{"find": "users"}}') from None
    if not isinstance(command, dict):
        raise InvalidRequest.at("query", 'must be a JSON object, a command such as {"find": "users"}')
    return command


def _renamed(options: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Options under our names; those without one say what is done anyway."""
    for key in options:
        if key not in names:
            known = ", ".join(sorted(names))
            raise InvalidRequest.at("query", f"the option {key[:64]} is not taken; known here: {known}")
    return {names[key]: value for key, value in options.items() if names[key]}


def _single(command: Mapping[str, Any], key: str) -> dict[str, Any]:
    statements = command.get(key)
    if not isinstance(statements, list) or len(statements) != 1 or not isinstance(statements[0], dict):
        raise InvalidRequest.at("query", f"{key} must hold exactly one statement")
    return statements[0]


def _put_numbers(arguments: dict[str, Any], given: dict[str, Any]) -> None:
    """Numbers are bound here, since an operation's own argument is a number; each value is used up by that."""
    used = set()
    for key in _NUMBERS:
        value = arguments.get(key)
        if isinstance(value, dict) and set(value) == {"$param"}:
            name = value["$param"]
            if not isinstance(name, str) or name not in given:
                raise InvalidRequest.at(f"params.{str(name)[:64]}", "is missing: the command uses it")
            if type(given[name]) is not int:
                raise InvalidRequest.at(f"params.{name[:64]}", "must be a whole number")
            arguments[key] = given[name]
            used.add(name)
    rest = json.dumps({key: value for key, value in arguments.items() if key not in _NUMBERS})
    for name in used:
        if json.dumps({"$param": name})[1:-1] not in rest:
            del given[name]
