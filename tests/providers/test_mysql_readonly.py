"""What a read of the `mysql` provider may not do, live: the state of the server is the same after each one."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.upstreams.mariadb import Mariadb

from studio.errors import InvalidRequest, ReadOnly, StudioError, UpstreamError
from studio.providers.mysql import guard
from studio.providers.mysql import pool as pool_module
from studio.providers.mysql import work as work_module
from studio.providers.mysql.provider import Mysql
from studio.providers.mysql.work import Call, read
from studio.testing.harness import call, open_provider

pytestmark = pytest.mark.server


class Oracle:
    """A digest of all that a read could change, taken by the administrator from another session."""

    def __init__(self, server: Mariadb, database: str) -> None:
        self.server, self.database = server, database

    def sweep(self) -> None:
        for path in Path(self.server.dir).glob("out*"):
            path.unlink()

    def digest(self) -> str:
        server, database = self.server, self.database
        tables = server.sql(
            f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}' ORDER BY 1"
        ).split()
        looks = [
            f"CHECKSUM TABLE {', '.join(f'{database}.{table}' for table in tables if table != 'sq')} EXTENDED",
            f"SELECT next_not_cached_value FROM {database}.sq",
            f"SHOW TABLES FROM {database}",
            "SELECT * FROM mysql.global_priv",
            "SELECT * FROM mysql.proc WHERE db = '" + database + "'",
            "SHOW GLOBAL VARIABLES WHERE variable_name NOT LIKE 'gtid%' AND variable_name NOT LIKE '%timestamp%'",
            "SELECT IS_USED_LOCK('canary') IS NOT NULL",
        ]
        files = sorted(str(path) for path in Path(self.server.dir).glob("out*"))
        return hashlib.sha256((server.sql(*looks) + str(files)).encode()).hexdigest()


@pytest.fixture
async def provider(mariadb: Mariadb, mariadb_database: str) -> AsyncIterator[Mysql]:
    """A session of an account that may do anything in this database, and use files."""
    with mariadb.fresh_user(f"ALL ON {mariadb_database}.*", "FILE, SUPER, PROCESS, RELOAD ON *.*") as account:
        async with open_provider(Mysql, mariadb.config(database=mariadb_database, pool_size=1, **account)) as provider:
            assert isinstance(provider, Mysql)
            for text in (
                "CREATE TABLE users (id INT PRIMARY KEY, name TEXT)", "INSERT INTO users VALUES (1, 'a'), (2, 'b')",
                "CREATE TABLE old (id INT) ENGINE=MyISAM", "CREATE SEQUENCE sq", "CREATE PROCEDURE p() INSERT INTO users VALUES (99, 'p')",
                "CREATE FUNCTION f_write() RETURNS INT BEGIN INSERT INTO users VALUES (98, 'f'); RETURN 1; END",
                "CREATE FUNCTION f_old() RETURNS INT BEGIN INSERT INTO old VALUES (98); RETURN 1; END",
                "CREATE FUNCTION f_next() RETURNS INT RETURN NEXTVAL(sq)",
                "CREATE FUNCTION f_lock() RETURNS INT RETURN GET_LOCK('canary', 1)",
                "CREATE FUNCTION f_set() RETURNS INT BEGIN SET @poison = 'yes'; SET SESSION tx_read_only = 0; RETURN 1; END",
                "CREATE VIEW v_write AS SELECT f_write()",
            ):  # fmt: skip
                await call(provider, "execute", query=text)
            await settled(provider)
            yield provider


@pytest.fixture
def oracle(mariadb: Mariadb, mariadb_database: str) -> Oracle:
    return Oracle(mariadb, mariadb_database)


async def settled(provider: Any) -> None:
    """Wait until what goes on behind the callers' backs is done."""
    while provider._pool._tasks:
        await asyncio.wait(provider._pool._tasks)


ATTACKS = [
    # MariaDB's own ways around a read-only transaction
    "SET STATEMENT tx_read_only=0 FOR INSERT INTO users VALUES (3, 'x')", "SET STATEMENT max_statement_time=0 FOR DROP TABLE users",
    "BEGIN NOT ATOMIC DELETE FROM users; END", "BEGIN NOT ATOMIC SET SESSION tx_read_only=0; DELETE FROM users; END",
    "EXECUTE IMMEDIATE 'DELETE FROM users'", "EXECUTE IMMEDIATE CONCAT('DROP TABLE ', 'users')", "PREPARE a FROM 'DELETE FROM users'",
    "HANDLER users OPEN", "CALL p()", "LOCK TABLES users WRITE", "FLUSH TABLES WITH READ LOCK", "UNLOCK TABLES", "ANALYZE TABLE users",
    "ANALYZE DELETE FROM users", "ANALYZE FORMAT=JSON SELECT f_write()", "DO f_write()", "DO RELEASE_LOCK('a')",
    "START TRANSACTION READ WRITE", "COMMIT", "SET SESSION TRANSACTION READ WRITE", "SET @@tx_read_only = 0", "SET GLOBAL read_only = 1",
    # rows, tables and accounts
    "INSERT INTO users VALUES (3, 'x')", "REPLACE INTO users VALUES (1, 'x')", "UPDATE users SET name = 'x'", "DELETE FROM users",
    "TRUNCATE users", "DROP TABLE users", "CREATE TABLE x (id INT)", "CREATE TEMPORARY TABLE x (id INT)", "ALTER TABLE users ADD x INT",
    "RENAME TABLE users TO x", "CREATE USER canary@localhost", "GRANT ALL ON *.* TO canary@localhost", "OPTIMIZE TABLE users",
    "INSERT INTO old VALUES (1)", "WITH a AS (SELECT 1) DELETE FROM users", "EXPLAIN DELETE FROM users",
    # functions of the user's own, and sequences
    "SELECT f_write()", "SELECT f_old()", "SELECT f_next()", "SELECT * FROM v_write", "SELECT NEXTVAL(sq)", "SELECT NEXT VALUE FOR sq",
    "SELECT SETVAL(sq, 100)", "SELECT f_set(), f_write()", "EXPLAIN SELECT f_write()", "SHOW TABLES WHERE f_write()",
    # files, locks, waits
    "SELECT 'x' INTO OUTFILE '{dir}/out1'", "SELECT 'x' INTO DUMPFILE '{dir}/out2'", "SELECT 1.INTO OUTFILE '{dir}/out3'",
    "SELECT 1e5INTO OUTFILE '{dir}/out4'", "(SELECT 1) UNION (SELECT 2) INTO OUTFILE '{dir}/out5'", "VALUES (1) INTO OUTFILE '{dir}/out6'",
    "SELECT LOAD_FILE('{dir}/init.sql')", "SELECT `load_file`('{dir}/init.sql')", "SELECT load_file/**/('{dir}/init.sql')",
    "LOAD DATA INFILE '{dir}/init.sql' INTO TABLE users", "LOAD DATA LOCAL INFILE '{dir}/init.sql' INTO TABLE users",
    "SELECT GET_LOCK('canary', 1)", "SELECT * FROM users FOR UPDATE", "SELECT * FROM users LOCK IN SHARE MODE", "SELECT SLEEP(100)",
    "SELECT BENCHMARK(1000000000, MD5('a'))", "SELECT 1 INTO @poison", "SELECT id FROM users LIMIT 1 INTO @poison",
    # text that hides what it is
    "/*! DELETE FROM users */", "SELECT 1 /*!50000 INTO OUTFILE '{dir}/out7' */", "SELECT 1 /*M!100000 INTO OUTFILE '{dir}/out8' */",
    "/*M!100100 DELETE */ FROM users", "SELECT 1; DELETE FROM users", "SELECT 1;\nDELETE FROM users -- ", "SELECT 1 --\n; DELETE FROM users",
    "SELECT 1 #\n INTO OUTFILE '{dir}/out9'", "SELECT '\\'' INTO OUTFILE '{dir}/outa' -- '", "SELECT 1 -- \x01\n INTO OUTFILE '{dir}/outb'",
]  # fmt: skip


async def test_no_attack_changes_anything_or_returns_a_file(provider: Mysql, oracle: Oracle, mariadb: Mariadb) -> None:
    before = oracle.digest()
    mild = {"EXPLAIN SELECT f_write()", "SHOW TABLES WHERE f_write()"}  # these may answer, as long as nothing changes
    for attack in ATTACKS:
        text = attack.format(dir=mariadb.dir)
        if attack in mild:
            with contextlib.suppress(StudioError):
                await call(provider, "query", query=text)
        else:
            with pytest.raises((ReadOnly, InvalidRequest)):
                await call(provider, "query", query=text)
                pytest.fail(f"accepted: {text}")
        await settled(provider)
        assert oracle.digest() == before, text


async def test_a_plan_poisons_no_other_call_either(provider: Mysql) -> None:
    """The optimizer works out what is constant, so a plan can set a variable."""
    await call(provider, "explain", query="SELECT * FROM users WHERE (@poison := 'yes') IS NOT NULL")
    assert (await call(provider, "query", query="SELECT @poison")).rows == [(None,)]


async def test_a_plan_that_is_no_json_is_given_as_text(provider: Mysql) -> None:
    """MariaDB repeats the text of a condition without escaping its quotes."""
    found = (await call(provider, "explain", query="SELECT * FROM users WHERE name = 'a''b\"c'")).data
    assert "users" in str(found)


async def test_a_read_that_poisons_its_session_poisons_no_other_call(provider: Mysql) -> None:
    look = "SELECT @poison, @@tx_read_only, @@sql_mode, @@time_zone, @@autocommit, @@max_statement_time, IS_USED_LOCK('canary')"
    clean = (await call(provider, "query", query=look)).rows
    for text in (
        "SELECT f_set()",
        "SELECT @poison := 'yes'",
        "SELECT f_lock()",
        "SELECT f_set() FROM users",
        "SELECT `f_set`()",
    ):
        await call(provider, "query", query=text)
        assert (await call(provider, "query", query=look)).rows == clean, text
    with pytest.raises(StudioError):
        await call(provider, "query", query="SELECT f_set(), nothing")
    assert (await call(provider, "query", query=look)).rows == clean


async def test_a_write_leaves_a_clean_session_behind(provider: Mysql, mariadb: Mariadb) -> None:
    look = "SELECT @poison, @@tx_read_only, @@sql_mode, @@sql_select_limit, @@foreign_key_checks, IS_USED_LOCK('canary'), DATABASE()"
    clean = (await call(provider, "query", query=look)).rows
    for text in (
        "SELECT f_set()", "SELECT GET_LOCK('canary', 1)", "CREATE TEMPORARY TABLE scratch (id INT)", "INSERT INTO users VALUES (50, @poison := 'yes')",
        "CREATE PROCEDURE evil() BEGIN SET SESSION foreign_key_checks = 0, sql_mode = 'ANSI_QUOTES', @poison = 1; START TRANSACTION; END",
        "CALL evil()", "INSERT INTO users VALUES (51, 'x')", "UPDATE users SET name = f_set()",
    ):  # fmt: skip
        await call(provider, "execute", query=text)
        assert (await call(provider, "query", query=look)).rows == clean, text
    for statements in ([{"query": "INSERT INTO users VALUES (60, 'x')"}], [{"query": "SELECT f_set()"}]):
        await call(provider, "transaction", statements=statements)
        assert (await call(provider, "query", query=look)).rows == clean
    with pytest.raises(UpstreamError, match="1146"):
        await call(provider, "query", query="SELECT * FROM scratch")
    for text in ("INSERT INTO users VALUES (50, 'again')", "INSERT INTO users VALUES (f_set(), NULL), (50, NULL)"):
        with pytest.raises(UpstreamError):
            await call(provider, "execute", query=text)
        assert (await call(provider, "query", query=look)).rows == clean


# -- negative controls: each layer by itself --------------------------------------------------------


async def raw(provider: Mysql, text: str, plain: bool = True) -> list[Any]:
    """A read below the judge."""
    rows: list[Any] = []
    async for batch in read(provider._pool, Call(text), plain=plain):
        rows += batch.rows
    return rows


REFUSED_BY_THE_SESSION = [
    "INSERT INTO users VALUES (3, 'x')", "DELETE FROM users", "DROP TABLE users", "CREATE TABLE x (id INT)", "CREATE TEMPORARY TABLE x (id INT)",
    "TRUNCATE users", "ALTER TABLE users ADD x INT", "BEGIN NOT ATOMIC DELETE FROM users; END", "CALL p()", "LOCK TABLES users WRITE",
    "SELECT f_write()", "SELECT f_old()", "SELECT NEXTVAL(sq)", "SELECT * FROM users FOR UPDATE", "INSERT INTO old VALUES (1)",
    "EXPLAIN DELETE FROM users", "SET STATEMENT max_statement_time=1 FOR DROP TABLE users",
]  # fmt: skip
OPEN_ON_MARIADB = [
    "SET STATEMENT tx_read_only=0 FOR INSERT INTO users VALUES (3, 'x')",
    "BEGIN NOT ATOMIC SET SESSION tx_read_only=0; DELETE FROM users; END",
    "SELECT 'x' INTO OUTFILE '{dir}/outz'",
    "SELECT 1 /*M!100000 INTO OUTFILE '{dir}/outy' */",
    "SELECT GET_LOCK('canary', 1)",
]


@pytest.mark.parametrize("text", REFUSED_BY_THE_SESSION)
async def test_the_session_refuses_most_writes_even_without_the_judge(
    provider: Mysql, oracle: Oracle, text: str
) -> None:
    before = oracle.digest()
    with pytest.raises(Exception, match="READ ONLY"):
        await raw(provider, text)
    assert oracle.digest() == before


@pytest.mark.parametrize("text", OPEN_ON_MARIADB)
async def test_without_the_judge_mariadb_lets_these_through_a_read_only_session(
    provider: Mysql, oracle: Oracle, mariadb: Mariadb, text: str
) -> None:
    before = oracle.digest()
    await raw(provider, text.format(dir=mariadb.dir))
    assert oracle.digest() != before
    with pytest.raises((ReadOnly, InvalidRequest)):
        await call(provider, "query", query=text.format(dir=mariadb.dir))
    oracle.sweep()


@pytest.mark.parametrize(
    ("text", "answers"), [("HANDLER users OPEN", []), ("SELECT LENGTH(LOAD_FILE('/etc/passwd')) > 9", [(1,)])]
)
async def test_without_the_judge_tables_are_held_and_files_are_read(
    provider: Mysql, mariadb: Mariadb, text: str, answers: list[Any]
) -> None:
    assert await raw(provider, text.format(dir=mariadb.dir), plain=False) == answers
    with pytest.raises(ReadOnly):
        await call(provider, "query", query=text.format(dir=mariadb.dir))


@pytest.mark.parametrize("text", ["SELECT f_write()", "SELECT NEXTVAL(sq)", "DELETE FROM users"])
async def test_without_the_read_only_session_these_have_their_effect(
    provider: Mysql, oracle: Oracle, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(pool_module, "READ_ONLY", pool_module.READ_WRITE)
    before = oracle.digest()
    session = await provider._pool.acquire()
    session._setup[-1] = pool_module.READ_WRITE
    await session.reset()
    provider._pool.release(session)
    await raw(provider, text)
    assert oracle.digest() != before


async def test_a_transaction_that_is_only_begun_read_only_would_not_hold(provider: Mysql, oracle: Oracle) -> None:
    """Why the whole session is read-only: DDL ends the transaction first, and then runs outside of it."""
    before = oracle.digest()
    session = await provider._pool.acquire()
    for text in (pool_module.READ_WRITE, "START TRANSACTION READ ONLY", "CREATE TABLE canary (id INT)"):
        await session.conn.run(text)
    provider._pool.release(session, pool_module.Session.reset)
    await settled(provider)
    assert oracle.digest() != before


async def test_without_the_reset_a_function_poisons_the_session(provider: Mysql) -> None:
    await raw(provider, "SELECT f_set()", plain=True)
    assert await raw(provider, "SELECT @poison, @@tx_read_only") == [("yes", 0)]


async def test_without_the_function_list_a_lock_is_taken(
    provider: Mysql, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "REFUSED", frozenset())
    monkeypatch.setattr(guard, "PLAIN", guard.PLAIN | {"get_lock"})
    guard._judge_cached.cache_clear()
    before = oracle.digest()
    await call(provider, "query", query="SELECT GET_LOCK('canary', 1)")
    assert oracle.digest() != before
    guard._judge_cached.cache_clear()


async def test_no_session_takes_several_statements_in_one_text(provider: Mysql, oracle: Oracle) -> None:
    """Not even as plain text, below everything of ours: the capability is never asked for."""
    before = oracle.digest()
    session = await provider._pool.acquire()
    with pytest.raises(Exception, match="1064"):
        await session.conn.run("SET @x = 1; DELETE FROM users")
    with pytest.raises(Exception, match="1064"):
        await session.conn.prepare_plan("SELECT 1; DELETE FROM users")
    provider._pool.release(session)
    assert oracle.digest() == before


async def test_asyncmy_by_itself_takes_several_statements(mariadb: Mariadb) -> None:
    """Negative control of the capability."""
    import asyncmy

    conn = await asyncmy.connect(host=mariadb.host, port=mariadb.port, user=mariadb.user, password=mariadb.password)
    async with conn.cursor() as cursor:
        await cursor.execute("SET @x = 1; SET @y = 2")
        await cursor.nextset()
        await cursor.execute("SELECT @y")
        assert await cursor.fetchone() == (2,)
    await conn.ensure_closed()


async def test_a_routine_that_commits_cannot_break_a_transaction(provider: Mysql) -> None:
    await call(provider, "execute", query="CREATE PROCEDURE committing() COMMIT")
    statements = [{"query": "INSERT INTO users VALUES (70, 'x')"}, {"query": "CALL committing()"}]
    with pytest.raises(InvalidRequest, match="commits at once"):
        await call(provider, "transaction", statements=statements)
    assert (await call(provider, "query", query="SELECT COUNT(*) FROM users WHERE id = 70")).rows == [(0,)]


async def test_the_least_privileged_account_is_told_from_the_others(
    mariadb: Mariadb, mariadb_database: str, provider: Mysql
) -> None:
    found = await provider.privileges()
    assert found["enforced_by"] == "service"
    assert {"FILE on *.*", "SUPER on *.*", "PROCESS on *.*", f"ALL PRIVILEGES on `{mariadb_database}`.*"} <= set(
        found["excess"]
    )
    create, grant = found["grant"]
    mariadb.sql(create.replace("<a long random password>", "reader-pw"), grant)
    try:
        reader = mariadb.config(database=mariadb_database, username="studio_reader", password="reader-pw", ssl=True)
        async with open_provider(Mysql, reader) as least:
            assert await least.privileges() == {"enforced_by": "account", "excess": [], "grant": []}
            assert (await call(least, "query", query="SELECT COUNT(*) FROM users")).rows == [(2,)]
            assert (await call(least, "query", query="SHOW CREATE TABLE users")).row_count == 1
            with pytest.raises(UpstreamError, match=r"DELETE on table .*1142.*grant"):
                await call(least, "execute", query="DELETE FROM users")
        mariadb.sql(
            f"GRANT INSERT (name) ON {mariadb_database}.users TO studio_reader@'%'",
            "CREATE ROLE IF NOT EXISTS r",
            "GRANT r TO studio_reader@'%'",
        )
        async with open_provider(Mysql, reader) as more:
            found = await more.privileges()
            assert found["enforced_by"] == "service"
            assert f"INSERT on `{mariadb_database}`.`users`" in found["excess"]
            assert "a role, whose privileges are not looked into" in found["excess"]
    finally:
        mariadb.sql("DROP USER studio_reader@'%'", "DROP ROLE IF EXISTS r")


async def test_work_module_judges_through_the_same_door(provider: Mysql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation that takes a user's SQL asks the judge before anything is sent."""
    sent: list[str] = []
    monkeypatch.setattr(work_module, "_prepared", lambda *_: sent.append("sent"))
    for name, arguments in (
        ("query", {"query": "DELETE FROM users"}), ("explain", {"query": "DELETE FROM users"}), ("execute", {"query": "SET @a = 1"}),
        ("transaction", {"statements": [{"query": "INSERT INTO users VALUES (1, 'x')"}, {"query": "COMMIT"}]}),
    ):  # fmt: skip
        with pytest.raises(StudioError):
            await call(provider, name, **arguments)
    assert not sent
