"""The `mysql` provider without a server: its configuration, the judge of its statements, its parameters."""

from __future__ import annotations

import datetime as dt
import json
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.contract.sql import MYSQL, parse
from studio.errors import InvalidConfig, InvalidRequest, ReadOnly, StudioError
from studio.providers.mysql import guard
from studio.providers.mysql.catalog import shape
from studio.providers.mysql.config import MysqlConfig
from studio.providers.mysql.errors import _LOGIN, _WORK, work_error
from studio.providers.mysql.params import encode
from studio.providers.mysql.pool import setup
from studio.providers.mysql.provider import Mysql

BASE = {"host": "db.example.com", "database": "production", "username": "app_user"}


def parsed(**fields: object) -> MysqlConfig:
    return MysqlConfig.parse({**BASE, **fields})


# -- configuration --------------------------------------------------------------------------------


def test_a_plain_config_has_the_port_of_mysql_and_tls() -> None:
    config = parsed(password="secret123")
    assert (config.port, config.tls_mode, config.read_only) == (3306, "require", True)


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
def test_ssl_means_the_same_as_for_postgresql(ssl: object, ca: bool, mode: str) -> None:
    more = {"ssl_ca": "-----BEGIN CERTIFICATE-----"} if ca else {}
    assert parsed(ssl=ssl, **more).tls_mode == mode


@pytest.mark.parametrize("mode", ["prefer", "PREFERRED", "", None, 1])
def test_no_mode_that_falls_back_to_clear_text_exists(mode: object) -> None:
    with pytest.raises(InvalidConfig):
        parsed(ssl=mode)


@pytest.mark.parametrize(
    "host", ["/run/mysqld/mysqld.sock", "a,b", "a:3306", "a b", "", "mysql://a", "a/b", "..", "a?x=1", "a;b", "\x00"]
)
def test_a_host_is_a_name_or_an_address_and_never_a_socket(host: str) -> None:
    with pytest.raises(InvalidConfig):
        parsed(host=host)


@pytest.mark.parametrize(
    "field",
    ["unix_socket", "read_default_file", "read_default_group", "local_infile", "init_command", "sql_mode", "client_flag",
     "charset", "auth_plugin_map", "server_public_key", "password_creator", "sock", "conv", "max_allowed_packet", "db", "schema"],
)  # fmt: skip
def test_no_property_of_the_driver_is_a_field(field: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parsed(**{field: "x"})
    assert [entry.field for entry in caught.value.fields] == [f"config.{field}"]


@pytest.mark.parametrize("separator", [";", "?", "&", "#", "@", "/", "'", "`", "=", " ", "%00"])
def test_a_separator_in_a_field_is_just_text(separator: str) -> None:
    smuggled = f"x{separator}local_infile=1"
    config = parsed(database=smuggled, username=smuggled)
    assert (config.database, config.username, config.host) == (smuggled, smuggled, "db.example.com")


def test_secrets_are_sealed_to_where_they_are_sent() -> None:
    assert set(MysqlConfig.destination_fields()) == {"host", "port", "username", "ssl"}
    assert "database" in MysqlConfig.overridable()
    assert not set(MysqlConfig.destination_fields()) & set(MysqlConfig.overridable())


def test_secrets_are_split_from_what_is_shown() -> None:
    public, secrets = parsed(password="pw", ssl_cert="-----BEGIN X", ssl_key="-----BEGIN KEY").split()
    assert secrets == {"password": "pw", "ssl_key": "-----BEGIN KEY"}
    assert not {"password", "ssl_key"} & set(public)


def test_a_key_without_its_certificate_and_certificates_without_tls_are_refused() -> None:
    for fields in ({"ssl_key": "-----BEGIN KEY"}, {"ssl": False, "ssl_ca": "-----BEGIN CERTIFICATE-----"}):
        with pytest.raises(InvalidConfig):
            parsed(**fields)


def test_a_uri_is_taken_apart_and_its_password_becomes_a_secret() -> None:
    uri = "mysql://app%40x:p%23%40%2F%3A%25%20w@db.example.com:3307/pro%20d?ssl-mode=VERIFY_IDENTITY"
    public, secrets = MysqlConfig.parse({"uri": uri}).split()
    assert secrets == {"password": "p#@/:% w"}
    assert public == {
        "host": "db.example.com",
        "port": 3307,
        "username": "app@x",
        "database": "pro d",
        "ssl": "verify-full",
    }


@pytest.mark.parametrize(
    "uri",
    [
        "mysql://u:canary@other.example.com/production",
        "mysql://u:canary@db.example.com/production?local_infile=1",
        "mysql://u:canary@db.example.com/production?ssl-mode=PREFERRED",
        "mysql://u:canary@db.example.com/production?unix_socket=/tmp/s",
        "mysql://u:canary@db.example.com:canary/production",
        "mysql:///production",
        "postgresql://u:canary@db.example.com/production",
        "canary",
        7,
    ],
)
def test_a_uri_that_contradicts_or_says_more_is_refused_and_not_repeated(uri: object) -> None:
    with pytest.raises(InvalidConfig) as caught:
        MysqlConfig.parse({**BASE, "username": "u", "uri": uri})
    assert "canary" not in caught.value.message + repr(caught.value.fields)


def test_the_catalogue_needs_no_driver() -> None:
    code = """
        import sys
        from studio.providers import load
        cls = load("mysql")
        assert cls.Config.model_json_schema() and [o.schema() for o in cls.operations.values()]
        assert cls.native("SELECT 1", None)[0] == "query"
        assert not {"asyncmy", "sqlglot"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(code)], check=True)


def test_each_kind_of_server_gets_the_time_limit_that_it_knows() -> None:
    config = parsed(timeout_s=1.5, max_rows=10)
    mariadb, mysql = setup(config, mariadb=True), setup(config, mariadb=False)
    assert "max_statement_time=1.500" in mariadb[0]
    assert "max_execution_time=2000" in mysql[0]
    assert all(
        "sql_select_limit=11" in lines[0] and lines[1] == "SET SESSION TRANSACTION READ ONLY"
        for lines in (mariadb, mysql)
    )


# -- the judge ------------------------------------------------------------------------------------

READS = [
    "SELECT 1", "select 1;", "  -- a\n# b\n/* c */ SELECT 1", "VALUES (1), (2)", "TABLE users", "(SELECT 1) UNION (SELECT 2)",
    "WITH a AS (SELECT 1) SELECT * FROM a", "SELECT 'DELETE FROM users; COMMIT'", "SELECT `into` FROM users",
    'SELECT "it\\"s; DROP TABLE users"', "SELECT 'a''b; -- ', 1 -- INTO\n", "SELECT 1--1", "SELECT 5--1 FROM t", "SHOW TABLES",
    "SHOW CREATE TABLE users", "SHOW CREATE PROCEDURE p", "SHOW PROCEDURE STATUS", "DESCRIBE users", "DESC users name", "EXPLAIN users",
    "EXPLAIN SELECT 1", "EXPLAIN FORMAT=JSON SELECT 1", "SELECT SLEEP(1)", "SELECT INSERT('abc', 1, 1, 'x'), REPLACE('a', 'b', 'c')",
    "SELECT UUID(), NOW()", "SELECT 'LOAD_FILE(1)'", "SELECT nextval FROM t", "SELECT @@version", "SELECT 1 /*+ a hint */",
    "SELECT ünïcödé FROM `t``s`", "SELECT x'41', b'01', N'a', _utf8mb4'b', 0x41, 1e5, .5", "SELECT 1;;", "SELECT a.* FROM a FORCE INDEX (x)",
]  # fmt: skip
WRITES = [
    "DELETE/**/FROM users", "INSERT INTO users VALUES (1)", "REPLACE users VALUES (1)", "UPDATE users SET id = 1", "TRUNCATE users",
    "CREATE TABLE x (id int)", "CREATE TEMPORARY TABLE x (id int)", "DROP TABLE users", "ALTER TABLE users ADD x int", "RENAME TABLE a TO b",
    "GRANT SELECT ON a.* TO b", "ANALYZE TABLE users", "ANALYZE SELECT 1", "OPTIMIZE TABLE users", "CALL p()", "DO SLEEP(1)",
    "SET @x = 1", "SET STATEMENT max_statement_time=0 FOR SELECT 1", "SET STATEMENT tx_read_only=0 FOR INSERT INTO users VALUES (1)",
    "BEGIN NOT ATOMIC DELETE FROM users; END", "BEGIN", "START TRANSACTION READ WRITE", "COMMIT", "EXECUTE IMMEDIATE 'DELETE FROM users'",
    "PREPARE a FROM 'SELECT 1'", "EXECUTE a", "HANDLER users OPEN", "LOCK TABLES users WRITE", "UNLOCK TABLES", "FLUSH TABLES", "KILL 1",
    "LOAD DATA LOCAL INFILE '/etc/passwd' INTO TABLE users", "LOAD DATA INFILE 'x' INTO TABLE users", "USE mysql", "XA START 'a'",
    "INSTALL SONAME 'x'", "SHUTDOWN", "RESET QUERY CACHE", "WITH a AS (SELECT 1) DELETE FROM users", "WITH a AS (SELECT 1) UPDATE users SET id = 2",
    "SELECT 1 INTO @x", "SELECT 1 INTO OUTFILE '/tmp/x'", "SELECT 1 INTO DUMPFILE '/tmp/x'", "SELECT * INTO OUTFILE '/tmp/x' FROM users",
    "SELECT 1.INTO OUTFILE '/tmp/x'", "SELECT 1e5INTO OUTFILE '/tmp/x'", "SELECT .5INTO @x", "SELECT'a'INTO @x", "SELECT`a`INTO @x FROM t",
    "(SELECT 1 INTO @x)", "SELECT 1 UNION SELECT 2 INTO OUTFILE '/tmp/x'", "TABLE users INTO OUTFILE '/tmp/x'", "SELECT 1 --\nINTO @x",
    "SELECT 1 #'\nINTO @x", "SELECT '\\'', 1 INTO @x",
    "SELECT * FROM users FOR UPDATE", "SELECT * FROM users FOR/**/SHARE", "SELECT * FROM users LOCK IN SHARE MODE",
    "SELECT * FROM (SELECT * FROM users FOR UPDATE) a", "EXPLAIN ANALYZE SELECT 1", "EXPLAIN DELETE FROM users", "DESCRIBE UPDATE users SET id = 1",
    "SELECT * FROM users PROCEDURE ANALYSE()", "SELECT LOAD_FILE('/etc/passwd')", "SELECT load_file ('/etc/passwd')", "SELECT `load_file`('x')",
    "SELECT LOAD_FILE/**/('x')", "SELECT GET_LOCK('a', 1)", "SELECT RELEASE_LOCK('a')", "SELECT BENCHMARK(1e9, MD5('a'))", "SELECT SLEEP(1000)",
    "SELECT MASTER_POS_WAIT('a', 1)", "SELECT NEXTVAL(s)", "SELECT NEXT VALUE FOR s", "SELECT PREVIOUS VALUE FOR s", "SELECT SETVAL(s, 1)",
    "SELECT LASTVAL(s)", "SELECT sys_exec('id')", "SELECT mysql.sys_eval('id')", "SELECT LAST_INSERT_ID(5)", "SELECT spider_direct_sql('a')",
    "SHOW TABLES WHERE GET_LOCK('a', 1)", "VALUES (LOAD_FILE('x'))", "SELECT * FROM t ORDER BY (SELECT GET_LOCK('a', 1))",
    "SELECT (SELECT 1 FROM t WHERE id = 1 FOR UPDATE)", "SHOW CREATE TABLE users INTO OUTFILE 'x'",
]  # fmt: skip


@pytest.mark.parametrize("text", READS)
def test_an_honest_read_is_a_read(text: str) -> None:
    guard.judge(parse(text, MYSQL).text).must_read()
    assert not guard.writes(text)
    assert Mysql.native(text, None)[0] == "query"


@pytest.mark.parametrize("text", WRITES)
def test_what_could_write_lock_or_reach_out_is_not_a_read(text: str) -> None:
    with pytest.raises(ReadOnly, match="execute"):
        guard.judge(text).must_read()
    assert Mysql.native(text, None)[0] == "execute"


@pytest.mark.parametrize(
    "text",
    [
        "/*! DELETE FROM users */", "SELECT 1 /*!50000 INTO OUTFILE 'x' */", "SELECT 1 /*M! INTO @x */", "SELECT 1 /*M!100000 FOR UPDATE*/",
        "SELECT '/*!' ", "SELECT /*+ SET_VAR(sql_mode='') */ 1", "SELECT /*+ MAX_EXECUTION_TIME(0) */ 1", "SELECT $$ ' $$ INTO @x -- '",
        "SELECT 1; SELECT 2", "SELECT 1; COMMIT", "COMMIT; DROP TABLE users", ";", "-- nothing", "/* */", "# a", "SELECT '\ud800'",
        "SELECT 1;;SELECT 2",
    ],
)  # fmt: skip
def test_text_that_a_server_may_read_otherwise_runs_nowhere(text: str) -> None:
    with pytest.raises(InvalidRequest):
        guard.judge(text)


@pytest.mark.parametrize(
    "text", ["SELEC 1", "IF 1 THEN SELECT 1; END IF", "label: BEGIN NOT ATOMIC END", "LOOP END LOOP", "?", "'a'", "1"]
)
def test_what_begins_like_no_statement_is_no_statement(text: str) -> None:
    with suppress(InvalidRequest):
        verdict = guard.judge(text)
        for must in (verdict.must_read, verdict.must_write, verdict.must_change_rows, verdict.must_explain):
            with pytest.raises(InvalidRequest):
                must()
    assert Mysql.native(text, None)[0] == "query"


@pytest.mark.parametrize(
    "text",
    ["COMMIT", "BEGIN", "BEGIN NOT ATOMIC END", "START TRANSACTION", "SAVEPOINT a", "SET @@global.read_only = 0", "SET STATEMENT a=1 FOR SELECT 1",
     "PREPARE a FROM 'x'", "EXECUTE IMMEDIATE 'x'", "LOCK TABLES a READ", "HANDLER a OPEN", "LOAD DATA INFILE 'x' INTO TABLE a", "KILL 1",
     "FLUSH TABLES", "USE mysql", "INSTALL PLUGIN a SONAME 'b'", "SELECT 1 INTO OUTFILE 'x'", "INSERT INTO a VALUES (LOAD_FILE('x'))",
     "CREATE FUNCTION f RETURNS STRING SONAME 'lib.so'", "XA COMMIT 'a'", "SHUTDOWN"],
)  # fmt: skip
def test_a_write_cannot_touch_the_session_the_server_or_its_files(text: str) -> None:
    with pytest.raises(InvalidRequest, match="execute does not take"):
        guard.judge(text).must_write()


@pytest.mark.parametrize(
    "text",
    ["CREATE TABLE a (id int)", "DROP TABLE a", "TRUNCATE a", "CALL p()", "GRANT ALL ON a.* TO b", "ANALYZE TABLE a"],
)
def test_what_commits_by_itself_is_not_taken_into_a_transaction(text: str) -> None:
    guard.judge(text).must_write()
    with pytest.raises(InvalidRequest, match="commits at once"):
        guard.judge(text).must_change_rows()


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("SELECT COUNT(*), MAX(a) FROM t WHERE id IN (1, 2)", True), ("SELECT f()", False), ("SELECT a.f()", False), ("SELECT `f`()", False),
        ("INSERT INTO t(a, b) VALUES (1, 2)", True), ("INSERT INTO t VALUES (f())", False), ("SELECT @x := 1", False),
        ("SELECT uuid()", True), ("SELECT mysql.uuid()", False), ("SELECT GET_LOCK('a', 1)", False),
    ],
)  # fmt: skip
def test_only_well_known_functions_leave_a_session_as_it_was(text: str, plain: bool) -> None:
    assert guard.judge(text).plain is plain


PIECES = st.lists(
    st.sampled_from(["'", '"', "`", "\\", "''", "--", "-- ", "#", "\n", "/*", "*/", "/", "*", "a", "1", "1e", ".", " ", "INTO", "x'", "$", ":="]),
    max_size=25,
).map("".join)  # fmt: skip


@given(PIECES, st.sampled_from([" INTO OUTFILE 'x'", " FOR UPDATE", ";DELETE FROM t", " LOCK IN SHARE MODE"]))
def test_no_noise_before_it_hides_a_clause_from_the_judge(noise: str, clause: str) -> None:
    """Whatever stands before: the clause is seen, or it is inside of text by the rules of `contract/sql.py` too."""
    text = f"SELECT {noise} :marker {clause}"
    try:
        statement = parse(text, MYSQL)
        verdict = guard.judge(statement.text)
    except StudioError:
        return
    if statement.names:  # the marker is no text, so neither is what follows it
        assert verdict.reading


BOMBS = {
    "parentheses": "SELECT " + "(" * 45_000 + "1" + ")" * 45_000, "calls": "SELECT " + "a(" * 33_000 + "1" + ")" * 33_000,
    "hints": "SELECT '" + "/*+" * 33_000 + "'", "semicolons": "SELECT 1" + ";" * 90_000, "quotes": "SELECT " + "'" * 98_000,
    "comment": "/*" * 49_000, "closed comment": "/*" * 24_000 + "*/", "signs": "SELECT 1" + "-" * 90_000 + "1", "spaces": " " * 99_000,
    "backslashes": "SELECT '" + "\\" * 90_000, "dots": "SELECT " + "1." * 45_000, "words": "SELECT " + "a " * 49_000,
    "backquotes": "SELECT " + "`" * 98_001, "hashes": "SELECT 1" + "#\n" * 40_000, "sleeps": "SELECT " + "sleep(1)+" * 10_000 + "1",
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_a_parser_bomb_is_judged_or_refused_quickly(name: str) -> None:
    start = time.perf_counter()
    with suppress(StudioError):
        Mysql.native(BOMBS[name], None)
        guard.judge(parse(BOMBS[name], MYSQL).text)
    assert time.perf_counter() - start < 2  # 0.2 s on an idle machine


# -- :name parameters in this dialect -------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected", "names"),
    [
        ("SELECT :b, :a, :b", "SELECT ?, ?, ?", ("b", "a", "b")),
        (r"SELECT '\':x' , :a", r"SELECT '\':x' , ?", ("a",)),
        (r'SELECT "\":x" , :a', r'SELECT "\":x" , ?', ("a",)),
        (r"SELECT '\\', :a, ':x'", r"SELECT '\\', ?, ':x'", ("a",)),
        ("SELECT `a\\`, :a, `:x`", "SELECT `a\\`, ?, `:x`", ("a",)),
        ("SELECT 1 -- :x\n, :a", "SELECT 1 -- :x\n, ?", ("a",)),
        ("SELECT 1--:a", "SELECT 1--?", ("a",)),
        ("SELECT 1 # :x\n, :a", "SELECT 1 # :x\n, ?", ("a",)),
        ("SELECT /* :x /* */ :a", "SELECT /* :x /* */ ?", ("a",)),
        ("SELECT @x := :a", "SELECT @x := ?", ("a",)),
        ("SELECT doc->':x', doc->>'$.:y' FROM t WHERE a=:a", "SELECT doc->':x', doc->>'$.:y' FROM t WHERE a=?", ("a",)),
    ],
)  # fmt: skip
def test_parameters_are_found_where_mysql_reads_sql(text: str, expected: str, names: tuple[str, ...]) -> None:
    found = parse(text, MYSQL)
    assert (found.text, found.names) == (expected, names)
    assert guard.judge(found.text).marks == len(names)


def test_a_name_that_stands_twice_is_bound_twice_and_missed_once() -> None:
    statement = parse("SELECT :a, :b, :a", MYSQL)
    assert statement.bind({"a": 1, "b": 2}) == [1, 2, 1]
    with pytest.raises(InvalidRequest) as caught:
        statement.bind({"b": 2})
    assert [field.field for field in caught.value.fields] == ["params.a"]


@pytest.mark.parametrize(
    "wrong",
    [
        float("nan"),
        float("inf"),
        10**66,
        Decimal("NaN"),
        Decimal("1e1000000"),
        "\ud800",
        object(),
        {1, 2},
    ],
)
def test_a_value_that_mysql_cannot_hold_names_its_parameter_and_is_not_repeated(wrong: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        encode(["fine", "wrong"], [1, wrong])
    assert [field.field for field in caught.value.fields] == ["params.wrong"]
    assert "1000000" not in caught.value.message


def test_values_become_what_the_binary_protocol_has() -> None:
    moment = dt.datetime(2024, 1, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    values = [None, True, 2**64 - 1, 2**64, {"a": [1, "é"]}, [1], moment, memoryview(b"x")]
    assert encode([str(at) for at in range(8)], values) == (
        None, True, 2**64 - 1, Decimal(2**64), '{"a": [1, "é"]}', "[1]", dt.datetime(2024, 1, 1), b"x",
    )  # fmt: skip


# -- errors and privileges ------------------------------------------------------------------------


def test_every_message_of_the_error_tables_says_something_and_holds_no_placeholder() -> None:
    for cls, message in [*_LOGIN.values(), *_WORK.values()]:
        assert issubclass(cls, StudioError)
        assert len(message) > 20
        assert "%" not in message


def test_no_message_names_the_account() -> None:
    from asyncmy.errors import OperationalError

    for number, text in (
        (1142, "SELECT command denied to user 'canary'@'10.0.0.1' for table `app`.`t`"),
        (1142, "SELECT command denied to user 'o'can'ary'@'h' for table `app`.`t`"),
        (1044, "Access denied for user 'canary'@'%' to database 'app'"),
        (1227, "Access denied; you need (at least one of) the SUPER privilege(s) for this operation"),
        (1396, "Operation CREATE USER failed for 'canary'@'h'"),
        (1064, "You have an error near 'x' by 'canary'@'h'"),
    ):
        error = work_error(OperationalError(number, text))
        assert error is not None
        assert "canary" not in error.message
        assert str(number) in error.message
    assert (
        "`app`.`t`"
        in work_error(OperationalError(1142, "SELECT command denied to user 'a'@'b' for table `app`.`t`")).message
    )  # type: ignore[union-attr]


def test_grants_are_told_apart_and_a_hash_in_them_goes_nowhere() -> None:
    lines = [
        "GRANT USAGE ON *.* TO `r`@`%` IDENTIFIED BY PASSWORD '*CANARY'",
        "GRANT SELECT, SHOW VIEW ON `app`.* TO `r`@`%`",
    ]
    assert shape(lines, "app") == {"enforced_by": "account", "excess": [], "grant": []}
    more = [
        "GRANT SELECT, INSERT (`a`, `b`), FILE ON *.* TO `r`@`%` IDENTIFIED BY PASSWORD '*CANARY' WITH GRANT OPTION",
        "GRANT ALL PRIVILEGES ON `app`.* TO `r`@`%`",
        "GRANT `writers` TO `r`@`%`",
        "GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION",
        "something new",
    ]
    found = shape(more, "my_app`%")
    assert found["enforced_by"] == "service"
    assert found["excess"] == [
        "FILE on *.*", "GRANT OPTION on *.*", "INSERT on *.*", "ALL PRIVILEGES on `app`.*", "a role, whose privileges are not looked into",
        "GRANT OPTION on ''@'%'", "PROXY on ''@'%'", "a grant of a form that is not known here",
    ]  # fmt: skip
    assert "CANARY" not in json.dumps(found)
    assert r"`my\_app``\%`.*" in found["grant"][1]
