"""`studio keys …`: API keys of people, services and agents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from studio.cli import text
from studio.cli.common import json_option
from studio.cli.where import Where, with_service

if TYPE_CHECKING:
    from studio.cli.where import Service


@click.group()
def keys() -> None:
    """Make, list, narrow and revoke API keys."""


@keys.command()
@click.option("--role", type=click.Choice(["member", "developer", "admin"]), help="Of a person or a service.")
@click.option("--agent", "agent_id", help="Make an agent's own key; it has no role.")
@click.option("--alias", "aliases", multiple=True, help="Limit the agent's key to these aliases.")
@click.option(
    "--effect", "effects", multiple=True, type=click.Choice(["read", "write", "delete", "admin"]),
    help="Limit the agent's key to these effects.",
)  # fmt: skip
@click.option("--name", default="key", show_default=True, help="What it is for.")
@click.option("--expires", "expires_at", metavar="TIME", help="ISO 8601, such as 2027-01-31T00:00:00Z.")
@json_option
@with_service(names_organization=True)
async def create(service: Service, role: str | None, agent_id: str | None, as_json: bool, **more: Any) -> None:
    """Make a key. It is shown this once; only its hash is kept."""
    where = Where.of(click.get_current_context())
    body: dict[str, Any] = {name: list(value) if isinstance(value, tuple) else value for name, value in more.items()}
    # An agent's key carries the agent's rights and nobody's role.
    body |= {"agent_id": agent_id, "role": role if agent_id is None else None}
    if "organization" in where.typed:
        body["organization_id"] = where.organization
    record = await service.create_key({name: value for name, value in body.items() if value})
    if as_json:
        return text.print_json({"id": record["id"], "key": record.pop("key"), **record})
    click.echo(record["key"])
    return text.note(f"id {record['id']}, organization {record['organization_id']}. The key is shown this once.")


@keys.command("list")
@json_option
@with_service()
async def list_(service: Service, as_json: bool) -> None:
    """List the organization's keys, revoked ones too."""
    records = await service.list_keys()
    if as_json:
        return text.print_json({"records": records, "total": len(records)})
    columns = ("id", "name", "role", "agent_id", "created_at", "expires_at", "last_used_at", "revoked_at")
    return text.print_table(records, columns)


@keys.command()
@click.argument("key_id")
@click.option("--role", type=click.Choice(["member", "developer", "admin"]), help="A lower one.")
@click.option("--alias", "aliases", multiple=True, help="Leave an agent's key only these aliases.")
@click.option(
    "--effect", "effects", multiple=True, type=click.Choice(["read", "write", "delete", "admin"]),
    help="Leave an agent's key only these effects.",
)  # fmt: skip
@click.option("--expires", "expires_at", metavar="TIME", help="An earlier end, ISO 8601.")
@json_option
@with_service()
async def narrow(service: Service, key_id: str, as_json: bool, **more: Any) -> None:
    """Take rights away from a key; running operations that it allows no longer end."""
    body = {name: list(value) if isinstance(value, tuple) else value for name, value in more.items() if value}
    record = await service.narrow_key(key_id, body)
    (text.print_json if as_json else text.print_record)(record)


@keys.command()
@click.argument("key_id")
@json_option
@with_service()
async def revoke(service: Service, key_id: str, as_json: bool) -> None:
    """Switch a key off for good."""
    record = await service.revoke_key(key_id)
    (text.print_json if as_json else text.print_record)(record)
