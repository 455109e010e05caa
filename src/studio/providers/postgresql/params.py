"""Parameters: JSON values to what the driver takes, by the type that the server inferred.

What a result shows can be given back: a big integer or a decimal as a string, bytes as base64,
dates and UUIDs as text, an interval as seconds.
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

from studio.contract.values import canonical

Encode = Callable[[Any], Any]
"""Raises ValueError with what the value must be; the message never holds the value."""
_WHOLE = re.compile(r"[+-]?\d{1,40}")


def _to_text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _to_int(value: Any) -> int:
    if isinstance(value, str) and _WHOLE.fullmatch(value):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an integer")
    return value


def _to_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError("must be a number")
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise ValueError("must be a number") from None


def _to_numeric(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        raise ValueError("must be a number, or a string that holds one")
    return str(value)


def _to_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _to_json(value: Any) -> str:
    """Text is JSON already, as in PostgreSQL itself; anything else becomes JSON."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=canonical)
    except (ValueError, RecursionError):
        raise ValueError("must be a JSON value") from None


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    try:
        return base64.b64decode(value, validate=True)
    except (TypeError, ValueError):
        raise ValueError("must be a base64 string") from None


def _to_interval(value: Any) -> str:
    if isinstance(value, dt.timedelta):
        value = value.total_seconds()
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return f"{value} seconds"
    return _to_text(value)


def _to_native_text(value: Any) -> str:
    """For dates, UUIDs and the like: their text, or the Python object of an in-process caller."""
    if isinstance(value, (dt.date, dt.time)):
        return value.isoformat()
    return str(value) if isinstance(value, UUID) else _to_text(value)


def _as_it_is(value: Any) -> Any:
    """For types that we do not know, such as domains in an array: the driver or the server judges it."""
    return value


_STRINGS = (
    "text varchar bpchar name char xml inet cidr macaddr macaddr8 bit varbit point lseg path box polygon line circle "
    "tsvector tsquery jsonpath int4range int8range numrange tsrange tstzrange daterange"
)
_ENCODERS: dict[str, Encode] = {
    **dict.fromkeys(_STRINGS.split(), _to_text),
    **dict.fromkeys(["int2", "int4", "int8", "oid", "xid", "cid", "xid8"], _to_int),
    **dict.fromkeys(["float4", "float8"], _to_float),
    **dict.fromkeys(["date", "time", "timetz", "timestamp", "timestamptz", "uuid"], _to_native_text),
    **dict.fromkeys(["json", "jsonb"], _to_json),
    "numeric": _to_numeric,
    "bool": _to_bool,
    "bytea": _to_bytes,
    "interval": _to_interval,
}


def _array_of(encode: Encode) -> Encode:
    def to_array(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise ValueError("must be a list")
        return [
            None if item is None else (to_array(item) if isinstance(item, (list, tuple)) else encode(item))
            for item in value
        ]

    return to_array


def encoder(name: str) -> Encode:
    """What turns a JSON value, or a Python one of an in-process caller, into what the driver takes."""
    if name.endswith("[]"):
        return _array_of(encoder(name.removesuffix("[]")))
    return _ENCODERS.get(name, _as_it_is)
