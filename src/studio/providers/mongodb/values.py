"""BSON values in canonical form, and Extended JSON as BSON (MongoDB Extended JSON v2).

| BSON | form |
| --- | --- |
| ObjectId, Decimal128, UUID, regular expression, timestamp, MinKey, MaxKey, code | its text |
| date | ISO 8601 in UTC; milliseconds since 1970 where no calendar reaches |
| binary | base64 |
| 64-bit integer beyond 2^53 | its digits as text |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bson import DBRef, Decimal128, ObjectId, Regex, Timestamp, json_util
from bson.binary import UuidRepresentation
from bson.code import Code
from bson.codec_options import CodecOptions, DatetimeConversion
from bson.datetime_ms import DatetimeMS
from bson.max_key import MaxKey
from bson.min_key import MinKey

from studio.contract import canonical
from studio.errors import InvalidRequest

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
    unicode_decode_error_handler="replace",
)
_JSON = json_util.JSONOptions(
    json_mode=json_util.JSONMode.CANONICAL,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)


def extended(document: Mapping[str, Any], field: str) -> Any:
    """One value of Extended JSON as BSON.

    Raises:
        InvalidRequest: it is malformed.
    """
    try:
        value = json_util.object_hook(dict(document), _JSON)
    except Exception as exc:  # json_util raises whatever the parts raise
        raise InvalidRequest.at(field, "holds a malformed Extended JSON value") from exc
    if isinstance(value, dict):
        raise InvalidRequest.at(field, "holds a malformed Extended JSON value")
    return value


def plain(value: Any) -> Any:
    """A BSON value in canonical form, through and through. Objects and lists are changed where they are, not copied."""
    form = _FORMS.get(type(value))
    return canonical(value) if form is None else form(value)


def _document(value: dict[str, Any]) -> dict[str, Any]:
    for key, item in value.items():
        if type(item) not in _SAME:
            value[key] = plain(item)
    return value


def _list(value: list[Any]) -> list[Any]:
    for at, item in enumerate(value):
        if type(item) not in _SAME:
            value[at] = plain(item)
    return value


def _date(value: DatetimeMS) -> Any:
    return canonical(int(value))


_SAME = frozenset({str, bool, type(None)})
_FORMS: dict[type, Any] = {
    dict: _document,
    list: _list,
    str: lambda value: value,
    ObjectId: str,
    Decimal128: str,
    DatetimeMS: _date,
    Regex: lambda value: value.pattern if isinstance(value.pattern, str) else str(value.pattern),
    Timestamp: lambda value: f"{value.time}.{value.inc}",
    Code: str,
    MinKey: lambda _: "MinKey",
    MaxKey: lambda _: "MaxKey",
    DBRef: lambda value: _document(dict(value.as_doc())),
}


def type_name(value: Any) -> str:
    """MongoDB's own name of a value's type (`$type`)."""
    return _NAMES.get(type(value).__name__, type(value).__name__)


_NAMES = {
    "NoneType": "null", "str": "string", "int": "int", "Int64": "long", "float": "double", "dict": "object",
    "list": "array", "ObjectId": "objectId", "datetime": "date", "DatetimeMS": "date", "Decimal128": "decimal",
    "bytes": "binData", "Binary": "binData", "UUID": "binData", "Regex": "regex", "Timestamp": "timestamp",
}  # fmt: skip
