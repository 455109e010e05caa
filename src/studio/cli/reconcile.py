"""From what a file wants to what a service has: the differences, and the calls that close them.

Secrets never come back from a service, so one that is set there cannot be compared: it is sent
again only together with another change, or on demand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from studio.cli.common import all_connectors, overridden, type_of
from studio.cli.manifest import Attachment, SavedOperation, Wanted
from studio.errors import Conflict, StudioError

if TYPE_CHECKING:
    from studio.cli.where import Service

Action = Literal["created", "updated", "unchanged"]


@dataclass(frozen=True)
class Outcome:
    """What was done, or would be, about one thing of the file; `changes` are field names, no values."""

    kind: Literal["connector", "saved operation", "attachment"]
    name: str
    action: Action
    changes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mode:
    """How to apply: `dry_run` calls nothing that changes; `update_secrets` sends all secrets again."""

    dry_run: bool
    update_secrets: bool


async def apply_one(service: Service, wanted: Wanted, mode: Mode) -> AsyncIterator[Outcome]:
    """Bring one connector, its saved operations and its attachments to what is wanted. Others beside these stay."""
    record = await _existing(service, wanted.name)
    outcome = await (_create(service, wanted, mode) if record is None else _update(service, wanted, record, mode))
    yield outcome
    if not wanted.attachments and not wanted.saved_operations:
        return
    # Read again: the connector may be new, or its config another by now.
    record = await _existing(service, wanted.name)
    saved = await service.list_saved_operations(record["id"]) if record and wanted.saved_operations else []
    for operation in wanted.saved_operations:
        yield await _save(service, record, operation, saved, mode)
    used = (await service.list_instances(record["id"]))["records"] if record else []
    for attachment in wanted.attachments:
        yield await _attach(service, record, attachment, used, mode)


async def _existing(service: Service, name: str) -> dict[str, Any] | None:
    async for record in all_connectors(service, q=name):
        if record["name"] == name:
            return await service.get(record["id"])  # a row of the list is cut
    return None


async def _create(service: Service, wanted: Wanted, mode: Mode) -> Outcome:
    connector_type = wanted.connector_type or await type_of(service, wanted.provider)
    if not mode.dry_run:
        body = {
            "name": wanted.name,
            "connector_type": connector_type,
            "provider": wanted.provider,
            "config": wanted.config,
        }
        record = await service.create(body)
        if wanted.status not in (None, record["status"]):
            await service.update(record["id"], {"status": wanted.status})
    return Outcome("connector", wanted.name, "created")


async def _update(service: Service, wanted: Wanted, record: dict[str, Any], mode: Mode) -> Outcome:
    if wanted.provider != record["provider"] or wanted.connector_type not in (None, record["connector_type"]):
        raise Conflict(
            f"{wanted.name}: exists with the provider {record['provider']}, which cannot change; "
            "delete it first, or choose another name"
        )
    schema = (await service.describe_type(wanted.provider))["config_schema"]
    defaults = {name: field.get("default") for name, field in schema["properties"].items()}
    patch, changes = difference(wanted.config, record, defaults, resend=mode.update_secrets)
    body: dict[str, Any] = {"config": patch} if patch else {}
    # A failed test sets `error`; that is a finding, not a setting, and stands for `active` here.
    if wanted.status is not None and (wanted.status == "inactive") != (record["status"] == "inactive"):
        body["status"] = wanted.status
        changes.append("status")
    if not body:
        return Outcome("connector", wanted.name, "unchanged")
    if not mode.dry_run:
        await service.update(record["id"], body, version=record["version"])
    return Outcome("connector", wanted.name, "updated", tuple(changes))


def difference(
    wanted: Mapping[str, Any], record: Mapping[str, Any], defaults: Mapping[str, Any], *, resend: bool
) -> tuple[dict[str, Any], list[str]]:
    """The merge patch (RFC 7396) from a shown connector to a wanted config, and the dotted paths in it.

    What the file leaves out goes back to its default; a secret that it leaves out stays.
    """
    secrets = set(record["secrets_set"])
    patch, changes = _patch(wanted, record["config"], defaults, secrets, "config")
    given = _subtree(wanted, secrets)
    if given and (patch or resend):
        patch = _joined(patch, given)
        changes += [f"config.{path}" for path in sorted(secrets) if _has(wanted, path)]
    return patch, changes


def _patch(
    wanted: Mapping[str, Any], shown: Mapping[str, Any], defaults: Mapping[str, Any], secrets: set[str], path: str
) -> tuple[dict[str, Any], list[str]]:
    patch: dict[str, Any] = {}
    changes: list[str] = []
    for name, value in wanted.items():
        where = f"{path}.{name}"
        old = shown.get(name)
        if where.removeprefix("config.") in secrets:
            continue
        if isinstance(value, Mapping) and (isinstance(old, Mapping) or _below(where, secrets)):
            inner, found = _patch(value, old if isinstance(old, Mapping) else {}, {}, secrets, where)
            changes += found
            patch |= {name: inner} if inner else {}
        elif name not in shown or value != old:
            changes.append(where)
            patch[name] = value
    for name, old in shown.items():
        if name not in wanted and old != defaults.get(name):
            changes.append(f"{path}.{name}")
            patch[name] = None
    return patch, changes


def _below(where: str, secrets: set[str]) -> bool:
    prefix = where.removeprefix("config.") + "."
    return any(path.startswith(prefix) for path in secrets)


def _has(tree: Mapping[str, Any], path: str) -> bool:
    name, _, rest = path.partition(".")
    inner = tree.get(name)
    return _has(inner, rest) if rest and isinstance(inner, Mapping) else not rest and name in tree


def _subtree(tree: Mapping[str, Any], paths: set[str], prefix: str = "") -> dict[str, Any]:
    """The part of a tree that `paths` name."""
    found: dict[str, Any] = {}
    for name, value in tree.items():
        path = prefix + name
        inner = _subtree(value, paths, f"{path}.") if isinstance(value, Mapping) and path not in paths else value
        if path in paths or (isinstance(value, Mapping) and inner):
            found[name] = inner
    return found


def _joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(one)
    for name, value in other.items():
        old = result.get(name)
        result[name] = _joined(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return result


async def _save(
    service: Service, record: dict[str, Any] | None, wanted: SavedOperation, saved: list[dict[str, Any]], mode: Mode
) -> Outcome:
    found = next((one for one in saved if one["name"] == wanted.name), None)
    changes = [] if found is None else [name for name, value in wanted.body.items() if found[name] != value]
    if found is not None and not changes:
        return Outcome("saved operation", wanted.name, "unchanged")
    if record is not None and not mode.dry_run:
        if found is not None:
            await service.delete_saved_operation(record["id"], wanted.name)
        try:
            await service.create_saved_operation(record["id"], wanted.body)
        except StudioError:
            if found is not None:  # the old one comes back where the new one is refused
                await service.create_saved_operation(record["id"], {name: found[name] for name in wanted.body})
            raise
    return Outcome("saved operation", wanted.name, "updated" if found else "created", tuple(changes))


async def _attach(
    service: Service, record: dict[str, Any] | None, wanted: Attachment, used: list[dict[str, Any]], mode: Mode
) -> Outcome:
    name = f"{wanted.agent_id}/{wanted.alias}"
    found = next((one for one in used if (one["agent_id"], one["alias"]) == (wanted.agent_id, wanted.alias)), None)
    if found is None:
        if record is not None and not mode.dry_run:
            await _attach_as(service, record["id"], wanted)
        return Outcome("attachment", name, "created")
    now = replace(wanted, config_override=overridden(found), saved_only=found["saved_only"])
    if now == wanted:
        return Outcome("attachment", name, "unchanged")
    if not mode.dry_run:
        await _replace(service, found, wanted, now)
    old, new = now.config_override, wanted.config_override
    changes = [f"config_override.{key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    if now.saved_only != wanted.saved_only:
        changes.append("saved_only")
    return Outcome("attachment", name, "updated", tuple(changes))


async def _replace(service: Service, found: dict[str, Any], wanted: Attachment, old: Attachment) -> None:
    """Attach anew; where the new one is refused, the old attachment comes back."""
    await service.detach_from_agent(found["id"])
    try:
        await _attach_as(service, found["connector_id"], wanted)
    except StudioError:
        await _attach_as(service, found["connector_id"], old)
        raise


async def _attach_as(service: Service, connector_id: str, wanted: Attachment) -> None:
    await service.attach(
        connector_id,
        {
            "agent_id": wanted.agent_id,
            "alias": wanted.alias,
            "config_override": wanted.config_override or None,
            "saved_only": wanted.saved_only,
        },
    )
