"""Rows as an Arrow IPC stream: columns typed by what the upstream calls them, values from the canonical form.

pyarrow is imported on first use (0.3 s, 30 MiB once a process).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from studio.errors import OperationNotSupported, UpstreamError
from studio.models import Column
from studio.services.forms import End, Form, Rows

RESULT_KEY = "studio.result"
_INTEGERS = {"int8", "bigint", "integer", "int", "mediumint", "smallint", "tinyint", "year", "oid"}
_DOUBLES = {"float8", "double", "real", "float", "double precision"}
_MOMENTS = {"timestamptz", "timestamp", "datetime"}
_BYTES = {"bytea", "blob", "tinyblob", "mediumblob", "longblob", "binary", "varbinary"}


class Arrow(Form):
    """See the module.

    Raises:
        OperationNotSupported: pyarrow is not installed.
    """

    name = "arrow"
    media_type = "application/vnd.apache.arrow.stream"
    cut_on_failure = True
    columnar = True

    def __init__(self) -> None:
        try:
            import pyarrow  # type: ignore[import-untyped]
        except ModuleNotFoundError as exc:
            raise OperationNotSupported(
                "Arrow needs pyarrow, which is not installed here; an operator installs it with "
                "pip install 'studio-connectors[arrow]'"
            ) from exc
        self._arrow = pyarrow
        self._sink = _Sink()
        self._writer: Any = None
        self._schema: Any = None

    def rows(self, columns: list[Column], rows: Rows) -> bytes:
        """See `Form`. The first rows settle the types that the upstream does not name."""
        lists = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
        if self._writer is None:
            self._open(columns, lists)
        if rows:
            arrays = [self._array(field, values) for field, values in zip(self._schema, lists, strict=True)]
            self._writer.write_batch(self._arrow.record_batch(arrays, schema=self._schema))
        return self._sink.taken()

    def end(self, end: End) -> bytes:
        """See `Form`."""
        if self._writer is None:
            self._open([], [])
        empty = self._arrow.record_batch([self._arrow.array([], field.type) for field in self._schema], self._schema)
        self._writer.write_batch(empty, custom_metadata={RESULT_KEY: orjson.dumps(end)})
        self._writer.close()
        return self._sink.taken()

    def _open(self, columns: list[Column], lists: Sequence[Sequence[Any]]) -> None:
        fields = [
            self._arrow.field(column["name"], self._type(column["type"], values), metadata={"type": column["type"]})
            for column, values in zip(columns, lists, strict=True)
        ]
        self._schema = self._arrow.schema(fields)
        self._writer = self._arrow.ipc.new_stream(self._sink, self._schema)

    def _type(self, upstream: str, values: Sequence[Any]) -> Any:
        pa, name = self._arrow, upstream.lower()
        plain = name.removesuffix(" unsigned").split("(")[0].strip()
        if name in {"bool", "boolean"} and all(value is None or isinstance(value, bool) for value in values):
            return pa.bool_()
        if name in {"int2", "int4"}:
            return pa.int16() if name == "int2" else pa.int32()
        if plain in _INTEGERS:
            return pa.uint64() if "unsigned" in name else pa.int64()
        if name == "float4":
            return pa.float32()
        if plain in _DOUBLES:
            return pa.float64()
        if plain in _MOMENTS:
            first = next((value for value in values if isinstance(value, str)), "")
            return pa.timestamp("us", "UTC" if plain == "timestamptz" or first.endswith("Z") else None)
        if plain == "date":
            return pa.date32()
        if plain in _BYTES:
            return pa.binary()
        return self._inferred(values) if plain in {"any", "bool", "boolean", ""} else pa.utf8()

    def _inferred(self, values: Sequence[Any]) -> Any:
        kinds = {type(value) for value in values} - {type(None)}
        known = {bool: self._arrow.bool_(), int: self._arrow.int64(), float: self._arrow.float64()}
        if kinds == {int, float}:
            return self._arrow.float64()
        return known.get(kinds.pop(), self._arrow.utf8()) if len(kinds) == 1 else self._arrow.utf8()

    def _array(self, field: Any, values: Sequence[Any]) -> Any:
        pa, kind = self._arrow, field.type
        try:
            if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
                return pa.array(values, pa.utf8()).cast(kind)
            if pa.types.is_binary(kind):
                return pa.array(_each(base64.b64decode, values), kind)
            if pa.types.is_string(kind):
                return pa.array(_each(_text, values), kind)
            try:
                return pa.array(values, kind)
            except (pa.ArrowInvalid, pa.ArrowTypeError):  # what JSON numbers cannot hold is text in the canonical form
                number = float if pa.types.is_floating(kind) else int
                return pa.array(_each(number, values), kind)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as exc:
            raise UpstreamError(
                f"a value of column {field.name!r} does not fit Arrow's {kind}: cast the column to text in the query"
            ) from exc


class _Sink:
    """What pyarrow writes into: gives away what came since the last time."""

    closed = False

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: Any) -> int:
        self._parts.append(bytes(data))
        return len(self._parts[-1])

    def flush(self) -> None:
        """Nothing is held back."""

    def taken(self) -> bytes:
        found, self._parts = b"".join(self._parts), []
        return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _each(change: Callable[[Any], Any], values: Sequence[Any]) -> list[Any]:
    return [None if value is None else change(value) for value in values]
