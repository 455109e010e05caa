"""`studio connectors health` and `studio alerts test`: how connectors are, and whether anybody would hear of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from studio.cli import exits, text
from studio.cli.common import connector_id, json_option
from studio.cli.where import with_service

if TYPE_CHECKING:
    from studio.cli.where import Service

_COLUMNS = ("at", "before", "after", "code", "stage", "message", "fix")


@click.command()
@click.argument("connector")
@click.option("--interval", "interval_s", type=int, metavar="SECONDS", help="Probe it so often from now on; 0: as all.")
@json_option
@with_service()
async def health(service: Service, connector: str, interval_s: int | None, as_json: bool) -> None:
    """Show how a connector is, since when, and what changed before."""
    found = await connector_id(service, connector)
    if interval_s is None:
        record = await service.health(found)
    else:
        record = await service.set_health(found, {"interval_s": interval_s or None})
    if as_json:
        return text.print_json(record)
    events = record.pop("events")
    text.print_record(record)
    if events:
        click.echo()
        text.print_table(events, _COLUMNS)
    return None


@click.group()
def alerts() -> None:
    """Alerts of failing connectors."""


@alerts.command("test")
@json_option
@with_service()
async def test_alerts(service: Service, as_json: bool) -> int:
    """Send a test alert on every channel that is set up; the exit code tells how it went."""
    answer = await service.test_alerts()
    if as_json:
        text.print_json(answer)
    elif answer["channels"]:
        text.print_table(answer["channels"], ("channel", "success", "message"))
    else:
        click.echo("no channel is set up; see STUDIO_ALERT_WEBHOOK_URL and STUDIO_ALERT_EMAIL_TO")
    return 0 if answer["success"] else exits.exit_code("upstream_error")
