"""Which SQL may run as a read and which as a write, judged on PostgreSQL's own parse tree.

libpg_query is PostgreSQL's parser as a library, so nothing here guesses at text. The tree decides
on the root and on functions that act outside of the transaction; that a read changes nothing is
the database's doing: a read-only transaction that is always rolled back (`pool.py`).
Text that this parser cannot read runs nowhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from studio.contract.sql import MAX_TEXT
from studio.errors import InvalidRequest, ReadOnly, UpstreamError
from studio.providers._sql.server import CACHED_TEXT

MAX_SLEEP_S = 60
MAX_TOKENS = 20_000
"""The tree of more would hold the interpreter's lock for more than 50 ms while it is decoded."""
MAX_OPERATORS = 1_000
"""PostgreSQL's scanner is quadratic in a run of these: 98,000 characters of /* took 11 s."""
_OPERATORS = re.compile(rf"[-~!@#^&|`?+*/%<>=]{{{MAX_OPERATORS}}}")
_TOKEN = re.compile(r"\w+|[^\w\s]")

_REFUSED_PREFIXES = (
    # locks, signals, files, large objects, other servers, replication, statistics: none is undone by ROLLBACK
    "pg_advisory_", "pg_try_advisory_", "pg_read_", "pg_ls_", "pg_file_", "lo_", "dblink", "pg_logical_",
    "pg_replication_", "pg_create_", "pg_drop_", "pg_copy_", "pg_backup_", "pg_start_", "pg_stop_", "pg_switch_",
    "pg_wal_replay_", "pg_sync_", "pg_stat_reset", "pg_stat_statements_reset", "pg_restore_", "pg_clear_", "pg_set_",
    "pg_log_", "pg_buffercache_evict", "binary_upgrade_", "heap_force_", "brin_summarize", "brin_desummarize",
    "postgres_fdw_disconnect", "http_", "table_import_from_", "query_export_to_",
    # these run SQL that they get as text, where this parser does not see it
    "query_to_", "cursor_to_", "table_to_xml", "schema_to_xml", "database_to_xml", "crosstab", "connectby",
)  # fmt: skip
_REFUSED = frozenset({
    "pg_notify", "pg_terminate_backend", "pg_cancel_backend", "pg_reload_conf", "pg_rotate_logfile",
    "pg_rotate_logfile_old", "pg_promote", "pg_stat_file", "pg_logdir_ls", "pg_export_snapshot", "pg_prewarm",
    "pg_truncate_visibility_map", "pg_import_system_collations", "pg_sleep_for", "pg_sleep_until", "pg_nextoid",
    "gin_clean_pending_list", "loread", "lowrite", "set_config", "nextval", "setval", "txid_current",
    "pg_current_xact_id", "ts_stat", "ts_rewrite", "xpath_table", "http", "invoke",
})  # fmt: skip
_PLAIN = frozenset({
    "abs", "avg", "sum", "min", "max", "count", "coalesce", "now", "date_trunc", "date_part", "extract", "age",
    "to_char", "to_date", "to_timestamp", "lower", "upper", "length", "trim", "btrim", "ltrim", "rtrim", "substring",
    "substr", "replace", "concat", "concat_ws", "format", "left", "right", "split_part", "position", "round", "ceil",
    "floor", "trunc", "mod", "power", "sqrt", "random", "greatest", "least", "nullif", "array_agg", "string_agg",
    "json_agg", "jsonb_agg", "json_build_object", "jsonb_build_object", "json_object_agg", "jsonb_object_agg",
    "to_json", "to_jsonb", "row_to_json", "unnest", "generate_series", "row_number", "rank", "dense_rank", "lag",
    "lead", "first_value", "last_value", "ntile", "bool_and", "bool_or", "every", "array_length", "cardinality",
    "percentile_cont", "percentile_disc", "md5", "version", "timezone", "pg_sleep",
})  # fmt: skip
_EXPLAINED = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})
_NOT_EXECUTED = {
    "TransactionStmt": "transaction control; use the transaction operation for several statements",
    "VariableSetStmt": "SET and RESET; a session is shared, so its settings stay as they are",
    "CopyStmt": "COPY",
    "LoadStmt": "LOAD",
    "ListenStmt": "LISTEN",
    "UnlistenStmt": "UNLISTEN",
    "PrepareStmt": "PREPARE",
    "ExecuteStmt": "EXECUTE of a prepared statement",
    "DeallocateStmt": "DEALLOCATE",
    "DeclareCursorStmt": "cursors",
    "FetchStmt": "cursors",
    "ClosePortalStmt": "cursors",
    "DiscardStmt": "DISCARD",
    "AlterSystemStmt": "ALTER SYSTEM",
}


@dataclass(frozen=True)
class Verdict:
    """What the tree of one statement says.

    `root` is its node's name. `reading` is why it may not run as a read, None where it may; `refused`
    why it may not run at all. `plain` says that it calls none but well-known functions, so that
    nothing of the session outlives a ROLLBACK.
    """

    root: str
    reading: str | None
    refused: str | None
    plain: bool

    def must_read(self) -> None:
        """Raise ReadOnly unless this may run as a read."""
        if self.reading:
            raise ReadOnly(f"query takes reads only: {self.reading}; what is meant to write goes to execute")

    def must_write(self) -> None:
        """Raise InvalidRequest unless this may run as a write."""
        if self.refused:
            raise InvalidRequest.at("query", f"execute does not take {self.refused}")

    def must_explain(self) -> None:
        """Raise InvalidRequest unless EXPLAIN can be put before this."""
        if self.root not in _EXPLAINED:
            raise InvalidRequest.at("query", "only SELECT, INSERT, UPDATE, DELETE and MERGE can be explained")


def judge(text: str) -> Verdict:
    """The verdict on one statement with `$n` placeholders.

    Raises:
        InvalidRequest: no statement or several, or nested too deeply.
        UpstreamError: not PostgreSQL's grammar.
    """
    return _judge_cached(text) if len(text) <= CACHED_TEXT else _judge(text)


_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|\()*+([a-z]+)", re.I | re.S)
_READING_WORDS = {"select", "with", "values", "table", "explain", "show"}


def writes(text: str) -> bool:
    """Whether `execute_query` means the write operation by this text. No guard: both paths judge for themselves."""
    if len(text) > CACHED_TEXT:  # this is asked on the event loop
        first = _FIRST_WORD.match(text)
        return first is not None and first[1].lower() not in _READING_WORDS
    try:
        verdict = judge(text)
    except (InvalidRequest, UpstreamError):
        return False
    return verdict.reading is not None


def _judge(text: str) -> Verdict:
    statements = _parsed(text)
    if len(statements) != 1:
        what = "holds no statement" if not statements else "holds several statements; give one, or use transaction"
        raise InvalidRequest.at("query", what)
    [(root, body)] = statements[0]["stmt"].items()
    noted = _survey(body)
    reading = _not_reading(root, body)
    if reading is None:
        explained = next(iter(body["query"].values())) if root == "ExplainStmt" else None
        objections = (_objection(key, value, explained) for key, value in noted)
        reading = next(filter(None, objections), None)
    plain = all(_known(value) for key, value in noted if key == "FuncCall")
    return Verdict(root, reading, _NOT_EXECUTED.get(root), plain)


_judge_cached = lru_cache(maxsize=1024)(_judge)


def _parsed(text: str) -> list[Any]:
    import pgparse

    if len(text) > MAX_TEXT or "\x00" in text:
        raise InvalidRequest.at("query", f"must be at most {MAX_TEXT} characters, without NUL")
    if _OPERATORS.search(text):
        raise InvalidRequest.at("query", f"has a run of {MAX_OPERATORS} or more operator characters; bind such text")
    if len(text) > MAX_TOKENS and sum(1 for _ in _TOKEN.finditer(text)) > MAX_TOKENS:
        raise InvalidRequest.at("query", f"has more than {MAX_TOKENS} tokens; bind long lists as one array parameter")
    try:
        return pgparse.parse(text)  # type: ignore[no-any-return]
    except RecursionError:
        raise InvalidRequest.at("query", "is nested too deeply") from None
    except pgparse.PGQueryError as exc:
        said = str(exc.args[0])[:500]
        raise UpstreamError(f"{said} (42601)") from exc


def _not_reading(root: str, body: dict[str, Any]) -> str | None:
    """Why a statement with this root is no read."""
    if root == "ExplainStmt":
        options = {option["DefElem"]["defname"] for option in body.get("options", ())}
        if "analyze" in options:
            return "EXPLAIN ANALYZE runs the statement"
        inner = next(iter(body["query"]))
        return None if inner in _EXPLAINED else "only SELECT, INSERT, UPDATE, DELETE and MERGE can be explained"
    if root in {"SelectStmt", "VariableShowStmt"}:
        return None
    return f"{root.removesuffix('Stmt').upper()} is not a read"


_NOTED = {"FuncCall", "intoClause", "lockingClause"}


def _survey(tree: Any) -> list[tuple[str, Any]]:
    """All nodes that matter here, by key, in one pass; a loop of our own, so that no depth can end the process."""
    noted: list[tuple[str, Any]] = []
    left = [tree]
    while left:
        node = left.pop()
        for key, value in node.items() if type(node) is dict else (("", item) for item in node):
            if type(value) is dict or type(value) is list:
                if key in _NOTED or (key[-4:] == "Stmt" and key[0].isupper()):  # a node, not a field that holds one
                    noted.append((key, value))
                left.append(value)
    return noted


def _objection(key: str, value: Any, explained: Any) -> str | None:
    """Why a statement that holds this node is no read."""
    if key == "FuncCall":
        name = _name(value)
        if name in _REFUSED or name.startswith(_REFUSED_PREFIXES) or _long_sleep(name, value):
            return f"the function {name} acts outside of the transaction or hides what it runs"
        return None
    if key == "intoClause":
        return "SELECT INTO makes a table"
    if key == "lockingClause":
        return "FOR UPDATE and FOR SHARE lock rows"
    return None if key == "SelectStmt" or value is explained else "it holds a statement that writes"


def _known(call: dict[str, Any]) -> bool:
    names = call["funcname"]
    return _name(call) in _PLAIN and (len(names) == 1 or names[0]["String"]["sval"] == "pg_catalog")


def _name(call: dict[str, Any]) -> str:
    """The last part of a function's name: which schema it claims to come from does not matter."""
    return str(call["funcname"][-1]["String"]["sval"]).lower()


def _long_sleep(name: str, call: dict[str, Any]) -> bool:
    """A constant that only the time limit would end; it is refused before it holds a session."""
    if name != "pg_sleep":
        return False
    constants = [constant for argument in call.get("args", ()) for constant in argument.get("A_Const", {}).values()]
    return any(_number(value) > MAX_SLEEP_S for one in constants if type(one) is dict for value in one.values())


def _number(constant: Any) -> float:
    try:
        return float(constant)
    except (TypeError, ValueError):  # a node around the constant, or text
        return 0.0
