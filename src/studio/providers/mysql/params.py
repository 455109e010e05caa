"""Parameters of `mysql`: JSON values and Python's own as what asyncmy packs into the binary protocol."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from studio.contract.values import canonical
from studio.errors import FieldError, InvalidRequest


def encode(names: Sequence[str], values: Sequence[Any]) -> tuple[Any, ...]:
    """The values as asyncmy packs them into the binary protocol, each one a type that it knows.

    Raises:
        InvalidRequest: naming the parameter, never the value.
    """
    encoded = []
    for name, value in zip(names, values, strict=True):
        try:
            encoded.append(_encoded(value))
        except ValueError as exc:
            field = FieldError(f"params.{name}", str(exc))
            raise InvalidRequest(f"{field.field}: {field.message}", fields=[field]) from None
    return tuple(encoded)


def _encoded(value: Any) -> Any:
    if value is None or type(value) is bool:
        return value
    for kind, convert in _ENCODERS:
        if isinstance(value, kind):
            return convert(value)
    raise ValueError(f"a {type(value).__name__} cannot be sent to MySQL")


def _integer(value: int) -> int | Decimal:
    if -(2**63) <= value < 2**64:
        return int(value)
    return _decimal(Decimal(value))


def _decimal(value: Decimal) -> Decimal:
    if not value.is_finite() or abs(value.adjusted()) > 65 or len(value.as_tuple().digits) > 65:
        raise ValueError("is not a number that MySQL can hold (65 digits at most)")
    return value


def _double(value: float) -> float:
    if value != value or value in {float("inf"), float("-inf")}:
        raise ValueError("is not a number that MySQL can hold")
    return float(value)


def _string(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair") from None
    return str(value)


def _moment(value: dt.datetime) -> dt.datetime:
    return value.astimezone(dt.UTC).replace(tzinfo=None) if value.tzinfo else value


def _document(value: Any) -> str:
    try:
        return _string(json.dumps(canonical(value), ensure_ascii=False))
    except (TypeError, RecursionError):
        raise ValueError("cannot be written as JSON") from None


_ENCODERS: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
    (str, _string),
    (int, _integer),
    (float, _double),
    (Decimal, _decimal),
    ((bytes, bytearray, memoryview), bytes),
    (dt.datetime, _moment),
    ((dt.date, dt.timedelta), lambda value: value),
    (dt.time, lambda value: value.replace(tzinfo=None)),
    ((list, tuple, dict), _document),
)
