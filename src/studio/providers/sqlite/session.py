"""One worker's connections to one SQLite file, and the cursor that it reads from.

Imported by the worker process: apsw and built-in modules only. A SELECT runs on a connection that
cannot write, whatever the configuration.
"""

from __future__ import annotations

import os
import resource
from typing import Any

import apsw

from studio.providers.sqlite.guard import READS, WRITES, Authorizer, Refused, blank, connect

BATCH_BYTES = 256 * 1024
"""A batch ends with the row that reaches this."""
_VALUE_BYTES = 8
"""What each value counts beyond its text: a row of 2,000 numbers is as much work as one of long texts."""
TEMPORARY_BYTES = 1 << 30
"""Of each temporary file of a reading statement; one that writes may fill the disk with rows as well."""


def limit_files(size: int) -> None:
    """No file may grow past this many bytes; files that are longer already keep what they have."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class Session:
    """Up to two connections to one file, and the cursor whose rows are being read.

    `columns` and `reads` tell of the statement that was started last.
    """

    def __init__(
        self, path: str, *, write: bool, create: bool, length: int, busy_ms: int, scratch: str | None = None
    ) -> None:
        self.path, self.write, self.create = path, write, create
        self.length, self.busy_ms, self.spill = length, busy_ms, scratch is not None
        self.authorizers = {False: Authorizer(READS), True: Authorizer(READS | WRITES)}
        self.connections: dict[bool, apsw.Connection] = {}
        self.cursor: apsw.Cursor | None = None
        self.columns: list[tuple[str, str | None]] = []
        self.reads = True

    def connection(self, *, writing: bool) -> apsw.Connection:
        """The connection that reads or the one that writes; opened on first use."""
        if writing not in self.connections:
            flags = apsw.SQLITE_OPEN_READONLY
            if writing:
                flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if self.create else 0)
            elif self.create and not os.path.exists(self.path):
                self.recover()
            self.connections[writing] = connect(
                self.path, flags, self.authorizers[writing],
                length=self.length, busy_ms=self.busy_ms, spill=self.spill,
            )  # fmt: skip
        return self.connections[writing]

    def recover(self) -> None:
        """Roll back what a killed writer left, or make the file: both need the connection that writes."""
        self.ours("SELECT count(*) FROM sqlite_schema")

    def mended(self, exc: apsw.Error) -> bool:
        """Whether a read that failed with `exc` is worth one more try."""
        if isinstance(exc, apsw.ReadOnlyError):
            if self.write:
                self.recover()
            return self.write
        authorizer = self.authorizers[False]
        action, table = authorizer.denied or ("", "")
        if action not in {"INSERT", "UPDATE", "DELETE"} or table in authorizer.shadows:
            return False
        sql = "SELECT name FROM pragma_table_list WHERE type = 'shadow'"
        authorizer.shadows = frozenset(str(name) for (name,) in self.connection(writing=False).execute(sql))
        return table in authorizer.shadows

    def ours(self, sql: str) -> None:
        """Run a statement of our own where the caller's may not. Never cached: a cached one is not authorized again."""
        limit_files(resource.RLIM_INFINITY)
        authorizer = self.authorizers[True]
        authorizer.trusted = True
        try:
            list(self.connection(writing=True).execute(sql, can_cache=False))
        finally:
            authorizer.trusted = False

    @property
    def denied(self) -> tuple[str, str] | None:
        """What an authorizer refused since `forget`: an action and its object."""
        return next((item.denied for item in self.authorizers.values() if item.denied), None)

    def forget(self) -> None:
        """Begin a request: nothing was refused yet."""
        for authorizer in self.authorizers.values():
            authorizer.denied = None

    # -- requests -------------------------------------------------------------------------------

    def rows(self, sql: str, names: tuple[str, ...], values: list[Any], explain: int, count: int) -> dict[str, Any]:
        """Start a reading statement; its columns and first rows."""
        self.close()
        try:
            self.cursor = self.start(sql, names, values, explain=explain)
        except (apsw.ReadOnlyError, apsw.AuthError) as exc:
            if not self.mended(exc):
                raise
            self.forget()
            self.cursor = self.start(sql, names, values, explain=explain)
        return {"columns": self.columns, **self.next(count)}

    def next(self, count: int) -> dict[str, Any]:
        """The next rows; `more` says that there may be others."""
        rows: list[tuple[Any, ...]] = []
        size, more = 0, False
        for row in self.cursor or ():
            rows.append(row)
            size += self.size(row) + _VALUE_BYTES * len(row)
            if len(rows) >= count or size >= BATCH_BYTES:
                more = True
                break
        if not more:
            self.close()
        return {"rows": rows, "bytes": size, "more": more}

    def close(self) -> None:
        """Forget the cursor, and with it the lock or the snapshot that it holds."""
        cursor, self.cursor = self.cursor, None
        if cursor is not None:
            cursor.close(True)

    def end(self) -> None:
        """Close the connections in order, so that SQLite removes its side files."""
        limit_files(resource.RLIM_INFINITY)
        self.close()
        for db in self.connections.values():
            db.close(True)

    def run(self, statements: list[tuple[Any, ...]], atomic: bool, max_rows: int, max_bytes: int) -> dict[str, Any]:
        """Run statements that may write, in one transaction: all of them count, or none.

        A lone one has it too: what fails after the write, while its rows are read, undoes the write.
        """
        self.close()
        done: list[dict[str, Any]] = []
        try:
            self.ours("BEGIN IMMEDIATE" if atomic else "BEGIN")
            for statement in statements:
                done.append(self.one(*statement, max_rows=max_rows, max_bytes=max_bytes))
                max_rows -= len(done[-1]["rows"])
                max_bytes -= done[-1]["bytes"]
            self.ours("COMMIT")
        except BaseException as exc:
            # The number of the failing statement, from 1; 0 for a lone one and for the commit.
            exc.at = len(done) + 1 if atomic and len(done) < len(statements) else 0  # type: ignore[attr-defined]
            if True in self.connections and self.connections[True].in_transaction:
                self.ours("ROLLBACK")
            raise
        return {"done": done}

    def one(
        self, sql: str, names: tuple[str, ...], values: list[Any], *, max_rows: int, max_bytes: int
    ) -> dict[str, Any]:
        """One statement; a writing one runs to its end, whatever rows are left out of the answer."""
        db = self.connection(writing=True)
        before = db.total_changes()
        cursor = self.start(sql, names, values, writing=True)
        rows: list[tuple[Any, ...]] = []
        seen = size = 0
        truncated = False
        for row in cursor:
            seen += 1
            if truncated or len(rows) >= max_rows or size > max_bytes:
                truncated = True
                if self.reads:
                    break
                continue
            rows.append(row)
            size += self.size(row)
        cursor.close()
        affected = len(rows) if self.reads else (db.changes() if db.total_changes() != before else 0)
        return {
            "columns": self.columns, "rows": rows, "bytes": size, "affected": affected, "truncated": truncated,
        }  # fmt: skip

    # -- what they share ------------------------------------------------------------------------

    def start(
        self, sql: str, names: tuple[str, ...], values: list[Any], *, writing: bool = False, explain: int = -1
    ) -> apsw.Cursor:
        """A cursor at the first row of the caller's one statement, checked before its first step."""
        cursor = self.connection(writing=writing).cursor()
        limit_files(resource.RLIM_INFINITY if writing else TEMPORARY_BYTES)
        first = True

        def check(cursor: apsw.Cursor, text: str, _bindings: Any) -> bool:
            nonlocal first
            if first:
                first = False
                self.columns = list(cursor.get_description())
                self.reads = cursor.is_readonly
                if not (writing or cursor.is_readonly):
                    raise Refused("write")
                if not blank(sql[len(text) :]):
                    raise Refused("second")
                if cursor.bindings_names != names:
                    raise Refused("names")
            return True

        cursor.exec_trace = check
        cursor.execute(sql, values, explain=explain)
        return cursor

    def size(self, row: tuple[Any, ...]) -> int:
        """Bytes of a row's texts and blobs. Raises Refused when nobody could take the row."""
        size = 0
        for value in row:
            kind = type(value)
            if kind is str:
                size += len(value)
            elif kind is bytes:
                size += (len(value) + 2) // 3 * 4  # as base64
        if size > self.length:
            raise Refused("large")
        return size
