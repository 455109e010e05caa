"""`studio apply`: connectors as a file, applied as often as you like."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from studio.cli import exits, text
from studio.cli.common import json_option
from studio.cli.where import with_service
from studio.errors import StudioError

if TYPE_CHECKING:
    from studio.cli.manifest import Wanted
    from studio.cli.reconcile import Mode, Outcome
    from studio.cli.where import Service


@click.command(short_help="Apply a file of connectors, idempotently.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--update-secrets", is_flag=True, help="Send every secret of the file again, changed or not.")
@json_option
@with_service()
async def apply(service: Service, file: Path, dry_run: bool, update_secrets: bool, as_json: bool) -> int:
    """Create and update connectors and attachments as FILE wants them.

    \b
    connectors:
      - name: Main
        provider: postgresql
        config:
          host: db.example.com
          database: app
          username: app
          password: {from_env: DB_PASSWORD}    # or {from_file: path}
        saved_operations:
          - name: users_of_city
            description: Names of a city's users
            query: SELECT name FROM users WHERE city = :city
            parameters: {city: {type: string}}
        attachments:
          - {agent_id: agent-123, alias: main_db, config_override: {max_rows: 100}, saved_only: true}

    Nothing is deleted or detached but what is replaced. A config field that is left out goes back to its default; a
    secret that is left out stays. Secrets cannot be compared: a changed one is sent with
    --update-secrets, or together with another change of its connector.
    """
    from studio.cli.manifest import load
    from studio.cli.reconcile import Mode

    outcomes, failures = [], []
    for wanted in load(file):
        done, failure = await _one(service, wanted, Mode(dry_run, update_secrets))
        outcomes += done
        if failure is not None:
            failures.append((wanted.name, failure))
        if not as_json:
            _print(done, dry_run)
    if as_json:
        failed = [{"name": name, "code": error.code, "message": error.message} for name, error in failures]
        text.print_json({"dry_run": dry_run, "results": [asdict(one) for one in outcomes], "failed": failed})
    codes = [_report(name, error) for name, error in failures]
    return codes[0] if codes else 0


async def _one(service: Service, wanted: Wanted, mode: Mode) -> tuple[list[Outcome], StudioError | None]:
    """What was done; and the error that ended it, because the connectors after this one do not depend on it."""
    from studio.cli.reconcile import apply_one

    done: list[Outcome] = []
    try:
        async for outcome in apply_one(service, wanted, mode):
            done.append(outcome)
    except StudioError as exc:
        return done, exc
    return done, None


def _print(outcomes: list[Outcome], dry_run: bool) -> None:
    for one in outcomes:
        changes = f" ({', '.join(one.changes)})" if one.changes else ""
        would = "would be " if dry_run and one.action != "unchanged" else ""
        click.echo(f"{would}{one.action}  {one.kind} {text.plain(one.name)}{text.plain(changes)}")


def _report(name: str, error: StudioError) -> int:
    text.note(f"connector {text.plain(name)}:")
    return exits.report(error)
