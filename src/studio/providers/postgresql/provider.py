"""PostgreSQL, from version 10, and what speaks its protocol: SQL with `:name` parameters.

A read runs in a read-only transaction that is always rolled back, after PostgreSQL's own grammar
found it to be a query, twice: here (`guard.py`) and as a cursor's query on the server.
A write is one statement in one transaction, committed before the answer. Nothing that a user
writes ever goes through the simple query protocol, which would take several statements at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from studio.contract import Batch, Result
from studio.contract import sql as sqltext
from studio.contract.database import Params, SchemaName, Sql, StatementWithParams, TableName
from studio.contract.network import TlsContext
from studio.errors import AuthFailed, NotFound, StudioError, Unreachable
from studio.providers._sql.server import Call, Endpoint, SqlServer, most_of_row
from studio.providers._tcp import Dialling
from studio.providers.postgresql import catalog, guard
from studio.providers.postgresql.config import PostgresqlConfig
from studio.providers.postgresql.errors import login_error, tls_failed, work_error
from studio.providers.postgresql.password import set_password_text
from studio.providers.postgresql.pool import Pool, limits
from studio.providers.postgresql.values import SETTINGS
from studio.providers.postgresql.wire import GuardedLoop, NotSpoken
from studio.providers.postgresql.work import Reading, explain_text, write


class Postgresql(SqlServer[PostgresqlConfig, guard.Verdict]):
    """A PostgreSQL database."""

    kind = "postgresql"
    Config = PostgresqlConfig
    dialect = sqltext.POSTGRESQL
    rotates = "password"
    fixes: ClassVar[Mapping[str, str]] = {
        **SqlServer.fixes,
        "connect": "Check host and port, that the server listens on that address, and firewalls in between.",
        "login": "Check database, username and password, and the server's pg_hba.conf.",
        "auth_failed": "Check username and password, and that pg_hba.conf lets this user in from here.",
        "privileges": "Let the account read the catalogue; the statements under grant make a suitable one.",
    }

    _pool: Pool

    async def open(self, stack: AsyncExitStack) -> None:
        """Make an empty pool; sessions are made when they are needed."""
        config = self.config
        self._tcp = Endpoint(self.network, config)
        self._pool = Pool(
            self._connect,
            size=config.pool_size,
            wait_s=config.timeout_s * 0.9,  # before the deadline, so that a full pool is told from a slow server
        )
        stack.push_async_callback(self._pool.close)

    async def ping(self) -> None:
        """One query."""
        await self._value("SELECT 1")

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return work_error(exc)

    async def set_password(self, new: str) -> None:
        """Send the verifier that the server would make of it (RFC 5803): no log of it ever holds the password."""
        session = await self._pool.acquire(fresh=True)
        try:
            await session.conn.execute(set_password_text(new))
        finally:
            self._pool.discard(session)

    # -- operations -------------------------------------------------------------------------------

    async def query(self, query: Sql, params: Params = None) -> AsyncIterator[Batch]:
        """Run one reading SQL statement and return its rows. It cannot change anything."""
        call, verdict = await self._judged(query, params)
        verdict.must_read()
        cursor = verdict.root == "SelectStmt"  # of the others, none can be a cursor's query
        reading = Reading(self._pool, call, self._first_batch, cursor=cursor, plain=verdict.plain)
        try:
            while (batch := await reading.next()) is not None:
                yield batch
                del batch  # before the next is read
        finally:
            reading.close()

    async def execute(self, query: Sql, params: Params = None) -> Result:
        """Run one SQL statement that may write; it is committed before the answer."""
        call, verdict = await self._judged(query, params)
        verdict.must_write()
        [result] = await write(self._pool, [(call, verdict)], self.config)
        return result

    async def transaction(self, statements: list[StatementWithParams]) -> Result:
        """Run several statements as one transaction: all of them take effect, or none."""
        work = []
        async for call, verdict in self._each_judged(statements):
            verdict.must_write()
            work.append((call, verdict))
        results = await write(self._pool, work, self.config)
        data = [{"row_count": result.row_count} for result in results]
        return Result(data=data, row_count=sum(result.row_count for result in results))

    async def list_tables(self) -> AsyncIterator[Batch]:
        """List the tables and views that can be read: schema, name, type, estimated rows."""
        reading = Reading(self._pool, Call(catalog.TABLES), self._first_batch)
        try:
            while (batch := await reading.next()) is not None:
                yield batch
                del batch  # before the next is read
        finally:
            reading.close()

    async def describe_table(self, table: TableName, schema: SchemaName = None) -> dict[str, Any]:
        """Describe one table: columns, primary key, foreign keys and indexes."""
        found = await self._value(catalog.TABLE, table, schema or self.config.schema)
        if found is None:
            raise NotFound("table: no such table or view can be seen; list_tables names those that can")
        return found  # type: ignore[no-any-return]

    async def explain(self, query: Sql, params: Params = None) -> list[Any]:
        """Show the plan of a query without running it."""
        call, verdict = await self._judged(query, params)
        verdict.must_explain()
        # The planner runs functions that claim to be immutable, so a plan can leave as much behind as a query.
        text, plain = explain_text(call.text), verdict.plain
        return await self._value(text, *call.values, names=call.names, plain=plain)  # type: ignore[no-any-return]

    async def privileges(self) -> dict[str, Any]:
        """What the account may do (see `Probe.privileges`)."""
        return catalog.shape(await self._value(catalog.PRIVILEGES))

    # -- below the operations ---------------------------------------------------------------------

    @property
    def _first_batch(self) -> int:
        return min(self.config.max_rows + 1, 128)

    async def _value(self, text: str, *values: Any, names: Sequence[str] = (), plain: bool = True) -> Any:
        """The first value of a query of ours, or None without a row. `plain` as in `read`."""
        reading = Reading(self._pool, Call(text, tuple(names), list(values)), 1, cursor=False, plain=plain)
        try:
            batch = await reading.next()
        finally:
            reading.close()
        return batch.rows[0][0] if batch and batch.rows else None

    async def _connect(self) -> Any:
        """A logged-in connection to the first address that takes one, within `connect_timeout_s`."""
        failure: StudioError = Unreachable("the host name has no address")
        async with self._tcp.in_time() as dialling:
            tls = await self._tcp.context()
            for address in await self.network.resolve(self.config.host, self.config.port):
                try:
                    return await self._login(address, tls, dialling)
                except Unreachable as exc:
                    failure = exc
        raise failure

    async def _login(self, address: str, tls: TlsContext | None, dialling: Dialling) -> Any:
        from studio.providers.postgresql.driver import Connection, asyncpg, prepare_codecs

        config = self.config
        loop = GuardedLoop(asyncio.get_running_loop(), self.network, dialling, most_of_row(config.max_bytes))
        settings = {**SETTINGS, **limits(config.timeout_s), "application_name": config.application_name}
        if config.schema:
            settings["search_path"] = catalog.quoted(config.schema)
        try:
            # Every field is given: what is left out, asyncpg fills from PG* variables, ~/.pgpass and ~/.postgresql.
            conn = await asyncpg.connect(
                host=address, port=config.port, user=config.username, database=config.database,
                password=config.password.get_secret_value() if config.password else "", passfile=os.devnull,
                ssl=tls or False, direct_tls=False, service="", servicefile=os.devnull, target_session_attrs="any",
                krbsrvname="postgres", gsslib="gssapi", server_settings=settings, timeout=None, command_timeout=None,
                statement_cache_size=100, max_cached_statement_lifetime=0, max_cacheable_statement_size=15_360,
                connection_class=Connection, loop=loop,
            )  # fmt: skip
        except StudioError:  # the address may not be dialled
            raise
        except Exception as exc:
            if isinstance(loop.refusal, NotSpoken):
                raise Unreachable("what answers on that port is no PostgreSQL server; check host and port") from exc
            if loop.refusal is not None:
                raise AuthFailed(f"the server's log-in was refused by this service: {loop.refusal}") from exc
            raise login_error(exc) from exc
        prepare_codecs(conn)
        return conn

    @classmethod
    def _parse(cls, query: str) -> tuple[sqltext.Statement, guard.Verdict]:
        statement = sqltext.parse(query, cls.dialect)
        return statement, guard.judge(statement.text)

    @classmethod
    def _writes(cls, text: str) -> bool:
        return guard.writes(text)

    @classmethod
    def _tls_failed(cls, error: StudioError) -> bool:
        return tls_failed(error.__cause__)
