"""What pymongo raises, as errors of ours: one table for the log-in, one for the work after it.

Until a log-in is done the other side may be anybody, so nothing that it said is repeated. After it,
the server's message about a command is shown with its code.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from studio.errors import AuthFailed, InvalidRequest, StudioError, Timeout, Unreachable, UpstreamError

_LOST = "the connection to the server was lost while it worked"
_STEPPING = "the server is not the primary any more, or is shutting down; try again"
_LOGIN: dict[int, tuple[type[StudioError], str]] = {
    18: (AuthFailed, "the server refused the user name or the password"),
    11: (AuthFailed, "the server refused the user name or the password"),
    13: (AuthFailed, "the server wants a log-in; give username and password"),
    334: (AuthFailed, "the server does not offer this way of logging in to this user"),
    2: (AuthFailed, "the server does not offer this way of logging in to this user"),
}
_WORK: dict[int, tuple[type[StudioError], str]] = {
    # https://www.mongodb.com/docs/manual/reference/error-codes/
    13: (UpstreamError, "the account may not do this here; grant it the privilege, or use another account"),
    18: (AuthFailed, "the server ended the session's log-in; was the account changed?"),
    50: (Timeout, "the operation ran longer than timeout_s and was ended by the server"),
    262: (Timeout, "the operation ran longer than timeout_s and was ended by the server"),
    26: (UpstreamError, "there is no such collection"),
    43: (UpstreamError, "the server forgot the cursor before all was read; try again"),
    89: (Unreachable, "the server lost its connection to another of its cluster; try again"),
    91: (Unreachable, _STEPPING),
    189: (Unreachable, _STEPPING),
    10058: (Unreachable, _STEPPING),
    10107: (Unreachable, _STEPPING),
    11600: (Unreachable, _STEPPING),
    11602: (Unreachable, _STEPPING),
    13435: (Unreachable, _STEPPING),
    13436: (Unreachable, _STEPPING),
}
_DUPLICATE = frozenset({11000, 11001, 12582})


def login_error(exc: Exception) -> StudioError:
    """A failed log-in as one of ours, without a byte of what the other side sent."""
    from pymongo import errors

    if isinstance(exc, StudioError):
        return exc
    if isinstance(exc, errors.OperationFailure):
        kind, text = _LOGIN.get(exc.code or 0, (AuthFailed, "the server refused the log-in"))
        return kind(text)
    if isinstance(exc, errors.ConfigurationError):
        return Unreachable("the server is of a version that is not supported, or is no MongoDB")
    if isinstance(exc, ValueError) and not isinstance(exc, UnicodeError):
        return AuthFailed("the password or user name holds characters that SASLprep (RFC 4013) forbids")
    return Unreachable("the log-in was cut short: no MongoDB answers there, or it refused without a reason")


def work_error(exc: Exception) -> StudioError | None:
    """The driver's exception during a command as one of ours; None for what no driver raises."""
    import bson.errors
    from pymongo import errors

    if isinstance(exc, errors.OperationFailure):
        return refused(exc.details or {}, code=exc.code)
    if isinstance(exc, errors.NotPrimaryError):
        return Unreachable(_STEPPING)
    if isinstance(exc, (errors.DocumentTooLarge, errors.InvalidOperation)):
        return InvalidRequest("the command is larger than the server takes (16 MiB a document)")
    if isinstance(exc, (errors.NetworkTimeout, TimeoutError)):
        return Timeout("the server did not answer in time")
    if isinstance(exc, errors.ProtocolError) or (
        isinstance(exc, bson.errors.InvalidBSON) and not isinstance(exc, bson.errors.InvalidDocument)
    ):
        return UpstreamError("the server answered something that is not MongoDB's protocol")
    if isinstance(exc, (errors.PyMongoError, OSError, ssl.SSLError)):
        return Unreachable(_LOST)
    if isinstance(exc, (bson.errors.BSONError, OverflowError, UnicodeError)):
        return InvalidRequest("the command holds what BSON cannot: an integer beyond 64 bits, or a NUL in a key")
    return None


def unknown() -> UpstreamError:
    """An answer without what MongoDB says there."""
    return UpstreamError("the server's answer is not what MongoDB answers")


def refused(details: Mapping[str, Any], *, code: int | None = None) -> StudioError:
    """What the server answered in place of a result."""
    code = code if code is not None else details.get("code")
    if entry := _WORK.get(code or 0):
        return entry[0](entry[1])
    text = str(details.get("errmsg", ""))[:1000]
    if code in _DUPLICATE:
        return UpstreamError(f"a document with the same key exists already ({code}): {text}")
    return UpstreamError(f"the server refused: {text}" + (f" ({code})" if code else ""))


def lost(exc: BaseException) -> bool:
    """Whether the session broke, as opposed to a refusal of the command."""
    from pymongo import errors

    return isinstance(exc, (errors.ConnectionFailure, OSError)) and not isinstance(exc, errors.OperationFailure)


def intact(exc: BaseException) -> bool:
    """Whether the session can be used again: after a plain refusal, and where we refused before sending."""
    from pymongo import errors

    if isinstance(exc, errors.OperationFailure):
        return _WORK.get(exc.code or 0, (None,))[0] is not Unreachable
    return isinstance(exc, (StudioError, GeneratorExit))
