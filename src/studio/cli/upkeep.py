"""`studio db …` and `studio encryption …`: upkeep of the store, on the machine that holds its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import click

from studio.cli import exits, text
from studio.cli.common import json_option
from studio.cli.where import here_only, own_settings, store_does_not_open

if TYPE_CHECKING:
    from studio.settings import Settings

    Work = Callable[[Settings], Awaitable[dict[str, Any]]]


@click.group(short_help="Look after the metadata database.")
@click.pass_context
def db(context: click.Context) -> None:
    """Look after the metadata database (STUDIO_DATABASE_URL, or the data folder's own)."""
    here_only(context)


@db.command()
@json_option
def upgrade(as_json: bool) -> None:
    """Bring the schema up to this version's. An embedded store does so by itself."""
    from studio.services.upkeep import upgrade_store

    _print(_run(upgrade_store), as_json)


@db.command("status")
@json_option
def db_status(as_json: bool) -> None:
    """Show the schema's revision and the newest one."""
    from studio.services.upkeep import store_status

    _print(_run(store_status), as_json)


@click.group(short_help="Look after the encryption keys.")
@click.pass_context
def encryption(context: click.Context) -> None:
    """Look after the keys that configs are encrypted with (STUDIO_ENCRYPTION_KEYS, or the key file)."""
    here_only(context)


@encryption.command("new-key")
@json_option
def new_key(as_json: bool) -> None:
    """Print a fresh key for STUDIO_ENCRYPTION_KEYS, wrapped where there is a key service; nothing is stored."""
    from studio.services.upkeep import new_encryption_key

    made = _run(new_encryption_key)
    text.print_json(made) if as_json else click.echo(made["key"])


@encryption.command("wrap")
@json_option
def wrap_keys(as_json: bool) -> None:
    """Wrap the keys that lie plain by the key service (STUDIO_KEY_SERVICE).

    Those of a key file are replaced in it; those of STUDIO_ENCRYPTION_KEYS are printed, wrapped, to be put there.
    """
    from studio.services.upkeep import wrap_encryption_keys

    done = _run(wrap_encryption_keys)
    if as_json:
        text.print_json(done)
    elif done["source"] == "STUDIO_ENCRYPTION_KEYS":
        click.echo(",".join(done["keys"]))
    else:
        click.echo(f"keys in the {done['source']}, all of them wrapped: {len(done['keys'])}")


@encryption.command("status")
@json_option
def encryption_status(as_json: bool) -> int:
    """Show which keys are configured and which the store needs; exit code 78 where one is missing or wrong."""
    from studio.services.upkeep import encryption_status

    status = _run(encryption_status)
    if as_json:
        text.print_json(status)
    else:
        through = f", wrapped by {status['key_service']}" if status["key_service"] else ""
        click.echo(
            f"{'ok' if status['ok'] else 'a key is missing or wrong'}; keys come from: {status['source']}{through}"
        )
        text.print_table(status["keys"], ("key_id", "configured", "newest", "opens", "rows"))
    return 0 if status["ok"] else exits.exit_code("encryption_error")


@encryption.command("rotate")
@json_option
def rotate_encryption(as_json: bool) -> int:
    """Seal every config anew with the newest key, while the service runs; may be cut short and run again.

    A key file gets a fresh key by itself. With STUDIO_ENCRYPTION_KEYS, first put the new key in front
    on every replica; take the old ones out once this says that no row is left on them.
    """
    done = _run(_rotated)
    if as_json:
        text.print_json(done)
    else:
        click.echo(f"{done['rows']} rows sealed anew; {done['left']} left on an old key")
        for row_id in done["failed"]:
            click.echo(f"does not open, and was left as it is: {row_id}", err=True)
    return 0 if not done["left"] else exits.exit_code("encryption_error")


async def _rotated(given: Settings) -> dict[str, Any]:
    from studio.services.rotation import rotate

    with text.progress("sealing anew") as show:
        async for step in rotate(given):
            show(step.done, step.total)
    return {"key_id": step.key_id, "rows": step.done, "failed": list(step.failed), "left": step.left}


def _run(work: Work) -> dict[str, Any]:
    import asyncio

    async def body() -> dict[str, Any]:
        try:
            return await work(own_settings())
        except OSError as exc:
            raise store_does_not_open(exc) from exc

    return asyncio.run(body())


def _print(record: dict[str, Any], as_json: bool) -> None:
    (text.print_json if as_json else text.print_record)(record)
