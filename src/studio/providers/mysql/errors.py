"""What the driver raises, as errors of ours: one table for the log-in, one for the work after it.

Until a log-in is done the other side may be anybody, so nothing that it said is repeated. After
it, the server's message about a statement is shown with its number, without the account's name.
Numbers: https://mariadb.com/kb/en/mariadb-error-code-reference/
"""

from __future__ import annotations

import re
import struct

from studio.errors import AuthFailed, InvalidRequest, ReadOnly, StudioError, Timeout, Unreachable, UpstreamError
from studio.providers._tcp import upgrade_failure


class Refused(Exception):
    """The server asked in the log-in for something that must not be answered; the message says what."""


class NoTls(Exception):
    """TLS is asked for and there is none: not offered, or the handshake failed (then with a cause)."""


class Garbled(Exception):
    """What the server sent is not its protocol, or more than we take. The session is closed."""


GARBAGE = (LookupError, ValueError, AssertionError, TypeError, OverflowError, SystemError, struct.error)
"""What a parser raises on bytes that are no packet."""

_FULL = "the server has no free connection for this account; try again, or lower pool_size"
_LOGIN: dict[int, tuple[type[StudioError], str]] = {
    1045: (AuthFailed, "the server refused the user name or the password, or this account must use TLS"),
    1698: (AuthFailed, "the server refused the user name or the password"),
    1044: (AuthFailed, "this account may not use the database; grant it a privilege there"),
    1049: (UpstreamError, "the server has no database of that name"),
    1130: (AuthFailed, "the server does not let this machine in; make the account for this host"),
    1129: (Unreachable, "the server has blocked this machine after failed connects (FLUSH HOSTS there)"),
    1820: (AuthFailed, "the password of this account has expired"),
    1862: (AuthFailed, "the password of this account has expired"),
    3118: (AuthFailed, "this account is locked"),
    3159: (AuthFailed, "the server takes TLS only; turn ssl on"),
    4151: (AuthFailed, "this account is locked"),
    4031: (Unreachable, "the server closed the connection"),
    1251: (AuthFailed, "this account uses a way of log-in that is not offered here"),
    1524: (AuthFailed, "this account uses a way of log-in that the server does not have"),
    1040: (Unreachable, _FULL),
    1203: (Unreachable, _FULL),
    1226: (Unreachable, _FULL),
    1053: (Unreachable, "the server is shutting down; try again"),
}
_SLOW = "the statement ran longer than timeout_s and was cancelled"
_ENDED = "the server ended the connection: it is shutting down, or somebody ended the session"
_WRITES = "the statement tried to write; a read changes nothing here, so use the execute operation"
_WORK: dict[int, tuple[type[StudioError], str]] = {
    1317: (Timeout, "the statement was cancelled on the server"),
    1969: (Timeout, _SLOW),
    3024: (Timeout, _SLOW),
    1205: (Timeout, "a lock was not free in time"),
    1792: (ReadOnly, _WRITES),
    1836: (ReadOnly, "the server itself is read-only"),
    1290: (ReadOnly, "an option of the server (read_only, secure_file_priv or the like) does not allow that"),
    1053: (Unreachable, _ENDED),
    1927: (Unreachable, _ENDED),
    4031: (Unreachable, _ENDED),
    1820: (AuthFailed, "the password of this account has expired"),
    1040: (Unreachable, _FULL),
    1203: (Unreachable, _FULL),
    1226: (Unreachable, _FULL),
    2006: (Unreachable, "the connection to the server was lost"),
    2013: (Unreachable, "the connection to the server was lost while it worked"),
    1243: (Unreachable, "the server forgot a prepared statement; try again"),
    1615: (Unreachable, "the tables changed while the statement was prepared; try again"),
    1210: (InvalidRequest, "params: the server does not take that many, or not there"),
    1295: (InvalidRequest, "query: the server does not take this statement from a program"),
}
_DENIED = {1044, 1095, 1142, 1143, 1227, 1370, 1396, 1410, 1449, 1698}
_ADVICE = {
    1213: "another transaction was in the way and this one was undone; try again",
    1265: "sessions of this service are in strict mode",
    1366: "sessions of this service are in strict mode",
}
_STALE = {2006, 2013, 2055, 1053, 1927, 4031, 1243, 1615}
"""The session was at fault: a new one may do better."""


def number(exc: BaseException) -> int:
    """The server's or the driver's error number; 0 where there is none."""
    found = exc.args[0] if exc.args else 0
    return found if isinstance(found, int) else 0


def from_server(exc: BaseException) -> bool:
    """Whether the server itself sent this error: 2000 to 2999 are the client library's own numbers."""
    return number(exc) >= 1000 and not 2000 <= number(exc) < 3000


def stale(exc: BaseException) -> bool:
    """Whether the session was at fault; the statement of a session that was idle before had no effect."""
    return isinstance(exc, OSError) or number(exc) in _STALE or type(exc).__name__ == "InterfaceError"


def login_error(exc: Exception) -> StudioError:
    """A failed connect or log-in as one of ours, without a byte of what the other side sent."""
    if isinstance(exc, StudioError):
        return exc
    if isinstance(exc, Refused):
        return AuthFailed(f"the server's log-in was refused by this service: {exc}")
    if isinstance(exc, NoTls):
        return upgrade_failure(exc.__cause__)
    if found := _LOGIN.get(number(exc)):
        return found[0](found[1])
    cause = exc.__cause__
    if isinstance(cause, TimeoutError):
        return Unreachable("the server did not answer in time")
    return Unreachable("the log-in was cut short: no MySQL answers there, or it refused without a reason")


def work_error(exc: Exception) -> StudioError | None:
    """The driver's exception during a statement as one of ours; None for what no driver raises."""
    from asyncmy import errors

    if isinstance(exc, Garbled):
        return UpstreamError(f"the conversation was ended: {exc}")
    if found := _WORK.get(number(exc)):
        return found[0](found[1])
    if isinstance(exc, errors.MySQLError):
        if not from_server(exc):
            return Unreachable("the connection to the server was lost, or it no longer follows the protocol")
        return _said(exc)
    if isinstance(exc, TimeoutError):
        return Timeout("the server did not answer in time")
    if isinstance(exc, OSError):
        return Unreachable("the connection to the server was lost")
    return None


_ACCOUNT = re.compile(r"'[^']*'@'[^']*'|`[^`]*`@`[^`]*`")
_COMMAND = re.compile(r"([A-Z][A-Z ,_]*) command denied .* for (table .*|column .*|routine .*)", re.S)


def _said(exc: BaseException) -> StudioError:
    """The server's message without the account; where that is hard to tell, words of ours."""
    text = str(exc.args[1] if len(exc.args) > 1 else "")[:1000]
    code = number(exc)
    if code in _DENIED:
        found = _COMMAND.fullmatch(text)
        what = f"{found[1]} on {found[2]}" if found else "what the statement does"
        return UpstreamError(f"the account has no privilege for {what} ({code}); grant it, or use another account")
    message = f"{_ACCOUNT.sub('the account', text)} ({code})"
    if advice := _ADVICE.get(code):
        message += f"; {advice}"
    return UpstreamError(message)
