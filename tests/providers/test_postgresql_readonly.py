"""That a read through the `postgresql` provider changes nothing, on a real server and with a superuser's account.

The oracle is a second session: a digest of tables, sequences, catalogue, roles, settings, locks,
notifications and the server's folder, before and after each statement.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.servers import Postgres

from studio.errors import ReadOnly, StudioError
from studio.providers.postgresql import guard
from studio.providers.postgresql import pool as pool_module
from studio.providers.postgresql.provider import Postgresql
from studio.testing.harness import call, open_provider

SCHEMA = """
CREATE TABLE users (id int PRIMARY KEY, name text NOT NULL DEFAULT 'x', tags text[], info jsonb);
INSERT INTO users VALUES (1, 'Ada', '{a,b}', '{"x": [1, 2]}'), (2, 'Grace', NULL, NULL);
CREATE SEQUENCE s;
CREATE EXTENSION IF NOT EXISTS dblink;
CREATE FUNCTION f_delete() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DELETE FROM users; RETURN 1; END $$;
CREATE FUNCTION f_immutable() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN DELETE FROM users; RETURN 1; END $$;
CREATE FUNCTION f_rw() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN SET TRANSACTION READ WRITE; DELETE FROM users; RETURN 1; END $$;
CREATE FUNCTION f_rw2() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN PERFORM set_config('transaction_read_only', 'off', true); DELETE FROM users; RETURN 1; END $$;
CREATE FUNCTION f_catch() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN BEGIN DELETE FROM users; EXCEPTION WHEN OTHERS THEN NULL; END; RETURN 1; END $$;
CREATE FUNCTION f_set() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN SET statement_timeout = 0; SET search_path = pg_catalog; SET default_transaction_read_only = off;
    PERFORM set_config('app.poison', 'yes', false); RETURN 1; END $$;
CREATE FUNCTION f_role() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET ROLE poor; RETURN 1; END $$;
CREATE FUNCTION f_auth() RETURNS int LANGUAGE plpgsql AS $$ BEGIN SET SESSION AUTHORIZATION poor; RETURN 1; END $$;
CREATE FUNCTION f_lock() RETURNS int LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_lock(77); RETURN 1; END $$;
CREATE FUNCTION f_temp() RETURNS int LANGUAGE plpgsql AS $$ BEGIN CREATE TEMP TABLE users (id int); RETURN 1; END $$;
CREATE FUNCTION f_listen() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LISTEN x; NOTIFY canary; RETURN 1; END $$;
CREATE FUNCTION f_prepare() RETURNS int LANGUAGE plpgsql AS $$
    BEGIN EXECUTE 'PREPARE poison AS SELECT 1'; RETURN 1; END $$;
CREATE FUNCTION f_plan() RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$
    BEGIN PERFORM pg_advisory_lock(78); RETURN 1; END $$;
CREATE FUNCTION f_deallocate() RETURNS int LANGUAGE plpgsql AS $$ BEGIN DEALLOCATE ALL; RETURN 1; END $$;
CREATE VIEW v_delete AS SELECT f_delete();
CREATE OPERATOR @!@ (FUNCTION = int4pl, LEFTARG = int, RIGHTARG = int);
CREATE PROCEDURE p_commit() LANGUAGE plpgsql AS $$ BEGIN DELETE FROM users; COMMIT; END $$;
"""
CANARY = Path("/tmp/studio-postgresql-canary")

REFUSED = [
    # 71: stacking and transaction control
    "COMMIT", "COMMIT; DROP TABLE users", "SELECT 1; DROP TABLE users", "ROLLBACK; DELETE FROM users", "END; DELETE FROM users",
    "SELECT 1; COMMIT; DELETE FROM users", "SELECT ';'; DELETE FROM users", "BEGIN; DELETE FROM users; COMMIT", "ABORT",
    # 73, 74: comments and glued keywords
    "/* SELECT */ DELETE FROM users", "-- SELECT\nDELETE FROM users", "DELETE/**/FROM users", "/**/DROP/**/TABLE/**/users",
    # 75
    "WITH d AS (DELETE FROM users RETURNING *) SELECT * FROM d", "WITH d AS (INSERT INTO users VALUES (9) RETURNING 1) TABLE d",
    "SELECT * INTO copied FROM users", "CREATE TABLE copied AS TABLE users", "SELECT * FROM users FOR UPDATE",
    "EXPLAIN ANALYZE DELETE FROM users", "EXPLAIN (ANALYZE, BUFFERS) WITH d AS (DELETE FROM users RETURNING 1) SELECT 1",
    "EXPLAIN ANALYZE SELECT f_delete()", "EXPLAIN ANALYZE CREATE TABLE copied AS SELECT 1",
    # 76
    "SELECT f_delete()", "SELECT f_immutable()", "SELECT f_rw()", "SELECT f_rw2()", "TABLE v_delete", "SELECT nextval('s')",
    "SELECT setval('s', 100)", "SELECT query_to_xml('DELETE FROM users', true, true, '')", "CALL p_commit()",
    "DO $$ BEGIN DELETE FROM users; END $$", "SELECT * FROM users WHERE f_delete() = 1", "SELECT f_temp()",
    # 78
    "COPY users TO '/tmp/studio-postgresql-canary'", "COPY (SELECT 1) TO PROGRAM 'touch /tmp/studio-postgresql-canary'",
    "SELECT pg_read_file('/etc/passwd')", "SELECT lo_import('/etc/passwd')", "SELECT lo_from_bytea(0, 'x')",
    "SELECT lo_export(1, '/tmp/studio-postgresql-canary')", "SELECT pg_ls_dir('/')", "SELECT pg_stat_file('/etc/passwd')",
    "SELECT dblink_connect('host=127.0.0.1')", "SELECT * FROM dblink('dbname=x', 'DELETE FROM users') AS t(a int)",
    "SELECT public.dblink_exec('dbname=x', 'DELETE FROM users')",
    # 79
    "SET statement_timeout = 0", "SET ROLE poor", "SET SESSION AUTHORIZATION poor", "CREATE TEMP TABLE t (id int)", "RESET ALL",
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "SELECT set_config('app.poison', 'yes', false)", "PREPARE p AS SELECT 1",
    "SET TRANSACTION READ WRITE", "START TRANSACTION READ WRITE", "DISCARD ALL", "LISTEN canary", "NOTIFY canary", "LOAD 'auto_explain'",
    "SELECT pg_notify('canary', 'x')", "SELECT pg_advisory_lock(7)", "SELECT pg_try_advisory_lock(7)",
    "SELECT pg_catalog . pg_advisory_lock_shared(7)", "SELECT U&\"\\0070g_advisory_lock\"(7)",
    # of our own
    "GRANT ALL ON users TO public", "ALTER SYSTEM SET work_mem = '1MB'", "VACUUM users", "ANALYZE users", "REINDEX TABLE users",
    "CREATE ROLE canary", "ALTER ROLE poor SUPERUSER", "CREATE DATABASE canary", "CLUSTER", "CHECKPOINT", "COMMENT ON TABLE users IS 'x'",
    "LOCK TABLE users", "REFRESH MATERIALIZED VIEW v", "SECURITY LABEL ON TABLE users IS 'x'", "IMPORT FOREIGN SCHEMA a FROM SERVER b INTO c",
    "SELECT pg_create_logical_replication_slot('x', 'test_decoding')", "SELECT pg_create_physical_replication_slot('x', true)",
    "SELECT pg_switch_wal()", "SELECT pg_create_restore_point('x')", "SELECT pg_logical_emit_message(false, 'a', 'b')",
    "SELECT pg_stat_reset()", "SELECT pg_export_snapshot()", "SELECT pg_replication_origin_create('x')", "SELECT pg_reload_conf()",
    "SELECT txid_current()", "SELECT pg_current_xact_id()", "SELECT database_to_xml(true, true, '')", "SELECT pg_backup_start('x')",
]  # fmt: skip
ACCEPTED_AND_HARMLESS = [
    "SELECT f_set()", "SELECT f_role()", "SELECT f_auth()", "SELECT f_lock()", "SELECT f_listen()",
    "SELECT f_deallocate()", "SELECT f_catch()", "EXPLAIN DELETE FROM users", "SELECT 1 @!@ 2", "SHOW ALL",
]  # fmt: skip
HONEST = [
    "SELECT 1", "SELECT * FROM users ORDER BY id", "WITH a AS (SELECT * FROM users) SELECT count(*) FROM a", "VALUES (1, 'a'), (2, 'b')",
    "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT sum(n) FROM t", "TABLE users",
    "SELECT id, rank() OVER (PARTITION BY name ORDER BY id DESC ROWS BETWEEN 1 PRECEDING AND CURRENT ROW) FROM users",
    "SELECT info -> 'x' ->> 0, info #>> '{x,1}', info @> '{\"x\": [1]}', info ? 'x' FROM users", "SELECT '1'::int::text, CAST('2' AS int)",
    "SELECT tags[1], tags || 'c'::text, 'a' = ANY (tags), array_length(tags, 1) FROM users", "SELECT ARRAY(SELECT id FROM users)",
    "SELECT u.id, x.v FROM users u CROSS JOIN LATERAL (SELECT u.id * 2 AS v) x", "SELECT * FROM generate_series(1, 3) WITH ORDINALITY",
    "SELECT * FROM users u LEFT JOIN users o ON o.id = u.id + 1 WHERE EXISTS (SELECT 1 FROM users)", "SELECT DISTINCT ON (name) * FROM users",
    "SELECT name, count(*) FILTER (WHERE id > 1) FROM users GROUP BY GROUPING SETS ((name), ()) HAVING count(*) > 0",
    "SELECT id FROM users UNION ALL SELECT 3 EXCEPT SELECT 1 ORDER BY 1 LIMIT 5 OFFSET 0", "SELECT * FROM users FETCH FIRST 1 ROW ONLY",
    "SELECT 'COMMIT; DROP TABLE users', $$DELETE FROM users$$, E'it\\'s', U&'\\0041'", "SELECT now() AT TIME ZONE 'UTC', interval '1 day'",
    "SELECT to_tsvector('a b') @@ to_tsquery('a')", "SELECT json_agg(u), jsonb_object_agg(id, name) FROM users u", "SELECT * FROM users TABLESAMPLE SYSTEM (100)",
    "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY id) FROM users", "SELECT (SELECT max(id) FROM users), CASE WHEN true THEN 1 END",
    "SELECT xmlelement(name a, 'b')", "SELECT * FROM json_to_recordset('[{\"a\":1}]') AS x(a int)", "EXPLAIN SELECT * FROM users",
    "EXPLAIN INSERT INTO users VALUES (9)", "EXPLAIN INSERT INTO users SELECT 9", "EXPLAIN UPDATE users SET name = 'x'",
    "EXPLAIN (FORMAT JSON, VERBOSE) SELECT * FROM users", "SHOW server_version", "SELECT relname FROM pg_class WHERE relkind = 'r'",
    "SELECT 1 -- the end", "SELECT 1 /* the end */;", "SELECT currval_like.x FROM (SELECT 1 AS x) currval_like", "SELECT gen_random_uuid()",
    "SELECT version(), current_user, current_database(), pg_backend_pid()", "SELECT pg_size_pretty(pg_total_relation_size('users'))",
]  # fmt: skip

DIGEST = """
SELECT md5(concat_ws('|',
    (SELECT json_agg(u ORDER BY id) FROM users u),
    (SELECT (last_value, is_called) FROM s),
    (SELECT json_agg((oid, relname, relkind, relacl, relfilenode) ORDER BY oid) FROM pg_class WHERE relnamespace <> 'pg_toast'::regnamespace),
    (SELECT json_agg((oid, proname, prosrc) ORDER BY oid) FROM pg_proc WHERE oid >= 16384),
    (SELECT json_agg(a ORDER BY oid) FROM pg_authid a), (SELECT json_agg(d ORDER BY oid) FROM pg_database d WHERE datname !~ '^test_'),
    (SELECT json_agg((name, setting) ORDER BY name) FROM pg_settings), (SELECT json_agg(r) FROM pg_db_role_setting r),
    (SELECT json_agg(l) FROM pg_largeobject_metadata l), (SELECT json_agg(slot_name) FROM pg_replication_slots),
    (SELECT json_agg(o) FROM pg_replication_origin o), (SELECT json_agg(p) FROM pg_prepared_xacts p),
    (SELECT json_agg(d) FROM pg_description d WHERE objoid >= 16384), (SELECT json_agg(t) FROM pg_stats t WHERE schemaname = 'public'),
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())),
    (SELECT string_agg(f, ',' ORDER BY f) FROM pg_ls_dir('.') f), (SELECT md5(pg_read_file('postgresql.auto.conf')))
))
"""


def canary_sings() -> bool:
    return CANARY.exists()


class Oracle:
    """What a second session sees."""

    def __init__(self, conn: Any) -> None:
        self.conn = conn
        self.heard: list[str] = []

    async def digest(self) -> str:
        await self.conn.execute("SELECT 1")  # notifications arrive with an answer
        state = await self.conn.fetchval(DIGEST)
        return hashlib.md5(f"{state}{self.heard}{canary_sings()}".encode()).hexdigest()


@pytest.fixture(scope="module")
def playground(postgres: Postgres) -> Iterator[str]:
    """One database for the module; the oracle proves that no test changes it."""

    async def make() -> None:
        admin = await postgres.admin()
        await admin.execute("CREATE DATABASE playground")
        await admin.execute("DROP ROLE IF EXISTS poor")
        await admin.execute("CREATE ROLE poor")
        await admin.close()
        admin = await postgres.admin("playground")
        await admin.execute(SCHEMA)
        await admin.close()

    asyncio.run(make())
    yield "playground"

    async def drop() -> None:
        admin = await postgres.admin()
        await admin.execute("DROP DATABASE playground WITH (FORCE)")
        await admin.execute("DROP ROLE poor")
        await admin.close()

    asyncio.run(drop())


@pytest.fixture
async def oracle(postgres: Postgres, playground: str) -> AsyncIterator[Oracle]:
    conn = await postgres.admin(playground)
    seen = Oracle(conn)

    def hear(_conn: Any, _pid: int, _channel: str, payload: str) -> None:
        seen.heard.append(payload)

    await conn.add_listener("canary", hear)
    assert not canary_sings()
    yield seen
    await conn.remove_listener("canary", hear)
    await conn.close()


@pytest.fixture
async def provider(postgres: Postgres, playground: str) -> AsyncIterator[Postgresql]:
    async with open_provider(Postgresql, postgres.config(database=playground, pool_size=1)) as provider:
        yield provider  # type: ignore[misc]


async def settled(provider: Any) -> None:
    """Wait until the pool has ended its transactions."""
    await asyncio.sleep(pool_module.LINGER_S * 2)
    await asyncio.gather(*provider._pool._tasks)


async def test_no_attack_is_accepted_and_none_changes_anything(provider: Postgresql, oracle: Oracle) -> None:
    before = await oracle.digest()
    for text in REFUSED:
        with pytest.raises(StudioError) as caught:
            await call(provider, "query", query=text)
            pytest.fail(f"accepted: {text}")
        assert caught.value.code in {"read_only", "invalid_request", "upstream_error"}, text
        await settled(provider)
        assert await oracle.digest() == before, text
        assert (await call(provider, "query", query="SELECT count(*) FROM users")).rows == [(2,)]


async def test_no_honest_read_is_refused_and_none_changes_anything(provider: Postgresql, oracle: Oracle) -> None:
    before = await oracle.digest()
    for text in HONEST * 2:  # the second time as a prepared statement
        result = await call(provider, "query", query=text)
        assert result.rows is not None, text
    await settled(provider)
    assert await oracle.digest() == before


@pytest.mark.parametrize("text", ACCEPTED_AND_HARMLESS)
async def test_what_a_users_function_does_to_the_session_ends_with_the_read(
    provider: Postgresql, oracle: Oracle, text: str
) -> None:
    look = """
        SELECT current_user, session_user, current_setting('search_path'), current_setting('statement_timeout'),
               current_setting('default_transaction_read_only'), current_setting('app.poison', true) AS poison,
               current_setting('transaction_read_only'), to_regclass('pg_temp.users')::text,
               (SELECT count(*) FROM pg_listening_channels()), pg_backend_pid()
    """
    before, state = await oracle.digest(), (await call(provider, "query", query=look)).rows
    await call(provider, "query", query=text)
    after = (await call(provider, "query", query=look)).rows
    poison = 5  # a setting that never was reads NULL, and an empty string after a ROLLBACK
    assert [(*row[:poison], row[poison] or None, *row[poison + 1 :]) for row in after or ()] == state
    await settled(provider)
    assert await oracle.digest() == before


@pytest.mark.parametrize("operation", ["query", "explain"])
@pytest.mark.parametrize("text", ["SELECT f_prepare()", "SELECT f_plan()", "SELECT * FROM users WHERE id = f_plan()"])
async def test_no_lock_and_no_prepared_statement_outlives_a_read_or_a_plan(
    provider: Postgresql, operation: str, text: str
) -> None:
    """ROLLBACK undoes neither, and the planner runs what claims to be immutable."""
    await call(provider, operation, query=text)
    await settled(provider)
    look = """SELECT (SELECT count(*) FROM pg_prepared_statements WHERE from_sql),
                     (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())"""
    assert (await call(provider, "query", query=look)).rows == [(0, 0)]


async def test_a_read_may_not_begin_by_switching_its_transaction_to_writing(
    provider: Postgresql, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server refuses it by itself: the query has a snapshot before a function of it runs."""
    monkeypatch.setattr(guard.Verdict, "must_read", lambda self: None)
    before = await oracle.digest()
    for text in ("SELECT f_rw()", "SELECT set_config('transaction_read_only', 'off', true), f_delete()"):
        with pytest.raises(StudioError):
            await call(provider, "query", query=text)
    await settled(provider)
    assert await oracle.digest() == before


async def test_the_server_refuses_most_attacks_even_without_our_parser(
    provider: Postgresql, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second layer: as a cursor's query in a read-only transaction these fail with no help from the guard."""
    monkeypatch.setattr(guard.Verdict, "must_read", lambda self: None)
    monkeypatch.setattr(guard, "judge", lambda text: guard.Verdict("SelectStmt", None, None, plain=True))
    before = await oracle.digest()
    texts = [text for text in REFUSED if not text.startswith("SELECT pg_") and "advisory" not in text]
    outside = ("pg_", "lo_", "dblink", "_to_xml", "txid", "set_config")
    for text in [text for text in texts if not any(name in text for name in outside)]:
        with pytest.raises(StudioError):
            await call(provider, "query", query=text)
            pytest.fail(f"accepted: {text}")
        await settled(provider)
        assert await oracle.digest() == before, text


async def test_without_the_function_list_an_attack_gets_out(
    provider: Postgresql, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the guard: what ROLLBACK does not undo."""
    monkeypatch.setattr(guard, "_REFUSED_PREFIXES", ("none of these",))
    guard._judge_cached.cache_clear()
    before = await oracle.digest()
    await call(provider, "query", query="SELECT pg_create_physical_replication_slot('canary')")
    await settled(provider)
    assert await oracle.digest() != before
    await oracle.conn.execute("SELECT pg_drop_replication_slot('canary')")
    guard._judge_cached.cache_clear()


async def test_without_the_read_only_transaction_a_function_writes(
    provider: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the transaction: with the write path's BEGIN the same call has its effect until ROLLBACK."""
    monkeypatch.setattr(pool_module, "PREAMBLES", (pool_module.PREAMBLES[1],) * 2)
    assert (await call(provider, "query", query="SELECT f_delete()")).rows == [(1,)]


async def test_without_the_rollback_a_function_poisons_the_session(
    provider: Postgresql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the clean-up: committed instead, the setting is there for the next borrower."""
    monkeypatch.setattr(pool_module, "UNLOCK", "COMMIT")
    monkeypatch.setattr("studio.providers.postgresql.work.UNLOCK", "COMMIT")
    await call(provider, "query", query="SELECT f_set()")
    await settled(provider)
    look = "SELECT current_setting('app.poison', true)"
    assert (await call(provider, "query", query=look)).rows == [("yes",)]


async def test_a_write_leaves_a_clean_session_behind(provider: Postgresql) -> None:
    look = """
        SELECT current_user, current_setting('search_path'), coalesce(nullif(current_setting('app.poison', true), ''), '-'),
               to_regclass('pg_temp.scratch')::text, (SELECT count(*) FROM pg_prepared_statements WHERE name = 'poison'),
               (SELECT count(*) FROM pg_listening_channels()), (SELECT count(*) FROM pg_cursors WHERE name = 'held'),
               (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), pg_backend_pid(), current_setting('TimeZone')
    """
    clean = (await call(provider, "query", query=look)).rows
    for text in (
        "SELECT f_set()", "SELECT set_config('app.poison', 'yes', false), set_config('TimeZone', 'Asia/Tokyo', false)",
        "SELECT f_role()", "SELECT f_auth()", "SELECT f_lock()", "CREATE TEMP TABLE scratch (id int)", "SELECT f_listen()",
        "DO $$ BEGIN EXECUTE 'PREPARE poison AS SELECT 1'; EXECUTE 'DECLARE held CURSOR WITH HOLD FOR SELECT 1'; END $$",
        "DO $$ BEGIN SET SESSION AUTHORIZATION poor; END $$",
    ):  # fmt: skip
        await call(provider, "execute", query=text)
        assert (await call(provider, "query", query=look)).rows == clean, text


async def test_a_failed_write_leaves_neither_its_effects_nor_a_session_in_doubt(
    provider: Postgresql, oracle: Oracle
) -> None:
    before = await oracle.digest()
    with pytest.raises(StudioError):
        await call(provider, "execute", query="INSERT INTO users VALUES (3), (1)")
    with pytest.raises(StudioError):
        await call(
            provider,
            "transaction",
            statements=[{"query": "DELETE FROM users"}, {"query": "SELECT f_lock()"}, {"query": "SELECT 1/0"}],
        )
    assert (await call(provider, "query", query="SELECT count(*) FROM users")).rows == [(2,)]
    await settled(provider)
    assert await oracle.digest() == before


async def test_a_write_cannot_leave_its_transaction(provider: Postgresql, oracle: Oracle) -> None:
    before = await oracle.digest()
    for text in ("COMMIT", "SET ROLE poor", "CALL p_commit()", "DO $$ BEGIN DELETE FROM users; COMMIT; END $$",
                 "COPY users TO PROGRAM 'touch /tmp/studio-postgresql-canary'", "LISTEN canary", "DELETE FROM users; COMMIT"):  # fmt: skip
        with pytest.raises(StudioError):
            await call(provider, "execute", query=text)
    await settled(provider)
    assert await oracle.digest() == before


async def test_hostile_names_reach_the_catalogue_as_values(provider: Postgresql, oracle: Oracle) -> None:
    before = await oracle.digest()
    for name in (
        "users; DROP TABLE users",
        "users' OR '1'='1",
        'users"',
        "$1",
        "users\\",
        "%",
        "users--",
        "U&'x'",
        "Users",
    ):
        for arguments in ({"table": name}, {"table": "users", "schema": name}):
            with pytest.raises(StudioError) as caught:
                await call(provider, "describe_table", **arguments)
            assert caught.value.code == "not_found"
    assert await oracle.digest() == before


async def test_a_write_through_query_says_what_to_use_instead(provider: Postgresql) -> None:
    for text in ("DELETE FROM users", "SELECT f_delete()", "SELECT nextval('s')"):
        with pytest.raises(ReadOnly, match="execute"):
            await call(provider, "query", query=text)
