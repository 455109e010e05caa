"""A worker's exceptions as ours. SQLite's messages name tables and columns only, so they may be shown."""

from __future__ import annotations

from studio.errors import InvalidRequest, ReadOnly, StudioError, Timeout, Unreachable, UpstreamError
from studio.providers.sqlite.process import WorkerError, WorkerLost

MEMORY = (
    "the statement needs too much memory (a worker has six times max_bytes); select fewer or smaller columns,"
    " build smaller texts and JSON, or ask an admin to raise max_bytes"
)
SPACE = (
    "the statement sorts or groups too much at a time: no temporary file has more than 1 GiB; filter first, index,"
    " or let the operator free the disk of the service's data folder"
)
_NOT_WRITTEN = 778
"""IOERR_WRITE: a reading statement writes temporary files only, and they are limited."""
_HOT_JOURNAL = frozenset({264, 520, 776, 1032})
"""READONLY_RECOVERY, READONLY_CANTLOCK, READONLY_ROLLBACK, READONLY_DBMOVED."""
_TRANSACTION = frozenset({"TRANSACTION", "SAVEPOINT"})
_NOT_WRITES = frozenset({"FUNCTION", "READ", "SELECT", "RECURSIVE"})
_FIXED: dict[str, tuple[type[StudioError], str]] = {
    "BusyError": (Timeout, "the database stayed locked by another program; try again"),
    "LockedError": (Timeout, "the database stayed locked by another statement; try again"),
    "InterruptError": (Timeout, "the statement was interrupted"),
    "CantOpenError": (
        Unreachable,
        "SQLite cannot open the file: check its mode, and for a database in WAL mode also its folder's",
    ),
    "IOError": (Unreachable, "reading or writing the file failed: check the disk below it"),
    "PermissionsError": (Unreachable, "SQLite may not open the file: check its mode"),
    "NotADBError": (UpstreamError, "the file is not an SQLite database, or it is encrypted"),
    "CorruptError": (UpstreamError, "the database file is damaged; restore it, or try sqlite3's .recover"),
    "FullError": (UpstreamError, "the disk is full; nothing was changed"),
    "NoMemError": (UpstreamError, MEMORY),
    "MemoryError": (UpstreamError, MEMORY),
    "UnicodeDecodeError": (
        UpstreamError,
        "a text in the result is not valid UTF-8; select it as CAST(column AS BLOB)",
    ),
}
_REQUEST = {
    "BindingsError": "has placeholders other than :name parameters; write each value as :name and give it in params",
    "TooBigError": "makes or reads a value that is larger than max_bytes of this connector",
}
_REFUSED = {
    "second": "holds more than one statement; send one, or use the operation transaction",
    "names": _REQUEST["BindingsError"],
    "large": "reads a row that is larger than max_bytes of this connector; select fewer or smaller columns",
}


def error_of(exc: Exception, *, read_only: bool) -> StudioError | None:
    """`exc` as one of ours, or None where it is none of the worker's."""
    if isinstance(exc, WorkerLost):
        return UpstreamError(f"the worker process was ended from outside; most often {MEMORY}")
    if not isinstance(exc, WorkerError):
        return None
    return _denied(exc, read_only) or _by_class(exc, read_only)


def writes_are_off() -> ReadOnly:
    """The error of a writing operation on a connector that only reads."""
    return ReadOnly("this connector only reads; ask an admin to set read_only to false if it should write")


def _would_write(what: str, read_only: bool) -> ReadOnly:
    way = "this connector only reads" if read_only else "use the operation execute for it"
    return ReadOnly(f"a query only reads, and {what} is more than that; {way}")


def _denied(exc: WorkerError, read_only: bool) -> StudioError | None:
    if exc.name == "Refused" and exc.message == "write":
        return _would_write("this statement", read_only)
    if exc.denied is None:
        return None
    action, what = exc.denied
    if action == "FUNCTION":
        return InvalidRequest.at("query", f"uses the function {what}(), which is not available here")
    if action in _TRANSACTION and not read_only:
        return InvalidRequest.at(
            "query", "BEGIN, COMMIT and the like are not for callers; use the operation transaction"
        )
    words = "ATTACH or VACUUM" if action == "ATTACH" else action.replace("_", " ")
    if exc.at is None:
        return _would_write(words, read_only)
    return InvalidRequest.at(
        "query", f"{words} ({what}) is never allowed here" if what else f"{words} is never allowed here"
    )


def _by_class(exc: WorkerError, read_only: bool) -> StudioError | None:
    where = f"statement {exc.at}: " if exc.at else ""
    if exc.at is None and (exc.code == _NOT_WRITTEN or exc.name == "FullError"):  # of a reading statement
        return UpstreamError(SPACE)
    if exc.name in _FIXED:
        kind, text = _FIXED[exc.name]
        return kind(where + text)
    if exc.name == "Refused":
        return InvalidRequest.at("query", where + _REFUSED.get(exc.message, exc.message))
    if exc.name in _REQUEST:
        return InvalidRequest.at("query", where + _REQUEST[exc.name])
    if exc.name == "UnicodeEncodeError":
        return InvalidRequest("the query or a value in params is not valid Unicode text")
    if exc.name in {"SQLError", "MismatchError", "RangeError"}:
        return InvalidRequest.at("query", where + exc.message)
    if exc.name in {"ConstraintError", "SchemaChangeError", "AbortError", "EmptyError", "ProtocolError"}:
        return UpstreamError(where + exc.message)
    if exc.name == "ReadOnlyError" and exc.code in _HOT_JOURNAL:
        return UpstreamError("another program's write was cut off; open the file once with a program that may write")
    if exc.name == "ReadOnlyError":
        return ReadOnly("the file or its folder may not be written by this service; check their modes")
    return None
