"""One canonical JSON form for values, the same on every provider and every surface.

| value | form |
| --- | --- |
| integer within ±(2^53-1) | number |
| larger integer, decimal | string |
| NaN, ±Infinity | `"NaN"`, `"Infinity"`, `"-Infinity"` |
| date, time, timestamp | ISO 8601 string; UTC ends with `Z` |
| interval | seconds as a number |
| bytes | base64 string (RFC 4648, section 4) |
| UUID, network address, anything else | its text |
"""

from __future__ import annotations

import base64
import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any

import orjson

EXACT_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exact (RFC 8259, section 6)."""


def _integer(value: int) -> int | str:
    return value if -EXACT_INTEGER <= value <= EXACT_INTEGER else str(value)


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return float(value)  # a subclass too, which the JSON writer would not know
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _time(value: dt.datetime | dt.date | dt.time) -> str:
    text = value.isoformat()
    return text[:-6] + "Z" if text.endswith("+00:00") else text


def _bytes(value: bytes | bytearray | memoryview) -> str:
    return base64.b64encode(bytes(value)).decode("ascii")


def _mapping(value: Mapping[Any, Any]) -> dict[str, Any]:
    return {str(key): canonical(item) for key, item in value.items()}


def _sequence(value: Sequence[Any] | Set[Any]) -> list[Any]:
    return [canonical(item) for item in value]


def _same(value: Any) -> Any:
    return value


_FORMS: dict[type, Callable[[Any], Any]] = {
    type(None): _same,
    bool: _same,
    str: _same,
    int: _integer,
    float: _float,
    Decimal: str,
    dt.datetime: _time,
    dt.date: _time,
    dt.time: _time,
    dt.timedelta: dt.timedelta.total_seconds,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
    dict: _mapping,
    list: _sequence,
    tuple: _sequence,
    set: _sequence,
    frozenset: _sequence,
}


def canonical(value: Any) -> Any:
    """`value` in the canonical JSON form; containers are converted through and through."""
    form = _FORMS.get(type(value))
    if form is not None:
        return form(value)
    for kind in type(value).__mro__[1:]:
        if kind in _FORMS:
            return _FORMS[kind](value)
    return str(value)


def size_of(value: Any) -> int:
    """How many bytes a canonical value, or a list or tuple of them, takes as JSON."""
    return len(orjson.dumps(value))
