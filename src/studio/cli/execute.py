"""`studio query` and `studio run`: one operation on a connector or on an agent's alias."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from studio.cli import rows, text
from studio.cli.common import target
from studio.cli.given import json_object, pairs, read_text
from studio.cli.where import with_service
from studio.errors import BadRequest, OperationNotSupported

if TYPE_CHECKING:
    from studio.cli.where import Service

_agent = click.option("--agent", help="The agent whose alias it is; its read_only and overrides count.")
_format = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True,
    help="json is the whole result, table and csv are its data.",
)  # fmt: skip
_query_format = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv", "ndjson", "arrow"]), default="table",
    show_default=True, help="json is the whole result; all of them write rows as they come.",
)  # fmt: skip
_json = click.option("--json", "form", flag_value="json", help="The same as --format json.")
_TRUNCATED = "truncated: more rows were there, past max_rows or max_bytes; narrow the query or raise the cap"
_LAST_WORDS = b'# {"success":'
"""What the last line of a CSV stream begins with where it is no row."""


@click.command(short_help="Run a statement on a connector or an agent's alias.")
@click.argument("alias_or_id")
@click.argument("statement")
@click.option("--param", "params", metavar="NAME=VALUE", multiple=True, help="One parameter; JSON where it parses.")
@_agent
@_query_format
@_json
@with_service()
async def query(
    service: Service, alias_or_id: str, statement: str, params: tuple[str, ...], agent: str | None, form: str
) -> None:
    """Run a statement in the provider's own language; @FILE or - reads it.

    \b
    studio query "Main" "SELECT * FROM users WHERE id = :id" --param id=1
    studio query main_db "SELECT 1" --agent agent-123 --format csv
    studio query main_db "SELECT * FROM events" --agent agent-123 --format arrow > events.arrows
    """
    text_of_it, given = read_text(statement, "STATEMENT"), pairs(params, "--param")
    found = await target(service, alias_or_id, agent)
    if form in {"ndjson", "arrow"} or (form == "csv" and not sys.stdout.isatty()):
        return await _stream(service, form, query=text_of_it, params=given or None, **found)
    if form == "csv":
        return _print(await service.execute_query(query=text_of_it, params=given or None, **found), form)
    return await _show(service, form, query=text_of_it, params=given or None, **found)


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


async def _stream(service: Service, form: str, **call: Any) -> None:
    """Rows to stdout as they come. What returns no rows (it was not run yet) is printed whole, as CSV."""
    from contextlib import aclosing

    if form == "arrow" and sys.stdout.isatty():
        raise BadRequest("--format arrow: is no text; send it into a file or another program")
    out, held = sys.stdout.buffer, b""
    try:
        async with aclosing(service.stream_query(form=form, **call)) as chunks:
            async for chunk in chunks:
                held += chunk
                # The last line of CSV may be its last words, which are for people.
                at = held.rfind(b"\n", 0, -1) + 1 if form == "csv" else len(held)
                out.write(held[:at])
                held = held[at:]
    except OperationNotSupported:
        if form != "csv" or held:
            raise
        return _print(await service.execute_query(**call), form)
    except BaseException:
        out.flush()
        raise
    truncated = held.startswith(_LAST_WORDS)
    out.write(b"" if truncated else held)
    out.flush()
    if truncated:
        text.note(_TRUNCATED)
    return None


async def _show(service: Service, form: str, **call: Any) -> None:
    """A table or a document as the rows come. What returns no rows (it was not run yet) is printed whole."""
    from contextlib import aclosing

    try:
        async with aclosing(service.stream_query(form="json", **call)) as chunks:
            end = await rows.show(chunks, form, lambda result: _print(result, form))
    except OperationNotSupported:
        return _print(await service.execute_query(**call), form)
    if end is not None and form == "table":
        _print_notes(end)
    return None


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
        _print_notes(result)
    elif result["truncated"]:
        text.note(_TRUNCATED)
    return None


def _print_notes(result: Mapping[str, Any]) -> None:
    text.note(f"{_counted(result['row_count'])}, {result['execution_time_ms']:.1f} ms")
    if result["truncated"]:
        text.note(_TRUNCATED)


def _records(data: Any) -> list[Mapping[str, Any]] | None:
    """The data as rows, where it can be seen so: objects, or plain values in one column."""
    if isinstance(data, Mapping):
        return [{"field": name, "value": value} for name, value in data.items()]
    if not isinstance(data, list):
        return None
    return [item if isinstance(item, Mapping) else {"value": item} for item in data]


def _counted(count: int) -> str:
    return f"{count} row" if count == 1 else f"{count} rows"
