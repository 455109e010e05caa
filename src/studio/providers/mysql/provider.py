"""MySQL and MariaDB: SQL with `:name` parameters. Tested on MariaDB 10.11, not on Oracle's MySQL.

A value never becomes SQL, because it is never in the text: every statement goes to the server as
COM_STMT_PREPARE with `?` marks, and its values follow in binary with COM_STMT_EXECUTE. asyncmy's
usual way, escaped values pasted into the text, depends on the server's `sql_mode` and character
set; its prepared statements (seen in 0.2.18) do not. What it lacks there, reading rows in parts, is
ours (`driver.py`). A statement is sent as text only where it is a constant
of this package, and no session ever has multi-statements on.

A read runs in a session that is read-only from its log-in on, after its tokens were found to be a
query (`guard.py`). A write is one statement, committed before the answer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from functools import partial
from importlib import import_module
from typing import Any, ClassVar

from studio.contract import Batch, Result
from studio.contract import sql as sqltext
from studio.contract.database import Params, SchemaName, Sql, StatementWithParams, TableName
from studio.contract.network import TlsContext
from studio.errors import InvalidRequest, NotFound, StudioError
from studio.providers._sql.server import Call, Endpoint, SqlServer, most_of_row
from studio.providers.mysql import catalog, guard
from studio.providers.mysql.config import MysqlConfig
from studio.providers.mysql.errors import NoTls, login_error, work_error
from studio.providers.mysql.password import set_password_text
from studio.providers.mysql.pool import READ_WRITE, Pool, setup
from studio.providers.mysql.work import explain_text, read, transaction, write


class Mysql(SqlServer[MysqlConfig, guard.Verdict]):
    """A MySQL or MariaDB database."""

    kind = "mysql"
    Config = MysqlConfig
    dialect = sqltext.MYSQL
    rotates = "password"
    fixes: ClassVar[Mapping[str, str]] = {
        **SqlServer.fixes,
        "connect": "Check host and port, the server's bind_address and skip_networking, and firewalls in between.",
        "login": "Check database, username and password, and that the account exists for this host.",
        "auth_failed": "Check username and password, and that the account exists for this host (CREATE USER u@host).",
        "privileges": "Let the account see its grants; the statements under grant make a suitable one.",
    }

    _pool: Pool

    async def open(self, stack: AsyncExitStack) -> None:
        """Make an empty pool; sessions are made when they are needed."""
        if "studio.providers.mysql.driver" not in sys.modules:
            await asyncio.to_thread(import_module, "studio.providers.mysql.driver")  # 100 ms
        self._tcp = Endpoint(self.network, self.config)
        # A full pool is told from a slow server: its waiters give up before the deadline.
        self._pool = Pool(self._connect, self.config, wait_s=self.config.timeout_s * 0.9)
        stack.push_async_callback(self._pool.close)

    async def ping(self) -> None:
        """One query."""
        await self._rows("SELECT 1")

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return work_error(exc)

    async def set_password(self, new: str) -> None:
        """Send MariaDB the hash that it keeps; MySQL takes none that it would keep, and strikes it out of its logs."""
        session = await self._pool.acquire(fresh=True)
        try:
            await session.conn.run(READ_WRITE)
            await session.conn.run(set_password_text(new, mariadb=session.conn.is_mariadb))
        finally:
            self._pool.discard(session)

    # -- operations -------------------------------------------------------------------------------

    async def query(self, query: Sql, params: Params = None) -> AsyncIterator[Batch]:
        """Run one reading SQL statement and return its rows. It cannot change anything."""
        call, verdict = await self._judged(query, params)
        verdict.must_read()
        async with aclosing(read(self._pool, call, plain=verdict.plain)) as batches:
            async for batch in batches:
                yield batch
                del batch  # before the next is read

    async def execute(self, query: Sql, params: Params = None) -> Result:
        """Run one SQL statement that may write; it is committed before the answer."""
        call, verdict = await self._judged(query, params)
        verdict.must_write()
        return await write(self._pool, call, verdict, self.config)

    async def transaction(self, statements: list[StatementWithParams]) -> Result:
        """Run several statements as one transaction: all of them take effect, or none. Row changes only."""
        work = []
        async for call, verdict in self._each_judged(statements):
            verdict.must_change_rows()
            work.append((call, verdict))
        results = await transaction(self._pool, work, self.config)
        data = [{"row_count": result.row_count, **(result.data or {})} for result in results]
        return Result(data=data, row_count=sum(result.row_count for result in results))

    async def list_tables(self) -> AsyncIterator[Batch]:
        """List the tables and views that can be read: schema, name, type, estimated rows."""
        async with aclosing(read(self._pool, Call(catalog.TABLES))) as batches:
            async for batch in batches:
                yield batch

    async def describe_table(self, table: TableName, schema: SchemaName = None) -> dict[str, Any]:
        """Describe one table: columns, primary key, foreign keys and indexes."""
        found = await self._rows(catalog.TABLE, schema, table)
        if not found:
            raise NotFound("table: no such table or view can be seen; list_tables names those that can")
        schema, table = found[0][:2]
        return catalog.describe(
            found[0],
            await self._rows(catalog.COLUMNS, schema, table),
            await self._rows(catalog.INDEXES, schema, table),
            await self._rows(catalog.FOREIGN_KEYS, schema, table),
        )

    async def explain(self, query: Sql, params: Params = None) -> list[Any]:
        """Show the plan of a query without running it."""
        call, verdict = await self._judged(query, params)
        verdict.must_explain()
        rows = await self._rows(explain_text(call.text), *call.values, plain=verdict.plain)
        return [_plan(row[0]) for row in rows]

    async def privileges(self) -> dict[str, Any]:
        """What the account may do (see `Probe.privileges`)."""
        rows = await self._rows(catalog.GRANTS)
        return catalog.shape([row[0] for row in rows], self.config.database)

    # -- below the operations ---------------------------------------------------------------------

    async def _rows(self, text: str, *values: Any, plain: bool = True) -> list[tuple[Any, ...]]:
        """All rows of a query of ours. `plain` as in `read`."""
        names = tuple(f"p{at}" for at in range(len(values)))
        rows: list[tuple[Any, ...]] = []
        async with aclosing(read(self._pool, Call(text, names, list(values)), plain=plain)) as batches:
            async for batch in batches:
                rows += batch.rows
        return rows

    async def _connect(self, address: str | None) -> Any:
        """A logged-in connection to the host, set up; or to one address of it, as it is."""
        return await self._tcp.open(partial(self._login, bare=address is not None), address)

    async def _login(self, sock: socket.socket, tls: TlsContext | None, *, bare: bool) -> Any:
        from studio.providers.mysql.driver import Connection

        config, conn = self.config, None
        try:
            conn = Connection(
                sock,
                username=config.username,
                password=config.password.get_secret_value() if config.password else "",
                database=config.database,
                tls=tls,
                timeout=config.connect_timeout_s,
            )
            conn.max_row = min(conn.max_row, most_of_row(config.max_bytes))
            await conn.connect()
            for statement in () if bare else setup(config, mariadb=conn.is_mariadb):
                await conn.run(statement)
        except BaseException as exc:
            if conn is not None:
                conn.close()
            # The transport closes it in the loop's next round. If none was made by now, nobody else would.
            asyncio.get_running_loop().call_later(0, sock.close)
            if isinstance(exc, Exception):
                raise login_error(exc) from exc
            raise
        return conn

    @classmethod
    def _parse(cls, query: str) -> tuple[sqltext.Statement, guard.Verdict]:
        statement = sqltext.parse(query, cls.dialect)
        verdict = guard.judge(statement.text)
        if verdict.marks != len(statement.names):
            raise InvalidRequest.at("query", "uses ? marks; give values as :name parameters instead")
        return statement, verdict

    @classmethod
    def _writes(cls, text: str) -> bool:
        return guard.writes(text)

    @classmethod
    def _tls_failed(cls, error: StudioError) -> bool:
        return isinstance(error.__cause__, NoTls)


def _plan(text: str) -> Any:
    """A plan as data. MariaDB does not escape the quotes of texts that it repeats; such a plan stays text."""
    try:
        return json.loads(text, strict=False)
    except ValueError:
        return {"text": text}
