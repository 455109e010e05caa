"""`studio connectors …`: register, change, test; attachments stand in `attachments.py`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from studio.cli import exits, text
from studio.cli.attachments import agent, attach, detach, instances, operations
from studio.cli.common import all_connectors, config_options, connector_id, json_option, type_of
from studio.cli.given import merged_config
from studio.cli.health import health
from studio.cli.rotate import rotate
from studio.cli.saved import save, saved, unsave
from studio.cli.where import with_service
from studio.errors import BadRequest

if TYPE_CHECKING:
    from studio.cli.where import Service

_COLUMNS = ("id", "name", "connector_type", "provider", "status", "last_test_result")
_config, _set, _secret = config_options


@click.group()
def connectors() -> None:
    """Register, change, test and attach connectors.

    CONNECTOR is a connector's id or its name.
    """


@connectors.command("list")
@click.option("--type", "connector_type", help="Only this type: database, api, storage or messaging.")
@click.option("--provider", help="Only this provider.")
@click.option("--status", type=click.Choice(["active", "inactive", "error"]), help="Only this status.")
@click.option("--search", "q", metavar="TEXT", help="Only names that hold this, any case.")
@json_option
@with_service()
async def list_(service: Service, as_json: bool, **filters: str | None) -> None:
    """List connectors, oldest first."""
    records = [record async for record in all_connectors(service, **filters)]
    if as_json:
        text.print_json({"records": records, "total": len(records)})
    else:
        text.print_table(records, _COLUMNS)


@connectors.command()
@click.option("--name", required=True, help="Unique in the organization.")
@click.option("--type", "connector_type", help="database, api, storage or messaging; follows from the provider.")
@click.option("--provider", required=True, help="One of: studio connectors types.")
@_config
@_set
@_secret
@click.option("--test", is_flag=True, help="Test first; save only what passed.")
@json_option
@with_service()
async def create(
    service: Service, name: str, connector_type: str | None, provider: str, test: bool, as_json: bool, **config: Any
) -> None:
    """Register a connector; its config is encrypted before it is stored.

    \b
    studio connectors create --name "Main" --provider postgresql \\
        --set host=db.example.com --set database=app --set username=app --secret password
    """
    given = merged_config(**config)
    body = {
        "name": name,
        "connector_type": connector_type or await type_of(service, provider),
        "provider": provider,
        "config": given,
    }
    _show(await service.create(body, test=test), as_json)


@connectors.command()
@click.argument("connector")
@json_option
@with_service()
async def get(service: Service, connector: str, as_json: bool) -> None:
    """Show a connector: its config without secrets, and which secrets are set."""
    _show(await service.get(await connector_id(service, connector)), as_json)


@connectors.command()
@click.argument("connector")
@click.option("--name", help="A new name.")
@click.option("--status", type=click.Choice(["active", "inactive"]), help="Switch it on or off.")
@_config
@_set
@_secret
@click.option("--unset", metavar="KEY", multiple=True, help="Take one config field away.")
@click.option("--version", type=int, help="Only if it still is at this version.")
@click.option("--test", is_flag=True, help="Test first; save only what passed.")
@click.option("--dry-run", is_flag=True, help="Only show what it would change, and whom.")
@json_option
@with_service()
async def update(
    service: Service,
    connector: str,
    name: str | None,
    status: str | None,
    version: int | None,
    test: bool,
    dry_run: bool,
    as_json: bool,
    **config: Any,
) -> None:
    """Change a connector; what is not named stays as it is."""
    given = {"name": name, "status": status, "config": merged_config(**config) or None}
    body = {key: value for key, value in given.items() if value is not None}
    found = await connector_id(service, connector)
    if dry_run:
        return _show(await service.preview_update(found, body), as_json)
    return _show(await service.update(found, body, version=version, test=test), as_json)


@connectors.command()
@click.argument("connector")
@click.option("--dry-run", is_flag=True, help="Only show what would break.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@with_service()
async def delete(service: Service, connector: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Delete a connector and its attachments."""
    found = await connector_id(service, connector)
    preview = await service.preview_delete(found)
    if dry_run:
        return _show(preview, as_json)
    if not yes:
        _confirm(preview)
    _show(await service.delete(found, confirm=preview["confirm"]), as_json)
    return None


def _confirm(preview: dict[str, Any]) -> None:
    users = ", ".join(f"{one['agent_id']}/{one['alias']}" for one in preview["instances"]) or "nobody"
    if not sys.stdin.isatty():
        raise BadRequest(f"deleting cannot be undone; used by: {users}. Give --yes to go on")
    click.confirm(f"Deleting cannot be undone. Used by: {text.plain(users)}. Go on?", abort=True, err=True)


@connectors.command()
@click.argument("connector")
@json_option
@with_service()
async def test(service: Service, connector: str, as_json: bool) -> int:
    """Test a connector; the exit code tells how it went."""
    return _tested(await service.test_connection(await connector_id(service, connector)), as_json)


@connectors.command("test-config")
@click.option("--type", "connector_type", help="Follows from the provider.")
@click.option("--provider", required=True, help="One of: studio connectors types.")
@_config
@_set
@_secret
@json_option
@with_service()
async def test_config(service: Service, connector_type: str | None, provider: str, as_json: bool, **config: Any) -> int:
    """Test a config without saving it."""
    given = merged_config(**config)
    body = {
        "connector_type": connector_type or await type_of(service, provider),
        "provider": provider,
        "config": given,
    }
    return _tested(await service.test_config(body), as_json)


@connectors.command()
@click.argument("provider", required=False)
@json_option
@with_service()
async def types(service: Service, provider: str | None, as_json: bool) -> None:
    """List the providers, or the config fields and operations of one."""
    if provider is not None:
        described = await service.describe_type(provider)
        return text.print_json(described) if as_json else _describe(described)
    answer = await service.types()
    if as_json:
        return text.print_json(answer)
    rows = [
        {"connector_type": family, "provider": name, "available": "yes" if name in answer["available"] else "not yet"}
        for family, names in answer["types"].items()
        for name in names
    ]
    return text.print_table(rows, ("connector_type", "provider", "available"))


def _describe(described: dict[str, Any]) -> None:
    schema, overridable = described["config_schema"], described["overridable"]
    required = set(schema.get("required", ()))
    fields = [
        {
            "field": name,
            "": "required" if name in required else "secret" if _is_secret(field) else "",
            "default": field.get("default"),
            "override": overridable.get(name),
            "description": field.get("description", field.get("title")),
        }
        for name, field in schema["properties"].items()
    ]
    click.echo(f"{described['provider']} ({described['connector_type']}): {text.plain(described['description'])}\n")
    text.print_table(fields, ("field", "", "default", "override", "description"))
    click.echo()
    text.print_table(described["operations"], ("name", "effect", "description"))


def _is_secret(field: dict[str, Any]) -> bool:
    return bool(field.get("writeOnly")) or any(_is_secret(one) for one in field.get("anyOf", ()))


def _show(record: dict[str, Any], as_json: bool) -> None:
    (text.print_json if as_json else text.print_record)(record)


def _tested(answer: dict[str, Any], as_json: bool) -> int:
    if as_json:
        text.print_json(answer)
    else:
        click.echo(f"{text.plain(answer['message'])} ({answer['latency_ms']:.0f} ms)")
        text.print_table(answer["stages"], ("name", "ok", "ms", "detail", "fix"))
        if answer["privileges"]:
            text.print_record({"privileges": answer["privileges"]})
    return 0 if answer["success"] else exits.exit_code(answer.get("code", "upstream_error"))


for command in (attach, detach, agent, instances, operations, health, rotate, save, saved, unsave):
    connectors.add_command(command)
