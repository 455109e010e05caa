"""`studio audit …`: who did what; whether the log of it is whole; and keeping it small."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from studio.cli import exits, text
from studio.cli.common import json_option
from studio.cli.where import Where, here_only, settings, where_options, with_service

if TYPE_CHECKING:
    from studio.cli.where import Service

F = TypeVar("F", bound=Callable[..., Any])
_PAGE = 1000
_COLUMNS = (
    "seq", "at", "event", "subject", "agent_id", "alias", "operation", "effect", "verdict", "code", "rows",
    "latency_ms", "count",
)  # fmt: skip
BROKEN = exits.exit_code("conflict")
_FILTERS = {
    "since": "ISO 8601: that moment and later.",
    "until": "ISO 8601: before that moment.",
    "subject": "Who, such as key:ID.",
    "agent": "Which agent.",
    "connector": "Which connector, by id.",
    "operation": "Which operation.",
    "event": "What, such as execute or connector.update.",
    "verdict": "ok, started, refused, failed or cancelled.",
    "code": "Which error code.",
    "request": "Which request, by id.",
}
_NAMES = {"agent": "agent_id", "connector": "connector_id", "request": "request_id"}


def _filters(function: F) -> F:
    for name, said in reversed(_FILTERS.items()):
        function = click.option(f"--{name}", _NAMES.get(name, name), help=said)(function)
    return function


@click.group(short_help="Who did what.")
def audit() -> None:
    """Look into the audit log: who did what, and whether the log is whole."""


@audit.command("list")
@_filters
@click.option("--limit", type=click.IntRange(1, _PAGE), default=50, show_default=True)
@click.option("--cursor", help="Go on after this row: next_cursor of --json.")
@json_option
@with_service()
async def list_(service: Service, limit: int, cursor: str | None, as_json: bool, **filters: Any) -> None:
    """Show the newest rows that match."""
    page = await service.list_audit(filters=filters, limit=limit, cursor=cursor)
    if as_json:
        return text.print_json(page)
    text.print_table(page["records"], _COLUMNS)
    if page["next_cursor"]:
        text.note(f"there are older rows: --cursor {page['next_cursor']}")
    return None


@audit.command()
@_filters
@with_service()
async def export(service: Service, **filters: Any) -> None:
    """Write all rows that match to stdout, oldest first, as NDJSON; the last line says how it ended."""
    cursor: str | None = None
    count = 0
    with text.progress("exporting") as show:
        while True:
            page = await service.list_audit(filters=filters, limit=_PAGE, cursor=cursor, oldest_first=True)
            for record in page["records"]:
                click.echo(text.compact(record))
            count, cursor = count + len(page["records"]), page["next_cursor"]
            show(count, count)
            if cursor is None:
                break
    click.echo(text.compact({"$result": {"success": True, "row_count": count}}))


@audit.command()
@click.option("--head", help="SEQ:HASH of a row that was kept elsewhere: it must still be there.")
@click.option("--all", "everything", is_flag=True, help="Every organization of the store, and the store's own book.")
@click.option("--strict", is_flag=True, help="Also fail for effects and processes that did not end in order.")
@json_option
@with_service()
async def verify(service: Service, head: str | None, everything: bool, strict: bool, as_json: bool) -> int:
    """Check that no row was changed, removed or put in. Exit code 5 where one was."""
    report = await (_verified_store() if everything else service.verify_audit(head=head))
    books = report.get("books", [report])
    if as_json:
        text.print_json(report)
    else:
        for book in books:
            _say(book)
    loose = any(book["unfinished"] or _ended(book) for book in books)
    return BROKEN if not report["ok"] or (strict and loose) else 0


async def _verified_store() -> dict[str, Any]:
    from studio.services.audit import verify_store

    here_only(click.get_current_context())
    report: dict[str, Any] = {}
    with text.progress("checking") as show:
        async for step in verify_store(settings()):
            show(step.done, step.total)
            report = step.report or report
    return report


@audit.command()
@click.option("--before", required=True, metavar="TIME", help="ISO 8601: older rows go.")
@json_option
@where_options()
@click.pass_context
def prune(context: click.Context, before: str, as_json: bool) -> None:
    """Drop the organization's old rows; the chain is whole from the first one that stays."""
    import asyncio

    from studio.services.audit import prune_store

    where = Where.of(context)
    here_only(context)
    record = asyncio.run(prune_store(settings(), before, organization_id=where.organization))
    (text.print_json if as_json else text.print_record)(record)


def _ended(book: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in book["processes"] if one["state"] != "running"]


def _say(book: dict[str, Any]) -> None:
    name = book["organization_id"] or "the store itself"
    said = "whole" if book["ok"] else "NOT WHOLE"
    click.echo(f"{text.plain(name)}: {said}, {book['rows']} rows, head {book['head']}")
    for problem in book["problems"]:
        click.echo(f"  row {problem['seq']}: {text.plain(problem['what'])}")
    for effect in book["unfinished"]:
        click.echo(
            f"  row {effect['seq']}: {text.plain(str(effect['operation']))} was begun at {effect['at']} and has no "
            "outcome: it still runs, or its process ended"
        )
    for process in _ended(book):
        click.echo(
            f"  process {process['pid']} on {text.plain(str(process['host']))}, since {process['since']}: "
            f"{process['state']}; its last reads may be missing"
        )
