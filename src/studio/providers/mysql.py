"""MySQL and MariaDB: SQL with `:name` parameters. Tested on MariaDB 10.11, not on Oracle's MySQL.

A value never becomes SQL, because it is never in the text: every statement goes to the server as
COM_STMT_PREPARE with `?` marks, and its values follow in binary with COM_STMT_EXECUTE. asyncmy's
usual way, escaped values pasted into the text, depends on the server's `sql_mode` and character
set; its prepared statements (seen in 0.2.18) do not. What it lacks there, reading rows in parts, is
ours (`_mysql_driver.py`). A statement is sent as text only where it is a constant
of this package, and no session ever has multi-statements on.

A read runs in a session that is read-only from its log-in on, after its tokens were found to be a
query (`_mysql_guard.py`). A write is one statement, committed before the answer.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, aclosing
from importlib import import_module
from typing import Any, ClassVar

from studio.contract import Batch, Probe, Result, SqlProvider, Stage
from studio.contract import sql as sqltext
from studio.contract.database import Params, SchemaName, Sql, StatementWithParams, TableName
from studio.contract.network import TlsContext, tls_context
from studio.errors import InvalidConfig, InvalidRequest, NotFound, StudioError, Unreachable
from studio.providers import _mysql_catalog as catalog
from studio.providers import _mysql_guard as guard
from studio.providers._mysql_config import MysqlConfig
from studio.providers._mysql_errors import NoTls, login_error, work_error
from studio.providers._mysql_pool import Pool, setup
from studio.providers._mysql_work import Call, explain_text, read, transaction, write


class Mysql(SqlProvider[MysqlConfig]):
    """A MySQL or MariaDB database."""

    kind = "mysql"
    Config = MysqlConfig
    fixes: ClassVar[Mapping[str, str]] = {
        "resolve": "Check the spelling of host, and that this machine's DNS knows it.",
        "connect": "Check host and port, the server's bind_address and skip_networking, and firewalls in between.",
        "tls": "Set ssl to what the server offers; for verify-ca and verify-full give its CA in ssl_ca.",
        "login": "Check database, username and password, and that the account exists for this host.",
        "auth_failed": "Check username and password, and that the account exists for this host (CREATE USER u@host).",
        "privileges": "Let the account see its grants; the statements under grant make a suitable one.",
        "egress_denied": "Ask the operator to open the address with STUDIO_EGRESS_ALLOW.",
    }

    _pool: Pool
    _tls: TlsContext | None = None

    async def open(self, stack: AsyncExitStack) -> None:
        """Make an empty pool; sessions are made when they are needed."""
        await asyncio.to_thread(import_module, "studio.providers._mysql_driver")  # 100 ms, the first time
        self._tls_lock = asyncio.Lock()
        # A full pool is told from a slow server: its waiters give up before the deadline.
        self._pool = Pool(self._connect, self.config, wait_s=self.config.timeout_s * 0.9)
        stack.push_async_callback(self._pool.close)

    async def ping(self) -> None:
        """One query."""
        await self._rows("SELECT 1")

    def translate(self, exc: Exception) -> StudioError | None:
        """See `_mysql_errors.py`."""
        return work_error(exc)

    @classmethod
    def native(cls, query: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
        """A statement whose tokens are those of a read is a query; any other statement is executed."""
        try:
            text = sqltext.parse(query, sqltext.MYSQL).text
        except InvalidRequest:
            text = ""  # the operation says what is wrong
        return ("execute" if text and guard.writes(text) else "query"), {
            "query": query,
            "params": dict(params) if params else None,
        }

    # -- operations -------------------------------------------------------------------------------

    async def query(self, query: Sql, params: Params = None) -> AsyncIterator[Batch]:
        """Run one reading SQL statement and return its rows. It cannot change anything."""
        call, verdict = await _judged(query, params)
        verdict.must_read()
        async with aclosing(read(self._pool, call, plain=verdict.plain)) as batches:
            async for batch in batches:
                yield batch

    async def execute(self, query: Sql, params: Params = None) -> Result:
        """Run one SQL statement that may write; it is committed before the answer."""
        call, verdict = await _judged(query, params)
        verdict.must_write()
        return await write(self._pool, call, verdict, self.config)

    async def transaction(self, statements: list[StatementWithParams]) -> Result:
        """Run several statements as one transaction: all of them take effect, or none. Row changes only."""
        work = []
        for at, statement in enumerate(statements):
            if "query" not in statement:
                raise InvalidRequest.at(f"statements.{at}.query", "is missing")
            call, verdict = await _judged(statement["query"], statement.get("params"))
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
        call, verdict = await _judged(query, params)
        verdict.must_explain()
        rows = await self._rows(explain_text(call.text), *call.values)
        return [json.loads(row[0]) for row in rows]

    async def privileges(self) -> dict[str, Any]:
        """What the account may do (see `Probe.privileges`)."""
        rows = await self._rows(catalog.GRANTS)
        return catalog.shape([row[0] for row in rows], self.config.database)

    async def reach(self, probe: Probe) -> None:
        """Stages: resolve, connect (TCP only), tls, login."""
        config = self.config
        with probe.stage("resolve"):
            await self.network.resolve(config.host, config.port)
        with probe.stage("connect"):
            try:
                async with asyncio.timeout(config.connect_timeout_s):
                    (await self.network.connect(config.host, config.port)).close()
            except TimeoutError:
                raise _too_slow() from None
        await self._context()  # its CPU time is ours, not the server's
        start = time.perf_counter()
        try:
            session = await self._pool.acquire(fresh=True)
        except StudioError as exc:
            name = "tls" if isinstance(exc.__cause__, NoTls) else "login"
            probe.stages.append(Stage(name, ok=False, ms=(time.perf_counter() - start) * 1000))
            raise
        spent = (time.perf_counter() - start) * 1000
        self._pool.release(session)
        handshake = self._tls.handshake_ms if self._tls else None
        if handshake is not None:
            probe.stages.append(Stage("tls", ok=True, ms=handshake))
        probe.stages.append(Stage("login", ok=True, ms=spent - (handshake or 0)))

    # -- below the operations ---------------------------------------------------------------------

    async def _rows(self, text: str, *values: Any) -> list[tuple[Any, ...]]:
        """All rows of a query of ours."""
        names = tuple(f"p{at}" for at in range(len(values)))
        rows: list[tuple[Any, ...]] = []
        async with aclosing(read(self._pool, Call(text, names, list(values)))) as batches:
            async for batch in batches:
                rows += batch.rows
        return rows

    async def _context(self) -> TlsContext | None:
        """The TLS context of this instance, made once and in a thread: it costs up to 50 ms."""
        config, mode = self.config, self.config.tls_mode
        if mode == "disable":
            return None
        async with self._tls_lock:
            if self._tls is None:
                try:
                    self._tls = await asyncio.to_thread(
                        tls_context,
                        config.host,
                        verify=mode in {"verify-ca", "verify-full"},
                        check_hostname=mode == "verify-full",
                        ca=config.ssl_ca,
                        cert=config.ssl_cert,
                        key=config.ssl_key.get_secret_value() if config.ssl_key else None,
                    )
                except (ssl.SSLError, ValueError):
                    raise InvalidConfig("ssl_ca, ssl_cert or ssl_key is not a usable PEM") from None
        return self._tls

    async def _connect(self, address: str | None) -> Any:
        """A logged-in connection to the host, set up; or to one address of it, as it is."""
        try:
            async with asyncio.timeout(self.config.connect_timeout_s):
                tls = await self._context()
                sock = await self.network.connect(address or self.config.host, self.config.port)
                return await self._login(sock, tls, bare=address is not None)
        except TimeoutError:
            raise _too_slow() from None

    async def _login(self, sock: socket.socket, tls: TlsContext | None, *, bare: bool) -> Any:
        from studio.providers._mysql_driver import Connection

        config, conn = self.config, None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            conn = Connection(
                sock,
                username=config.username,
                password=config.password.get_secret_value() if config.password else "",
                database=config.database,
                tls=tls,
                timeout=config.connect_timeout_s,
            )
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


def _too_slow() -> Unreachable:
    return Unreachable("the server did not answer within connect_timeout_s; a firewall may drop the packets")


async def _judged(query: str, params: Params) -> tuple[Call, guard.Verdict]:
    """The statement with bound values, and the verdict on it; long text is judged off the event loop."""
    if len(query) > guard.CACHED_TEXT:
        statement, verdict = await asyncio.to_thread(_parse, query)
    else:
        statement, verdict = _parse(query)
    if verdict.marks != len(statement.names):
        raise InvalidRequest.at("query", "uses ? marks; give values as :name parameters instead")
    return Call(statement.text, statement.names, statement.bind(params)), verdict


def _parse(query: str) -> tuple[sqltext.Statement, guard.Verdict]:
    statement = sqltext.parse(query, sqltext.MYSQL)
    return statement, guard.judge(statement.text)
