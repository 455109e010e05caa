"""What an account may do, found by asking for things that change nothing.

`ACL GETUSER` needs rights that a small account does not have, so it is not asked: commands that
leave everything as it is are tried on a key that does not exist, and the server's ACL answers.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Calls = Callable[[Sequence[Sequence[Any]]], Awaitable[list[Any]]]

_WRITES = (
    ("SET", "{key}", "x", "XX"),  # XX: only where the key exists
    ("DEL", "{key}"),
    ("EXPIRE", "{key}", "1"),
    ("HDEL", "{key}", "x"),
    ("LPUSHX", "{key}", "x"),
    ("SREM", "{key}", "x"),
    ("ZREM", "{key}", "x"),
)
_EXCESS = {
    "change settings (CONFIG)": ("CONFIG", "GET", "studio-no-such-setting"),
    "manage accounts (ACL)": ("ACL", "GETUSER", "studio-no-such-user"),
    "run scripts (EVAL)": ("EVAL_RO", "return 1", "0"),
    "load modules (MODULE)": ("MODULE", "LIST"),
    "list and end sessions (CLIENT)": ("CLIENT", "LIST", "ID", "0"),
}
_GRANT = (
    "ACL SETUSER studio_reader reset on '>CHOOSE-A-PASSWORD' '%R~{prefix}*' "
    "+@read -@dangerous -@blocking -@scripting +ping +echo +time +command|info +select"
)


async def privileges(calls: Calls, prefix: str) -> dict[str, Any]:
    """See `Probe.privileges`. `calls` sends commands and gives refusals in their place."""
    key = f"{prefix}studio-probe-{secrets.token_hex(8)}"
    writes = [[part.format(key=key) for part in command] for command in _WRITES]
    answers = await calls([*writes, *_EXCESS.values()])
    may_write = [not _refused(answer) for answer in answers[: len(writes)]]
    found = [name for name, answer in zip(_EXCESS, answers[len(writes) :], strict=True) if not _refused(answer)]
    if any(may_write):
        found.insert(0, "write to keys")
    return {
        "enforced_by": "service" if any(may_write) else "account",
        "excess": found,
        "grant": [_GRANT.format(prefix=prefix)],
    }


def _refused(answer: Any) -> bool:
    """Whether the ACL, or a replica, stood in the way; a command that the server does not have counts too."""
    kind = type(answer).__name__
    return kind in {"NoPermissionError", "ReadOnlyError"} or "unknown command" in str(answer).lower()[:64]
