"""Errors as tool results: the one table from our errors to what a model should do next."""

from __future__ import annotations

from typing import Any

from studio.errors import InsufficientScope, StudioError, UpstreamError, as_studio
from studio.mcp.results import marked

NEXT: dict[str, str] = {
    "not_found": "call list_connectors for the aliases that exist, and describe for the operations of one",
    "unauthenticated": "the key does not hold any more; ask the operator for a new one",
    "forbidden": "do not repeat the call; ask the operator for the right that it needs",
    "invalid_request": "correct the arguments as the message says; describe shows what an operation takes",
    "invalid_config": "ask the operator to correct the connector's configuration",
    "conflict": "read the current state, then decide again",
    "secrets_required": "ask the operator to give the connector's secrets again",
    "override_not_allowed": "ask the operator to attach the connector again",
    "inactive": "ask the operator to switch the connector on; other connectors still work",
    "read_only": "do not repeat the call; use a read operation, or ask the operator for write access",
    "operation_not_supported": "call describe with the alias for the operations that exist",
    "egress_denied": "do not repeat the call; the operator has to allow the address",
    "unreachable": "try again once in a minute; then tell the operator that the system does not answer",
    "auth_failed": "do not repeat the call; ask the operator to renew the connector's credentials",
    "timeout": "ask for less: fewer rows, a narrower filter, an indexed column",
    "upstream_error": "correct the statement as the message says; describe shows what is there",
    "pool_busy": "try again in a few seconds",
    "rate_limited": "wait before the next call, and make fewer of them",
    "result_blocked": "ask for other fields; this result may not be shown",
    "encryption_error": "tell the operator: the connector's configuration does not open",
    "internal": "try once more; then tell the operator",
}
"""What a model should do next, for each error code."""


def refusal(exc: Exception) -> dict[str, Any]:
    """A tool's answer that says what went wrong and what to do next; what is not ours says nothing else.

    Raises:
        InsufficientScope: as it came: the client's host, not its model, gets a token with more scopes.
    """
    if isinstance(exc, InsufficientScope):
        raise exc
    error = as_studio(exc)
    lines = [f"error {error.code}: {_message(error)}"]
    lines += [f"- {one.field}: {one.message}" for one in error.fields if one.message not in error.message]
    wait = f" (after {error.retry_after_s:g} s)" if error.retry_after_s is not None else ""
    lines.append(f"next: {NEXT[error.code]}{wait}")
    return {"content": [{"type": "text", "text": "\n".join(lines)}], "isError": True}


def _message(error: StudioError) -> str:
    # An upstream's own words can be anybody's: they are data like its rows.
    return marked(error.message, "the connected system") if isinstance(error, UpstreamError) else error.message
