"""`connectors.yaml` as data: read, checked, and with its secrets fetched."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.cli.given import read_file, without_newline
from studio.cli.where import variable
from studio.errors import InvalidRequest

_SHORT = {"type": "connector_type", "agent": "agent_id", "override": "config_override"}
_CONNECTOR = {"name", "connector_type", "provider", "status", "config", "saved_operations", "attachments"}
_SAVED = {"name", "description", "query", "parameters", "bound"}
_ATTACHMENT = {"agent_id", "alias", "config_override", "saved_only"}


@dataclass(frozen=True)
class Attachment:
    """An agent, an alias, and what is narrowed there."""

    agent_id: str
    alias: str
    config_override: dict[str, Any]
    saved_only: bool


@dataclass(frozen=True)
class SavedOperation:
    """A statement under a name; `body` is what the service takes."""

    name: str
    body: dict[str, Any]


@dataclass(frozen=True)
class Wanted:
    """One connector as the file wants it. `fetched` are the dotted paths that came from elsewhere."""

    name: str
    provider: str
    connector_type: str | None
    status: str | None
    config: dict[str, Any] = field(repr=False)
    saved_operations: tuple[SavedOperation, ...]
    attachments: tuple[Attachment, ...]


def load(path: Path) -> list[Wanted]:
    """Read and check a file; `{from_env: NAME}` and `{from_file: path}` become their values.

    Raises:
        InvalidRequest: naming the entry and the field.
    """
    import yaml

    try:
        document = yaml.safe_load(read_file(path, "FILE"))
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        raise InvalidRequest.at("FILE", f"is not YAML{f', see line {mark.line + 1}' if mark else ''}") from exc
    if isinstance(document, Mapping) and set(document) == {"connectors"}:
        document = document["connectors"]
    if not isinstance(document, list):
        raise InvalidRequest.at("FILE", "must hold one list, connectors")
    wanted = [_connector(entry, f"connectors.{number}", path.parent) for number, entry in enumerate(document)]
    names = [one.name for one in wanted]
    for number, name in enumerate(names):
        if name in names[:number]:
            raise InvalidRequest.at(f"connectors.{number}.name", "stands twice in this file")
    return wanted


def _connector(entry: Any, where: str, folder: Path) -> Wanted:
    fields = _fields(entry, where, _CONNECTOR)
    config = _mapping(fields.get("config"), f"{where}.config")
    return Wanted(
        name=_text(fields, "name", where),
        provider=_text(fields, "provider", where),
        connector_type=_text(fields, "connector_type", where) if "connector_type" in fields else None,
        status=_text(fields, "status", where) if "status" in fields else None,
        config=_fetched(config, f"{where}.config", folder),
        saved_operations=tuple(_saved(*one) for one in _listed(fields, "saved_operations", where)),
        attachments=tuple(_attachment(*one) for one in _listed(fields, "attachments", where)),
    )


def _attachment(entry: Any, where: str) -> Attachment:
    fields = _fields(entry, where, _ATTACHMENT)
    override = _mapping(fields.get("config_override"), f"{where}.config_override")
    saved_only = fields.get("saved_only", False)
    if not isinstance(saved_only, bool):
        raise InvalidRequest.at(f"{where}.saved_only", "must be true or false")
    return Attachment(_text(fields, "agent_id", where), _text(fields, "alias", where), override, saved_only)


def _saved(entry: Any, where: str) -> SavedOperation:
    fields = _fields(entry, where, _SAVED)
    body: dict[str, Any] = {name: _text(fields, name, where) for name in ("name", "description", "query")}
    return SavedOperation(
        body["name"], body | {name: _mapping(fields.get(name), f"{where}.{name}") for name in ("parameters", "bound")}
    )


def _listed(fields: Mapping[str, Any], name: str, where: str) -> list[tuple[Any, str]]:
    """The entries of a list that may be left out, each with where it stands."""
    entries = fields.get(name) or []
    if not isinstance(entries, list):
        raise InvalidRequest.at(f"{where}.{name}", "must be a list")
    return [(entry, f"{where}.{name}.{number}") for number, entry in enumerate(entries)]


def _fields(entry: Any, where: str, known: set[str]) -> dict[str, Any]:
    """An entry under the documents' names; the short ones are taken as well."""
    found = {_SHORT.get(name, name): value for name, value in _mapping(entry, where).items()}
    for name in found:
        if name not in known:
            raise InvalidRequest.at(f"{where}.{name}", f"is unknown; these exist: {', '.join(sorted(known))}")
    return found


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise InvalidRequest.at(where, "must be a mapping")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise InvalidRequest.at(where, "holds a value that JSON has no form for, such as a date; quote it") from exc
    return value


def _text(fields: Mapping[str, Any], name: str, where: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise InvalidRequest.at(f"{where}.{name}", "is missing" if value is None else "must be text; quote it")
    return value


def _fetched(value: Any, where: str, folder: Path) -> Any:
    """The value with every `{from_env: …}` and `{from_file: …}` replaced; a file's path is relative to the YAML's."""
    if not isinstance(value, dict):
        return value
    match value:
        case {"from_env": str(name), **rest} if not rest:
            found = variable(name)
            if found is None:
                raise InvalidRequest.at(where, f"the environment has no {name}")
            return found
        case {"from_file": str(path), **rest} if not rest:
            return without_newline(read_file(folder / path, where))
    return {name: _fetched(inner, f"{where}.{name}", folder) for name, inner in value.items()}
