"""Errors as exit codes and lines on stderr: the one table from our errors to the shell."""

from __future__ import annotations

import click

from studio.cli.text import plain
from studio.errors import StudioError

USAGE = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""

EXIT: dict[str, int] = {
    "invalid_request": USAGE,
    "invalid_config": USAGE,
    "override_not_allowed": USAGE,
    "operation_not_supported": USAGE,
    "not_found": 3,
    "unauthenticated": 4,
    "forbidden": 4,
    "read_only": 4,
    "egress_denied": 4,
    "conflict": 5,
    "secrets_required": 5,
    "inactive": 5,
    "unreachable": 6,
    "auth_failed": 6,
    "upstream_error": 6,
    "result_blocked": 6,
    "timeout": 7,
    "pool_busy": 7,
    "rate_limited": 7,
    "encryption_error": 78,
    "internal": 70,
}
"""Kind of error to exit status: 2 input, 3 not found, 4 not allowed, 5 conflict, 6 upstream, 7 try again;
70 (a defect) and 78 (configuration) as in sysexits.h."""

HINTS: dict[str, str] = {
    "invalid_config": "studio connectors types PROVIDER lists the fields",
    "override_not_allowed": "studio connectors types PROVIDER lists what may be overridden",
    "not_found": "studio connectors list and studio keys list show what there is; an alias needs --agent AGENT_ID",
    "unauthenticated": "set STUDIO_API_KEY, or give --key @FILE; an admin makes keys with: studio keys create",
    "conflict": "studio connectors list shows the names in use, studio connectors agent AGENT_ID its aliases",
    "secrets_required": "give each with --secret NAME (asks) or --secret NAME=@FILE",
    "inactive": "studio connectors update NAME --status active",
    "auth_failed": "studio connectors update NAME --secret password --test",
    "pool_busy": "run the command again shortly",
    "rate_limited": "run the command again shortly",
    "encryption_error": "studio encryption status shows which keys are missing",
}
"""What to do next, where the message itself does not say it."""


def report(error: StudioError, *, hint: str | None = None) -> int:
    """Print an error to stderr, with its fields and what to do next. Returns its exit code."""
    lines = [f"error {error.code}: {plain(error.message)}"]
    lines += [
        f"  {plain(entry.field)}: {plain(entry.message)}"
        for entry in error.fields
        if f"{entry.field}: {entry.message}" not in error.message
    ]
    lines += [f"  {plain(note)}" for note in getattr(error, "__notes__", ())]
    if error.retry_after_s is not None:
        hint = f"run the command again in {error.retry_after_s:g} s"
    if hint := hint or HINTS.get(error.code):
        lines.append(f"  next: {hint}")
    click.echo("\n".join(lines), err=True)
    return exit_code(error.code)


def exit_code(code: str) -> int:
    """The exit status of an error code; that of a defect for one that is unknown."""
    return EXIT.get(code, EXIT["internal"])
