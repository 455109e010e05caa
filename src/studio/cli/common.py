"""Options and steps that several commands share."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from studio.errors import InvalidRequest, NotFound

if TYPE_CHECKING:
    from studio.cli.where import Service

_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PAGE = 200

json_option = click.option("--json", "as_json", is_flag=True, help="Answer in JSON.")
config_options = (
    click.option("--config", metavar="JSON", help="Config as a JSON object; @FILE, or - for stdin."),
    click.option("--set", "sets", metavar="KEY=VALUE", multiple=True, help="One config field; JSON where it parses."),
    click.option(
        "--secret", "secrets", metavar="NAME[=@FILE]", multiple=True, help="One secret: asked for, or from a file."
    ),
)


async def connector_id(service: Service, reference: str) -> str:
    """The id of a connector that was named by its id or its name. Raises NotFound."""
    if _ID.fullmatch(reference):
        return reference
    async for record in all_connectors(service, q=reference):
        if record["name"] == reference:
            found: str = record["id"]
            return found
    raise NotFound("no connector has this id or name")


async def all_connectors(service: Service, **filters: Any) -> AsyncIterator[dict[str, Any]]:
    """Every connector that matches, page by page."""
    cursor: str | None = None
    while True:
        page = await service.list(**filters, limit=_PAGE, cursor=cursor)
        for record in page["records"]:
            yield record
        cursor = page["next_cursor"]
        if cursor is None:
            return


async def type_of(service: Service, provider: str) -> str:
    """The connector type of a provider. Raises InvalidRequest."""
    types: dict[str, list[str]] = (await service.types())["types"]
    for connector_type, providers in types.items():
        if provider in providers:
            return connector_type
    known = ", ".join(name for providers in types.values() for name in providers)
    raise InvalidRequest.at("provider", f"no such provider; these exist: {known}")


async def target(service: Service, reference: str, agent: str | None) -> dict[str, str]:
    """What a call is about: with an agent its alias, else a connector by id or name. Raises NotFound."""
    if agent is not None:
        return {"agent_id": agent, "alias": reference}
    return {"connector_id": await connector_id(service, reference)}


def overridden(instance: Mapping[str, Any]) -> dict[str, Any]:
    """The override of an attachment, read off the effective config and where it came from."""
    return {key: instance["config"][key] for key, source in instance["config_sources"].items() if source == "override"}
