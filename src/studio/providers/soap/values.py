"""Simple values between JSON and XML, by their XSD type (XML Schema, part 2)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from zeep.xsd.types import builtins as xsd
from zeep.xsd.types.collection import ListType, UnionType

from studio.contract.values import canonical
from studio.errors import InvalidRequest
from studio.providers.soap.xml import NOT_XML

_ZONE = r"(?:Z|[+-]\d\d:\d\d)?"
_DATE = r"-?\d{4,}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12]\d|3[01])"
_TIME = r"(?:(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?|24:00:00)"
_FORMS: tuple[tuple[Any, str, str], ...] = (
    (xsd.DateTime, f"{_DATE}T{_TIME}{_ZONE}", "a time like 2026-01-31T12:00:00Z"),
    (xsd.Date, f"{_DATE}{_ZONE}", "a date like 2026-01-31"),
    (xsd.Time, f"{_TIME}{_ZONE}", "a time of day like 12:00:00"),
    (xsd.Duration, r"-?P(?=.)(?:\d+Y)?(?:\d+M)?(?:\d+D)?(?:T(?=.)(?:\d+H)?(?:\d+M)?(?:\d+(?:\.\d+)?S)?)?",
     "a duration like P1DT2H"),
    (xsd.gYearMonth, rf"-?\d{{4,}}-\d\d{_ZONE}", "a month like 2026-01"),
    (xsd.gYear, rf"-?\d{{4,}}{_ZONE}", "a year like 2026"),
    (xsd.gMonthDay, rf"--\d\d-\d\d{_ZONE}", "a day like --01-31"),
    (xsd.gDay, rf"---\d\d{_ZONE}", "a day like ---31"),
    (xsd.gMonth, rf"--\d\d{_ZONE}", "a month like --01"),
    (xsd.HexBinary, r"(?:[0-9A-Fa-f]{2})*", "bytes in hexadecimal"),
)  # fmt: skip
_RANGES: tuple[tuple[Any, int | None, int | None], ...] = (
    (xsd.Byte, -(2**7), 2**7 - 1),
    (xsd.Short, -(2**15), 2**15 - 1),
    (xsd.Int, -(2**31), 2**31 - 1),
    (xsd.Long, -(2**63), 2**63 - 1),
    (xsd.UnsignedByte, 0, 2**8 - 1),
    (xsd.UnsignedShort, 0, 2**16 - 1),
    (xsd.UnsignedInt, 0, 2**32 - 1),
    (xsd.UnsignedLong, 0, 2**64 - 1),
    (xsd.PositiveInteger, 1, None),
    (xsd.NonNegativeInteger, 0, None),
    (xsd.NegativeInteger, None, -1),
    (xsd.NonPositiveInteger, None, 0),
)
_DIGITS = 1_000
_INTEGER = re.compile(r"[+-]?\d{1,1000}", re.ASCII)
_DECIMAL = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)", re.ASCII)
Enumerations = Mapping[str, tuple[str, ...]]


def wrong(where: str, why: str) -> InvalidRequest:
    """An argument that does not fit, by its dotted path."""
    return InvalidRequest.at(f"arguments.{where}"[:300] if where else "arguments", why)  # type: ignore[return-value]


def text_of(kind: Any, value: Any, where: str, enumerations: Enumerations) -> str:
    """A JSON value as the text of an element or attribute. It is text: nothing in it becomes markup.

    Raises:
        InvalidRequest: it does not fit the type, or cannot stand in XML.
    """
    if isinstance(kind, ListType):
        if not isinstance(value, list):
            raise wrong(where, "must be a list")
        parts = [text_of(kind.item_type, item, f"{where}.{at}", enumerations) for at, item in enumerate(value)]
        if any(not part or re.search(r"\s", part) for part in parts):
            raise wrong(where, "must hold texts without spaces: they are written with spaces between them")
        return " ".join(parts)
    text = _text(kind, value, where)
    if NOT_XML.search(text):
        raise wrong(where, "holds characters that XML cannot carry")
    allowed = enumerations.get(kind.qname.text) if getattr(kind, "qname", None) is not None else None
    if allowed is not None and text not in allowed:
        raise wrong(where, "must be one of: " + ", ".join(allowed)[:500])
    return text


def _text(kind: Any, value: Any, where: str) -> str:
    if isinstance(value, dict | list) or value is None:
        raise wrong(where, "must be a single value")
    for base, write in _WRITERS:
        if isinstance(kind, base):
            return write(kind, value, where)
    if isinstance(value, bool) and isinstance(kind, xsd.String):
        raise wrong(where, "must be text")
    return str(value) if not isinstance(value, bool) else "true" if value else "false"


def _boolean(_kind: Any, value: Any, where: str) -> str:
    if not isinstance(value, bool) and value not in ("true", "false"):
        raise wrong(where, "must be true or false")
    return str(value).lower()


def _integer(kind: Any, value: Any, where: str) -> str:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if not _INTEGER.fullmatch(text):
        raise wrong(where, "must be an integer")
    number = int(text)
    for base, low, high in _RANGES:
        if isinstance(kind, base):
            if (low is not None and number < low) or (high is not None and number > high):
                raise wrong(
                    where, f"must lie between {'-∞' if low is None else low} and {'∞' if high is None else high}"
                )
            break
    return str(number)


def _decimal(_kind: Any, value: Any, where: str) -> str:
    text = value if isinstance(value, str) else "" if isinstance(value, bool) else f"{Decimal(repr(value)):f}"
    if len(text) > _DIGITS or not _DECIMAL.fullmatch(text):
        raise wrong(where, "must be a decimal number, best as text")
    return text


def _float(_kind: Any, value: Any, where: str) -> str:
    try:
        number = float("no number" if isinstance(value, bool) else value)
    except (ValueError, OverflowError):
        raise wrong(where, "must be a number") from None
    return {"nan": "NaN", "inf": "INF", "-inf": "-INF"}.get(repr(number), repr(number))


def _base64(_kind: Any, value: Any, where: str) -> str:
    try:
        return base64.b64encode(base64.b64decode(value, validate=True)).decode()
    except (binascii.Error, ValueError, TypeError):
        raise wrong(where, "must be bytes in base64") from None


def _formed(pattern: str, example: str) -> Callable[[Any, Any, str], str]:
    form = re.compile(pattern, re.ASCII)

    def write(_kind: Any, value: Any, where: str) -> str:
        if not isinstance(value, str) or not form.fullmatch(value):
            raise wrong(where, f"must be {example}")
        return value

    return write


_WRITERS: tuple[tuple[Any, Callable[[Any, Any, str], str]], ...] = (
    (xsd.Boolean, _boolean),
    (xsd.Integer, _integer),
    (xsd.Decimal, _decimal),
    ((xsd.Float, xsd.Double), _float),
    (xsd.Base64Binary, _base64),
    *((kind, _formed(pattern, example)) for kind, pattern, example in _FORMS),
)


def value_of(kind: Any, text: str) -> Any:
    """The text of an element as a canonical JSON value. What does not fit its type stays as it came."""
    if isinstance(kind, ListType):
        return [value_of(kind.item_type, part) for part in text.split()]
    if kind is None or isinstance(kind, UnionType | xsd.String):
        return text
    plain = text.strip()
    if isinstance(kind, xsd.Boolean):
        return {"true": True, "1": True, "false": False, "0": False}.get(plain, text)
    if isinstance(kind, xsd.Integer):
        return canonical(int(plain)) if _INTEGER.fullmatch(plain) else text
    if isinstance(kind, xsd.Float | xsd.Double):
        return _number(plain, text)
    if isinstance(kind, xsd.DateTime | xsd.Time):
        return re.sub(r"[+-]00:00$", "Z", plain)
    if isinstance(kind, xsd.Base64Binary):
        return "".join(text.split())
    return plain


def _number(plain: str, text: str) -> Any:
    named = {"INF": "Infinity", "+INF": "Infinity", "-INF": "-Infinity", "NaN": "NaN"}
    if plain in named:
        return named[plain]
    try:
        return canonical(float(Decimal(plain)))
    except (InvalidOperation, ValueError, OverflowError):
        return text
