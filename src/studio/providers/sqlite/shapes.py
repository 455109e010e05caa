"""What goes into and comes out of a worker: bound values, batches, and the catalogue's rows as objects."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from typing import Any

from studio.contract import Column, canonical
from studio.contract.sql import SQLITE, parse, unique_names
from studio.errors import FieldError, InvalidRequest
from studio.providers.sqlite.process import Worker

BATCH_ROWS = 4096
_INT64 = 2**63
_LONG_BYTES = 512 * 1024
"""Of a batch that is not to be in memory twice: a batch ends with the row that makes it 256 KiB."""
_SETTLE_S = 0.02
"""How long a batch that was asked for ahead may take before its worker is ended instead."""

_TABLES = """SELECT schema, name, type, {estimate} AS estimated_rows FROM pragma_table_list AS list
WHERE schema = 'main' AND type <> 'shadow' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name"""
TABLES = _TABLES.format(estimate="NULL")
TABLES_COUNTED = _TABLES.format(estimate="(SELECT max(CAST(stat AS INTEGER)) FROM sqlite_stat1 WHERE tbl = list.name)")
FIND = "SELECT name, type FROM pragma_table_list WHERE schema = 'main' AND name = :name COLLATE NOCASE"
COLUMNS = 'SELECT name, type, "notnull", dflt_value, pk FROM pragma_table_xinfo(:name) WHERE hidden <> 1 ORDER BY cid'
FOREIGN_KEYS = (
    'SELECT id, "table", "from", "to", on_update, on_delete FROM pragma_foreign_key_list(:name) ORDER BY id DESC, seq'
)
INDEXES = """SELECT list.name, list."unique", list.origin, list.partial, info.name
FROM pragma_index_list(:name) AS list, pragma_index_xinfo(list.name) AS info
WHERE info.key ORDER BY list.seq, info.seqno"""


def bound(query: str, params: Mapping[str, Any] | None) -> tuple[tuple[str, ...], list[Any]]:
    """The statement's parameter names in SQLite's order, and their values.

    SQLite numbers `:name` itself, by first use, so the text goes to it as it came.

    Raises:
        InvalidRequest: naming what cannot be bound.
    """
    statement = parse(query, SQLITE)
    values = statement.bind(params)
    return statement.names, [_value(name, value) for name, value in zip(statement.names, values, strict=True)]


def _value(name: str, value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value if value is None else str(value)
    if isinstance(value, int):
        if not -_INT64 <= value < _INT64:
            raise _unfit(name, "is beyond 64 bits; give it as text")
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            raise _unfit(name, "is NaN, which SQLite cannot hold; give null")
        return float(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, (Mapping, list, tuple, set, frozenset)):
        raise _unfit(
            name, "is a list or an object, which SQLite cannot hold; give it as JSON text and read it with json_each()"
        )
    return canonical(value)


def _unfit(name: str, message: str) -> InvalidRequest:
    return InvalidRequest(f"params.{name} {message}", fields=[FieldError(f"params.{name}", message)])


def columns(described: list[list[str | None]]) -> list[Column]:
    """Names that are unique, and the declared type; `any` for an expression."""
    names = unique_names(str(name) for name, _ in described)
    return [Column(name=name, type=declared or "any") for name, (_, declared) in zip(names, described, strict=True)]


def tuples(answer: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Rows of an answer, which holds them by column: that is a third faster to read."""
    return list(zip(*answer["values"], strict=True))


async def ahead(worker: Worker, answer: dict[str, Any]) -> AsyncGenerator[list[tuple[Any, ...]], None]:
    """The rows of `answer` and of all batches after it; one is made while the last is taken, if that is short."""
    while True:
        rows, more = tuples(answer), answer["more"]
        early = more and answer["bytes"] <= _LONG_BYTES
        if early:
            worker.ask("next", BATCH_ROWS)
        if rows:
            yield rows
        if not more:
            return
        del rows, answer
        answer = await (worker.answer() if early else worker.call("next", BATCH_ROWS))


async def stop(worker: Worker) -> None:
    """Make a worker whose rows are no longer wanted fit for the next operation, if that is soon done."""
    worker.tell(("close",))
    if worker.owed:
        with suppress(Exception):
            await asyncio.wait_for(worker.answer(), _SETTLE_S)


def described_columns(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Columns of a table, from `COLUMNS`."""
    keys = [row for row in rows if row[4]]
    return [
        {
            "name": name,
            "type": declared or "any",
            # Only a lone INTEGER key is never null: SQLite lets other primary keys be.
            "nullable": not required and not (key and len(keys) == 1 and declared.upper() == "INTEGER"),
            "default": default,
            "primary_key": bool(key),
        }
        for name, declared, required, default, key in rows
    ]


def foreign_keys(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Foreign keys of a table, from `FOREIGN_KEYS`; `references.columns` is empty where they are its primary key."""
    keys: dict[int, dict[str, Any]] = {}
    for number, table, column, target, on_update, on_delete in rows:
        key = keys.setdefault(
            number,
            {
                "columns": [],
                "references": {"table": table, "columns": []},
                "on_update": on_update,
                "on_delete": on_delete,
            },
        )
        key["columns"].append(column)
        if target is not None:
            key["references"]["columns"].append(target)
    return list(keys.values())


def indexes(rows: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Indexes of a table, from `INDEXES`; an expression's column is null."""
    found: dict[str, dict[str, Any]] = {}
    for name, unique, origin, partial, column in rows:
        entry = {
            "name": name,
            "columns": [],
            "unique": bool(unique),
            "primary": origin == "pk",
            "partial": bool(partial),
        }
        found.setdefault(name, entry)["columns"].append(column)
    return list(found.values())
