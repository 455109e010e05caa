"""Rows as an Arrow IPC stream: columns typed by what the upstream calls them, values from the canonical form."""

from __future__ import annotations

import base64
import struct
from array import array
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from itertools import accumulate
from typing import Any

import orjson

from studio.contract.table import columns_of
from studio.errors import UpstreamError
from studio.models import Column
from studio.services import arrow_ipc as ipc
from studio.services.forms import End, Form, Rows

RESULT_KEY = "studio.result"
_INTEGERS = {"int8", "bigint", "integer", "int", "mediumint", "smallint", "tinyint", "year", "oid"}
_DOUBLES = {"float8", "double", "real", "float", "double precision"}
_MOMENTS = {"timestamptz", "timestamp", "datetime"}
_BYTES = {"bytea", "blob", "tinyblob", "mediumblob", "longblob", "binary", "varbinary"}
_BITS = bytes.maketrans(b"\0\1", b"01")
_EPOCH = datetime(1970, 1, 1)
_EPOCH_UTC = _EPOCH.replace(tzinfo=UTC)
_EPOCH_DAY = _EPOCH.toordinal()


class Arrow(Form):
    """See the module."""

    name = "arrow"
    media_type = "application/vnd.apache.arrow.stream"
    cut_on_failure = True
    columnar = True
    micros = True

    def __init__(self) -> None:
        self._fields: list[ipc.Field] | None = None

    def rows(self, columns: list[Column], rows: Rows) -> bytes:
        """See `Form`. The first rows settle the types that the upstream does not name."""
        lists = columns_of(rows) if rows else [()] * len(columns)
        begun = b"" if self._fields is not None else self._begun(columns, lists)
        if not rows or self._fields is None:
            return begun
        found = [_column(field, values) for field, values in zip(self._fields, lists, strict=True)]
        return begun + ipc.batch(len(rows), found, {})

    def end(self, end: End) -> bytes:
        """See `Form`."""
        begun = b"" if self._fields is not None else self._begun([], [])
        empty = [_column(field, ()) for field in self._fields or []]
        return begun + ipc.batch(0, empty, {RESULT_KEY: orjson.dumps(end).decode()}) + ipc.END

    def _begun(self, columns: list[Column], lists: Sequence[Sequence[Any]]) -> bytes:
        self._fields = [
            ipc.Field(column["name"], _type(column["type"], values), {"type": column["type"]})
            for column, values in zip(columns, lists, strict=True)
        ]
        return ipc.schema(self._fields)


_INT64, _FLOAT64 = ipc.integer(64), ipc.floating(64)
_CODES = {"int16": "h", "int32": "i", "int64": "q", "uint64": "Q", "float32": "f", "float64": "d"}


def _type(upstream: str, values: Sequence[Any]) -> ipc.Type:
    name = upstream.lower()
    plain = name.removesuffix(" unsigned").split("(")[0].strip()
    if name in {"bool", "boolean"} and all(value is None or isinstance(value, bool) for value in values):
        return ipc.BOOL
    if name in {"int2", "int4"}:
        return ipc.integer(16 if name == "int2" else 32)
    if plain in _INTEGERS:
        return ipc.integer(64, signed="unsigned" not in name)
    if name == "float4":
        return ipc.floating(32)
    if plain in _DOUBLES:
        return _FLOAT64
    if plain in _MOMENTS:
        first = next((value for value in values if isinstance(value, str)), "")
        return ipc.MOMENT_UTC if plain == "timestamptz" or first.endswith("Z") else ipc.MOMENT
    if plain == "date":
        return ipc.DATE
    if plain in _BYTES:
        return ipc.BINARY
    return _inferred(values) if plain in {"any", "bool", "boolean", ""} else ipc.UTF8


def _inferred(values: Sequence[Any]) -> ipc.Type:
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {int, float}:
        return _FLOAT64
    known = {bool: ipc.BOOL, int: _INT64, float: _FLOAT64}
    return known.get(kinds.pop(), ipc.UTF8) if len(kinds) == 1 else ipc.UTF8


def _column(field: ipc.Field, values: Sequence[Any]) -> ipc.Column:
    """The buffers of a column; nulls are written as what the type has for nothing.

    Raises:
        UpstreamError: a value is not one of the type.
    """
    write, nothing = _WRITERS.get(field.type.name) or (_numbers(_CODES[field.type.name]), 0)
    try:
        try:
            return ipc.Column(0, [b"", *write(values)])
        except TypeError:  # no writer takes a null
            nulls = values.count(None)
            if not nulls:
                raise
        valid = _bits(bytes([value is not None for value in values]))
        return ipc.Column(nulls, [valid, *write([nothing if one is None else one for one in values])])
    except (ValueError, TypeError, OverflowError, struct.error) as exc:
        raise UpstreamError(
            f"a value of column {field.name!r} does not fit Arrow's {field.type}: cast the column to text in the query"
        ) from exc


Writer = Callable[[Sequence[Any]], list[bytes]]


def _numbers(code: str) -> Writer:
    def write(values: Sequence[Any]) -> list[bytes]:
        try:
            return [array(code, values).tobytes()]
        except TypeError:  # what JSON numbers cannot hold is text in the canonical form
            number = float if code in "fd" else int
            return [array(code, [number(one) if isinstance(one, str) else one for one in values]).tobytes()]

    return write


def _bits(flags: bytes) -> bytes:
    """A bit for each byte that is 0 or 1, the first one the lowest."""
    return int(flags[::-1].translate(_BITS) or b"0", 2).to_bytes((len(flags) + 7) // 8, "little")


def _bools(values: Sequence[Any]) -> list[bytes]:
    if not set(map(type, values)) <= {bool}:
        raise TypeError
    return [_bits(bytes(values))]


def _texts(values: Sequence[Any]) -> list[bytes]:
    try:
        whole = "".join(values)
    except TypeError:
        if None in values:
            raise
        return _texts([one if isinstance(one, str) else orjson.dumps(one).decode() for one in values])
    content = whole.encode()
    if len(content) == len(whole):
        return [_ends(map(len, values)), content]
    return _binaries([one.encode() for one in values])


def _binaries(values: Sequence[bytes]) -> list[bytes]:
    return [_ends(map(len, values)), b"".join(values)]


def _ends(lengths: Any) -> bytes:
    return array("i", accumulate(lengths, initial=0)).tobytes()


def _moments(epoch: datetime) -> Writer:
    def micros(one: Any) -> int:
        if isinstance(one, int):
            return one
        since = datetime.fromisoformat(one) - epoch
        return since.days * 86_400_000_000 + since.seconds * 1_000_000 + since.microseconds

    def write(values: Sequence[Any]) -> list[bytes]:
        try:
            return [array("q", values).tobytes()]  # whole microseconds, where the provider has them
        except TypeError:
            return [array("q", list(map(micros, values))).tobytes()]

    return write


def _days(values: Sequence[Any]) -> list[bytes]:
    return [array("i", [date.fromisoformat(one).toordinal() - _EPOCH_DAY for one in values]).tobytes()]


_WRITERS: dict[str, tuple[Writer, Any]] = {
    "bool": (_bools, False),
    "utf8": (_texts, ""),
    "binary": (lambda values: _binaries([base64.b64decode(one) for one in values]), ""),
    "date32": (_days, "1970-01-01"),
    ipc.MOMENT.name: (_moments(_EPOCH), 0),
    ipc.MOMENT_UTC.name: (_moments(_EPOCH_UTC), 0),
}
"""How a type is written, and what stands for a null."""
