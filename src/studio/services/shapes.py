"""Records as callers see them: the documents' fields in their order, and never a sealed one."""

from __future__ import annotations

from typing import Any

from studio.contract import Provider
from studio.models import ApiKey, Connector, ConnectorInstance
from studio.services.configs import Effective

LONG = 2000
"""Characters of a config's text that a row of a list shows as a whole; an OpenAPI document can have millions."""
SEALED_SHUT = "the sealed config does not open: it was moved or changed in the store, or its key is gone"


def connector_dict(connector: Connector, effective: Effective | None, *, row: bool = False) -> dict[str, Any]:
    """A connector: `config` holds the non-secret fields in force, `secrets_set` names the others.

    As a `row` of a list it has only the beginning of long texts. There, one whose config does not open
    (None) shows so and does not hide the others.
    """
    return {
        "id": connector.id,
        "organization_id": connector.organization_id,
        "name": connector.name,
        "connector_type": connector.connector_type,
        "provider": connector.provider,
        "config": _config(effective, row=row),
        "secrets_set": list(effective.secrets_set) if effective else [],
        "status": connector.status if effective else "error",
        "last_tested_at": connector.last_tested_at,
        "last_test_result": connector.last_test_result,
        "last_error": connector.last_error if effective else SEALED_SHUT,
        "created_by": connector.created_by,
        "created_at": connector.created_at,
        "updated_at": connector.updated_at,
        "version": connector.version,
        "secret_set_at": connector.secret_set_at,
        "secret_expires_at": connector.secret_expires_at,
    }


def instance_dict(
    instance: ConnectorInstance, connector: Connector, effective: Effective | None, *, row: bool = False
) -> dict[str, Any]:
    """An attachment, its connector in short, and its effective non-secret config with each field's source.

    As a `row` of a list it has only the beginning of long texts.
    """
    return {
        "id": instance.id,
        "connector_id": instance.connector_id,
        "agent_id": instance.agent_id,
        "alias": instance.alias,
        "created_at": instance.created_at,
        "connector": {
            "id": connector.id,
            "name": connector.name,
            "connector_type": connector.connector_type,
            "provider": connector.provider,
            "status": connector.status,
        },
        "config": _config(effective, row=row),
        "config_sources": effective.sources() if effective else {},
        "saved_only": bool(instance.saved_only),
    }


def _config(effective: Effective | None, *, row: bool) -> dict[str, Any] | None:
    if effective is None:
        return None
    shown = effective.shown()
    return {name: _beginning(value) for name, value in shown.items()} if row else shown


def _beginning(value: Any) -> Any:
    if not isinstance(value, str) or len(value) <= LONG:
        return value
    return f"{value[:100]}… ({len(value)} characters; read the connector itself for all of them)"


def key_dict(key: ApiKey) -> dict[str, Any]:
    """An API key without its hash."""
    return {
        "id": key.id,
        "organization_id": key.organization_id,
        "name": key.name,
        "prefix": key.prefix,
        "role": key.role,
        "agent_id": key.agent_id,
        "aliases": key.aliases.split(",") if key.aliases else None,
        "effects": key.effects.split(",") if key.effects else None,
        "created_by": key.created_by,
        "created_at": key.created_at,
        "expires_at": key.expires_at,
        "last_used_at": key.last_used_at,
        "revoked_at": key.revoked_at,
    }


def kind_dict(kind: type[Provider[Any]]) -> dict[str, Any]:
    """A provider: its config's JSON Schema (secrets are `writeOnly`), operations, and what may be overridden."""
    config = kind.Config
    return {
        "provider": kind.kind,
        "connector_type": kind.family,
        "description": (kind.__doc__ or "").strip().split("\n\n")[0],
        "config_schema": config.model_json_schema(by_alias=True),
        "destination_fields": config.destination_fields(),
        "overridable": {name: mark.rule for name, mark in config.overridable().items()},
        "operations": [operation.describe() for operation in kind.operations.values()],
    }
