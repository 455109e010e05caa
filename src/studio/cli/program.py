"""The program: its commands, and what happens to the errors that they raise."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from studio import __version__
from studio.cli import exits
from studio.cli.apply import apply
from studio.cli.audit import audit
from studio.cli.connectors import connectors
from studio.cli.execute import query, run_operation
from studio.cli.health import alerts
from studio.cli.keys import keys
from studio.cli.mcp import mcp
from studio.cli.serve import serve
from studio.cli.upkeep import db, encryption
from studio.cli.where import OWN_PROCESS, store_fails, where_options
from studio.errors import BadRequest, Internal, StudioError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "--version", message="studio %(version)s")
@where_options(environment=True)
def studio() -> None:
    """Register external systems once; let agents use them without ever seeing a credential.

    Without --url a command works on the embedded store of this machine (STUDIO_DATA_DIR).
    """


for command in (serve, mcp, connectors, query, run_operation, keys, alerts, apply, audit, encryption, db):
    studio.add_command(command)


def main() -> None:
    """Run the command line and end the process with its exit code."""
    sys.exit(run(own_process=True))


def run(arguments: Sequence[str] | None = None, *, own_process: bool = False) -> int:
    """Run one command line; errors are printed to stderr. Returns the exit code, see `exits`.

    In a process of its own a command that opens the store drops what it does not need of the
    environment (`services.start`); called as a function it leaves the process as it is.
    """
    try:
        outcome = studio.main(
            arguments, prog_name="studio", standalone_mode=False, obj=OWN_PROCESS if own_process else None
        )
    except click.exceptions.NoArgsIsHelpError as exc:
        exc.show()
        return exits.USAGE
    except click.UsageError as exc:
        command = exc.ctx.command_path if exc.ctx else "studio"
        return exits.report(BadRequest(exc.format_message()), hint=f"see: {command} --help")
    except click.ClickException as exc:
        return exits.report(BadRequest(exc.format_message()))
    except click.Abort:
        return exits.INTERRUPTED
    except StudioError as exc:
        return exits.report(exc)
    except Exception as exc:
        if failed := store_fails(exc):
            return exits.report(failed)
        # A defect. Its text may hold anything, so only its class and its place are shown.
        return exits.report(Internal(f"unexpected {type(exc).__name__} at {_place(exc)}; please report it"))
    return outcome if isinstance(outcome, int) else 0


def _place(exc: Exception) -> str:
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "an unknown place"
    return f"{'/'.join(Path(trace.tb_frame.f_code.co_filename).parts[-3:])}:{trace.tb_lineno}"
