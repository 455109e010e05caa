"""The `mysql` provider on a real MariaDB: operations, values, caps, streams, sessions and cancelling."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.upstreams.mariadb import Mariadb

from studio.contract import Probe
from studio.contract.values import EXACT_INTEGER, canonical
from studio.errors import InvalidRequest, NotFound, PoolBusy, ResultBlocked, StudioError, Timeout, UpstreamError
from studio.providers.mysql import pool as pool_module
from studio.providers.mysql.provider import Mysql
from studio.testing.database import ServerConformance
from studio.testing.harness import call, open_provider
from studio.testing.sql import SqlConformance

pytestmark = pytest.mark.server

CONNECTION = "SELECT CONNECTION_ID()"


class TestConformance(SqlConformance, ServerConformance):
    """What every SQL server does."""

    kind = "mysql"
    slow = "SELECT COUNT(*) FROM seq_1_to_1000000000 a JOIN seq_1_to_1000000 b ON a.seq = b.seq + SLEEP(0.01)"
    # MariaDB stops a recursive query after `max_recursive_iterations` rounds without a word.
    series = "SELECT seq AS n FROM seq_1_to_{count}"

    @pytest.fixture
    async def config(self, mariadb: Mariadb, mariadb_database: str) -> dict[str, Any]:
        return mariadb.config(database=mariadb_database)


@pytest.fixture
async def provider(mariadb: Mariadb, mariadb_database: str) -> AsyncIterator[Any]:
    async with open_provider(Mysql, mariadb.config(database=mariadb_database)) as provider:
        yield provider


@pytest.fixture
async def server(mariadb: Mariadb) -> AsyncIterator[Any]:
    """A provider on the server's first database, for what makes no table."""
    async with open_provider(Mysql, mariadb.config()) as provider:
        yield provider


async def value(provider: Any, expression: str, **params: Any) -> Any:
    """One value, asked for twice: as a new text and as a prepared statement."""
    query = f"SELECT {expression}"
    first = (await call(provider, "query", query=query, params=params or None)).rows[0][0]
    again = (await call(provider, "query", query=query, params=params or None)).rows[0][0]
    assert again == first
    return first


async def settled(provider: Any) -> None:
    """Wait until what goes on behind the callers' backs is done."""
    while provider._pool._tasks:
        await asyncio.wait(provider._pool._tasks)


# -- values ---------------------------------------------------------------------------------------

FORMS = [
    ("CAST(1 AS SIGNED)", 1), ("9007199254740991", EXACT_INTEGER), ("9007199254740992", "9007199254740992"), ("-9223372036854775808", "-9223372036854775808"),
    ("18446744073709551615", "18446744073709551615"), ("NULL", None), ("CAST(NULL AS SIGNED)", None), ("1.50", "1.50"), ("1.5e0", 1.5), ("TRUE", 1),
    ("CAST(1.1 AS FLOAT)", 1.1), ("CAST(16777216 AS FLOAT)", 16777216.0), ("'a'", "a"), ("''", ""), ("'ünï🙂'", "ünï🙂"), ("_latin1 x'fc'", "ü"),
    ("CAST('2024-02-29' AS DATE)", "2024-02-29"), ("CAST('0000-00-00' AS DATE)", "0000-00-00"), ("CAST('2024-02-29 12:34:56' AS DATETIME)", "2024-02-29T12:34:56"),
    ("CAST('2024-02-29 12:34:56.789' AS DATETIME(6))", "2024-02-29T12:34:56.789000"), ("CAST('2024-02-29' AS DATETIME)", "2024-02-29T00:00:00"),
    ("CAST('0000-00-00' AS DATETIME)", "0000-00-00T00:00:00"), ("CAST('12:34:56' AS TIME)", "12:34:56"), ("CAST('-838:59:59' AS TIME)", "-838:59:59"),
    ("CAST('00:00:00' AS TIME)", "00:00:00"), ("CAST('-00:00:01.5' AS TIME(3))", "-00:00:01.500000"), ("x'00ff'", "AP8="), ("BINARY 'ab'", "YWI="),
    ("JSON_EXTRACT('{\"a\": [1, 2.5, null]}', '$')", {"a": [1, 2.5, None]}), ("JSON_OBJECT('n', 12345678901234567890)", {"n": "12345678901234567890"}),
    ("REPEAT('x', 70000)", "x" * 70_000), ("CAST(UUID() AS UUID) IS NULL", 0), ("CAST('6ba7b810-9dad-11d1-80b4-00c04fd430c8' AS UUID)", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"),
    ("CAST('10.0.0.1' AS INET4)", "10.0.0.1"), ("CAST(99999999999999999999999999999.123 AS DECIMAL(40, 3))", "99999999999999999999999999999.123"),
]  # fmt: skip


async def test_each_type_travels_in_its_canonical_form(server: Any) -> None:
    for expression, expected in FORMS:
        assert await value(server, expression) == expected, expression


COLUMNS = {
    "a": ("tinyint", "-128", -128), "b": ("tinyint unsigned", "255", 255), "c": ("smallint", "-32768", -32768), "d": ("smallint unsigned", "65535", 65535),
    "e": ("mediumint", "-8388608", -8388608), "f": ("int unsigned", "4294967295", 4294967295), "g": ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
    "h": ("float", "3.14", 3.14), "i": ("double", "0.1", 0.1), "j": ("decimal", "1.20", "1.20"), "k": ("bit", "b'101'", 5), "l": ("year", "2024", 2024),
    "m": ("timestamp", "'2024-01-01 00:00:00'", "2024-01-01T00:00:00Z"), "n": ("enum", "'y'", "y"), "o": ("set", "'x,y'", "x,y"), "p": ("json", "'[1, {\"a\": null}]'", [1, {"a": None}]),
    "q": ("text", "'long'", "long"), "r": ("blob", "x'00'", "AA=="), "s": ("char", "'abc'", "abc"), "t": ("binary", "x'0102'", "AQI="), "u": ("varbinary", "'v'", "dg=="),
    "v": ("uuid", "'6ba7b810-9dad-11d1-80b4-00c04fd430c8'", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"), "w": ("inet6", "'::1'", "::1"),
    "x": ("time", "'-100:00:00.25'", "-100:00:00.250000"), "y": ("date", "'9999-12-31'", "9999-12-31"), "z": ("datetime", "'1000-01-01 01:02:03.000004'", "1000-01-01T01:02:03.000004"),
}  # fmt: skip
SIZES = {
    "decimal": "(5,2)",
    "bit": "(3)",
    "enum": "('x','y')",
    "set": "('x','y')",
    "binary": "(2)",
    "varbinary": "(9)",
    "char": "(3)",
    "time": "(2)",
    "datetime": "(6)",
}


async def test_columns_keep_their_types_and_values_next_to_each_other(provider: Any) -> None:
    columns = ", ".join(f"{name} {kind}{SIZES.get(kind, '')} NULL" for name, (kind, _, _) in COLUMNS.items())
    await call(provider, "execute", query=f"CREATE TABLE t ({columns})")
    literals = ", ".join(literal for _, literal, _ in COLUMNS.values())
    await call(provider, "execute", query=f"INSERT INTO t VALUES ({literals}), ({', '.join(['NULL'] * len(COLUMNS))})")
    for _ in range(2):
        result = await call(provider, "query", query="SELECT * FROM t")
        assert [column["type"] for column in result.columns] == [kind for kind, _, _ in COLUMNS.values()]
        assert result.rows == [tuple(expected for _, _, expected in COLUMNS.values()), (None,) * len(COLUMNS)]


async def test_json_is_a_value_and_text_that_looks_like_it_stays_text(provider: Any) -> None:
    await call(provider, "execute", query="CREATE TABLE t (doc LONGTEXT, j JSON)")
    await call(provider, "execute", query="INSERT INTO t VALUES ('{\"a\": 1}', '{\"a\": 1}')")
    assert (await call(provider, "query", query="SELECT * FROM t")).rows == [('{"a": 1}', {"a": 1})]


async def test_columns_have_unique_names_and_a_query_without_rows_tells_them(server: Any) -> None:
    result = await call(server, "query", query="SELECT 1 AS a, 'x' AS a, 2 AS `a_2` WHERE 1 = 0")
    assert [column["name"] for column in result.columns] == ["a", "a_3", "a_2"]
    assert (result.rows, result.truncated) == ([], False)


async def test_a_prepared_statement_whose_columns_change_tells_the_new_ones(provider: Any) -> None:
    await call(provider, "execute", query="CREATE TABLE t AS SELECT 1 AS a")
    assert (await call(provider, "query", query="SELECT * FROM t")).columns == [{"name": "a", "type": "int"}]
    await call(provider, "execute", query="ALTER TABLE t ADD b VARCHAR(9) DEFAULT 'x', MODIFY a BIGINT")
    result = await call(provider, "query", query="SELECT * FROM t")
    assert [column["type"] for column in result.columns] == ["bigint", "varchar"]
    assert result.rows == [(1, "x")]
    for given_value, kind in ((1, "bigint"), ("x", "varchar"), (1.5, "double"), (None, "null"), (2, "bigint")):
        result = await call(provider, "query", query="SELECT :v AS v", params={"v": given_value})
        assert (result.rows, result.columns[0]["type"]) == ([(given_value,)], kind)


# -- parameters -----------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40) | st.text("'\"\\`;-#/*%_:?x \n\x00", max_size=30)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXT, number=st.integers(-(2**63), 2**64 - 1), ratio=st.floats(allow_nan=False, allow_infinity=False),
    exact=st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20),
    blob=st.binary(max_size=40), moment=st.datetimes(min_value=dt.datetime(1000, 1, 1)),
    document=st.lists(st.integers() | TEXT | st.none(), max_size=4),
)  # fmt: skip
async def test_every_value_comes_back_as_it_went(
    server: Any, text: str, number: int, ratio: float, exact: Decimal, blob: bytes, moment: dt.datetime, document: Any
) -> None:
    query = "SELECT :a, :b, :c, :d, :e, :f, JSON_EXTRACT(:g, '$'), :a = :a"
    params = {"a": text, "b": number, "c": ratio, "d": exact, "e": blob, "f": moment, "g": document}
    [row] = (await call(server, "query", query=query, params=params)).rows
    assert row[0:3] == (text, canonical(number), ratio)
    assert Decimal(row[3]) == exact
    assert row[4] == canonical(blob)
    assert dt.datetime.fromisoformat(row[5]) == moment
    assert row[6:] == (canonical(document), 1)


class Recorder:
    """Writes down every command that a session sends."""

    def __init__(self, conn: Any) -> None:
        self.sent: list[tuple[int, bytes]] = []
        original = conn._execute_command

        async def record(command: int, payload: Any) -> None:
            self.sent.append((command, payload if isinstance(payload, bytes) else payload.encode()))
            await original(command, payload)

        conn._execute_command = record


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=TEXT.filter(lambda text: len(text) > 3),
    mode=st.sampled_from(["", "NO_BACKSLASH_ESCAPES", "ANSI_QUOTES", "NO_BACKSLASH_ESCAPES,ANSI_QUOTES"]),
)
async def test_a_value_is_never_in_the_text_of_a_statement_whatever_the_servers_mode(
    server: Any, text: str, mode: str
) -> None:
    session = await server._pool.acquire()
    recorder = Recorder(session.conn)
    await session.conn.run(f"SET SESSION sql_mode='{mode}'")
    server._pool.release(session)
    [row] = (await call(server, "query", query="SELECT :v AS v", params={"v": text})).rows
    del session.conn._execute_command
    assert row == (text,)
    texts = [payload for command, payload in recorder.sent if command in (0x03, 0x16)]
    assert all(text.encode() not in payload for payload in texts)
    assert [command for command, payload in recorder.sent if text.encode() in payload] == [0x17]


async def test_pasted_instead_of_bound_a_value_becomes_sql(mariadb: Mariadb) -> None:
    """Negative control: asyncmy's usual way, on a server whose mode it was not told of."""
    import asyncmy

    conn = await asyncmy.connect(
        host=mariadb.host, port=mariadb.port, user=mariadb.user, password=mariadb.password, db=mariadb.database
    )
    async with conn.cursor() as cursor:
        literal = conn.literal(r"\' OR 1=1 -- ")  # made before the mode changes, as a cached text would be
        await cursor.execute("SET sql_mode='NO_BACKSLASH_ESCAPES'")
        await cursor.execute(f"SELECT 'a' = {literal}")
        assert (await cursor.fetchone())[0] == 1
    await conn.ensure_closed()


async def test_question_marks_are_not_a_way_in(server: Any) -> None:
    for query, params in (("SELECT ?", None), ("SELECT ?, :a", {"a": 1})):
        with pytest.raises(InvalidRequest, match=":name"):
            await call(server, "query", query=query, params=params)
    assert await value(server, "'?' = :a", a="?") == 1


async def test_a_limit_may_be_a_parameter(server: Any) -> None:
    result = await call(server, "query", query="SELECT seq FROM seq_1_to_9 LIMIT :n", params={"n": 2})
    assert result.rows == [(1,), (2,)]


async def test_many_kinds_of_values_are_taken(server: Any) -> None:
    for given_value, expected in (
        (dt.date(2024, 2, 29), "2024-02-29"), (dt.time(1, 2, 3, 4), "01:02:03.000004"), (dt.timedelta(hours=-30), "-30:00:00"),
        (UUID(int=1), None), (2**64, str(2**64)), (True, 1), (b"\x00", "AA=="), ({"a": 1}, '{"a": 1}'), ("x" * 1_000_000, "x" * 1_000_000),
    ):  # fmt: skip
        if expected is None:
            with pytest.raises(InvalidRequest, match=r"params\.v"):
                await value(server, ":v", v=given_value)
        else:
            assert await value(server, ":v", v=given_value) == expected


# -- operations -----------------------------------------------------------------------------------


async def test_execute_counts_tells_the_new_id_returns_and_commits(
    provider: Any, mariadb: Mariadb, mariadb_database: str
) -> None:
    created = await call(provider, "execute", query="CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, x TEXT)")
    assert (created.rows, created.data) == (None, None)
    result = await call(provider, "execute", query="INSERT INTO t (x) SELECT :x FROM seq_1_to_5", params={"x": "a"})
    assert (result.row_count, result.data) == (5, {"last_insert_id": 1})
    assert (await call(provider, "execute", query="UPDATE t SET x = 'b' WHERE id > 3")).row_count == 2
    assert (await call(provider, "execute", query="UPDATE t SET x = 'b' WHERE id > 3")).row_count == 2
    assert (await call(provider, "execute", query="DELETE FROM t WHERE 1 = 0")).row_count == 0
    result = await call(provider, "execute", query="INSERT INTO t (x) VALUES ('c'), ('d') RETURNING id, x")
    assert (result.rows, result.row_count) == ([(8, "c"), (9, "d")], 2)
    assert mariadb.sql(f"SELECT COUNT(*) FROM {mariadb_database}.t WHERE x = 'b'") == "2\n"


async def test_a_cap_on_reads_does_not_cut_what_a_write_copies(mariadb: Mariadb, mariadb_database: str) -> None:
    async with open_provider(Mysql, mariadb.config(database=mariadb_database, max_rows=3)) as provider:
        await call(provider, "execute", query="CREATE TABLE t AS SELECT seq FROM seq_1_to_50")
        assert (await call(provider, "execute", query="INSERT INTO t SELECT seq FROM seq_1_to_100")).row_count == 100
        assert (await call(provider, "query", query="SELECT COUNT(*) FROM t")).rows == [(150,)]
        result = await call(provider, "execute", query="DELETE FROM t RETURNING seq")
        assert (result.row_count, len(result.rows or ()), result.truncated) == (150, 3, True)
        columns = ", ".join(f"c{at} INT" for at in range(20))
        await call(provider, "execute", query=f"CREATE TABLE wide ({columns})")
        assert len((await call(provider, "describe_table", table="wide")).data["columns"]) == 20
        assert len(await provider._rows("SHOW GRANTS")) > 1


async def test_a_procedure_may_answer_several_times_and_leaves_nothing_open(provider: Any) -> None:
    for text in (
        "CREATE TABLE t (id INT)",
        "CREATE PROCEDURE p(n INT) BEGIN START TRANSACTION; INSERT INTO t VALUES (n); SELECT n AS a; SELECT 2 AS b, 3 AS c; SET @left = 1; END",
    ):
        await call(provider, "execute", query=text)
    for _ in range(2):
        result = await call(provider, "execute", query="CALL p(:n)", params={"n": 7})
        assert (result.rows, result.columns) == ([(7,)], [{"name": "a", "type": "int"}])
    assert (await call(provider, "query", query="SELECT COUNT(*), @left FROM t")).rows == [(2, None)]


async def test_a_transaction_is_all_or_nothing_and_sees_itself(provider: Any) -> None:
    await call(provider, "execute", query="CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY)")
    insert = "INSERT INTO t VALUES (:id)"
    with pytest.raises(UpstreamError, match="1062"):
        await call(provider, "transaction", statements=[{"query": insert, "params": {"id": 1}}] * 2)
    assert (await call(provider, "query", query="SELECT * FROM t")).rows == []
    done = await call(
        provider, "transaction",
        statements=[{"query": insert, "params": {"id": 1}}, {"query": "INSERT INTO t SELECT MAX(id) + 1 FROM t"}, {"query": "SELECT * FROM t"}],
    )  # fmt: skip
    assert [entry["row_count"] for entry in done.data] == [1, 1, 2]
    for statements in (
        [{"params": {}}],
        [{"query": insert, "params": {"id": 9}}, {"query": "DROP TABLE t"}],
        [{"query": "COMMIT"}],
    ):
        with pytest.raises(InvalidRequest):
            await call(provider, "transaction", statements=statements)
    assert (await call(provider, "query", query="SELECT COUNT(*) FROM t")).rows == [(2,)]


async def test_a_table_is_described_with_keys_indexes_and_comments(provider: Any, mariadb_database: str) -> None:
    for text in (
        "CREATE TABLE `odd ``one` (a INT, b INT, PRIMARY KEY (b, a)) COMMENT 'the parent'",
        """CREATE TABLE child (id BIGINT AUTO_INCREMENT PRIMARY KEY, x DECIMAL(10, 2) NOT NULL DEFAULT 1.5 COMMENT 'the price',
           n VARCHAR(50), pb INT, pa INT, FOREIGN KEY up (pb, pa) REFERENCES `odd ``one` (b, a), UNIQUE by_n (n(5)))""",
        "CREATE VIEW v AS SELECT 1 AS one",
    ):
        await call(provider, "execute", query=text)
    child = (await call(provider, "describe_table", table="child")).data
    assert child["columns"][1] == {
        "name": "x",
        "type": "decimal(10,2)",
        "nullable": False,
        "default": "1.50",
        "comment": "the price",
    }
    assert child["columns"][2]["default"] is None
    assert child["columns"][0]["type"] == "bigint(20) auto_increment"
    assert child["primary_key"] == ["id"]
    [key] = child["foreign_keys"]
    assert (key["columns"], key["references"]) == (
        ["pb", "pa"],
        {"schema": mariadb_database, "table": "odd `one", "columns": ["b", "a"]},
    )
    assert {index["name"]: (index["unique"], index["definition"]) for index in child["indexes"]}["by_n"] == (
        True,
        "BTREE (n(5))",
    )
    parent = (await call(provider, "describe_table", table="odd `one", schema=mariadb_database)).data
    assert (parent["primary_key"], parent["comment"], parent["type"]) == (["b", "a"], "the parent", "table")
    assert (await call(provider, "describe_table", table="v")).data["type"] == "view"
    with pytest.raises(NotFound):
        await call(provider, "describe_table", table="child", schema="nowhere' OR '1")
    tables = (await call(provider, "list_tables")).to_dict()["data"]
    assert [(row["name"], row["type"]) for row in tables if row["schema"] == mariadb_database] == [
        ("child", "table"), ("odd `one", "table"), ("v", "view"),
    ]  # fmt: skip


async def test_explain_shows_the_plan_of_a_query_and_runs_nothing(provider: Any) -> None:
    await call(provider, "execute", query="CREATE TABLE t AS SELECT 1 AS id")
    [plan] = (await call(provider, "explain", query="SELECT * FROM t WHERE id = :id", params={"id": 1})).data
    assert plan["query_block"]
    for text in ("DELETE FROM t", "ANALYZE SELECT 1", "EXPLAIN SELECT 1", "SHOW TABLES", "SELECT GET_LOCK('a', 1)"):
        with pytest.raises(StudioError):
            await call(provider, "explain", query=text)
    assert (await call(provider, "query", query="SELECT COUNT(*) FROM t")).rows == [(1,)]


async def test_looking_statements_are_reads(provider: Any) -> None:
    await call(provider, "execute", query="CREATE TABLE t (id INT)")
    for text in (
        "SHOW TABLES",
        "SHOW CREATE TABLE t",
        "DESCRIBE t",
        "EXPLAIN SELECT * FROM t",
        "SHOW PROCESSLIST",
        "SHOW ENGINES",
        "VALUES (1), (2)",
    ):
        assert (await call(provider, "query", query=text)).row_count > 0


async def test_a_probe_names_its_stages_and_times_tls_by_itself(mariadb: Mariadb) -> None:
    for ssl, stages in ((False, []), (True, ["tls"])):
        async with open_provider(Mysql, mariadb.config(ssl=ssl)) as provider:
            probe = Probe()
            await provider.probe(probe)
            expected = ["resolve", "connect", *stages, "login", "privileges", "sample"]
            assert [stage.name for stage in probe.stages] == expected
            assert all(stage.ok and stage.ms > 0 for stage in probe.stages)


@pytest.mark.parametrize("older", [False, True])
async def test_without_mariadbs_own_capabilities_it_works_as_with_mysql(
    mariadb: Mariadb, mariadb_database: str, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    """Column definitions with each answer and no names of types; `older`: end-of-file packets, as before MySQL 5.7."""
    from studio.providers.mysql import login as login_module

    monkeypatch.setattr(login_module, "EXTENDED_METADATA", 0)
    monkeypatch.setattr(login_module, "CACHE_METADATA", 0)
    if older:
        monkeypatch.setattr(login_module, "_WANTED", login_module._WANTED & ~login_module.CLIENT.DEPRECATE_EOF)
    for tls in (False, True):
        async with open_provider(Mysql, mariadb.config(database=mariadb_database, ssl=tls, pool_size=1)) as provider:
            await call(provider, "execute", query="CREATE OR REPLACE TABLE t (id INT, doc JSON, d DATETIME)")
            insert = "INSERT INTO t VALUES (:id, :doc, '2024-01-01')"
            assert (await call(provider, "execute", query=insert, params={"id": 1, "doc": {"a": 1}})).row_count == 1
            for _ in range(3):
                result = await call(provider, "query", query="SELECT * FROM t WHERE id = :id", params={"id": 1})
                assert result.rows == [(1, '{"a": 1}', "2024-01-01T00:00:00")]
                with pytest.raises(UpstreamError):
                    await call(provider, "query", query="SELECT * FROM nothing")
            many = await call(provider, "query", query="SELECT seq, seq * 1.5 FROM seq_1_to_900")
            assert many.rows[-1] == (900, "1350.0")
            await call(provider, "execute", query="CREATE OR REPLACE PROCEDURE p() BEGIN SELECT 1; SELECT 2, 3; END")
            assert (await call(provider, "execute", query="CALL p()")).rows == [(1,)]
            assert (await call(provider, "query", query="SELECT 1 AS a WHERE 1 = 0")).rows == []
            assert (await call(provider, "describe_table", table="t")).data["columns"][0]["name"] == "id"


# -- caps and streams -----------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [1, 100, 5000])
async def test_truncated_is_exact_with_and_without_a_limit_in_the_query(mariadb: Mariadb, cap: int) -> None:
    async with open_provider(Mysql, mariadb.config(max_rows=cap)) as provider:
        for count in (cap - 1, cap, cap + 1, cap * 3 + 200):
            for query in (f"SELECT seq FROM seq_1_to_{count}", f"SELECT seq FROM seq_1_to_100000 LIMIT {count}"):
                if "_to_0" not in query:
                    result = await call(provider, "query", query=query)
                    assert (result.row_count, result.truncated) == (min(count, cap), count > cap), query


async def test_wide_rows_stop_at_the_byte_cap(mariadb: Mariadb) -> None:
    async with open_provider(Mysql, mariadb.config(max_bytes=100_000)) as provider:
        result = await call(provider, "query", query="SELECT REPEAT('x', 10000) FROM seq_1_to_900")
        assert (result.row_count, result.truncated) == (9, True)
        result = await call(provider, "query", query="SELECT REPEAT('x', 3000000)")
        assert (result.row_count, result.truncated) == (0, True)
        with pytest.raises(ResultBlocked, match="max_bytes"):
            await call(provider, "query", query="SELECT REPEAT('x', 15000000)")
        assert (await call(provider, "query", query="SELECT 1")).rows == [(1,)]


async def test_a_large_result_is_streamed_in_parts(mariadb: Mariadb) -> None:
    async with open_provider(Mysql, mariadb.config(max_rows=1_000_000)) as provider:
        seen, most = 0, 0
        query = "SELECT seq, REPEAT('x', 100) FROM seq_1_to_200000"
        async with aclosing(provider.stream(provider.operation("query"), {"query": query})) as batches:
            async for batch in batches:
                assert batch.rows == [] or batch.rows[0][0] == seen + 1
                seen += len(batch.rows)
                most = max(most, len(batch.rows))
        assert seen == 200_000
        assert most < 20_000


async def test_a_slow_reader_holds_the_server_back(mariadb: Mariadb) -> None:
    async with open_provider(Mysql, mariadb.config(max_rows=1_000_000)) as provider:
        query = "SELECT seq, REPEAT('x', 1000) FROM seq_1_to_100000"
        async with aclosing(provider.stream(provider.operation("query"), {"query": query})) as batches:
            await anext(batches)
            await asyncio.sleep(0.3)
            assert len((await anext(batches)).rows) < 10_000


async def test_a_stream_left_early_neither_waits_nor_leaves_work_behind(mariadb: Mariadb) -> None:
    async with open_provider(Mysql, mariadb.config(pool_size=1, max_rows=10_000_000)) as provider:
        for query, killed in (
            ("SELECT seq FROM seq_1_to_25000", False),
            ("SELECT seq, 'left early' FROM seq_1_to_200000000", True),
        ):
            before = (await call(provider, "query", query=CONNECTION)).rows
            batches = provider.stream(provider.operation("query"), {"query": query})
            await anext(batches)
            start = time.perf_counter()
            await batches.aclose()
            assert time.perf_counter() - start < 0.05
            after = (await call(provider, "query", query=CONNECTION)).rows
            assert (after != before) is killed
        assert not mariadb.processes("left early")


# -- sessions, deadlines and cancelling -----------------------------------------------------------

WORK = "SELECT COUNT(*) FROM seq_1_to_100000000 a JOIN seq_1_to_1000 b ON a.seq + b.seq = 'canary {}'"


async def until(condition: Any, within_s: float = 3) -> None:
    deadline = time.perf_counter() + within_s
    while not condition():
        assert time.perf_counter() < deadline
        await asyncio.sleep(0.05)


async def test_a_cancelled_call_returns_at_once_and_its_work_ends_on_the_server(mariadb: Mariadb) -> None:
    for ssl in (False, True):
        async with open_provider(Mysql, mariadb.config(pool_size=1, ssl=ssl)) as provider:
            text = WORK.format(ssl)
            task = asyncio.create_task(call(provider, "query", query=text))
            await until(lambda text=text: mariadb.processes(text[-14:]))
            start = time.perf_counter()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert time.perf_counter() - start < 0.05
            assert (await call(provider, "query", query="SELECT 1")).rows == [(1,)]
            assert not mariadb.processes(text[-14:])


async def test_without_the_kill_a_cancelled_statement_works_on(
    mariadb: Mariadb, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: closing the connection alone does not stop it."""
    async with open_provider(Mysql, mariadb.config()) as provider:
        text = WORK.format("left alone")
        monkeypatch.setattr(pool_module.Pool, "_kill", lambda *_: asyncio.sleep(0))
        task = asyncio.create_task(call(provider, "query", query=text))
        await until(lambda: mariadb.processes("left alone"))
        task.cancel()
        await asyncio.wait([task])
        await settled(provider)
        assert mariadb.processes("left alone")
        for line in mariadb.sql(
            "SELECT id FROM information_schema.processlist WHERE info LIKE '%left alone%' AND id <> CONNECTION_ID()"
        ).split():
            mariadb.sql(f"KILL {line}")


async def test_a_cancelled_write_is_undone(mariadb: Mariadb, mariadb_database: str) -> None:
    async with open_provider(Mysql, mariadb.config(database=mariadb_database)) as provider:
        await call(provider, "execute", query="CREATE TABLE t (id BIGINT)")
        for name, arguments in (
            ("execute", {"query": "INSERT INTO t SELECT seq FROM seq_1_to_100000000"}),
            (
                "transaction",
                {
                    "statements": [
                        {"query": "INSERT INTO t VALUES (1)"},
                        {"query": "INSERT INTO t SELECT seq FROM seq_1_to_100000000"},
                    ]
                },
            ),
        ):
            task = asyncio.create_task(call(provider, name, **arguments))
            await until(lambda: mariadb.processes("INSERT INTO t SELECT"))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await settled(provider)
            await until(lambda: not mariadb.processes("INSERT INTO t SELECT"), 10)
            assert (await call(provider, "query", query="SELECT COUNT(*) FROM t")).rows == [(0,)]


async def test_the_server_itself_ends_what_runs_longer_than_the_timeout(
    mariadb: Mariadb, mariadb_database: str
) -> None:
    async with open_provider(Mysql, mariadb.config(timeout_s=0.3, database=mariadb_database)) as provider:
        for name in ("query", "execute"):
            start = time.perf_counter()
            with pytest.raises(Timeout, match="timeout_s"):
                await call(provider, name, query=WORK.format("slow"))
            assert 0.25 < time.perf_counter() - start < 1.5
        assert (await call(provider, "query", query="SELECT 1")).rows == [(1,)]


async def test_a_full_pool_is_busy_and_not_slow(mariadb: Mariadb) -> None:
    async with open_provider(Mysql, mariadb.config(pool_size=1, timeout_s=0.4)) as provider:
        sleeper = asyncio.create_task(call(provider, "query", query="SELECT SLEEP(0.39)"))
        await asyncio.sleep(0.02)
        with pytest.raises(PoolBusy):
            await asyncio.gather(*(call(provider, "query", query="SELECT SLEEP(0.39)") for _ in range(2)))
        await asyncio.wait([sleeper])


async def test_a_hundred_calls_share_four_sessions_and_leave_none_behind(mariadb: Mariadb) -> None:
    with mariadb.fresh_user("SELECT ON app.*") as account:
        async with open_provider(Mysql, mariadb.config(**account, pool_size=4)) as provider:
            results = await asyncio.gather(
                *(call(provider, "query", query="SELECT :n, CONNECTION_ID()", params={"n": n}) for n in range(100))
            )
            assert [result.rows[0][0] for result in results] == list(range(100))
            assert len({result.rows[0][1] for result in results}) <= 4
            assert mariadb.sessions(account["username"]) <= 4
        await until(lambda: mariadb.sessions(account["username"]) == 0)


async def test_more_texts_than_a_session_keeps_do_not_pile_up_on_the_server(server: Any, mariadb: Mariadb) -> None:
    def prepared() -> int:
        return int(mariadb.sql("SHOW GLOBAL STATUS LIKE 'Prepared_stmt_count'").split()[1])

    before = prepared()
    for at in range(pool_module.PLANS * 2):
        assert await value(server, f"{at}") == at
    assert prepared() - before <= pool_module.PLANS


async def test_a_session_serves_again_after_the_server_refused_a_statement(server: Any) -> None:
    [(number,)] = (await call(server, "query", query=CONNECTION)).rows
    for _ in range(3):
        for text in ("SELECT * FROM nothing", "SELECT nope(1)", "SELECT 1 FROM", "SELECT (SELECT 1 UNION SELECT 2)"):
            with pytest.raises(UpstreamError):
                await call(server, "query", query=text)
    await settled(server)
    assert (await call(server, "query", query=CONNECTION)).rows == [(number,)]
