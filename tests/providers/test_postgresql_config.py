"""The `postgresql` provider without a server: its configuration, and the judge of its statements."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import time
from contextlib import suppress

import pgparse
import pytest

from studio.errors import InvalidConfig, InvalidRequest, ReadOnly, StudioError, UpstreamError
from studio.providers.postgresql import guard
from studio.providers.postgresql.config import PostgresqlConfig
from studio.providers.postgresql.errors import _LOGIN, _WORK
from studio.providers.postgresql.provider import Postgresql

BASE = {"host": "db.example.com", "database": "production", "username": "app_user"}


def parsed(**fields: object) -> PostgresqlConfig:
    return PostgresqlConfig.parse({**BASE, **fields})


# -- configuration --------------------------------------------------------------------------------


def test_the_documents_sample_is_a_config() -> None:
    config = parsed(port=5432, password="secret123", ssl=True)
    assert (config.port, config.tls_mode) == (5432, "require")


@pytest.mark.parametrize(
    ("ssl", "ca", "mode"),
    [
        (True, False, "require"),
        (True, True, "verify-ca"),
        ("require", True, "verify-ca"),
        ("verify-full", True, "verify-full"),
        (False, False, "disable"),
        ("disable", False, "disable"),
    ],
)
def test_ssl_means_what_libpq_means_by_it(ssl: object, ca: bool, mode: str) -> None:
    more = {"ssl_ca": "-----BEGIN CERTIFICATE-----"} if ca else {}
    assert parsed(ssl=ssl, **more).tls_mode == mode


def test_tls_is_on_unless_somebody_turns_it_off() -> None:
    assert parsed().tls_mode == "require"


@pytest.mark.parametrize("mode", ["prefer", "allow", "", "REQUIRE", None, 1])
def test_no_mode_that_falls_back_to_clear_text_exists(mode: object) -> None:
    with pytest.raises(InvalidConfig):
        parsed(ssl=mode)


@pytest.mark.parametrize(
    "host", ["/var/run/postgresql", "a,b", "a:5432", "a b", "", "postgresql://a", "@x", "a/b", "..", "a?x=1", "\x00"]
)
def test_a_host_is_a_name_or_an_address_and_never_a_socket(host: str) -> None:
    with pytest.raises(InvalidConfig):
        parsed(host=host)


def test_a_schema_is_a_plain_field_that_an_attachment_may_set() -> None:
    assert parsed(schema="sales").split()[0]["schema"] == "sales"
    assert {"schema", "database"} <= set(PostgresqlConfig.overridable())
    assert "schema" in PostgresqlConfig.model_json_schema()["properties"]


def test_secrets_are_sealed_to_where_they_are_sent() -> None:
    assert set(PostgresqlConfig.destination_fields()) == {"host", "port", "username", "ssl"}
    assert not set(PostgresqlConfig.destination_fields()) & set(PostgresqlConfig.overridable())


def test_secrets_are_split_from_what_is_shown() -> None:
    public, secrets = parsed(password="pw", ssl_cert="-----BEGIN X", ssl_key="-----BEGIN KEY").split()
    assert secrets == {"password": "pw", "ssl_key": "-----BEGIN KEY"}
    assert "password" not in public
    assert "ssl_key" not in public


def test_a_key_without_its_certificate_is_refused() -> None:
    with pytest.raises(InvalidConfig) as caught:
        parsed(ssl_key="-----BEGIN KEY")
    assert [field.field for field in caught.value.fields] == ["config.ssl_key"]


def test_certificates_without_tls_are_refused() -> None:
    with pytest.raises(InvalidConfig):
        parsed(ssl=False, ssl_ca="-----BEGIN CERTIFICATE-----")


def test_a_uri_is_taken_apart_and_its_password_becomes_a_secret() -> None:
    uri = (
        "postgresql://app%40x:p%23%40%2F%3A%25%20w@db.example.com:6543/pro%20d?sslmode=verify-full&application_name=me"
    )
    public, secrets = PostgresqlConfig.parse({"uri": uri}).split()
    assert secrets == {"password": "p#@/:% w"}
    assert public == {
        "host": "db.example.com", "port": 6543, "username": "app@x", "database": "pro d", "ssl": "verify-full",
        "application_name": "me",
    }  # fmt: skip


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://u:canary@other.example.com/production",
        "postgresql://u:canary@db.example.com/production?options=-c%20x",
        "postgresql://u:canary@db.example.com/production?sslmode=prefer",
        "postgresql://u:canary@db.example.com/production?host=/tmp",
        "postgresql://u:canary@db.example.com:canary/production",
        "postgresql://u:canary@a,b/production",
        "postgresql:///production",
        "mysql://u:canary@db.example.com/production",
        "canary",
        7,
    ],
)
def test_a_uri_that_contradicts_or_says_more_is_refused_and_not_repeated(uri: object) -> None:
    with pytest.raises(InvalidConfig) as caught:
        PostgresqlConfig.parse({"host": "db.example.com", "username": "u", "database": "production", "uri": uri})
    assert "canary" not in caught.value.message + repr(caught.value.fields)


def test_the_catalogue_needs_no_driver() -> None:
    code = """
        import sys
        from studio.providers import load
        cls = load("postgresql")
        assert cls.Config.model_json_schema() and [o.schema() for o in cls.operations.values()]
        assert not {"asyncpg", "pgparse"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True)


# -- the judge ------------------------------------------------------------------------------------

READS = [
    "SELECT 1", "select 1;", "  -- a\n/* b /* c */ */ SELECT 1", "VALUES (1), (2)", "TABLE users", "(SELECT 1)",
    "WITH a AS (SELECT 1) SELECT * FROM a", "SELECT 'DELETE FROM users; COMMIT'", 'SELECT 1 AS "drop table x"',
    "WITH RECURSIVE t(n) AS (VALUES (1) UNION ALL SELECT n+1 FROM t WHERE n < 5) SELECT sum(n) FROM t",
    "EXPLAIN SELECT 1", "EXPLAIN (FORMAT JSON) DELETE FROM users", "SHOW timezone", "SELECT pg_sleep(1)",
    "SELECT current_setting('x', true)", "SELECT nextval FROM users", "SELECT 'pg_notify(1)'",
]  # fmt: skip
WRITES = [
    "DELETE/**/FROM users", "INSERT INTO users VALUES (1)", "UPDATE users SET id = 1", "MERGE INTO a USING b ON true WHEN MATCHED THEN DELETE",
    "CREATE TABLE x (id int)", "DROP TABLE users", "TRUNCATE users", "GRANT SELECT ON users TO public", "VACUUM",
    "WITH a AS (DELETE FROM users RETURNING *) SELECT * FROM a", "SELECT * INTO x FROM users", "CREATE TABLE x AS SELECT 1",
    "SELECT * FROM users FOR UPDATE", "SELECT * FROM (SELECT * FROM users FOR SHARE) a", "EXPLAIN ANALYZE DELETE FROM users",
    "EXPLAIN (ANALYZE false) SELECT 1", "EXPLAIN CREATE TABLE x AS SELECT 1", "EXPLAIN WITH a AS (DELETE FROM users RETURNING 1) SELECT 1",
    "COMMIT", "ROLLBACK", "BEGIN", "SAVEPOINT a", "SET ROLE postgres", "RESET ALL", "SET LOCAL x.y = 1", "DISCARD ALL",
    "COPY users TO PROGRAM 'id'", "COPY (SELECT 1) TO '/tmp/x'", "DO $$ BEGIN END $$", "CALL f()", "LISTEN a", "NOTIFY a", "LOCK users",
    "PREPARE a AS SELECT 1", "EXECUTE a", "DEALLOCATE a", "DECLARE a CURSOR WITH HOLD FOR SELECT 1", "FETCH a", "LOAD 'x'",
    "SELECT pg_notify('a', 'b')", "SELECT PG_CATALOG.pg_notify('a', 'b')", "SELECT Pg_Advisory_Lock(1)", "SELECT my.dblink('x', 'y')",
    "SELECT 1 WHERE pg_terminate_backend(1)", "SELECT * FROM pg_read_file('/etc/passwd')", "SELECT lo_import('/etc/passwd')",
    "SELECT * FROM users ORDER BY (SELECT set_config('a', 'b', false))", "SELECT nextval('s')", "SELECT setval('s', 1)",
    "SELECT query_to_xml('delete from users', true, true, '')", "SELECT * FROM crosstab('delete from users') AS a(b int)",
    "SELECT pg_logical_emit_message(false, 'a', 'b')", "SELECT txid_current()", "SELECT pg_sleep(1000)", "SELECT pg_sleep_for('1 day')",
    "SELECT CASE WHEN true THEN pg_reload_conf() END", "VALUES (pg_rotate_logfile())", "SELECT array(SELECT pg_promote())",
    "SELECT ts_stat('delete from users')", "SELECT gin_clean_pending_list('i')", "EXPLAIN SELECT pg_notify('a', 'b')",
]  # fmt: skip


@pytest.mark.parametrize("text", READS)
def test_an_honest_read_is_a_read(text: str) -> None:
    guard.judge(text).must_read()
    assert not guard.writes(text)


@pytest.mark.parametrize("text", WRITES)
def test_what_could_write_or_reach_out_is_not_a_read(text: str) -> None:
    with pytest.raises(ReadOnly, match="execute"):
        guard.judge(text).must_read()
    assert guard.writes(text)
    assert Postgresql.native(text, None)[0] == "execute"


@pytest.mark.parametrize(
    "text", ["SELECT 1; SELECT 2", "SELECT 1; COMMIT", "COMMIT; DROP TABLE users", ";", "-- nothing", "/* */"]
)
def test_several_statements_or_none_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        guard.judge(text)


@pytest.mark.parametrize(
    "text",
    ["COMMIT", "BEGIN", "SET ROLE x", "RESET ALL", "COPY users FROM PROGRAM 'id'", "LOAD 'x'", "LISTEN a", "PREPARE a AS SELECT 1",
     "EXECUTE a", "DISCARD ALL", "DECLARE a CURSOR FOR SELECT 1", "ALTER SYSTEM SET x = 1", "SAVEPOINT a", "ROLLBACK PREPARED 'x'"],
)  # fmt: skip
def test_a_write_cannot_leave_its_transaction_or_touch_the_session(text: str) -> None:
    with pytest.raises(InvalidRequest, match="execute does not take"):
        guard.judge(text).must_write()


def test_text_that_the_parser_cannot_read_runs_nowhere() -> None:
    with pytest.raises(UpstreamError, match="syntax error"):
        guard.judge("SELEC 1")
    assert Postgresql.native("SELEC 1", None)[0] == "query"


BOMBS = {
    "parentheses": "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "more parentheses": "SELECT " + "(" * 45_000 + "1" + ")" * 45_000,
    "selects": "SELECT " + "(SELECT " * 10_000 + "1" + ")" * 10_000,
    "or": "SELECT 1 WHERE " + " OR ".join(["a"] * 19_000),
    "plus": "SELECT 1" + "+1" * 49_000,
    "not": "SELECT " + "NOT " * 24_000 + "true",
    "union": "SELECT 1" + " UNION SELECT 1" * 6000,
    "cast": "SELECT 1" + "::int" * 19_000,
    "case": "SELECT " + "CASE WHEN true THEN " * 4000 + "1" + " END" * 4000,
    "list": "SELECT " + ",".join(["1"] * 49_000),
    "array": "SELECT " + "ARRAY[" * 14_000 + "1" + "]" * 14_000,
    "join": "SELECT 1 FROM a" + " JOIN a ON true" * 6000,
    "comment": "/*" * 49_000,
    "closed comment": "/*" * 24_000 + "*/" * 24_000 + "SELECT 1",
    "signs": "SELECT 1" + "+" * 90_000 + "1",
    "quotes": "SELECT " + "'" * 98_000,
    "dollars": "SELECT " + "$a" * 45_000,
    "spaces": " " * 99_000,
    "open": "(" * 99_000,
}


def test_no_parser_bomb_ends_the_process() -> None:
    """In a thread with a small stack, because that is where long text is judged."""
    code = """
        import json, sys, threading
        from studio.errors import StudioError
        from studio.providers.postgresql import guard
        def judge(text):
            try:
                guard.judge(text)
            except StudioError:
                pass
        threading.stack_size(1 << 20)
        for name, text in json.load(sys.stdin).items():
            thread = threading.Thread(target=judge, args=[text])
            thread.start(); thread.join()
            print(name, flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, input=json.dumps(BOMBS), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split("\n")[:-1], done.stderr) == (0, list(BOMBS), "")


@pytest.mark.parametrize("name", BOMBS)
def test_a_parser_bomb_is_judged_or_refused_quickly(name: str) -> None:
    start = time.perf_counter()
    with suppress(StudioError):
        Postgresql.native(BOMBS[name], None)
        guard.judge(BOMBS[name])
    assert time.perf_counter() - start < 1  # 0.1 s on an idle machine


def test_the_scanners_slow_spot_is_real() -> None:
    """The negative control of the bound on operator characters: a fifth of the text already takes long."""
    start = time.perf_counter()
    with pytest.raises(pgparse.PGQueryError):
        pgparse.parse("/*" * 10_000)
    assert time.perf_counter() - start > 0.02


def test_text_over_the_limit_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidRequest, match="at most"):
        guard.judge("SELECT " + "1" * 100_001)


def test_every_message_of_the_error_tables_says_something_and_holds_no_placeholder() -> None:
    for cls, message in [*_LOGIN.values(), *_WORK.values()]:
        assert issubclass(cls, StudioError)
        assert len(message) > 20
        assert "%" not in message
