"""The `sqlite` provider: what it answers, what it refuses, and that no statement outlives its deadline."""

from __future__ import annotations

import asyncio
import hashlib
import math
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing, suppress
from pathlib import Path
from typing import Any

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from studio.contract import Probe, canonical
from studio.contract.sql import unique_names
from studio.errors import (
    InvalidConfig,
    InvalidRequest,
    NotFound,
    OperationNotSupported,
    ReadOnly,
    StudioError,
    Timeout,
    Unreachable,
    UpstreamError,
)
from studio.providers.sqlite import guard, process
from studio.providers.sqlite import worker as worker_module
from studio.providers.sqlite.provider import Sqlite, SqliteConfig
from studio.providers.sqlite.session import Session
from studio.security.egress import Egress
from studio.testing.harness import call, open_provider

ENDLESS = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
COUNT = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {}) SELECT n FROM c"
ONE_LONG_STEP = "SELECT instr(zeroblob({0}), CAST(zeroblob({0} / 2) || x'01' AS BLOB))"
"""Quadratic inside of one function call, where no interrupt and no progress handler is looked at."""

GATE = Egress(private_open=True)
"""The gate of every provider here; `root` sets its folder."""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "files"
    folder.mkdir()
    monkeypatch.setattr(GATE, "files_root", folder)
    make(folder / "shop.db")
    return folder


def make(path: Path, sql: str = "") -> None:
    with sqlite3.connect(path) as db:
        db.executescript(
            sql
            or """
            CREATE TABLE users (id INTEGER PRIMARY KEY, name VARCHAR(40) NOT NULL DEFAULT 'x', photo BLOB);
            CREATE TABLE orders (id INTEGER, line INTEGER, buyer INTEGER REFERENCES users(id) ON DELETE CASCADE,
                                 PRIMARY KEY (id, line));
            CREATE UNIQUE INDEX users_name ON users (name);
            CREATE VIEW names AS SELECT name FROM users;
            INSERT INTO users VALUES (1, 'Ada', x'00ff'), (2, 'Grace', NULL);
            """
        )
    db.close()


def opened(**more: Any) -> Any:
    return open_provider(Sqlite, {"path": "shop.db", **more}, network=GATE)


def writable(**more: Any) -> Any:
    return opened(read_only=False, **more)


def state(folder: Path) -> dict[str, str]:
    return {entry.name: hashlib.sha256(entry.read_bytes()).hexdigest() for entry in sorted(folder.iterdir())}


def workers() -> list[int]:
    """Worker processes of this process, zombies too."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = entry.read_text().rpartition(")")
        except OSError:
            continue
        if int(rest.split()[1]) != os.getpid() or "python" not in name:
            continue
        # A zombie has no command line any more; other children of the test run do have one, and another.
        command = entry.with_name("cmdline").read_bytes()
        if not command or b"sqlite.worker" in command:
            found.append(int(entry.parent.name))
    return found


async def until(condition: Callable[[], bool], seconds: float = 2) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:  # noqa: ASYNC110 - other processes set no event
        await asyncio.sleep(0.005)
    return condition()


# -- answers ----------------------------------------------------------------------------------------


async def test_a_query_answers_typed_columns_and_canonical_values(root: Path) -> None:
    async with opened() as db:
        result = await call(db, "query", query="SELECT *, 2 * id FROM users WHERE id >= :id", params={"id": 1})
    assert result.rows == [(1, "Ada", "AP8=", 2), (2, "Grace", None, 4)]
    assert result.columns == [
        {"name": "id", "type": "INTEGER"},
        {"name": "name", "type": "VARCHAR(40)"},
        {"name": "photo", "type": "BLOB"},
        {"name": "2 * id", "type": "any"},
    ]
    assert (result.row_count, result.truncated) == (2, False)


async def test_a_query_without_rows_still_names_its_columns(root: Path) -> None:
    async with opened() as db:
        result = await call(db, "query", query="SELECT id, name FROM users WHERE 0")
    assert ([column["name"] for column in result.columns], result.rows) == (["id", "name"], [])


def test_the_workers_values_are_the_contracts() -> None:
    values = (
        0, 1, -1, 2**53 - 1, 2**53, -(2**53), 2**63 - 1, -(2**63), 0.0, -0.0, 1.5, 1e308,
        math.inf, -math.inf, math.nan, "", "é\x00\U0001f642", b"", b"\x00\xff", None,
    )  # fmt: skip
    for value in values:
        assert list(worker_module.plain((value,))) == [canonical(value)]
    assert list(worker_module.plain(values)) == [canonical(value) for value in values]


async def test_many_rows_and_few_rows_are_encoded_alike(root: Path) -> None:
    text = 'quote " backslash \\ control \x01 line \u2028 🙂'
    sql = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM c WHERE n < {}) SELECT :t, 1e300, 0.1, 9e999, NULL, {}"
    async with opened() as db:
        few = await call(db, "query", query=sql.format(2, 2**60) + " FROM c", params={"t": text})
        many = await call(db, "query", query=sql.format(900, 2**60) + " FROM c", params={"t": text})
    assert set(few.rows) == set(many.rows) == {(text, 1e300, 0.1, "Infinity", None, str(2**60))}


async def test_columns_of_one_name_all_stay(root: Path) -> None:
    async with opened() as db:
        result = await call(db, "query", query="SELECT 1 AS a, 2 AS a, 3 AS a_2, 4 AS a")
    assert result.to_dict()["data"] == [{"a": 1, "a_3": 2, "a_2": 3, "a_4": 4}]


@given(st.lists(st.sampled_from(["a", "a_2", "a_3", "b", "b_2"])))
def test_unique_names_are_unique_and_keep_the_first_of_each(names: list[str]) -> None:
    unique = unique_names(names)
    assert len(set(unique)) == len(names)
    assert all(
        new == old for new, old, place in zip(unique, names, range(99), strict=False) if old not in names[:place]
    )


async def test_the_catalogue_is_listed_and_described(root: Path) -> None:
    async with opened() as db:
        tables = (await call(db, "list_tables")).to_dict()["data"]
        users = (await call(db, "describe_table", table="USERS")).data
        orders = (await call(db, "describe_table", table="orders", schema="main")).data
        names = (await call(db, "describe_table", table="names")).data
    assert [(row["name"], row["type"], row["estimated_rows"]) for row in tables] == [
        ("names", "view", None),
        ("orders", "table", None),
        ("users", "table", None),
    ]
    assert users["columns"][0] == {
        "name": "id", "type": "INTEGER", "nullable": False, "default": None, "primary_key": True
    }  # fmt: skip
    assert users["columns"][1] == {
        "name": "name", "type": "VARCHAR(40)", "nullable": False, "default": "'x'", "primary_key": False
    }  # fmt: skip
    assert users["indexes"] == [
        {"name": "users_name", "columns": ["name"], "unique": True, "primary": False, "partial": False}
    ]
    assert orders["primary_key"] == ["id", "line"]
    assert orders["foreign_keys"] == [
        {
            "columns": ["buyer"],
            "references": {"table": "users", "columns": ["id"]},
            "on_update": "NO ACTION",
            "on_delete": "CASCADE",
        }
    ]
    assert (names["type"], names["primary_key"]) == ("view", [])


async def test_analyze_gives_the_tables_estimated_rows(root: Path) -> None:
    async with writable() as db:
        await call(db, "execute", query="ANALYZE")
        rows = {row[1]: row[3] for row in (await call(db, "list_tables")).rows}
    assert rows["users"] == 2


@pytest.mark.parametrize(
    "name", ["nothing", "users; DROP TABLE users", "users' --", 'users"', "`users`", "[users]", "%"]
)
async def test_a_hostile_table_name_is_only_a_name(root: Path, name: str) -> None:
    before = state(root)
    async with opened() as db:
        with pytest.raises(NotFound):
            await call(db, "describe_table", table=name)
    assert state(root) == before


async def test_a_table_with_a_hostile_name_is_described(root: Path) -> None:
    name = "we\"ird'; DROP TABLE users; --"
    make(root / "odd.db", 'CREATE TABLE "we""ird\'; DROP TABLE users; --" (a)')
    async with open_provider(Sqlite, {"path": "odd.db"}, network=GATE) as db:
        assert (await call(db, "describe_table", table=name)).data["name"] == name


async def test_another_schema_is_refused(root: Path) -> None:
    async with opened() as db:
        with pytest.raises(InvalidRequest, match="main"):
            await call(db, "describe_table", table="users", schema="temp")


async def test_explain_shows_the_plan_and_runs_nothing(root: Path) -> None:
    async with opened() as db:
        plan = await call(db, "explain", query="SELECT * FROM users WHERE id = :id", params={"id": 1})
        endless = await call(db, "explain", query=ENDLESS)
    assert plan.data[0]["detail"].startswith("SEARCH users")
    assert endless.data


async def test_full_text_and_r_tree_tables_can_be_read(root: Path) -> None:
    async with writable() as db:
        for sql in (
            "CREATE VIRTUAL TABLE docs USING fts5(body)",
            "INSERT INTO docs VALUES ('hello world')",
            "CREATE VIRTUAL TABLE boxes USING rtree(id, low, high)",
            "INSERT INTO boxes VALUES (7, 1, 2)",
        ):
            await call(db, "execute", query=sql)
    before = state(root)
    async with opened() as db:
        assert (await call(db, "query", query="SELECT body FROM docs WHERE docs MATCH 'hello'")).row_count == 1
        assert (await call(db, "query", query="SELECT id FROM boxes WHERE high > 1")).rows == [(7,)]
        for shadow in ("boxes_node", "docs_data"):
            with pytest.raises(StudioError):
                await call(db, "query", query=f"DELETE FROM {shadow}")
    assert state(root) == before


# -- parameters -------------------------------------------------------------------------------------

VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
    st.binary(),
    st.sampled_from(["'; DROP TABLE users; --", '" OR 1=1', ":b", "?1", "$x", "\\", "/*", "\x00"]),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=40))
def test_any_value_is_bound_and_comes_back_as_its_canonical_form(root: Path, rows: list[tuple[Any, Any]]) -> None:
    async def main() -> None:
        async with opened() as db:
            for a, b in rows:
                params = {"a": a, "b": b}
                result = await call(db, "query", query="SELECT :b AS x, :a, ':a', :b FROM users LIMIT 1", params=params)
                x, y = (canonical(int(value) if isinstance(value, bool) else value) for value in (b, a))
                assert result.rows == [(x, y, ":a", x)]

    before = state(root)
    asyncio.run(main())
    assert state(root) == before


@pytest.mark.parametrize(
    ("value", "says"),
    [([1], "JSON text"), ({"a": 1}, "JSON text"), (2**63, "64 bits"), (-(2**63) - 1, "64 bits"), (math.nan, "NaN")],
)
async def test_a_value_that_sqlite_cannot_hold_is_named(root: Path, value: Any, says: str) -> None:
    async with opened() as db:
        with pytest.raises(InvalidRequest, match=says) as caught:
            await call(db, "query", query="SELECT :thing", params={"thing": value})
    assert caught.value.fields[0].field == "params.thing"


async def test_text_that_is_no_unicode_is_refused(root: Path) -> None:
    async with opened() as db:
        with pytest.raises(InvalidRequest, match="nicode"):
            await call(db, "query", query="SELECT :a", params={"a": "\ud800"})
        with pytest.raises(InvalidRequest, match="nicode"):
            await call(db, "query", query="SELECT '\ud800'")


@pytest.mark.parametrize(
    "text",
    ["SELECT ?", "SELECT ?1", "SELECT @a", "SELECT $a", "SELECT ?1, :a", "SELECT :a, @b", "SELECT x:a FROM users"],
)
async def test_placeholders_other_than_names_are_refused(root: Path, text: str) -> None:
    params = {"a": "secret"} if " :a" in text else None
    async with opened() as db:
        with pytest.raises(InvalidRequest):
            await call(db, "query", query=text, params=params)


async def test_a_name_that_sqlite_reads_otherwise_than_we_do_is_refused(root: Path) -> None:
    async with opened() as db:
        with pytest.raises(InvalidRequest, match="placeholders"):
            await call(db, "query", query="SELECT :a$b", params={"a": 1})


def test_without_comparing_the_names_the_value_would_go_to_the_other_name() -> None:
    assert list(apsw.Connection(":memory:").execute("SELECT :a$b", (1,))) == [(1,)]


# -- reading changes nothing ------------------------------------------------------------------------

WRITES = [
    "INSERT INTO users VALUES (9, 'x', NULL)",
    "UPDATE users SET name = 'x'",
    "DELETE FROM users",
    "DELETE/**/FROM users",
    "/* SELECT */ DELETE FROM users",
    "WITH x AS (SELECT 1) DELETE FROM users",
    "WITH x AS (SELECT 1) INSERT INTO users SELECT 9, 'x', NULL RETURNING *",
    "REPLACE INTO users VALUES (1, 'x', NULL)",
    "EXPLAIN DELETE FROM users",
    "CREATE TABLE t (a)",
    "CREATE TEMP TABLE t (a)",
    "CREATE TABLE t AS SELECT * FROM users",
    "CREATE VIRTUAL TABLE t USING fts5(a)",
    "DROP TABLE users",
    "ALTER TABLE users RENAME TO gone",
    "REINDEX",
    "ANALYZE",
    "VACUUM",
    "VACUUM INTO 'copy.db'",
    "VACUUM INTO '{folder}/copy.db'",
    "ATTACH '{folder}/new.db' AS new",
    "ATTACH ':memory:' AS new",
    "DETACH main",
    "PRAGMA journal_mode = WAL",
    "PRAGMA journal_mode(DELETE)",
    "PRAGMA user_version = 7",
    "PRAGMA query_only = OFF",
    "PRAGMA writable_schema = ON",
    "PRAGMA page_size = 512",
    "PRAGMA temp_store_directory = '/'",
    "PRAGMA wal_checkpoint",
    "PRAGMA optimize",
    "PRAGMA database_list",
    "SELECT * FROM pragma_database_list",
    "BEGIN",
    "BEGIN IMMEDIATE",
    "COMMIT",
    "SAVEPOINT s",
]


async def test_a_query_refuses_what_is_not_a_read_and_no_file_changes(root: Path) -> None:
    before = state(root)
    async with opened() as reader, writable() as writer:
        for text in (text.format(folder=root) for text in WRITES):
            with pytest.raises(ReadOnly, match="only reads"):
                await call(reader, "query", query=text)
            with pytest.raises(ReadOnly):
                await call(reader, "execute", query=text)
            with pytest.raises(ReadOnly):
                await call(reader, "transaction", statements=[{"query": text}])
            with pytest.raises((ReadOnly, InvalidRequest)):
                await call(writer, "query", query=text)
            assert state(root) == before, text
    assert state(root) == before
    assert "copy.db" not in os.listdir(".")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT load_extension('x')",
        "SELECT fts3_tokenizer('simple')",
        "SELECT LOAD_EXTENSION('x', 'y')",
        "SELECT sqlite_log(1, 'x')",
    ],
)
async def test_functions_that_reach_out_are_refused_by_name(root: Path, text: str) -> None:
    async with opened() as db:
        with pytest.raises(InvalidRequest, match="not available"):
            await call(db, "query", query=text)


async def test_a_function_that_writes_from_a_select_is_refused(root: Path) -> None:
    async with writable() as db:
        await call(db, "execute", query="CREATE VIRTUAL TABLE old USING fts4(body)")
        for operation in ("query", "execute"):
            with pytest.raises(InvalidRequest, match="optimize"):
                await call(db, operation, query="SELECT optimize(old) FROM old")


@pytest.mark.parametrize(
    "text", ["SELECT 1; DROP TABLE users", "SELECT 1; SELECT 2", "; SELECT 1; -- x\nSELECT 2", "SELECT 1; /* */ x"]
)
async def test_a_second_statement_is_refused(root: Path, text: str) -> None:
    async with opened() as db:
        with pytest.raises(InvalidRequest, match="more than one"):
            await call(db, "query", query=text)


@pytest.mark.parametrize("text", ["SELECT 1;", "SELECT 1 ; -- end", "SELECT 1; /* end */ ;", "-- start\nSELECT 1"])
async def test_space_and_comments_are_no_second_statement(root: Path, text: str) -> None:
    async with opened() as db:
        assert (await call(db, "query", query=text)).rows == [(1,)]


async def test_the_catalogues_pragmas_are_reads(root: Path) -> None:
    async with opened() as db:
        assert (await call(db, "query", query="PRAGMA table_info(users)")).row_count == 3


def test_a_writing_statement_is_refused_even_if_the_authorizer_let_it_pass(root: Path) -> None:
    session = Session(str(root / "shop.db"), write=False, create=False, length=1000, busy_ms=1)
    session.authorizers[False].trusted = True
    with pytest.raises(guard.Refused, match="write"):
        session.rows("DELETE FROM users", (), [], -1, 10)
    session.end()


def test_mode_ro_alone_lets_a_read_write_files(root: Path) -> None:
    db = sqlite3.connect(f"file:{root}/shop.db?mode=ro", uri=True)
    db.execute(f"ATTACH 'file:{root}/new.db?mode=rwc' AS new")
    db.execute("CREATE TABLE new.t (a)")
    db.execute(f"VACUUM INTO '{root}/copy.db'")
    db.close()
    assert {"new.db", "copy.db"} <= set(os.listdir(root))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("INSERT INTO users VALUES (9, 'x', NULL)", apsw.ReadOnlyError),
        ("ATTACH ':memory:' AS new", apsw.SQLError),
        ("VACUUM INTO '{folder}/copy.db'", apsw.SQLError),
        ("SELECT load_extension('x')", apsw.SQLError),
        ("SELECT fts3_tokenizer('simple', x'00')", apsw.SQLError),
        ("CREATE TEMP TABLE t (a)", apsw.ReadOnlyError),
    ],
)
def test_the_guards_below_the_authorizer_hold_without_it(root: Path, text: str, error: type[Exception]) -> None:
    path = str(root / "shop.db")
    db = guard.connect(path, apsw.SQLITE_OPEN_READONLY, guard.Authorizer(guard.READS), length=1000, busy_ms=1)
    db.authorizer = None
    with pytest.raises(error):
        list(db.execute(text.format(folder=root)))
    db.close()
    assert os.listdir(root) == ["shop.db"]


@pytest.mark.parametrize("text", [text for text in WRITES if not text.startswith("VACUUM")])
def test_the_authorizer_holds_without_the_guards_below_it(root: Path, text: str) -> None:
    db = apsw.Connection(str(root / "shop.db"))
    db.authorizer = guard.Authorizer(guard.READS)
    with pytest.raises(apsw.AuthError):
        list(db.execute(text.format(folder=root)))
    db.close()


# -- writing ----------------------------------------------------------------------------------------


async def test_execute_counts_what_it_changed_and_the_next_reader_sees_it(root: Path) -> None:
    async with writable() as db:
        inserted = await call(db, "execute", query="INSERT INTO users (name) VALUES (:n), ('c')", params={"n": "b"})
        updated = await call(db, "execute", query="UPDATE users SET name = name || '!' WHERE id > 1")
        made = await call(db, "execute", query="CREATE TABLE t (a)")
        read = await call(db, "execute", query="SELECT name FROM users WHERE id = 3")
    assert (inserted.row_count, updated.row_count, made.row_count) == (2, 3, 0)
    assert read.rows == [("b!",)]
    assert sqlite3.connect(root / "shop.db").execute("SELECT count(*) FROM users").fetchone() == (4,)


async def test_returning_is_capped_though_all_rows_are_written(root: Path) -> None:
    insert = (
        "INSERT INTO users (name) "
        + COUNT.format(50).replace("SELECT n FROM", "SELECT 'n' || n FROM")
        + " RETURNING name"
    )
    async with writable(max_rows=10) as db:
        result = await call(
            db, "execute", query=insert.replace("INSERT INTO users (name) ", "").replace(" RETURNING name", "")
        )
        assert (len(result.rows), result.truncated, result.row_count) == (10, True, 10)
        result = await call(
            db,
            "execute",
            query="INSERT INTO users (name) SELECT 'n' || value FROM json_each(:j) RETURNING name",
            params={"j": str(list(range(50)))},
        )
        assert (len(result.rows), result.truncated, result.row_count) == (10, True, 50)
        result = await call(db, "execute", query="DELETE FROM users WHERE id <= 10 RETURNING id")
        assert (len(result.rows), result.truncated, result.row_count) == (10, False, 10)


async def test_what_fails_while_returning_undoes_the_write(root: Path) -> None:
    async with writable() as db:
        with pytest.raises(UpstreamError, match="UTF-8"):
            await call(db, "execute", query="INSERT INTO users (name) VALUES ('new') RETURNING CAST(x'ff' AS TEXT)")
        assert (await call(db, "query", query="SELECT count(*) FROM users")).rows == [(2,)]


async def test_a_transaction_is_all_or_nothing(root: Path) -> None:
    add = {"query": "INSERT INTO users (id, name) VALUES (:id, :name) RETURNING name", "params": {"id": 5, "name": "e"}}
    bad = {"query": "INSERT INTO users (id, name) VALUES (5, 'again')"}
    async with writable() as db:
        with pytest.raises(UpstreamError, match="statement 2: UNIQUE constraint failed"):
            await call(db, "transaction", statements=[add, bad])
        with pytest.raises(UpstreamError, match="FOREIGN KEY"):
            await call(db, "transaction", statements=[add, {"query": "INSERT INTO orders VALUES (1, 1, 99)"}])
        assert (await call(db, "query", query="SELECT count(*) FROM users")).rows == [(2,)]
        done = await call(db, "transaction", statements=[add, {"query": "DELETE FROM users WHERE id < 3"}])
    assert done.data == [{"row_count": 1, "rows": [{"name": "e"}]}, {"row_count": 2, "rows": []}]
    assert done.row_count == 3


@pytest.mark.parametrize(
    "text",
    ["BEGIN", "BEGIN IMMEDIATE", "COMMIT", "ROLLBACK", "SAVEPOINT s", "ATTACH ':memory:' AS x", "DETACH main", "VACUUM",
     "VACUUM INTO 'copy.db'", "PRAGMA journal_mode = WAL", "PRAGMA synchronous = OFF", "PRAGMA foreign_keys = OFF",
     "PRAGMA writable_schema = ON", "CREATE TEMP TABLE t (a)", "CREATE TEMP VIEW v AS SELECT 1",
     "CREATE VIRTUAL TABLE t USING dbstat", "INSERT INTO sqlite_schema VALUES (1, 2, 3, 4, 5)", "SELECT load_extension('x')"],
)  # fmt: skip
async def test_a_writer_may_not_leave_its_transaction_its_file_or_its_settings(root: Path, text: str) -> None:
    before = state(root)
    async with writable(pool_size=1) as db:
        await call(db, "transaction", statements=[{"query": "SELECT 1"}])  # ours ran BEGIN and COMMIT before
        for _ in range(2):
            with pytest.raises(InvalidRequest):
                await call(db, "execute", query=text)
            with pytest.raises(InvalidRequest):
                await call(db, "transaction", statements=[{"query": text}])
    assert state(root) == before


async def test_a_commit_like_ours_does_not_end_our_transaction(root: Path) -> None:
    add = {"query": "INSERT INTO users (name) VALUES ('new')"}
    async with writable(pool_size=1) as db:
        await call(db, "transaction", statements=[{"query": "SELECT 1"}])
        for text in ("COMMIT", "ROLLBACK", "BEGIN", "BEGIN IMMEDIATE"):
            with pytest.raises(InvalidRequest, match="operation transaction"):
                await call(db, "transaction", statements=[add, {"query": text}])
        assert (await call(db, "query", query="SELECT count(*) FROM users")).rows == [(2,)]


async def test_the_storage_of_a_virtual_table_is_not_written_past_it(root: Path) -> None:
    async with writable() as db:
        await call(db, "execute", query="CREATE VIRTUAL TABLE docs USING fts5(body)")
        with pytest.raises(InvalidRequest, match="may not be modified"):
            await call(db, "execute", query="DELETE FROM docs_data")


def test_a_cached_statement_would_pass_the_authorizer() -> None:
    db = apsw.Connection(":memory:")
    list(db.execute("BEGIN"))
    list(db.execute("COMMIT"))
    db.authorizer = authorizer = guard.Authorizer(guard.READS)
    authorizer.trusted = True
    list(db.execute("BEGIN"))
    list(db.execute("COMMIT"))
    authorizer.trusted = False
    list(db.execute("BEGIN"))  # this is why our own statements are never cached
    db.close()


async def test_a_cancelled_transaction_leaves_nothing_and_the_next_call_works(root: Path) -> None:
    async with writable() as db:
        await call(db, "query", query="SELECT 1")
        statements = [{"query": "DELETE FROM users"}, {"query": ENDLESS}]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await call(db, "transaction", statements=statements)
        assert (await call(db, "query", query="SELECT count(*) FROM users")).rows == [(2,)]


async def test_a_journal_left_by_a_killed_writer_is_rolled_back_by_the_next_read(root: Path) -> None:
    make(root / "big.db", "CREATE TABLE t (a); " + "INSERT INTO t " + COUNT.format(50_000))
    script = f"""
    import os, sqlite3
    db = sqlite3.connect({str(root / "big.db")!r}, isolation_level=None)
    db.executescript("PRAGMA cache_size = 1; BEGIN; UPDATE t SET a = -1;")
    os.kill(os.getpid(), 9)
    """
    await asyncio.to_thread(subprocess.run, [sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert (root / "big.db-journal").stat().st_size > 0
    async with open_provider(Sqlite, {"path": "big.db"}, network=GATE) as reader:
        with pytest.raises(UpstreamError, match="cut off"):
            await call(reader, "query", query="SELECT sum(a) FROM t")
    async with open_provider(Sqlite, {"path": "big.db", "read_only": False}, network=GATE) as db:
        assert (await call(db, "query", query="SELECT min(a) FROM t")).rows == [(1,)]


async def test_a_lock_is_waited_for_only_so_long(root: Path) -> None:
    other = sqlite3.connect(root / "shop.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    async with writable(connect_timeout_s=0.1) as db:
        for operation, text in (("query", "SELECT * FROM users"), ("execute", "DELETE FROM users")):
            with pytest.raises(Timeout, match="locked"):
                await call(db, operation, query=text)
        other.execute("ROLLBACK")
        other.close()
        assert (await call(db, "query", query="SELECT count(*) FROM users")).rows == [(2,)]


async def test_writes_to_a_writer_at_once_all_count(root: Path) -> None:
    async with writable() as db:
        add = "INSERT INTO users (name) VALUES (:n)"
        await asyncio.gather(*(call(db, "execute", query=add, params={"n": f"n{n}"}) for n in range(40)))
        assert (await call(db, "query", query="SELECT count(*) FROM users")).rows == [(42,)]


# -- caps, streams and memory -----------------------------------------------------------------------


@pytest.mark.parametrize(("count", "truncated"), [(0, False), (99, False), (100, False), (101, True), (5000, True)])
async def test_truncated_is_exact(root: Path, count: int, truncated: bool) -> None:
    async with opened(max_rows=100) as db:
        result = await call(db, "query", query=COUNT.format(count) + f" LIMIT {count}")
    assert (result.row_count, result.truncated) == (min(count, 100), truncated)


async def test_the_byte_cap_stops_an_endless_result(root: Path) -> None:
    async with opened(max_bytes=10_000, max_rows=10**8) as db:
        result = await call(db, "query", query=ENDLESS.replace("count(*)", "n"))
    assert result.truncated
    assert 1000 < result.row_count < 2000


def resident(pid: int | str) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def peak(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


async def test_a_million_rows_stream_in_constant_memory(root: Path) -> None:
    sql = COUNT.format(1_000_000).replace("SELECT n FROM", "SELECT n, 'name ' || n, n * 1.5 FROM")
    async with opened() as db:
        await call(db, "query", query=COUNT.format(900))
        (pid,) = db._pool.pids
        before, most, seen, last = (resident("self"), resident(pid)), (0, 0), 0, None
        operation = db.operation("query")
        async with aclosing(db.stream(operation, operation.parse({"query": sql}))) as batches:
            async for batch in batches:
                seen += len(batch.rows)
                last = batch.rows[-1]
                most = max(most[0], resident("self")), max(most[1], resident(pid))
    assert (seen, last) == (1_000_000, (1_000_000, "name 1000000", 1_500_000.0))
    assert most[0] - before[0] < 32 * 2**20
    assert most[1] - before[1] < 32 * 2**20


async def test_the_worker_waits_for_a_slow_consumer(root: Path) -> None:
    async with opened(max_rows=10**8) as db:
        operation = db.operation("query")
        stream = db.stream(operation, operation.parse({"query": ENDLESS.replace("count(*)", "n")}))
        async with aclosing(stream):
            for _ in range(4):
                await anext(stream)
            (pid,) = db._pool.pids
            await asyncio.sleep(0.1)  # a batch asked for ahead is done by then

            def cpu() -> int:
                return sum(map(int, Path(f"/proc/{pid}/stat").read_text().split()[13:15]))

            before = cpu()
            await asyncio.sleep(0.2)
            assert cpu() - before <= 1


async def test_a_stream_left_early_gives_its_worker_back_clean(root: Path) -> None:
    async with writable(pool_size=1, max_rows=10**8) as db:
        await call(db, "query", query="SELECT 1")
        (pid,) = db._pool.pids
        operation = db.operation("query")
        for taken in (1, 2, 4):
            text = COUNT.format(10**8) + ", users"
            async with aclosing(db.stream(operation, operation.parse({"query": text}))) as stream:
                for _ in range(taken):
                    await anext(stream)
            other = sqlite3.connect(root / "shop.db", timeout=1)
            other.execute("UPDATE users SET name = name")
            other.commit()  # the reader's lock is gone, or this would fail
            other.close()
            assert (await call(db, "execute", query="UPDATE users SET name = name")).row_count == 2
            assert db._pool.pids == [pid]


async def test_a_batch_that_never_comes_does_not_hold_up_who_leaves(root: Path) -> None:
    text = f"SELECT * FROM ({COUNT.format(20_000)}) UNION ALL SELECT * FROM ({ENDLESS})"
    async with opened(pool_size=1, max_rows=10**8) as db:
        operation = db.operation("query")
        async with aclosing(db.stream(operation, operation.parse({"query": text}))) as stream:
            seen = 0
            while seen < 16_000:
                seen += len((await anext(stream)).rows)
            await asyncio.sleep(0.05)
            start = time.perf_counter()
        assert time.perf_counter() - start < 0.2
        assert (await call(db, "query", query="SELECT 1")).rows == [(1,)]


@pytest.mark.parametrize(
    "text",
    ["SELECT printf('%.*c', 900000000, 'x')", "SELECT format('%900000000d', 1)", "SELECT zeroblob(900000000)",
     "SELECT hex(randomblob(900000000))", "SELECT replace(hex(zeroblob(2000)), '0', hex(zeroblob(200000)))",
     "SELECT group_concat(hex(zeroblob(1000000))) FROM (" + COUNT.format(2000) + ")"],
)  # fmt: skip
async def test_a_value_bomb_is_refused_before_it_is_made(root: Path, text: str) -> None:
    async with opened() as db:
        await call(db, "query", query="SELECT 1")
        start = time.perf_counter()
        with pytest.raises(InvalidRequest, match="larger than max_bytes"):
            await call(db, "query", query=text)
        assert time.perf_counter() - start < 1
        assert max(resident(pid) for pid in db._pool.pids) < 200 * 2**20


def test_without_the_length_limit_the_value_bomb_takes_its_memory() -> None:
    (row,) = sqlite3.connect(":memory:").execute("SELECT length(printf('%.*c', 50000000, 'x'))")
    assert row == (50_000_000,)


async def test_a_row_wider_than_any_cap_is_refused(root: Path) -> None:
    async with opened() as db:
        with pytest.raises(InvalidRequest, match="row that is larger"):
            await call(db, "query", query="SELECT " + ",".join(["zeroblob(1000000)"] * 5))


async def test_sqlite_itself_has_less_memory_than_its_process(root: Path) -> None:
    held = "SELECT length(max(" + ", ".join(f"hex(zeroblob(2050000 + {n}))" for n in range(4)) + "))"
    async with opened() as db:
        with pytest.raises(UpstreamError, match="too much memory"):
            await call(db, "query", query=held)


async def test_a_sort_that_needs_too_much_memory_ends_with_a_clear_error_and_no_file(root: Path) -> None:
    bomb = COUNT.format(400).replace("SELECT n FROM", "SELECT zeroblob(1000000 + n) AS z FROM") + " ORDER BY z DESC"
    before, temporary = state(root), set(os.listdir("/tmp"))
    async with opened() as db:
        with pytest.raises(UpstreamError, match="too much memory"):
            await call(db, "query", query=bomb)
        assert peak(db._pool.pids[0]) < 400 * 2**20
        assert (await call(db, "query", query="SELECT 1")).rows == [(1,)]
    assert state(root) == before
    assert not [name for name in set(os.listdir("/tmp")) - temporary if name.startswith("etilqs")]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "(" * 3000 + "1" + ")" * 3000,
        "SELECT 1 WHERE " + " OR ".join(f"1={n}" for n in range(8000)),
        "SELECT 1 " + "UNION ALL SELECT 1 " * 5000,
        "SELECT " + "NOT " * 20_000 + "1",
        "SELECT " + "-" * 0 + "~" * 90_000 + "1",
        "SELECT " + "(SELECT " * 3000 + "1" + ")" * 3000,
        "SELECT " + ",".join("?" * 1) + "x" * 99_000,
    ],
)
async def test_a_parser_bomb_is_an_error_at_once(root: Path, text: str) -> None:
    async with opened() as db:
        await call(db, "query", query="SELECT 1")
        start = time.perf_counter()
        with pytest.raises(InvalidRequest):
            await call(db, "query", query=text)
        assert time.perf_counter() - start < 0.5


# -- deadlines, cancellation and processes ----------------------------------------------------------


@pytest.mark.parametrize("text", [ENDLESS, ONE_LONG_STEP.format(3_900_000)])
async def test_a_cancelled_statement_ends_at_once_with_its_process(root: Path, text: str) -> None:
    async with opened(pool_size=1) as db:
        overrun = 1.0
        for _ in range(3):  # a busy machine may be late once
            await call(db, "query", query="SELECT 1")
            (pid,) = db._pool.pids
            start = time.perf_counter()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.3):
                    await call(db, "query", query=text)
            overrun = min(overrun, time.perf_counter() - start - 0.3)
            assert await until(lambda gone=pid: gone not in workers())
            if overrun < 0.1:
                break
        assert overrun < 0.1
        assert (await call(db, "query", query="SELECT 1")).rows == [(1,)]


def test_an_interrupt_would_not_end_it() -> None:
    db = sqlite3.connect(":memory:", check_same_thread=False)
    threading.Timer(0.05, db.interrupt).start()
    start = time.perf_counter()
    with suppress(sqlite3.OperationalError):
        db.execute(ONE_LONG_STEP.format(600_000)).fetchall()
    assert time.perf_counter() - start > 0.3
    db.close()


async def test_a_worker_killed_from_outside_is_an_error_once_and_then_replaced(root: Path) -> None:
    async with opened(pool_size=1) as db:
        task = asyncio.create_task(call(db, "query", query=ENDLESS))
        assert await until(lambda: len(db._pool.pids) == 1)
        await asyncio.sleep(0.1)
        os.kill(db._pool.pids[0], signal.SIGKILL)
        with pytest.raises(UpstreamError, match="memory"):
            await task
        assert (await call(db, "query", query="SELECT 1")).rows == [(1,)]
        os.kill(db._pool.pids[0], signal.SIGKILL)
        assert await until(lambda: not db._pool.pids)
        assert (await call(db, "query", query="SELECT 1")).rows == [(1,)]


async def test_a_hundred_queries_share_four_workers(root: Path) -> None:
    async with opened() as db:
        results = await asyncio.gather(*(call(db, "query", query="SELECT :n", params={"n": n}) for n in range(100)))
        assert [result.rows for result in results] == [[(n,)] for n in range(100)]
        assert len(workers()) == len(db._pool.pids) == 4


async def test_quiet_times_need_one_worker_and_opening_needs_none(root: Path) -> None:
    async with opened() as db:
        assert not workers()
        for _ in range(5):
            await call(db, "query", query="SELECT 1")
        assert len(workers()) == 1


async def test_the_worker_used_last_is_used_next(root: Path) -> None:
    async with opened() as db:
        await asyncio.gather(*(call(db, "query", query="SELECT 1") for _ in range(4)))
        used = []
        for _ in range(3):
            async with db._pool.lease() as worker:
                used.append(worker.pid)
        assert len(set(used)) == 1


async def test_closing_leaves_no_process_and_no_descriptor(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with opened() as db:
        await asyncio.gather(*(call(db, "query", query="SELECT 1") for _ in range(4)))
        task = asyncio.create_task(call(db, "query", query=ENDLESS))
        await asyncio.sleep(0.05)
    with pytest.raises(UpstreamError):
        await task
    assert not workers()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_a_worker_has_no_environment_no_files_and_no_core_dumps(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUDIO_CANARY", "canary")
    leaked = os.open(root / "secret", os.O_CREAT)
    os.set_inheritable(leaked, True)
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    try:
        async with opened() as db:
            await call(db, "query", query="SELECT 1")
            place = Path(f"/proc/{db._pool.pids[0]}")
            assert (place / "environ").read_bytes() == b""
            files = {os.readlink(entry) for entry in (place / "fd").iterdir()}
            assert {name for name in files if not name.startswith("socket:")} == {"/dev/null", str(root / "shop.db")}
            assert str(root) not in (place / "cmdline").read_text()
            limits = (place / "limits").read_text()
            assert limits.split("Max core file size")[1].split()[:2] == ["0", "0"]
            assert "Max data size             unlimited" not in limits
    finally:
        os.close(leaked)
        resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


SCRIPT = """
import asyncio, sys
from contextlib import AsyncExitStack
from pathlib import Path
from studio.providers.sqlite.provider import Sqlite
from studio.security.egress import Egress
from studio.testing.harness import call

gate = Egress(private_open=True, files_root=Path(sys.argv[1]))
kept = []

async def main():
    db = Sqlite(Sqlite.Config.parse({"path": "shop.db"}), network=gate)
    kept.append(db)
    await db.open(AsyncExitStack())
    await call(db, "query", query="SELECT 1")
    print(*db._pool.pids, flush=True)
    if len(sys.argv) > 2:
        await call(db, "query", query=sys.argv[2])
    return db

asyncio.run(main())
if len(sys.argv) == 2:
    result = asyncio.run(call(kept[0], "query", query="SELECT 2"))
    assert result.rows == [(2,)]
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_provider_dropped_without_closing_leaves_no_warning_and_no_process(root: Path) -> None:
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", SCRIPT, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert not alive(int(done.stdout))


async def test_workers_end_with_a_parent_that_is_killed(root: Path) -> None:
    command = [sys.executable, "-c", SCRIPT, str(root), ENDLESS]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - it prints one line soon
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    await asyncio.sleep(0.1)
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert await until(lambda: not alive(pid), 1)


async def test_a_frame_beyond_any_answer_ends_the_worker(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as db:
        await call(db, "query", query="SELECT 1")
        async with db._pool.lease() as worker:
            worker._ceiling = 50
            with pytest.raises(process.WorkerLost):
                await worker.call("rows", "SELECT hex(zeroblob(100))", (), [], -1, 1)
        assert await until(lambda: not workers())


async def test_a_large_statement_and_a_large_value_cross_the_pipe(root: Path) -> None:
    async with opened(max_bytes=8 * 2**20) as db:
        text = "é" * 2_000_000
        result = await call(db, "query", query="SELECT :t /*" + "x" * 90_000 + "*/", params={"t": text})
        assert result.rows == [(text,)]


def test_a_missing_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    process._arguments.cache_clear()
    monkeypatch.setattr(process, "find_spec", lambda name: None)
    with pytest.raises(OperationNotSupported, match="pip install"):
        process.installed()


def test_the_catalogue_needs_no_driver() -> None:
    code = "import sys; from studio.providers.sqlite.provider import Sqlite; sys.exit('apsw' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- which file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    ["../shop.db", "a/../../shop.db", "..", "file:shop.db", ":memory:", "shop.db\n", "a\x00b", "folder/", "shop.db-journal",
     "shop.db-wal", "shop.db-shm", ""],
)  # fmt: skip
def test_a_path_that_could_leave_the_folder_is_no_config(path: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        SqliteConfig.parse({"path": path})
    assert caught.value.fields[0].field == "config.path"


async def refusal(path: str, **more: Any) -> StudioError:
    async with open_provider(Sqlite, {"path": path, **more}, network=GATE) as db:
        with pytest.raises(StudioError) as caught:
            await call(db, "query", query="SELECT * FROM users")
    assert not workers()
    return caught.value


async def test_no_symbolic_link_is_followed(root: Path, tmp_path: Path) -> None:
    make(tmp_path / "outside.db")
    (root / "link.db").symlink_to(tmp_path / "outside.db")
    (root / "folder").symlink_to(tmp_path)
    (root / "near.db").symlink_to("shop.db")
    for path in ("link.db", "folder/outside.db", "near.db"):
        error = await refusal(path)
        assert isinstance(error, InvalidConfig)
        assert "symbolic link" in error.message


def test_sqlite_itself_would_follow_the_link(root: Path, tmp_path: Path) -> None:
    (root / "link.db").symlink_to(root / "shop.db")
    apsw.Connection(str(root / "link.db"), flags=apsw.SQLITE_OPEN_READONLY).close()
    with pytest.raises(apsw.CantOpenError):
        guard.connect(
            str(root / "link.db"), apsw.SQLITE_OPEN_READONLY, guard.Authorizer(guard.READS), length=1000, busy_ms=1
        )


async def test_an_absolute_path_is_fine_inside_of_the_folder_only(root: Path, tmp_path: Path) -> None:
    make(tmp_path / "outside.db")
    assert isinstance(await refusal(str(tmp_path / "outside.db")), InvalidConfig)
    assert isinstance(await refusal(str(root)), InvalidConfig)
    async with open_provider(Sqlite, {"path": str(root / "shop.db")}, network=GATE) as db:
        assert (await call(db, "query", query="SELECT 1")).rows == [(1,)]


async def test_the_services_own_files_are_refused_by_name_and_by_inode(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(root / "studio.db")
    os.link(root / "studio.db", root / "innocent.db")
    (root / "private").mkdir()
    make(root / "private" / "keys.db")
    monkeypatch.setattr(GATE, "own_files", frozenset({root / "studio.db", root / "private"}))
    for path in ("studio.db", "innocent.db", "private/keys.db", "studio.db-x"):
        error = await refusal(path, read_only=False, create=True)
        assert isinstance(error, InvalidConfig)
        assert "own file" in error.message
    assert "studio.db-x" not in os.listdir(root)


async def test_what_is_no_plain_file_is_refused_and_never_waited_for(root: Path) -> None:
    os.mkfifo(root / "pipe.db")
    (root / "folder.db").mkdir()
    for path in ("pipe.db", "folder.db", "shop.db/inner.db"):
        assert isinstance(await refusal(path), (InvalidConfig, Unreachable))


async def test_a_missing_file_is_unreachable_and_is_not_made(root: Path) -> None:
    for more in ({}, {"create": True}, {"read_only": False}):
        error = await refusal("new.db", **more)
        assert isinstance(error, Unreachable)
        assert "STUDIO_SQLITE_ROOT" in error.message
        assert "new.db" not in error.message
    assert os.listdir(root) == ["shop.db"]


async def test_create_makes_the_file_where_writing_is_allowed(root: Path) -> None:
    async with open_provider(Sqlite, {"path": "new.db", "read_only": False, "create": True}, network=GATE) as db:
        assert (await call(db, "list_tables")).rows == []
        await call(db, "execute", query="CREATE TABLE t (a)")
        assert [row[1] for row in (await call(db, "list_tables")).rows] == ["t"]
    assert (root / "new.db").stat().st_size > 0


async def test_without_a_folder_nothing_is_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GATE, "files_root", None)
    assert "STUDIO_SQLITE_ROOT" in (await refusal("shop.db")).message


async def test_a_file_put_in_the_place_of_another_is_the_one_that_is_read(root: Path) -> None:
    async with opened() as db:
        assert (await call(db, "query", query="SELECT count(*) FROM users")).rows == [(2,)]
        make(root / "other.db", "CREATE TABLE users (a)")
        os.replace(root / "other.db", root / "shop.db")
        assert (await call(db, "query", query="SELECT count(*) FROM users")).rows == [(0,)]
        os.unlink(root / "shop.db")
        with pytest.raises(Unreachable):
            await call(db, "query", query="SELECT 1")


async def test_a_file_that_is_no_database_says_so(root: Path) -> None:
    (root / "text.db").write_text("not a database, but long enough to have a header" * 100)
    error = await refusal_with_worker("text.db")
    assert isinstance(error, UpstreamError)
    assert "not an SQLite database" in error.message


async def refusal_with_worker(path: str) -> StudioError:
    async with open_provider(Sqlite, {"path": path}, network=GATE) as db:
        with pytest.raises(StudioError) as caught:
            await call(db, "query", query="SELECT * FROM sqlite_schema")
    return caught.value


async def test_errors_of_sqlite_keep_its_words(root: Path) -> None:
    async with opened() as db:
        for text, words in (("SELEC 1", "syntax error"), ("SELECT * FROM nowhere", "no such table: nowhere")):
            with pytest.raises(InvalidRequest, match=words):
                await call(db, "query", query=text)
        with pytest.raises(UpstreamError, match="UTF-8"):
            await call(db, "query", query="SELECT CAST(x'ff' AS TEXT)")


# -- the connection test ----------------------------------------------------------------------------


async def probed(path: str, **more: Any) -> tuple[Probe, StudioError | None]:
    probe = Probe()
    async with open_provider(Sqlite, {"path": path, **more}, network=GATE) as db:
        try:
            await db.probe(probe)
        except Exception as exc:
            return probe, db.error(exc)
    return probe, None


async def test_a_test_names_its_stages_and_the_guard_that_holds(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probe, error = await probed("shop.db")
    assert error is None
    assert [(stage.name, stage.ok) for stage in probe.stages] == [
        ("open", True),
        ("privileges", True),
        ("sample", True),
    ]
    assert probe.privileges is not None
    assert probe.privileges["enforced_by"] == "service"
    assert any("chmod" in line for line in probe.privileges["grant"])
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)
    probe, _ = await probed("shop.db")
    assert probe.privileges == {"enforced_by": "account", "excess": [], "grant": []}


async def test_a_failing_test_says_which_stage_and_why(root: Path) -> None:
    (root / "text.db").write_text("not a database at all" * 100)
    for path, code in (("none.db", "unreachable"), ("text.db", "upstream_error")):
        probe, error = await probed(path)
        assert error is not None
        assert error.code == code
        assert [(stage.name, stage.ok) for stage in probe.stages] == [("open", False)]
        assert "open" in Sqlite.fixes


async def test_opening_and_closing_an_unused_provider_costs_nothing(root: Path) -> None:
    async with AsyncExitStack() as stack:
        db = Sqlite(SqliteConfig.parse({"path": "missing.db"}), network=None)  # type: ignore[arg-type]
        await db.open(stack)
        assert not workers()
