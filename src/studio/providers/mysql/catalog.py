"""The questions that we ask the server's catalogue, as constant SQL; names are always bound."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

Row = Sequence[Any]

# `LOWER`: some versions answer in upper case. An explicit LIMIT takes the place of the session's `sql_select_limit`.
TABLES = """
SELECT t.table_schema AS `schema`, t.table_name AS name,
       CASE t.table_type WHEN 'BASE TABLE' THEN 'table' WHEN 'SYSTEM VERSIONED' THEN 'table'
                         ELSE LOWER(t.table_type) END AS type,
       t.table_rows AS estimated_rows
FROM information_schema.tables t
WHERE t.table_schema NOT IN ('information_schema', 'mysql', 'performance_schema', 'sys')
ORDER BY t.table_schema <> DATABASE(), 1, 2
"""
TABLE = """
SELECT t.table_schema, t.table_name, t.table_type, NULLIF(t.table_comment, '')
FROM information_schema.tables t
WHERE t.table_schema = COALESCE(?, DATABASE()) AND t.table_name = ? LIMIT 1
"""
COLUMNS = """
SELECT c.column_name, c.column_type, c.is_nullable = 'YES', c.column_default, NULLIF(c.column_comment, ''), c.extra
FROM information_schema.columns c
WHERE c.table_schema = ? AND c.table_name = ? ORDER BY c.ordinal_position LIMIT 5000
"""
INDEXES = """
SELECT s.index_name, s.non_unique = 0, s.index_type, s.column_name, s.sub_part
FROM information_schema.statistics s
WHERE s.table_schema = ? AND s.table_name = ? ORDER BY s.index_name, s.seq_in_index LIMIT 5000
"""
FOREIGN_KEYS = """
SELECT k.constraint_name, k.column_name, k.referenced_table_schema, k.referenced_table_name, k.referenced_column_name
FROM information_schema.key_column_usage k
WHERE k.table_schema = ? AND k.table_name = ? AND k.referenced_table_name IS NOT NULL
ORDER BY k.constraint_name, k.ordinal_position LIMIT 5000
"""
GRANTS = "SHOW GRANTS"

READER = "studio_reader"
_PRIMARY = "PRIMARY"
_HARMLESS = {"USAGE", "SELECT", "SHOW VIEW", "SHOW DATABASES"}


def describe(table: Row, columns: Iterable[Row], indexes: Iterable[Row], foreign_keys: Iterable[Row]) -> dict[str, Any]:
    """The answers to the four questions about a table, in one."""
    keys: dict[str, dict[str, Any]] = {}
    for name, unique, kind, column, part in indexes:
        key = keys.setdefault(name, {"unique": bool(unique), "kind": kind, "columns": [], "parts": []})
        key["columns"].append(column)
        key["parts"].append(f"{column}({part})" if part else str(column))
    references: dict[str, dict[str, Any]] = {}
    for name, column, schema, other, other_column in foreign_keys:
        target = {"schema": schema, "table": other, "columns": []}
        reference = references.setdefault(name, {"name": name, "columns": [], "references": target})
        reference["columns"].append(column)
        reference["references"]["columns"].append(other_column)
    schema, name, kind, comment = table
    return {
        "schema": schema,
        "name": name,
        "comment": comment,
        "type": "table" if kind in {"BASE TABLE", "SYSTEM VERSIONED"} else str(kind).lower(),
        "columns": [
            {
                "name": column,
                "type": f"{type_name} {extra}" if extra else type_name,
                "nullable": bool(nullable),
                # MariaDB gives defaults as SQL, so that none is the word NULL.
                "default": None if nullable and default == "NULL" else default,
                "comment": note,
            }
            for column, type_name, nullable, default, note, extra in columns
        ],
        "primary_key": keys[_PRIMARY]["columns"] if _PRIMARY in keys else [],
        "foreign_keys": list(references.values()),
        "indexes": [
            {"name": name, "unique": key["unique"], "definition": f"{key['kind']} ({', '.join(key['parts'])})"}
            for name, key in keys.items()
        ],
    }


_GRANT = re.compile(r"GRANT (?P<what>.+?) ON (?P<where>.+?) TO .+?(?P<option> WITH GRANT OPTION.*)?", re.S)
_ROLE = re.compile(r"GRANT (?P<role>[`'\"].+?) TO .+", re.S)
_COLUMNS = re.compile(r"\([^)]*\)")


def shape(grants: Iterable[str], database: str) -> dict[str, Any]:
    """The answer to SHOW GRANTS as `Probe.privileges`. The lines hold password hashes: only known parts go on."""
    excess: list[str] = []
    for line in grants:
        excess += _excess(line)
    return {
        "enforced_by": "service" if excess else "account",
        "excess": excess,
        "grant": _grant(database) if excess else [],
    }


def _excess(line: str) -> list[str]:
    if found := _GRANT.fullmatch(line):
        names = {name.strip().upper() for name in _COLUMNS.sub("", found["what"]).split(",")}
        if found["option"] and "GRANT OPTION" in found["option"]:
            names.add("GRANT OPTION")
        return [f"{name} on {found['where']}" for name in sorted(names - _HARMLESS)]
    if _ROLE.fullmatch(line):
        return ["a role, whose privileges are not looked into"]
    return [] if line.startswith("SET DEFAULT ROLE") else ["a grant of a form that is not known here"]


def _grant(database: str) -> list[str]:
    """Statements for an account that can read one database and nothing else."""
    pattern = database.replace("\\", "\\\\").replace("_", "\\_").replace("%", "\\%").replace("`", "``")
    return [
        f"CREATE USER {READER}@'%' IDENTIFIED BY '<a long random password>' REQUIRE SSL",
        f"GRANT SELECT, SHOW VIEW ON `{pattern}`.* TO {READER}@'%'",
    ]
