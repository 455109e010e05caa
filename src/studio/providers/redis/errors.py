"""What redis-py raises, as errors of ours: one table for the log-in, one for the work after it.

Until a log-in is done the other side may be anybody, so nothing that it said is repeated. After it,
the server's message about a command is shown, but for those that name an address or the account.
"""

from __future__ import annotations

import re
from typing import Any

from studio.errors import AuthFailed, StudioError, Timeout, Unreachable, UpstreamError

FIXES = {
    "tls": "set tls to what the server offers on that port, and give its CA in tls_ca",
    "login": "check username, password and db",
    "auth_failed": "check username and password, and the account's ACL (ACL GETUSER)",
    "privileges": "allow the account what the statement under grant allows",
    "sample": "allow the account PING",
}
"""The usual fix of each stage of a connection test that fails."""
_LOST = "the connection to the server was lost while it worked"
_FULL = "the server has no free connection; try again, or lower pool_size"
_LOADING = "the server is loading its data; try again"
_LOGIN: dict[str, tuple[type[StudioError], str]] = {
    # by the name of redis-py's class
    "AuthenticationError": (AuthFailed, "the server refused the user name or the password, or wants one"),
    "AuthenticationWrongNumberOfArgsError": (AuthFailed, "the server takes no user name; leave username out"),
    "NoPermissionError": (AuthFailed, "this user may not log in that way; allow it HELLO and SELECT"),
    "BusyLoadingError": (Unreachable, _LOADING),
    "MasterDownError": (Unreachable, "the server is a replica that lost its master; try again"),
    "ConnectionError": (Unreachable, "the log-in was cut short: the server is full, or no Redis answers there"),
}
_WORK: dict[str, tuple[type[StudioError], str]] = {
    "ReadOnlyError": (UpstreamError, "this server is a read-only replica; use its master"),
    "OutOfMemoryError": (UpstreamError, "the server is out of memory and takes no writes; nothing was changed"),
    "BusyLoadingError": (Unreachable, _LOADING),
    "MasterDownError": (Unreachable, "the server is a replica that lost its master; try again"),
    "ClusterDownError": (Unreachable, "the server's cluster is down; try again"),
    "TryAgainError": (Unreachable, "the server's cluster is moving these keys; try again"),
    "MovedError": (
        UpstreamError,
        "the key lives on another member of the server's cluster; redirects are not followed",
    ),
    "AskError": (UpstreamError, "the key lives on another member of the server's cluster; redirects are not followed"),
    "AuthenticationError": (AuthFailed, "the server ended the session's log-in; was the account changed?"),
    "InvalidResponse": (UpstreamError, "the server answered something that is not Redis's protocol"),
    "ConnectionError": (Unreachable, _LOST),
    "TimeoutError": (Timeout, "the server did not answer in time"),
}
_DENIED = re.compile(r"'([a-z|_.-]+)' command|(keys?) ")
_BUSY = "BUSY "


class TooLarge(UpstreamError):
    """A reply beyond what one call may read."""

    def __init__(self) -> None:
        super().__init__(
            "the reply is larger than max_bytes of this connector, or has more than 100,000 elements; read it in parts "
            "(scan, lrange with start and stop, HSCAN, SSCAN, ZRANGE, GETRANGE)"
        )


def login_error(exc: Exception) -> StudioError:
    """A failed log-in as one of ours, without a byte of what the other side sent."""
    import redis

    if isinstance(exc, StudioError):
        return exc
    if isinstance(exc, redis.RedisError):
        if found := _look_up(_LOGIN, exc):
            return found
        text = str(exc)
        if "max number of clients" in text:
            return Unreachable(_FULL)
        if "DB index" in text:
            return UpstreamError("the server has no database of that number")
        if "HELLO" in text or "NOPROTO" in text or "unknown command" in text.lower():
            # Redis 7 says the first of these where a password is wanted and none was given
            kind = AuthFailed if "authenticate" in text.lower() else UpstreamError
            wanted = "the server wants a password" if kind is AuthFailed else "the server is older than Redis 6"
            return kind(wanted)
    return Unreachable("the log-in was cut short: no Redis answers there, or it refused without a reason")


def work_error(exc: Exception) -> StudioError | None:
    """The driver's exception during a command as one of ours; None for what no driver raises."""
    import redis
    import redis.exceptions

    if isinstance(exc, redis.exceptions.NoPermissionError):
        return _denied(str(exc))
    if isinstance(exc, redis.RedisError):
        return _look_up(_WORK, exc) or _refused(exc)
    if isinstance(exc, OSError):
        return Unreachable(_LOST)
    return None


def lost(exc: BaseException) -> bool:
    """Whether the session broke, as opposed to a refusal of the command."""
    import redis

    return isinstance(exc, (redis.ConnectionError, OSError))


def intact(exc: BaseException) -> bool:
    """Whether the session can be used again: after a plain refusal, and where we refused before sending."""
    import redis

    return isinstance(exc, (redis.ResponseError, StudioError)) and not isinstance(exc, TooLarge)


def _look_up(table: dict[str, tuple[type[StudioError], str]], exc: Exception) -> StudioError | None:
    """The entry of the exception's class or of its nearest ancestor."""
    for kind in type(exc).__mro__:
        if entry := table.get(kind.__name__):
            return entry[0](entry[1])
    return None


def _denied(text: str) -> UpstreamError:
    """NOPERM names the account, so its text is not repeated."""
    found = _DENIED.search(text)
    what = f"the command {found[1]}" if found and found[1] else "that key"
    return UpstreamError(f"the server's ACL does not allow this account {what}; grant it, or use another account")


def _refused(exc: Any) -> StudioError:
    text = str(exc)[:1000]
    if text.startswith(_BUSY):
        return Unreachable("the server is busy with a script; try again")
    return UpstreamError(f"the server refused: {text}")
