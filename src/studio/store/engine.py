"""The metadata database. The only file that tells SQLite from PostgreSQL.

A unit of work is a plain function of a SQLAlchemy `Connection`, written once for both:

* SQLite: `read` runs it in a reader thread, `write` in the one writer thread under `BEGIN IMMEDIATE`,
  durable (`synchronous=FULL`) when it returns. `lookup` asks at once on the event loop: an indexed
  read takes microseconds, and WAL readers never wait.
* PostgreSQL: all three run on a pooled asyncpg connection.
"""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Dialect,
    Select,
    Table,
    bindparam,
    event,
    insert,
    literal_column,
    make_url,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, IntegrityError

from studio.store.embedded import sqlite_engine
from studio.store.listener import CHANNEL, Listener
from studio.store.lookups import LOOKUPS, Lookups, reading

T = TypeVar("T")
_ONE: Select[Any] = select(literal_column("1"))
Work = Callable[[Connection], T]
along: ContextVar[Work[None] | None] = ContextVar("along", default=None)
"""A step that every transaction of this context takes along: stored with the change, or not at all."""
ASK_EVERY_S = 0.2
"""How often an embedded store is looked at for changes that other processes made."""
_NO_URL = "STUDIO_DATABASE_URL must begin with sqlite:// or postgresql+asyncpg://"


class Database(ABC):
    """Where metadata live; runs units of work."""

    embedded: bool
    """Whether it belongs to this process's data folder and so keeps its own schema up to date."""

    @abstractmethod
    async def lookup(self, statement: Select[Any], values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """A few indexed rows, of the newest committed state. This is on the path of every operation.

        `statement` is a constant with bound parameters: it is compiled once, and its text goes
        straight to the driver, which costs a tenth of building and compiling it each time.
        """

    def version(self) -> int | None:
        """A number that differs from any earlier one where anybody has committed anything since; None if untold."""
        return None

    @abstractmethod
    async def read(self, work: Work[T]) -> T:
        """Run a read of any size."""

    async def write(self, work: Work[T]) -> T:
        """Run one transaction: committed and durable on return, rolled back on an exception."""
        step = along.get()
        if step is None:
            return await self._write(work)

        def both(connection: Connection) -> T:
            step(connection)
            return work(connection)

        return await self._write(both)

    @abstractmethod
    async def _write(self, work: Work[T]) -> T:
        """Run the transaction."""

    async def changed(self, within_s: float) -> None:
        """Return soon after any process changed something (`announce`), or when the time is over.

        It may return without any change. A file tells nobody, but may be asked often.
        """
        await asyncio.sleep(min(within_s, ASK_EVERY_S))

    def files(self) -> list[Path]:
        """The files that hold the metadata, none for a server."""
        return []

    async def ping(self) -> None:
        """One round trip. Raises what the driver raises."""
        await self.lookup(_ONE, {})

    @abstractmethod
    async def close(self) -> None:
        """Close every connection."""


@lru_cache(maxsize=64)
def _compiled(statement: Select[Any], dialect: Dialect) -> tuple[str, tuple[str, ...]]:
    """The statement's text, and its parameters' names in the order of their places."""
    compiled = statement.compile(dialect=dialect)
    return str(compiled), tuple(getattr(compiled, "positiontup", None) or ())


class SqliteDatabase(Database):
    """One file, shared by any number of processes of this machine."""

    embedded = True

    def __init__(self, path: Path) -> None:
        self._read_engine, self._write_engine = sqlite_engine(path), sqlite_engine(path)
        event.listen(self._write_engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="studio-store-writer")
        self._readers = ThreadPoolExecutor(2, thread_name_prefix="studio-store-reader")
        self._local = threading.local()
        self._open: list[Connection] = []
        self._path = path.resolve()

    def files(self) -> list[Path]:
        """See `Database.files`: the database and its side files."""
        return [self._path.with_name(self._path.name + tail) for tail in ("", "-wal", "-shm", "-journal")]

    def _reader(self) -> Connection:
        """This thread's own reading connection; nothing begins on it, so each read sees the newest state."""
        found: Connection | None = getattr(self._local, "reader", None)
        if found is None:
            found = self._local.reader = self._read_engine.connect()
            self._open.append(found)
        return found

    async def lookup(self, statement: Select[Any], values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """See `Database.lookup`: at once, on the loop's own thread."""
        text, names = _compiled(statement, self._read_engine.dialect)
        driver: Any = self._reader().connection.driver_connection
        rows: list[Sequence[Any]] = driver.execute(text, [values[name] for name in names]).fetchall()
        return rows

    def version(self) -> int | None:
        """See `Database.version`: it changes with each commit of any other connection, and a reader makes none."""
        driver: Any = self._reader().connection.driver_connection
        found: int = driver.execute("PRAGMA data_version").fetchone()[0]
        return found

    async def read(self, work: Work[T]) -> T:
        """See `Database.read`."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: work(self._reader()))

    async def _write(self, work: Work[T]) -> T:
        """See `Database.write`. A cancelled caller does not stop a transaction that has begun."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._transaction, work)

    def _transaction(self, work: Work[T]) -> T:
        connection: Connection | None = getattr(self._local, "writer", None)
        if connection is None:
            connection = self._local.writer = self._write_engine.connect()
            self._open.append(connection)
        with connection.begin():
            return work(connection)

    async def close(self) -> None:
        """See `Database.close`."""
        await asyncio.to_thread(self._writer.shutdown)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._open:
            connection.close()


class PostgresqlDatabase(Database):
    """A PostgreSQL database, shared by any number of replicas."""

    embedded = False

    def __init__(self, url: URL) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine  # brings the whole ORM: 0.2 s that SQLite need not pay

        self._engine = create_async_engine(url, pool_size=10, max_overflow=10 + LOOKUPS, pool_pre_ping=False)
        self._autocommit = self._engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lookups = Lookups(self._autocommit)
        self._listener = Listener(self._autocommit)

    async def lookup(self, statement: Select[Any], values: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        """See `Database.lookup`."""
        text, names = _compiled(statement, self._engine.dialect)
        with reading():
            return await self._lookups.fetch(text, [values[name] for name in names])

    async def read(self, work: Work[T]) -> T:
        """See `Database.read`."""
        with reading():
            async with self._autocommit.connect() as connection:
                return await connection.run_sync(work)

    async def _write(self, work: Work[T]) -> T:
        """See `Database.write`."""
        async with self._engine.begin() as connection:
            return await connection.run_sync(work)

    async def changed(self, within_s: float) -> None:
        """See `Database.changed`: by LISTEN, on one connection of the pool."""
        await self._listener.changed(within_s)

    async def close(self) -> None:
        """See `Database.close`."""
        await self._listener.close()
        await self._lookups.close()
        await self._engine.dispose()


def open_database(url: str | None, data_dir: Path) -> Database:
    """The database of a URL; without one, `studio.db` in the data folder.

    Raises:
        ValueError: the URL names neither SQLite nor PostgreSQL, or the driver is not installed.
    """
    if not url:
        return SqliteDatabase(data_dir / "studio.db")
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ValueError(_NO_URL) from None
    if parsed.get_backend_name() == "sqlite":
        return SqliteDatabase(Path(parsed.database or data_dir / "studio.db"))
    if parsed.get_backend_name() == "postgresql":
        try:
            return PostgresqlDatabase(parsed.set(drivername="postgresql+asyncpg"))
        except ModuleNotFoundError as exc:
            raise ValueError("STUDIO_DATABASE_URL needs a driver: pip install 'studio-connectors[postgresql]'") from exc
    raise ValueError(_NO_URL)


def endpoint_of(url: str | None) -> tuple[str, int] | None:
    """Host and port of a server database, so that the egress gate can close them."""
    parsed = make_url(url) if url else None
    if parsed is None or not parsed.host:
        return None
    return parsed.host, parsed.port or 5432


def is_unique_violation(exc: IntegrityError) -> bool:
    """Whether a unique constraint (and not, say, a foreign key) refused the row."""
    return getattr(exc.orig, "sqlstate", None) == "23505" or getattr(exc.orig, "sqlite_errorname", "") in {
        "SQLITE_CONSTRAINT_UNIQUE",
        "SQLITE_CONSTRAINT_PRIMARYKEY",
    }


def lock_table(connection: Connection, table: Table) -> None:
    """Keep other writers off a table until this transaction ends. On SQLite a writer is alone anyway."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"LOCK TABLE {table.name} IN SHARE ROW EXCLUSIVE MODE"))


def announce(connection: Connection) -> None:
    """Tell every process of this store, at this transaction's commit, that something changed."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"NOTIFY {CHANNEL}"))


def insert_rows(connection: Connection, table: Table, names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
    """Insert many rows, given in the order of `names`; their text goes straight to the driver, as in `lookup`."""
    text, placed = _insert(table, names, connection.dialect)
    connection.exec_driver_sql(text, [placed(row) for row in rows])


@lru_cache(maxsize=16)
def _insert(table: Table, names: tuple[str, ...], dialect: Dialect) -> tuple[str, Callable[[Any], tuple[Any, ...]]]:
    """The text, and what brings a row's values to the order of their places in it."""
    compiled = insert(table).values({name: bindparam(name) for name in names}).compile(dialect=dialect)
    return str(compiled), itemgetter(*(names.index(name) for name in getattr(compiled, "positiontup", None) or ()))


def upsert(connection: Connection, table: Table, values: Mapping[str, Any], change: Mapping[str, Any]) -> bool:
    """Insert a row, or apply `change` to the one that has the same primary key; False where that leaves it as it is."""
    inserting = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = inserting(table).values(**values)
    keys = list(table.primary_key.columns)
    if change:
        done = connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=dict(change)))
    else:
        done = connection.execute(statement.on_conflict_do_nothing(index_elements=keys))
    return done.rowcount > 0
