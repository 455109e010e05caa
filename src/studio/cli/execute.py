"""`studio query` and `studio run`: one operation on a connector or on an agent's alias."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from studio.cli import text
from studio.cli.common import target
from studio.cli.given import json_object, pairs, read_text
from studio.cli.where import with_service

if TYPE_CHECKING:
    from studio.cli.where import Service

_agent = click.option("--agent", help="The agent whose alias it is; its read_only and overrides count.")
_format = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True,
    help="json is the whole result, table and csv are its data.",
)  # fmt: skip
_json = click.option("--json", "form", flag_value="json", help="The same as --format json.")


@click.command(short_help="Run a statement on a connector or an agent's alias.")
@click.argument("alias_or_id")
@click.argument("statement")
@click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="One parameter; JSON where it parses.")
@_agent
@_format
@_json
@with_service()
async def query(
    service: Service, alias_or_id: str, statement: str, params: tuple[str, ...], agent: str | None, form: str
) -> None:
    """Run a statement in the provider's own language; @FILE or - reads it.

    \b
    studio query "Main" "SELECT * FROM users WHERE id = :id" --param id=1
    studio query main_db "SELECT 1" --agent agent-123 --format csv
    """
    text_of_it, given = read_text(statement, "STATEMENT"), pairs(params, "--param")
    found = await target(service, alias_or_id, agent)
    _print(await service.execute_query(query=text_of_it, params=given or None, **found), form)


@click.command("run", short_help="Run one operation of a connector.")
@click.argument("alias_or_id")
@click.argument("operation")
@click.option("--arg", "arguments", metavar="NAME=VALUE", multiple=True, help="One argument; JSON where it parses.")
@click.option("--args", "given", metavar="JSON", help="All arguments as a JSON object; @FILE, or - for stdin.")
@_agent
@_format
@_json
@with_service()
async def run_operation(
    service: Service,
    alias_or_id: str,
    operation: str,
    arguments: tuple[str, ...],
    given: str | None,
    agent: str | None,
    form: str,
) -> None:
    """Run one operation of a connector; `studio connectors operations` lists them."""
    everything = {**json_object(given, "--args"), **pairs(arguments, "--arg")}
    found = await target(service, alias_or_id, agent)
    _print(await service.execute(operation, everything, **found), form)


def _print(result: Mapping[str, Any], form: str) -> None:
    if form == "json":
        return text.print_json(result)
    data = result["data"]
    records = _records(data)
    if records is None:
        text.print_json(data)
    else:
        columns = [column["name"] for column in result["columns"]] or text.columns_of(records)
        (text.print_csv if form == "csv" else text.print_table)(records, columns)
    if form == "table":
        text.note(f"{_counted(result['row_count'])}, {result['execution_time_ms']:.1f} ms")
    if result["truncated"]:
        text.note("truncated: more rows were there, past max_rows or max_bytes; narrow the query or raise the cap")
    return None


def _records(data: Any) -> list[Mapping[str, Any]] | None:
    """The data as rows, where it can be seen so: objects, or plain values in one column."""
    if isinstance(data, Mapping):
        return [{"field": name, "value": value} for name, value in data.items()]
    if not isinstance(data, list):
        return None
    return [item if isinstance(item, Mapping) else {"value": item} for item in data]


def _counted(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
