"""What the driver raises, as errors of ours: one table for the log-in, one for the work after it.

Until a log-in is done the other side may be anybody, so nothing that it said is repeated. After
it, the server's message about a statement is shown with its SQLSTATE.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from typing import Any

from studio.errors import AuthFailed, InvalidRequest, ReadOnly, StudioError, Timeout, Unreachable, UpstreamError
from studio.providers._tcp import upgrade_failure

Entry = tuple[type[StudioError], str]
"""The class and the text of an error."""

_LOGIN: dict[str, Entry] = {
    # most specific first: a whole SQLSTATE, then its class
    "28P01": (AuthFailed, "the server refused the user name or the password"),
    "28000": (AuthFailed, "the server does not let this user in like this; check its pg_hba.conf and ssl"),
    "3D000": (UpstreamError, "the server has no database of that name"),
    "42501": (AuthFailed, "this user may not connect to the database; grant it CONNECT"),
    "53300": (Unreachable, "the server has no free connection for this user; try again, or lower pool_size"),
    "57P03": (Unreachable, "the server is starting up or shutting down; try again"),
    "28": (AuthFailed, "the server refused the log-in"),
    "53": (Unreachable, "the server is short of resources; try again"),
}
_WORK: dict[str, Entry] = {
    "57014": (Timeout, "the statement ran longer than timeout_s and was cancelled"),
    "25P03": (Timeout, "the rows were not read in time, so the server ended the transaction"),
    "55P03": (Timeout, "a lock was not free in time"),
    "25006": (ReadOnly, "the statement tried to write; a read changes nothing here, so use the execute operation"),
    "57P": (Unreachable, "the server ended the connection: it is shutting down, or somebody ended the session"),
    "08": (Unreachable, "the connection to the server was lost"),
    "53": (Unreachable, "the server is short of resources; try again"),
}
_ADVICE = {
    "42501": "grant the account that privilege, or use another account",
    "25001": "it cannot run inside a transaction, and every statement here runs in one",
}


def login_error(exc: Exception) -> StudioError:
    """A failed connect or log-in as one of ours, without a byte of what the other side sent."""
    state = getattr(exc, "sqlstate", None)
    if state is not None and (found := _look_up(_LOGIN, state)):
        return found[0](found[1])
    if tls_failed(exc):
        return upgrade_failure(exc if isinstance(exc, ssl.SSLError) else None)
    if isinstance(exc, OSError):
        return Unreachable(_reason(exc))
    return Unreachable("the log-in was cut short: no PostgreSQL answers there, or it refused without a reason")


def tls_failed(exc: BaseException | None) -> bool:
    """Whether TLS did not come about: asyncpg raises a ConnectionError of its own only where none is offered."""
    return isinstance(exc, ssl.SSLError) or type(exc) is ConnectionError


def work_error(exc: Exception) -> StudioError | None:
    """The driver's exception during a statement as one of ours; None for what no driver raises."""
    import asyncpg

    if isinstance(exc, asyncpg.exceptions.ConnectionDoesNotExistError) or stale(exc):
        return Unreachable("the connection to the server was lost while it worked")
    if isinstance(exc, asyncpg.PostgresError) and from_server(exc):
        return _refused(exc)
    if isinstance(exc, TimeoutError):
        return Timeout("the server did not answer in time")
    if isinstance(exc, OSError):
        return Unreachable("the connection to the server was lost")
    if isinstance(exc, asyncpg.exceptions.DataError):
        return InvalidRequest.at("params", "hold a value that does not fit its type")
    if isinstance(exc, asyncpg.InterfaceError):
        return UpstreamError(f"the driver cannot carry this out ({type(exc).__name__})")
    return None


def from_server(exc: Any) -> bool:
    """Whether the server itself sent this error; asyncpg raises some of the same classes by itself."""
    return getattr(exc, "severity", None) is not None


def stale(exc: BaseException) -> bool:
    """Whether the session was at fault, so that a new one may do better; the statement had no effect."""
    import asyncpg

    if isinstance(exc, asyncpg.exceptions.OutdatedSchemaCacheError):
        return True
    if from_server(exc):
        state = str(getattr(exc, "sqlstate", None) or "")
        # A prepared statement that is gone, or whose result changed: a new session has neither.
        cached = isinstance(exc, asyncpg.exceptions.InvalidCachedStatementError)
        return state == "26000" or cached or state[:3] == "57P" or state[:2] == "08"
    lost = (ConnectionError, asyncpg.exceptions.ConnectionDoesNotExistError, asyncpg.exceptions.InternalClientError)
    return isinstance(exc, lost) or (isinstance(exc, asyncpg.InterfaceError) and "closed" in str(exc))


def doubtful(exc: BaseException) -> bool:
    """Whether the session must be closed after this: not after a plain refusal of a statement."""
    if isinstance(exc, (StudioError, GeneratorExit)):
        return False
    if isinstance(exc, asyncio.CancelledError):
        return True
    return not from_server(exc) or stale(exc)


_PARAMETER = re.compile(r"(?:parameter|argument) \$(\d+)")


def parameter_of(exc: Exception) -> int | None:
    """The place of the parameter that did not fit, from 0; None where the error is about something else."""
    state = str(getattr(exc, "sqlstate", None) or "")
    text = getattr(exc, "context", None) if from_server(exc) else str(exc)
    found = _PARAMETER.search(text or "") if state[:2] == "22" else None
    return int(found[1]) - 1 if found else None


def said(exc: Any) -> str:
    """The server's message, bounded."""
    return str(exc.args[0] if exc.args else "")[:1000]


def _look_up(table: Mapping[str, Entry], state: str) -> Entry | None:
    return table.get(state) or table.get(state[:3]) or table.get(state[:2])


def _refused(exc: Any) -> StudioError:
    state = exc.sqlstate or "XX000"
    found = _look_up(_WORK, state)
    if found:
        return found[0](found[1])
    message = f"{said(exc)} ({state})"
    if advice := _ADVICE.get(state) or (exc.hint and exc.hint[:500]):
        message += f"; {advice}"
    return UpstreamError(message)


def _reason(exc: OSError) -> str:
    if isinstance(exc, ConnectionRefusedError):
        return "the host refused the connection: nothing listens on that port, or a firewall answers for it"
    if isinstance(exc, ConnectionError):
        return "the other side closed the connection during the log-in; is it a PostgreSQL server?"
    return "the host cannot be reached; check host, port and the network between"
