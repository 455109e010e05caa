"""SQLite: a database file below a folder that the operator chose.

Statements run in worker processes, because nothing inside of a process stops every statement: a
worker is killed when its operation is cancelled. A read runs on a connection that cannot write.
Reading a database in WAL mode makes SQLite's own `-wal` and `-shm` files beside it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from studio.contract import Batch, Destination, Probe, ProviderConfig, Result, SqlProvider
from studio.contract.caps import capped
from studio.contract.database import Params, SchemaName, Sql, StatementWithParams, TableName
from studio.contract.sql import first_word
from studio.errors import InvalidRequest, NotFound, StudioError
from studio.providers.sqlite import shapes
from studio.providers.sqlite.errors import error_of, writes_are_off
from studio.providers.sqlite.path import checked_text, identity, locate, privileges
from studio.providers.sqlite.pool import Pool
from studio.providers.sqlite.process import Worker, installed

_MIB = 1024 * 1024
_WRITES = {"INSERT", "UPDATE", "DELETE", "REPLACE", "CREATE", "ALTER", "DROP", "ANALYZE", "REINDEX"}


class SqliteConfig(ProviderConfig):
    """Configuration of an `sqlite` connector."""

    path: Annotated[str, Destination(), AfterValidator(checked_text)] = Field(
        min_length=1, max_length=1024, description="The database file, relative to the service's folder for them."
    )
    create: bool = Field(False, description="Make the file where it is missing; needs read_only to be false.")


class Sqlite(SqlProvider[SqliteConfig]):
    """SQLite 3 database file: tables, views, JSON and full-text search."""

    kind: ClassVar[str] = "sqlite"
    Config: ClassVar[type[ProviderConfig]] = SqliteConfig
    fixes: ClassVar[Mapping[str, str]] = {
        "open": "put the database file in the folder for SQLite files (STUDIO_SQLITE_ROOT) and give its name as path",
        "privileges": "let the service's account read the file",
        "sample": "check that the file is an SQLite 3 database: sqlite3 FILE 'PRAGMA integrity_check'",
        "timeout": "end the program that keeps the database locked, or raise timeout_s",
    }

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """Text that begins like a write is executed; anything else is a query."""
        name = "execute" if first_word(query) in _WRITES else "query"
        return name, {"query": query, "params": dict(params) if params else None}

    async def open(self, stack: AsyncExitStack) -> None:
        """Starts nothing: the first operation starts the first worker."""
        installed()
        self._place: Path | None = None
        self._pool = Pool(self.config.pool_size, self._start, self._current)
        stack.push_async_callback(self._pool.close)

    async def ping(self) -> None:
        """Read the file's catalogue."""
        async with self._pool.lease() as worker:
            await worker.call("rows", "SELECT count(*) FROM sqlite_schema", (), [], -1, 1)

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return error_of(exc, read_only=self.config.read_only)

    async def reach(self, probe: Probe) -> None:
        """One stage, `open`: the path is allowed, the file is there, and SQLite can read it."""
        with probe.stage("open"):
            self._locate()
            await self.ping()

    async def privileges(self) -> dict[str, Any]:
        """Whether the file's mode forbids writing, or this service alone does."""
        return privileges(self._locate())

    # -- operations -----------------------------------------------------------------------------

    async def query(self, query: Sql, params: Params = None) -> AsyncGenerator[Batch, None]:
        """Run one reading SQL statement and return its rows. It cannot change anything."""
        async with aclosing(self._rows(query, params)) as batches:
            async for batch in batches:
                yield batch

    async def execute(self, query: Sql, params: Params = None) -> Result:
        """Run one SQL statement that may write; it is on the disk before the answer."""
        (done,) = await self._run([{"query": query, "params": params}], atomic=False)
        result = await self._capped(done)
        result.row_count = done["affected"]
        return result

    async def list_tables(self) -> AsyncGenerator[Batch, None]:
        """List the tables and views that can be read: schema, name, type, estimated rows.

        The estimate is what ANALYZE last counted; null without it.
        """
        counted = await self._all(shapes.FIND, {"name": "sqlite_stat1"})
        async with aclosing(self._rows(shapes.TABLES_COUNTED if counted else shapes.TABLES)) as batches:
            async for batch in batches:
                yield batch

    async def describe_table(self, table: TableName, schema: SchemaName = None) -> dict[str, Any]:
        """Describe one table: columns, primary key, foreign keys and indexes."""
        if schema not in (None, "main"):
            raise InvalidRequest.at("schema", "SQLite has one schema here, main; leave it out")
        found = await self._all(shapes.FIND, {"name": table})
        if not found:
            raise NotFound("there is no such table or view; list_tables names those that there are")
        name, kind = found[0]
        columns, foreign_keys, indexes = [
            await self._all(sql, {"name": name}) for sql in (shapes.COLUMNS, shapes.FOREIGN_KEYS, shapes.INDEXES)
        ]
        return {
            "schema": "main",
            "name": name,
            "type": kind,
            "columns": shapes.described_columns(columns),
            "primary_key": [row[0] for row in sorted(columns, key=lambda row: row[4]) if row[4]],
            "foreign_keys": shapes.foreign_keys(foreign_keys),
            "indexes": shapes.indexes(indexes),
        }

    async def explain(self, query: Sql, params: Params = None) -> list[Any]:
        """Show the plan of a query without running it: its steps, each with id, parent and detail."""
        rows = await self._all(query, params, explain=2)
        return [{"id": step, "parent": parent, "detail": detail} for step, parent, _, detail in rows]

    async def transaction(
        self, statements: Annotated[list[StatementWithParams], Field(min_length=1, max_length=100)]
    ) -> Result:
        """Run several statements as one transaction: all of them take effect, or none.

        `data` has one entry a statement: `row_count`, and `rows` where it returned any.
        """
        done = await self._run(statements, atomic=True)
        result = Result(data=[])
        for part in done:
            rows = (await self._capped(part)).to_dict()["data"]
            result.data.append({"row_count": part["affected"], "rows": rows})
            result.row_count += part["affected"]
            result.truncated = result.truncated or part["truncated"]
        return result

    # -- the pool -------------------------------------------------------------------------------

    def _locate(self) -> Path:
        may_create = self.config.create and not self.config.read_only
        gate = self.network
        return locate(self.config.path, root=gate.files_root, forbidden=gate.own_files, create=may_create)

    def _scratch(self) -> str | None:
        folder = self.network.scratch
        if folder is None:
            return None
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return str(folder.resolve())

    def _current(self) -> object:
        """The file at the path now: a worker that has another one open is replaced."""
        return identity(self._place) if self._place is not None else None

    def _start(self) -> Worker:
        config = self.config
        self._place = self._locate()
        # Values beyond this are refused by SQLite while it makes them: a bomb has no memory to grow into.
        length = min(max(config.max_bytes, _MIB), 64 * _MIB)
        settings = {
            "path": str(self._place),
            "write": not config.read_only,
            "create": config.create and not config.read_only,
            "length": length,
            "busy_ms": int(1000 * min(config.timeout_s, config.connect_timeout_s)),
            "scratch": self._scratch(),
        }
        # JSON writes one control character in six bytes.
        return Worker(settings, ceiling=8 * length + 2 * _MIB, opened=identity(self._place))

    async def _rows(
        self, query: str, params: Mapping[str, Any] | None = None, explain: int = -1
    ) -> AsyncGenerator[Batch, None]:
        names, values = shapes.bound(query, params)
        async with self._pool.lease() as worker:
            first = min(shapes.BATCH_ROWS, self.config.max_rows + 1)
            answer = await worker.call("rows", query, names, values, explain, first)
            columns = shapes.columns(answer["columns"])
            try:
                yield Batch(columns, shapes.tuples(answer))
                if answer["more"]:
                    answer = await worker.call("next", shapes.BATCH_ROWS)
                    async with aclosing(shapes.ahead(worker, answer)) as batches:
                        async for rows in batches:
                            yield Batch(columns, rows)
            except GeneratorExit:
                await shapes.stop(worker)
                raise

    async def _all(self, query: str, params: Mapping[str, Any] | None, explain: int = -1) -> list[tuple[Any, ...]]:
        async with aclosing(self._rows(query, params, explain)) as batches:
            return [row async for batch in batches for row in batch.rows]

    async def _run(self, statements: Sequence[StatementWithParams], *, atomic: bool) -> list[dict[str, Any]]:
        if self.config.read_only:
            raise writes_are_off()
        bound = []
        for statement in statements:
            query = statement.get("query", "")
            bound.append((query, *shapes.bound(query, statement.get("params"))))
        async with self._pool.lease() as worker:
            answer = await worker.call("run", bound, atomic, self.config.max_rows, self.config.max_bytes)
        done: list[dict[str, Any]] = answer["done"]
        return done

    async def _capped(self, part: dict[str, Any]) -> Result:
        """The rows of a writing statement, within the caps."""
        result = Result(rows=[], columns=shapes.columns(part["columns"]), truncated=part["truncated"])

        async def once() -> AsyncGenerator[Batch, None]:
            yield Batch(result.columns, shapes.tuples(part))

        async for fitting in capped(once(), self.config):
            result.rows = list(fitting.rows)
            result.truncated = result.truncated or fitting.truncated
        result.row_count = len(result.rows or ())
        return result
