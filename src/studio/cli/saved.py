"""`studio connectors save|saved|unsave`: statements stored on a connector, for agents to run by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from studio.cli import text
from studio.cli.common import connector_id, json_option
from studio.cli.given import pairs, read_text
from studio.cli.where import with_service

if TYPE_CHECKING:
    from studio.cli.where import Service


@click.command()
@click.argument("connector")
@click.argument("name")
@click.argument("statement")
@click.option("--description", required=True, help="What it does, for whoever chooses it.")
@click.option("--parameter", "parameters", metavar="NAME=SCHEMA", multiple=True, help="One parameter, as JSON Schema.")
@click.option("--bind", "bound", metavar="NAME=VALUE", multiple=True, help="One value that no agent sees or gives.")
@json_option
@with_service()
async def save(
    service: Service,
    connector: str,
    name: str,
    statement: str,
    description: str,
    parameters: tuple[str, ...],
    bound: tuple[str, ...],
    as_json: bool,
) -> None:
    """Save a statement under a name; @FILE or - reads it.

    \b
    studio connectors save Main users_of_city "SELECT name FROM users WHERE city = :city AND tenant = :tenant" \\
        --description "Names of a city's users" \\
        --parameter 'city={"type": "string", "enum": ["Oslo", "Lima"]}' --bind 'tenant={"from": "agent_id"}'
    """
    body = {
        "name": name,
        "description": description,
        "query": read_text(statement, "STATEMENT"),
        "parameters": pairs(parameters, "--parameter"),
        "bound": pairs(bound, "--bind"),
    }
    record = await service.create_saved_operation(await connector_id(service, connector), body)
    (text.print_json if as_json else text.print_record)(record)


@click.command()
@click.argument("connector")
@json_option
@with_service()
async def saved(service: Service, connector: str, as_json: bool) -> None:
    """List a connector's saved operations."""
    records = await service.list_saved_operations(await connector_id(service, connector))
    if as_json:
        return text.print_json({"records": records, "total": len(records)})
    return text.print_table(records, ("name", "description", "query", "parameters", "bound"))


@click.command()
@click.argument("connector")
@click.argument("name")
@json_option
@with_service()
async def unsave(service: Service, connector: str, name: str, as_json: bool) -> None:
    """Delete a saved operation."""
    record = await service.delete_saved_operation(await connector_id(service, connector), name)
    (text.print_json if as_json else text.print_record)(record)
