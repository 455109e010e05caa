"""`studio connectors rotate`: new credentials for a connector."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from studio.cli import exits, text
from studio.cli.common import config_options, connector_id, json_option
from studio.cli.given import merged_config
from studio.cli.where import with_service
from studio.errors import StudioError

if TYPE_CHECKING:
    from studio.cli.where import Service

_config, _, _secret = config_options
_BY_HAND = "set a password upstream, then: studio connectors rotate NAME --secret password"
_HINTS = {
    "auth_failed": "nothing has changed here; give the secret that the upstream takes: --secret password",
    "conflict": "run the command again shortly",
    "operation_not_supported": _BY_HAND,
}
_GENERATE_HINTS = {
    **_HINTS,
    "auth_failed": f"--generate logs in with the password in force, which was refused; {_BY_HAND}",
    "upstream_error": _BY_HAND,
}


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
) -> int | None:
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
    try:
        record = await (service.preview_rotate(found, body) if dry_run else service.rotate(found, body))
    except StudioError as exc:
        return exits.report(exc, hint=(_GENERATE_HINTS if generate else _HINTS).get(exc.code))
    (text.print_json if as_json else text.print_record)(record)
    return None
