"""`studio connectors rotate`: new credentials for a connector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from studio.cli import text
from studio.cli.common import config_options, connector_id, json_option
from studio.cli.given import merged_config
from studio.cli.where import with_service

if TYPE_CHECKING:
    from studio.cli.where import Service

_config, _, _secret = config_options


@click.command()
@click.argument("connector")
@_config
@_secret
@click.option("--generate", is_flag=True, help="Make a password and set it upstream, under the account itself.")
@click.option("--grace", "grace_s", type=int, metavar="SECONDS", help="Keep the old secrets so long.  [default: 3600]")
@click.option("--expires-at", metavar="TIME", help="When the new secrets end, in ISO 8601.")
@click.option("--dry-run", is_flag=True, help="Only show who would use them, and whether --generate works here.")
@json_option
@with_service()
async def rotate(
    service: Service,
    connector: str,
    generate: bool,
    grace_s: int | None,
    expires_at: str | None,
    dry_run: bool,
    as_json: bool,
    **config: Any,
) -> None:
    """Put new credentials in force, after a test of them; running operations end undisturbed.

    \b
    studio connectors rotate Main --secret password
    studio connectors rotate Main --generate
    """
    given = {
        "config": merged_config(**config, sets=()) or None,
        "generate": generate or None,
        "grace_s": grace_s,
        "expires_at": expires_at,
    }
    body = {key: value for key, value in given.items() if value is not None}
    found = await connector_id(service, connector)
    record = await (service.preview_rotate(found, body) if dry_run else service.rotate(found, body))
    (text.print_json if as_json else text.print_record)(record)
