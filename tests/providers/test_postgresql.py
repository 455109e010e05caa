"""The `postgresql` provider on a real server: operations, values, caps, streams, sessions and cancelling."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.servers import Postgres

from studio.contract import Probe
from studio.contract.values import EXACT_INTEGER, canonical
from studio.errors import InvalidRequest, NotFound, PoolBusy, ResultBlocked, StudioError, Timeout, UpstreamError
from studio.providers.postgresql import pool as pool_module
from studio.providers.postgresql import values as values_module
from studio.providers.postgresql import work as work_module
from studio.providers.postgresql.provider import Postgresql
from studio.testing.database import ServerConformance
from studio.testing.harness import call, open_provider
from studio.testing.sql import SqlConformance


class TestConformance(SqlConformance, ServerConformance):
    """What every SQL server does."""

    kind = "postgresql"
    slow = "SELECT pg_sleep(60)"
    echo = "SELECT CAST(:value AS text) AS value"

    @pytest.fixture
    async def config(self, postgres: Postgres, database: str) -> dict[str, Any]:
        return postgres.config(database=database)


@pytest.fixture
async def provider(postgres: Postgres, database: str) -> AsyncIterator[Any]:
    async with open_provider(Postgresql, postgres.config(database=database)) as provider:
        yield provider


@pytest.fixture
async def server(postgres: Postgres) -> AsyncIterator[Any]:
    """A provider on the server's first database, for what makes no table."""
    async with open_provider(Postgresql, postgres.config()) as provider:
        yield provider


async def value(provider: Any, expression: str, **params: Any) -> Any:
    """One value, asked for twice: as a new text and as a prepared statement."""
    query = f"SELECT {expression}"
    first = (await call(provider, "query", query=query, params=params or None)).rows[0][0]
    for _ in range(2):
        again = (await call(provider, "query", query=query, params=params or None)).rows[0][0]
        assert again == first or "random" in expression or "now" in expression
    return first


# -- values ---------------------------------------------------------------------------------------

FORMS = [
    ("1::int2", 1), ("2147483647", 2147483647), ("9007199254740991", EXACT_INTEGER), ("9007199254740992", "9007199254740992"),
    ("(-9223372036854775808)::int8", "-9223372036854775808"), ("NULL::int8", None), ("1.50::numeric", "1.50"),
    ("'NaN'::numeric", "NaN"), ("1e40::numeric", "1" + "0" * 40), ("1.5::float8", 1.5), ("1.1::float4", 1.1), ("'NaN'::float8", "NaN"),
    ("'-Infinity'::float8", "-Infinity"), ("'Infinity'::float4", "Infinity"), ("true", True), ("'a'::text", "a"), ("'a'::char(3)", "a  "),
    ("'a'::\"char\"", "a"), ("'a'::name", "a"), ("'2024-02-29'::date", "2024-02-29"), ("'infinity'::date", "infinity"),
    ("'0044-03-15 BC'::date", "0044-03-15 BC"), ("'12:34:56.5'::time", "12:34:56.5"), ("'12:34+02'::timetz", "12:34:00+02"),
    ("'2024-02-29 12:34:56.789'::timestamp", "2024-02-29T12:34:56.789"), ("'12024-02-29 12:34'::timestamp", "12024-02-29T12:34:00"),
    ("'2024-02-29 12:34:56+02'::timestamptz", "2024-02-29T10:34:56Z"), ("'-infinity'::timestamptz", "-infinity"),
    ("'1 day 02:03:04.5'::interval", 93784.5), ("'-1 mon +2 days -00:00:01'::interval", -30 * 86400 + 2 * 86400 - 1),
    ("'1 year'::interval", 365.25 * 86400), ("'0'::interval", 0), ("'\\x00ff'::bytea", "AP8="),
    ("'6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid", "6ba7b810-9dad-11d1-80b4-00c04fd430c8"), ("'10.0.0.1/8'::inet", "10.0.0.1/8"),
    ("'{\"a\": [1, null, \"x\"]}'::jsonb", {"a": [1, None, "x"]}), ("'\"text\"'::json", "text"), ("'null'::jsonb", None),
    ("'{\"n\": 12345678901234567890}'::jsonb", {"n": "12345678901234567890"}), ("'[1.5, 12345678901234567.5]'::json", [1.5, 12345678901234567.5]),
    ("ARRAY[1, NULL, 3]", [1, None, 3]), ("ARRAY[[1, 2], [3, 4]]", [[1, 2], [3, 4]]), ("ARRAY[1.5, 2.25]", ["1.5", "2.25"]),
    ("ARRAY[9007199254740993]", ["9007199254740993"]), ("ARRAY['NaN'::float8]", ["NaN"]), ("ARRAY['2024-01-01 00:00Z'::timestamptz]", ["2024-01-01T00:00:00Z"]),
    ("ARRAY['\\xff'::bytea]", ["/w=="]), ("'{}'::text[]", []), ("ARRAY['{\"a\": 1}'::jsonb]", [{"a": 1}]),
    ("int4range(1, 5)", "[1,5)"), ("'{[1,3),[5,7)}'::int4multirange", "{[1,3),[5,7)}"), ("tstzrange('2024-01-01 00:00Z', NULL)", '["2024-01-01 00:00:00+00",)'),
    ("ARRAY[numrange(1.5, 2)]", ["[1.5,2)"]), ("ROW(1, 'a b', NULL)", '(1,"a b",)'), ("point(1, 2)", "(1,2)"), ("'(1,2),(3,4)'::box", "(3,4),(1,2)"),
    ("B'101'", "101"), ("'12.34'::money", "$12.34"), ("'pg_class'::regclass", "pg_class"), ("'a & b'::tsquery", "'a' & 'b'"),
    ("'{1,2}'::int[] || 3", [1, 2, 3]), ("'8'::xid8", 8), ("(SELECT c FROM pg_class c WHERE false)", None), ("pg_sleep(0)", None),
]  # fmt: skip


async def test_each_type_travels_in_its_canonical_form(server: Any) -> None:
    for expression, expected in FORMS:
        assert await value(server, expression) == expected, expression


async def test_types_of_the_users_own_travel_as_text_and_lists(provider: Any) -> None:
    for text in ("CREATE TYPE mood AS ENUM ('sad', 'ok')", "CREATE TYPE pair AS (a int, b numeric, at timestamptz)",
                 "CREATE DOMAIN positive AS numeric CHECK (value > 0)",
                 "CREATE TABLE t (m mood, ms mood[], p pair, ps pair[], d positive, ds positive[])"):  # fmt: skip
        await call(provider, "execute", query=text)
    row = {
        "m": "ok",
        "ms": ["sad", None],
        "p": '(1,2.50,"2024-01-01 00:00:00+00")',
        "ps": ["(1,,)"],
        "d": "1.5",
        "ds": [1, "2.5"],
    }
    await call(provider, "execute", query="INSERT INTO t VALUES (:m, :ms, :p, :ps, :d, :ds)", params=row)
    result = await call(provider, "query", query="SELECT * FROM t")
    assert result.to_dict()["data"] == [{**row, "ds": ["1", "2.5"]}]
    assert [column["type"] for column in result.columns] == [
        "mood",
        "mood[]",
        "pair",
        "pair[]",
        "numeric",
        "positive[]",
    ]
    assert await value(provider, "(SELECT t FROM t)::text IS NULL") is False


async def test_columns_have_unique_names_and_the_servers_types(server: Any) -> None:
    result = await call(server, "query", query="SELECT 1 AS a, 2.5 AS a, now() AS b, '{1}'::int8[] AS \"a_2\"")
    assert result.columns[0] == {"name": "a", "type": "int4"}
    assert [column["type"] for column in result.columns] == ["int4", "numeric", "timestamptz", "int8[]"]
    assert len({column["name"] for column in result.columns}) == 4


async def test_a_query_without_rows_still_tells_its_columns(server: Any) -> None:
    result = await call(server, "query", query="SELECT 1 AS a WHERE false")
    assert (result.rows, result.columns, result.truncated) == ([], [{"name": "a", "type": "int4"}], False)
    assert (await call(server, "query", query="SELECT")).rows == [()]


async def test_a_slow_column_fix_is_only_paid_where_it_is_needed(server: Any) -> None:
    """One big integer among small ones and NULLs; one infinity among floats."""
    query = "SELECT CASE i WHEN 1 THEN NULL WHEN 2 THEN 9007199254740993 ELSE -i END, CASE i WHEN 3 THEN 'inf'::float8 ELSE i END FROM generate_series(1, 4) i"
    rows = (await call(server, "query", query=query)).rows
    assert rows == [(None, 1.0), ("9007199254740993", 2.0), (-3, "Infinity"), (-4, 4.0)]
    assert values_module.big_integers([None, 1, -5]) is None
    assert values_module._floats([None, 1.5, -2.0]) is None


# -- parameters -----------------------------------------------------------------------------------

GIVEN = [
    ("int4", 7, 7), ("int4", "7", 7), ("int4", 7.0, 7), ("int8", "9007199254740993", "9007199254740993"), ("numeric", "1.50", "1.50"),
    ("numeric", 1.5, "1.5"), ("numeric", Decimal("0.10"), "0.10"), ("numeric", "NaN", "NaN"), ("float8", 1, 1.0), ("float8", "NaN", "NaN"),
    ("bool", True, True), ("text", "a'b", "a'b"), ("date", "2024-02-29", "2024-02-29"), ("date", dt.date(2024, 2, 29), "2024-02-29"),
    ("timestamptz", "2024-01-01T02:00:00+02:00", "2024-01-01T00:00:00Z"), ("timestamptz", dt.datetime(2024, 1, 1, tzinfo=dt.UTC), "2024-01-01T00:00:00Z"),
    ("timestamp", "2024-01-01T02:00:00", "2024-01-01T02:00:00"), ("time", dt.time(1, 2), "01:02:00"), ("interval", 90, 90.0),
    ("interval", "1 day", 86400.0), ("interval", dt.timedelta(hours=1), 3600.0), ("uuid", UUID(int=1), str(UUID(int=1))), ("bytea", "AP8=", "AP8="),
    ("bytea", b"\x00", "AA=="), ("jsonb", {"a": [1, None]}, {"a": [1, None]}), ("jsonb", [1], [1]), ("json", True, True), ("jsonb", '"x"', "x"),
    ("jsonb", {"n": 10**30}, {"n": str(10**30)}), ("int4[]", [1, None, "3"], [1, None, 3]), ("text[]", [["a"], ["b"]], [["a"], ["b"]]),
    ("int4[]", [], []), ("jsonb[]", [{"a": 1}], [{"a": 1}]), ("inet", "10.0.0.1", "10.0.0.1"), ("int4range", "[1,3]", "[1,4)"), ("oid", 5, 5),
    ("point", "(1,2)", "(1,2)"), ('"char"', "x", "x"), ("int4", None, None), ("text[]", None, None),
]  # fmt: skip
MISFITS = [
    ("int4", "x"), ("int4", 1.5), ("int4", True), ("int4", 2**40), ("int4", "1" * 50), ("int2", 40_000), ("oid", -1), ("text", 5), ("text", ["a"]),
    ("bool", 1), ("bool", "true"), ("numeric", "x"), ("numeric", True), ("float8", "x"), ("date", "x"), ("date", 5), ("timestamptz", "2024-13-01"),
    ("uuid", "x"), ("uuid", 1), ("bytea", "%%"), ("bytea", 1), ("jsonb", "{"), ("int4[]", 1), ("int4[]", ["x"]), ("int4[]", [[1], [2, 3]]), ("interval", "x"),
    ("inet", "x"), ("text", "a\x00b"), ("text", "\ud800"), ("int4range", "x"), ("jsonb", {"a": float("nan")}), ("text[]", ["a", 5]),
]  # fmt: skip


async def test_json_values_fit_the_types_that_the_server_infers(server: Any) -> None:
    for kind, given_value, expected in GIVEN:
        assert await value(server, f"CAST(:x AS {kind})", x=given_value) == expected, (kind, given_value)


async def test_a_value_that_does_not_fit_names_its_parameter_and_keeps_the_session(server: Any) -> None:
    pids = set()
    for kind, given_value in MISFITS:
        for _ in range(3):  # as a new text, and as a prepared statement
            with pytest.raises(InvalidRequest) as caught:
                await call(
                    server,
                    "query",
                    query=f"SELECT :fine::int, CAST(:wrong AS {kind})",
                    params={"fine": 1, "wrong": given_value},
                )
            assert [field.field for field in caught.value.fields] == ["params.wrong"], (kind, given_value)
            assert "1" * 50 not in caught.value.message
        pids.add(await value(server, "pg_backend_pid()"))
    assert len(pids) == 1


async def test_parameters_are_found_where_they_are_and_nowhere_else(server: Any) -> None:
    query = """
        SELECT :a::int, ':b', $$:c$$, "x:d".y /* :e */, ('{1,2,3}'::int[])[1:2], '{"a":1}'::jsonb @> '{"a":1}', :a::text
        FROM (SELECT 1 AS y) "x:d" -- :f"""
    result = await call(server, "query", query=query, params={"a": 5})
    assert result.rows == [(5, ":b", ":c", 1, [1, 2], True, "5")]
    with pytest.raises(InvalidRequest, match=r"params\.b"):
        await call(server, "query", query="SELECT :a::int", params={"a": 1, "b": 2})
    with pytest.raises(InvalidRequest, match=r"params\.a"):
        await call(server, "query", query="SELECT :a::int", params={})


async def test_numbered_placeholders_are_not_a_way_in(server: Any) -> None:
    with pytest.raises(InvalidRequest, match=":name"):
        await call(server, "query", query="SELECT $1::int")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40),
    number=st.integers(-(2**63), 2**63 - 1),
    ratio=st.floats(),
    exact=st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20),
    blob=st.binary(max_size=40),
    moment=st.datetimes(timezones=st.just(dt.UTC)),
    document=st.recursive(
        st.none() | st.booleans() | st.integers(-EXACT_INTEGER, EXACT_INTEGER)
        | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=10),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc ", max_size=4), inner, max_size=4), max_leaves=12,
    ).filter(lambda document: document is not None and not isinstance(document, str)),
    names=st.lists(st.none() | st.text("ab'\"\\{},NUL ", max_size=6), max_size=5),
)  # fmt: skip
async def test_every_value_comes_back_as_it_went(
    server: Any,
    text: str,
    number: int,
    ratio: float,
    exact: Decimal,
    blob: bytes,
    moment: dt.datetime,
    document: Any,
    names: Any,
) -> None:
    query = "SELECT :a::text, :b::int8, :c::float8, :d::numeric, :e::bytea, :f::timestamptz, :g::json, :h::text[]"
    params = {"a": text, "b": number, "c": ratio, "d": exact, "e": blob, "f": moment, "g": document, "h": names}
    [row] = (await call(server, "query", query=query, params=params)).rows
    assert row[:3] == (text, canonical(number), canonical(ratio))
    assert Decimal(row[3]) == exact
    assert row[4] == canonical(blob)
    assert dt.datetime.fromisoformat(row[5]) == moment
    assert row[6:] == (document, names)
    # and what came back may be given again
    again = (await call(server, "query", query=query, params=dict(zip("abcdefgh", row, strict=True)))).rows
    assert again == [row]


# -- operations -----------------------------------------------------------------------------------


async def test_execute_counts_returns_and_commits(provider: Any, postgres: Postgres, database: str) -> None:
    assert (await call(provider, "execute", query="CREATE TABLE t (id int PRIMARY KEY, x text)")).rows is None
    insert = "INSERT INTO t SELECT i, :x FROM generate_series(1, 5) i RETURNING id"
    result = await call(provider, "execute", query=insert, params={"x": "a"})
    assert (result.row_count, result.rows, result.truncated) == (5, [(1,), (2,), (3,), (4,), (5,)], False)
    assert (await call(provider, "execute", query="UPDATE t SET x = 'b' WHERE id > 3")).row_count == 2
    assert (await call(provider, "execute", query="DELETE FROM t WHERE false")).row_count == 0
    other = await postgres.admin(database)
    assert await other.fetchval("SELECT count(*) FROM t WHERE x = 'b'") == 2
    await other.close()


async def test_what_a_write_returns_is_capped_and_still_counted(postgres: Postgres, database: str) -> None:
    async with open_provider(Postgresql, postgres.config(database=database, max_rows=300)) as provider:
        await call(provider, "execute", query="CREATE TABLE t (id int)")
        for count, kept, truncated in ((300, 300, False), (301, 300, True), (5000, 300, True)):
            insert = f"INSERT INTO t SELECT generate_series(1, {count}) RETURNING id"
            for _ in range(3):
                result = await call(provider, "execute", query=insert)
                assert (result.row_count, len(result.rows or ()), result.truncated) == (count, kept, truncated)
    async with open_provider(Postgresql, postgres.config(database=database, max_bytes=1024)) as provider:
        result = await call(
            provider, "execute", query="INSERT INTO t SELECT generate_series(1, 1000) RETURNING id, repeat('x', 100)"
        )
        assert (result.row_count, result.truncated) == (1000, True)
        assert 5 < len(result.rows or ()) < 11


async def test_a_transaction_is_all_or_nothing_and_sees_itself(provider: Any) -> None:
    await call(provider, "execute", query="CREATE TABLE t (id int PRIMARY KEY)")
    insert = "INSERT INTO t VALUES (:id)"
    with pytest.raises(UpstreamError, match="23505"):
        await call(provider, "transaction", statements=[{"query": insert, "params": {"id": 1}}] * 2)
    assert (await call(provider, "query", query="SELECT * FROM t")).rows == []
    done = await call(
        provider,
        "transaction",
        statements=[{"query": insert, "params": {"id": 1}}, {"query": "INSERT INTO t SELECT id + 1 FROM t"}],
    )
    assert (done.data, done.row_count) == ([{"row_count": 1}, {"row_count": 1}], 2)
    with pytest.raises(InvalidRequest, match=r"statements\.0\.query"):
        await call(provider, "transaction", statements=[{"params": {}}])


async def test_a_constraint_that_fails_at_commit_fails_the_call(provider: Any) -> None:
    await call(
        provider,
        "execute",
        query="CREATE TABLE t (id int PRIMARY KEY, up int REFERENCES t DEFERRABLE INITIALLY DEFERRED)",
    )
    with pytest.raises(UpstreamError, match="23503"):
        await call(provider, "execute", query="INSERT INTO t VALUES (1, 2)")
    assert (await call(provider, "query", query="SELECT * FROM t")).rows == []


async def test_a_role_that_reads_by_default_may_still_execute(postgres: Postgres, database: str) -> None:
    admin = await postgres.admin(database)
    await admin.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
    await admin.close()
    async with open_provider(Postgresql, postgres.config(database=database)) as provider:
        await call(provider, "execute", query="CREATE TABLE t (id int)")


async def test_a_table_is_described_with_keys_indexes_and_comments(provider: Any) -> None:
    for text in ('CREATE SCHEMA "Odd one"', 'CREATE TABLE "Odd one".parent (a int, b int, PRIMARY KEY (b, a))',
                 """CREATE TABLE child (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, x numeric(10, 2) NOT NULL DEFAULT 1.5,
                    d int GENERATED ALWAYS AS (1 + 1) STORED, pb int, pa int, FOREIGN KEY (pb, pa) REFERENCES "Odd one".parent)""",
                 "COMMENT ON COLUMN child.x IS 'the price'", "CREATE UNIQUE INDEX by_x ON child (lower(x::text))", "CREATE VIEW v AS SELECT 1 AS one"):  # fmt: skip
        await call(provider, "execute", query=text)
    child = (await call(provider, "describe_table", table="child")).data
    assert child["columns"][1] == {
        "name": "x",
        "type": "numeric(10,2)",
        "nullable": False,
        "default": "1.5",
        "comment": "the price",
    }
    assert child["columns"][2]["default"] is None
    assert child["primary_key"] == ["id"]
    [key] = child["foreign_keys"]
    assert (key["columns"], key["references"]) == (
        ["pb", "pa"],
        {"schema": "Odd one", "table": "parent", "columns": ["b", "a"]},
    )
    assert [index["name"] for index in child["indexes"]] == ["by_x", "child_pkey"]
    assert (await call(provider, "describe_table", table="parent", schema="Odd one")).data["primary_key"] == ["b", "a"]
    with pytest.raises(NotFound):
        await call(provider, "describe_table", table="parent")
    tables = (await call(provider, "list_tables")).to_dict()["data"]
    assert [(row["schema"], row["name"], row["type"]) for row in tables] == [
        ("Odd one", "parent", "table"),
        ("public", "child", "table"),
        ("public", "v", "view"),
    ]


async def test_the_schema_of_the_config_is_where_plain_names_are_looked_up(
    postgres: Postgres, provider: Any, database: str
) -> None:
    await call(provider, "execute", query='CREATE SCHEMA "a""b, c"')
    await call(provider, "execute", query='CREATE TABLE "a""b, c".here (id int)')
    async with open_provider(Postgresql, postgres.config(database=database, schema='a"b, c')) as other:
        assert (await call(other, "query", query="SELECT count(*) FROM here")).rows == [(0,)]
        assert (await call(other, "describe_table", table="here")).data["schema"] == 'a"b, c'
        await call(other, "execute", query="INSERT INTO here VALUES (1)")
        assert (await call(other, "query", query="SELECT count(*) FROM here")).rows == [(1,)]


async def test_explain_shows_the_plan_of_reads_and_writes_and_runs_neither(provider: Any) -> None:
    await call(provider, "execute", query="CREATE TABLE t AS SELECT 1 AS id")
    for text in ("SELECT * FROM t WHERE id = :id", "DELETE FROM t WHERE id = :id"):
        [plan] = (await call(provider, "explain", query=text, params={"id": 1})).data
        assert plan["Plan"]["Node Type"]
    assert (await call(provider, "query", query="SELECT count(*) FROM t")).rows == [(1,)]
    for text in ("ANALYZE SELECT 1", "(ANALYZE) SELECT 1", "CREATE TABLE x AS SELECT 1", "EXPLAIN SELECT 1"):
        with pytest.raises(StudioError):
            await call(provider, "explain", query=text)


async def test_a_probe_names_its_stages_and_times_tls_by_itself(postgres: Postgres) -> None:
    for ssl, stages in ((False, []), (True, ["tls"])):
        async with open_provider(Postgresql, postgres.config(ssl=ssl)) as provider:
            probe = Probe()
            await provider.probe(probe)
            assert [stage.name for stage in probe.stages] == [
                "resolve",
                "connect",
                *stages,
                "login",
                "privileges",
                "sample",
            ]
            assert all(stage.ok and stage.ms > 0 for stage in probe.stages)


async def test_privileges_tell_the_account_from_the_service(postgres: Postgres, database: str) -> None:
    async with open_provider(Postgresql, postgres.config(database=database)) as owner:
        found = await owner.privileges()
        assert found["enforced_by"] == "service"
        assert {"superuser", "createrole", "member of pg_execute_server_program"} <= set(found["excess"])
        await call(owner, "execute", query="CREATE TABLE t (id int)")
        admin = await postgres.admin(database)
        for statement in found["grant"]:
            await admin.execute(statement)
        await admin.execute("ALTER ROLE studio_reader PASSWORD 'reader'")
        try:
            reader = postgres.config(database=database, username="studio_reader", password="reader")
            async with open_provider(Postgresql, reader) as least:
                assert await least.privileges() == {"enforced_by": "account", "excess": [], "grant": []}
                assert (await call(least, "query", query="SELECT * FROM t")).rows == []
                await admin.execute("GRANT UPDATE (id) ON t TO studio_reader")
                found = await least.privileges()
                assert (found["enforced_by"], found["excess"]) == (
                    "service",
                    ["may change 1 table(s), such as public.t"],
                )
                with pytest.raises(UpstreamError, match=r"42501.*grant"):
                    await call(least, "execute", query="DELETE FROM t")
                await admin.execute("CREATE SEQUENCE numbers; GRANT USAGE ON SEQUENCE numbers TO studio_reader")
                assert "may advance 1 sequence(s)" in (await least.privileges())["excess"]
        finally:
            await admin.execute("DROP OWNED BY studio_reader")
            await admin.execute("DROP ROLE studio_reader")
            await admin.close()


# -- caps and streams -----------------------------------------------------------------------------


@pytest.mark.parametrize("cap", [1, 127, 128, 129, 1000])
async def test_truncated_is_exact_at_every_edge_of_a_batch(postgres: Postgres, cap: int) -> None:
    async with open_provider(Postgresql, postgres.config(max_rows=cap)) as provider:
        for count in (cap - 1, cap, cap + 1, cap * 3 + 200):
            for _ in range(3):  # new, then prepared, then from the cache
                result = await call(provider, "query", query=f"SELECT i FROM generate_series(1, {count}) i")
                assert (result.row_count, result.truncated) == (min(count, cap), count > cap)
                assert [row[0] for row in result.rows or ()] == list(range(1, min(count, cap) + 1))


async def rows_of(provider: Any, query: str) -> Any:
    operation = provider.operation("query")
    return provider.stream(operation, operation.parse({"query": query}))


async def test_a_large_result_streams_in_order_and_in_constant_memory(server: Any) -> None:
    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    seen, before, peak = 0, None, 0.0
    async with aclosing(await rows_of(server, "SELECT i, i::text, now() FROM generate_series(1, 400000) i")) as batches:
        async for batch in batches:
            assert batch.rows[0][0] == seen + 1
            seen += len(batch.rows)
            assert len(batch.rows) <= work_module.BATCH_ROWS
            before = before or resident()
            peak = max(peak, resident())
    assert seen == 400_000
    assert before is not None
    assert peak - before < 32


async def test_wide_rows_come_in_small_batches(server: Any) -> None:
    sizes = []
    async with aclosing(await rows_of(server, "SELECT repeat('x', 100000) FROM generate_series(1, 300)")) as batches:
        async for batch in batches:
            sizes.append(len(batch.rows))
    assert sum(sizes) == 300
    assert max(sizes[1:]) <= 16


async def test_a_stream_left_early_ends_its_query_and_gives_a_clean_session_back(postgres: Postgres) -> None:
    async with open_provider(Postgresql, postgres.config(pool_size=1)) as provider:
        pid = await value(provider, "pg_backend_pid()")
        for _ in range(3):
            batches = await rows_of(provider, "SELECT generate_series(1, 100000000)")
            assert len((await anext(batches)).rows) > 0
            await batches.aclose()
            assert await value(provider, "pg_backend_pid()") == pid


async def test_the_session_is_free_before_the_last_rows_are_read(postgres: Postgres) -> None:
    async with open_provider(Postgresql, postgres.config(pool_size=1)) as provider:
        batches = await rows_of(provider, "SELECT 1")
        assert (await anext(batches)).rows == [(1,)]
        async with asyncio.timeout(2):
            assert await value(provider, "2") == 2
        await batches.aclose()


# -- sessions -------------------------------------------------------------------------------------


async def backends(admin: Any, database: str, where: str = "true") -> int:
    query = f"SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() AND {where}"
    return int(await admin.fetchval(query, database))


async def until(condition: Any, within_s: float = 3) -> float:
    start = time.perf_counter()
    while not await condition():
        assert time.perf_counter() - start < within_s, "it did not happen"
        await asyncio.sleep(0.01)
    return time.perf_counter() - start


@pytest.fixture
async def admin(postgres: Postgres) -> AsyncIterator[Any]:
    conn = await postgres.admin()
    yield conn
    await conn.close()


async def test_nothing_connects_before_it_is_needed_and_nothing_is_left_open(
    postgres: Postgres, database: str, admin: Any
) -> None:
    async with open_provider(Postgresql, postgres.config(database=database)) as provider:
        assert await backends(admin, database) == 0
        await asyncio.gather(*(value(provider, "1") for _ in range(20)))
        assert await backends(admin, database) == 4
    await until(lambda: _none(admin, database))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def _none(admin: Any, database: str, where: str = "true") -> bool:
    return await backends(admin, database, where) == 0


async def test_a_hundred_at_once_share_four_sessions(postgres: Postgres, database: str, admin: Any) -> None:
    async with open_provider(Postgresql, postgres.config(database=database)) as provider:
        results = await asyncio.gather(
            *(call(provider, "query", query="SELECT :i::int", params={"i": i}) for i in range(100))
        )
        assert [result.rows for result in results] == [[(i,)] for i in range(100)]
        assert await backends(admin, database) == 4


async def test_one_after_another_uses_one_session(server: Any) -> None:
    assert len({await value(server, "pg_backend_pid()") for _ in range(10)}) == 1


async def test_an_idle_session_is_not_left_in_a_transaction(postgres: Postgres, database: str, admin: Any) -> None:
    async with open_provider(Postgresql, postgres.config(database=database)) as provider:
        await value(provider, "1")
        await until(lambda: _none(admin, database, "state <> 'idle'"), 1)
        assert await backends(admin, database) == 1


async def test_a_full_pool_is_busy_and_not_slow(postgres: Postgres) -> None:
    async with open_provider(Postgresql, postgres.config(pool_size=1, timeout_s=0.5)) as provider:
        async with aclosing(await rows_of(provider, "SELECT generate_series(1, 100000)")) as batches:
            await anext(batches)
            start = time.perf_counter()
            with pytest.raises(PoolBusy):
                await value(provider, "1")
            assert 0.4 < time.perf_counter() - start < 0.5
        assert await value(provider, "1") == 1


async def test_a_cancelled_query_ends_on_the_server_and_its_caller_does_not_wait(
    postgres: Postgres, database: str, admin: Any
) -> None:
    for ssl in (False, True):
        async with open_provider(Postgresql, postgres.config(database=database, pool_size=1, ssl=ssl)) as provider:
            for operation in ("query", "execute"):
                task = asyncio.create_task(call(provider, operation, query="SELECT pg_sleep(50), 'canary'"))
                active = "state = 'active' AND query LIKE '%canary%'"
                await until(lambda active=active: _some(admin, database, active))
                start = time.perf_counter()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert time.perf_counter() - start < 0.1
                await until(lambda active=active: _none(admin, database, active), 2)
                assert await value(provider, "7") == 7


async def _some(admin: Any, database: str, where: str) -> bool:
    return await backends(admin, database, where) > 0


async def test_a_cancel_at_any_moment_leaves_a_pool_that_works(postgres: Postgres) -> None:
    async with open_provider(Postgresql, postgres.config(pool_size=2)) as provider:
        for delay in [*(i / 4000 for i in range(24)), 0]:
            tasks = [
                asyncio.create_task(call(provider, "query", query="SELECT :i::int", params={"i": i})) for i in range(6)
            ]
            await asyncio.sleep(delay)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            for i, result in enumerate(done):
                assert isinstance(result, asyncio.CancelledError) or result.rows == [(i,)], result
        assert await value(provider, "1") == 1
        await asyncio.gather(*provider._pool._tasks)
        assert provider._pool._slots._value == 2


async def test_closing_while_a_cancel_is_under_way_leaves_nothing(
    postgres: Postgres, database: str, admin: Any
) -> None:
    async with open_provider(Postgresql, postgres.config(database=database)) as provider:
        task = asyncio.create_task(call(provider, "query", query="SELECT pg_sleep(50)"))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: _none(admin, database))


async def test_the_server_ends_a_statement_at_timeout_s_by_itself(postgres: Postgres) -> None:
    async with open_provider(Postgresql, postgres.config(timeout_s=0.3)) as provider:
        for operation in ("query", "execute"):
            start = time.perf_counter()
            with pytest.raises(Timeout):
                await call(provider, operation, query="SELECT count(*) FROM generate_series(1, 1000000000)")
            assert time.perf_counter() - start < 1
        assert await value(provider, "1") == 1


async def test_a_changed_table_heals_prepared_statements(provider: Any) -> None:
    await call(provider, "execute", query="CREATE TABLE t (id int)")
    async with open_provider(
        Postgresql,
        provider.config.model_dump(exclude={"password"}) | {"password": provider.config.password.get_secret_value()},
    ) as other:
        for change in ("ADD COLUMN x text", "DROP COLUMN x", "ALTER COLUMN id TYPE bigint"):
            for _ in range(3):
                await call(provider, "query", query="SELECT * FROM t")
            await call(other, "execute", query=f"ALTER TABLE t {change}")
        result = await call(provider, "query", query="SELECT * FROM t")
        assert [column["type"] for column in result.columns] == ["int8"]


async def test_a_text_seen_twice_is_prepared_and_one_seen_once_is_not(postgres: Postgres) -> None:
    async with open_provider(Postgresql, postgres.config(pool_size=1)) as provider:
        count = "SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE '%canary%' AND statement NOT LIKE '%pg_prep%'"
        seen = []
        for _ in range(3):
            await call(provider, "query", query="SELECT 'canary'")
            seen.append((await call(provider, "query", query=count)).rows[0][0])
        assert seen == [0, 1, 1]


async def test_very_long_statements_are_never_mixed_up(postgres: Postgres) -> None:
    """asyncpg keeps no prepared statement of a text over 15 kB; the unnamed one is soon another."""
    async with open_provider(Postgresql, postgres.config(pool_size=1)) as provider:
        for _ in range(4):
            for i in (1, 2):
                result = await call(provider, "query", query=f"SELECT {i} AS a -- {'x' * 20_000}")
                assert result.rows == [(i,)]


async def test_a_read_costs_one_round_trip_once_it_is_known(postgres: Postgres) -> None:
    async with open_provider(Postgresql, postgres.config(pool_size=1)) as provider:
        for _ in range(3):
            await call(provider, "query", query="SELECT 1")
        [session] = provider._pool._idle
        session.idle_since = asyncio.get_running_loop().time() + 60  # keep its ROLLBACK for the next use
        sent: list[bytes] = []
        channel = session.conn._transport
        write, channel._transport = channel._transport.write, _Recorder(channel._transport, sent)
        await call(provider, "query", query="SELECT 1")
        assert len(sent) == 1
        assert [name for name in (b"ROLLBACK", b"READ ONLY") if name not in sent[0]] == []
        assert write


async def test_the_servers_own_limits_are_back_after_every_kind_of_use(postgres: Postgres) -> None:
    look = "SELECT current_setting('statement_timeout'), current_setting('idle_in_transaction_session_timeout')"
    config = postgres.config(pool_size=1, read_only=False, timeout_s=7)
    async with open_provider(Postgresql, config) as provider:
        for query in ("SELECT set_config('statement_timeout', '0', false)", "CREATE TEMP TABLE t AS SELECT 1 AS one"):
            with suppress(StudioError):
                await call(provider, "execute", query=query)
            assert (await call(provider, "query", query=look)).rows == [("7s", "14s")]


class _Recorder:
    def __init__(self, transport: Any, sent: list[bytes]) -> None:
        self._transport, self._sent = transport, sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: Any) -> None:
        self._sent.append(bytes(data))
        self._transport.write(data)


def test_the_preambles_tag_is_no_tag_of_a_query() -> None:
    """`Session.first` tells by it whether a portal is exhausted."""
    assert pool_module.PREAMBLE_TAG == b"BEGIN"
    assert math.isfinite(pool_module.LINGER_S)


async def test_an_answer_that_is_larger_than_is_read_is_asked_for_in_smaller_parts(
    postgres: Postgres, database: str
) -> None:
    async with open_provider(Postgresql, postgres.config(database=database)) as provider:
        result = await call(provider, "query", query="SELECT repeat('x', 1000000) FROM generate_series(1, 100)")
        assert (result.row_count, result.truncated) == (4, True)
        with pytest.raises(ResultBlocked, match="max_bytes"):
            await call(provider, "query", query="SELECT repeat('x', 9000000)")
        assert (await call(provider, "query", query="SELECT 1")).rows == [(1,)]
