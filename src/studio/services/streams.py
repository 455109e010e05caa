"""Rows as a stream of bytes, in constant memory: NDJSON, one JSON document, CSV and Arrow.

Each form says in its own way how the stream ended, which nobody knows before the last row:

* **NDJSON**: one object a row, then one line `{"$result": {…}}`.
* **JSON**: the shape of an ordinary result with `data` in front and what the end knows behind it.
* **CSV**: a head line and rows. Rows past a cap are told by one last line `# {…}`; a failure by such a
  line and a connection that is cut.
* **Arrow** (IPC stream): typed record batches, then an empty one whose custom metadata holds the end
  under `studio.result`; after a failure the connection is cut as well.

A failure before the first row is an ordinary error.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import orjson

from studio.contract.caps import Capped, Moments, moments
from studio.contract.table import columns_of
from studio.errors import InvalidRequest, OperationNotSupported
from studio.models import Column, as_objects
from studio.services.arrow import Arrow
from studio.services.forms import End, Form, Rows

_END = "$result"
_PLAIN = {str, int, float, type(None)}
"""What csv writes as JSON would, null as nothing."""
_SPECIAL = re.compile(r'[",\r\n]')
_ODD = re.compile(r"0\.0000|[en]")
"""In floats as JSON: a small one, an exponent, or null for one that is not finite."""
_TRUTHS, _SHOWN = {bool, type(None)}, {True: "true", False: "false"}


class Ndjson(Form):
    """One object a line."""

    name = "ndjson"
    media_type = "application/x-ndjson"

    def rows(self, columns: list[Column], rows: Rows) -> bytes:
        """See `Form`."""
        objects = _objects(columns, rows)
        whole = orjson.dumps(objects)
        # As one text they take a tenth of the time. Where the mark stands nowhere else, it can be replaced.
        if objects and whole.startswith(b"[{") and whole.count(b"},{") == len(objects) - 1:
            return whole[1:-1].replace(b"},{", b"}\n{") + b"\n"
        return b"".join([orjson.dumps(one, option=orjson.OPT_APPEND_NEWLINE) for one in objects])

    def end(self, end: End) -> bytes:
        """See `Form`."""
        return orjson.dumps({_END: end}, option=orjson.OPT_APPEND_NEWLINE)


class Json(Form):
    """One document in the shape of a result."""

    name = "json"
    media_type = "application/json"
    _begun = False

    def head(self, columns: list[Column]) -> bytes:
        """See `Form`."""
        return b'{"columns":' + orjson.dumps(columns) + b',"data":['

    def rows(self, columns: list[Column], rows: Rows) -> bytes:
        """See `Form`."""
        if not rows:
            return b""
        content = orjson.dumps(_objects(columns, rows))[1:-1]
        if self._begun:
            return b"," + content
        self._begun = True
        return content

    def end(self, end: End) -> bytes:
        """See `Form`."""
        return b"]," + orjson.dumps(end)[1:]


class Csv(Form):
    """RFC 4180 but for the line ends. Null is empty, what is nested is JSON."""

    name = "csv"
    media_type = "text/csv; charset=utf-8"
    cut_on_failure = True
    columnar = True

    def head(self, columns: list[Column]) -> bytes:
        """See `Form`."""
        return _lines([[column["name"] for column in columns]])

    def rows(self, columns: list[Column], rows: Rows) -> bytes:
        """See `Form`."""
        if not rows:
            return b""
        lists = columns_of(rows)
        texts = [_texts(column) for column in lists] if len(lists) > 1 else [None]
        if None not in texts:
            return "\n".join([*map(",".join, zip(*texts, strict=True)), ""]).encode()
        return _lines(zip(*map(_cells, lists), strict=True))

    def end(self, end: End) -> bytes:
        """See `Form`."""
        return b"# " + orjson.dumps(end) + b"\n" if end.get("truncated") or not end["success"] else b""


def _objects(columns: list[Column], rows: Rows) -> list[Any]:
    if not columns:
        return [{} if isinstance(row, tuple) else row for row in rows]
    names = [column["name"] for column in columns]
    return as_objects(names, rows)


def _cells(column: Sequence[Any]) -> Sequence[Any]:
    """The column as csv writes it."""
    kinds = set(map(type, column))
    if kinds <= _PLAIN:
        return column
    if kinds <= _TRUTHS:
        return list(map(_SHOWN.get, column))
    return [value if type(value) in _PLAIN else orjson.dumps(value).decode() for value in column]


def _texts(column: Sequence[Any]) -> Sequence[str] | None:
    """The column as texts that stand between commas as they are; None where csv's own way is needed."""
    kinds = set(map(type, column))
    if kinds == {str}:
        return None if _SPECIAL.search("\0".join(column)) else column
    if kinds == {bool}:
        return [_SHOWN[value] for value in column]
    if kinds == {int}:
        return list(map(str, column))
    if kinds == {float}:
        whole = orjson.dumps(column)[1:-1].decode()
        # A fifth of the time of repr, and the same but for odd ones.
        return list(map(repr, column)) if _ODD.search(whole) else whole.split(",")
    return None


def _lines(rows: Any) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def form_of(name: str) -> Form:
    """A new stream of the form of that name.

    Raises:
        InvalidRequest: there is no such form.
    """
    for each in (Ndjson, Json, Csv, Arrow):
        if each.name == name:
            return each()
    raise InvalidRequest.at("form", "must be ndjson, json, csv or arrow")


def _head(form: Form, part: Capped) -> bytes:
    if part.documents and form.columnar:
        raise OperationNotSupported("documents have no columns: ask for ndjson or json")
    return form.head(part.columns)


async def _begun(parts: AsyncGenerator[Capped, None], form: Form) -> AsyncGenerator[Capped, None]:
    """The parts; the source begins knowing that it is a stream."""
    token = moments.set(Moments.MICROS if form.micros else Moments.TEXTS)
    try:
        first = await anext(parts, None)
    finally:
        moments.reset(token)
    if first is not None:
        yield first
        async for part in parts:
            yield part


async def encoded(parts: AsyncGenerator[Capped, None], form: Form) -> AsyncGenerator[bytes, None]:
    """The bytes of a stream; nothing before its first part is there. Errors of the source are raised with
    `row_count`, the rows that went before, as an attribute."""
    count, truncated, began = 0, False, False
    try:
        async with aclosing(parts), aclosing(_begun(parts, form)) as begun:
            async for part in begun:
                content = b"" if began else _head(form, part)
                began, truncated, count = True, part.truncated, count + len(part.rows)
                if content := content + form.rows(part.columns, part.rows):
                    yield content
    except Exception as exc:
        exc.row_count = count  # type: ignore[attr-defined]
        raise
    content = b"" if began else form.head([])
    if content := content + form.end({"success": True, "row_count": count, "truncated": truncated}):
        yield content
