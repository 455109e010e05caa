"""`studio connectors attach|detach|agent|instances|operations`: who may use what, under which alias."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from studio.cli import text
from studio.cli.common import connector_id, json_option, overridden, target
from studio.cli.given import json_object, pairs
from studio.cli.where import with_service
from studio.errors import BadRequest, NotFound

if TYPE_CHECKING:
    from studio.cli.where import Service


@click.command()
@click.argument("connector")
@click.option("--agent", "agent_id", required=True, help="The agent's id.")
@click.option("--alias", required=True, help="The agent's own name for the connector.")
@click.option("--override", metavar="JSON", help="Config that narrows; @FILE, or - for stdin.")
@click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="One field of the override.")
@click.option("--saved-only", is_flag=True, help="Allow the connector's saved operations and nothing else.")
@json_option
@with_service()
async def attach(
    service: Service,
    connector: str,
    agent_id: str,
    alias: str,
    override: str | None,
    sets: tuple[str, ...],
    saved_only: bool,
    as_json: bool,
) -> None:
    """Attach a connector to an agent under an alias."""
    narrowed = {**json_object(override, "--override"), **pairs(sets, "--set")}
    found = await connector_id(service, connector)
    body = {"agent_id": agent_id, "alias": alias, "config_override": narrowed or None, "saved_only": saved_only}
    record = await service.attach(found, body)
    (text.print_json if as_json else text.print_record)(record)


@click.command()
@click.argument("instance_id", required=False)
@click.option("--agent", "agent_id", help="In place of the instance's id: the agent …")
@click.option("--alias", help="… and its alias.")
@json_option
@with_service()
async def detach(
    service: Service, instance_id: str | None, agent_id: str | None, alias: str | None, as_json: bool
) -> None:
    """Detach a connector from an agent, by the attachment's id or by agent and alias."""
    if (instance_id is None) == (agent_id is None or alias is None):
        raise BadRequest("give either INSTANCE_ID, or --agent and --alias")
    found = instance_id or await _instance_id(service, agent_id or "", alias or "")
    record = await service.detach_from_agent(found)
    (text.print_json if as_json else text.print_record)(record)


async def _instance_id(service: Service, agent_id: str, alias: str) -> str:
    for record in await service.list_agent_connectors(agent_id):
        if record["alias"] == alias:
            found: str = record["id"]
            return found
    raise NotFound("the agent has no connector under this alias")


@click.command()
@click.argument("agent_id")
@json_option
@with_service()
async def agent(service: Service, agent_id: str, as_json: bool) -> None:
    """List what an agent has, under which aliases."""
    _show(await service.list_agent_connectors(agent_id), as_json)


@click.command()
@click.argument("connector")
@json_option
@with_service()
async def instances(service: Service, connector: str, as_json: bool) -> None:
    """List who uses a connector."""
    _show((await service.list_instances(await connector_id(service, connector)))["records"], as_json)


@click.command()
@click.argument("alias_or_id")
@click.option("--agent", help="The agent whose alias it is.")
@json_option
@with_service()
async def operations(service: Service, alias_or_id: str, agent: str | None, as_json: bool) -> None:
    """List the operations that a connector, or an agent's alias, allows."""
    found = await service.operations(**await target(service, alias_or_id, agent))
    if as_json:
        text.print_json({"operations": found})
    else:
        text.print_table(found, ("name", "effect", "description"))


def _show(records: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        return text.print_json({"records": records, "total": len(records)})
    rows = [
        {
            **record,
            "connector": record["connector"]["name"],
            "provider": record["connector"]["provider"],
            "override": overridden(record) or None,
        }
        for record in records
    ]
    return text.print_table(rows, ("id", "agent_id", "alias", "connector", "provider", "override"))
