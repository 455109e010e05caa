"""Values between PostgreSQL's types and the canonical JSON form, both ways.

Most types travel as PostgreSQL's own text, which already is the canonical form or one replacement
away from it; so no year, precision or infinity of theirs is lost in a Python type. The session's
`DateStyle`, `TimeZone` and `IntervalStyle` are fixed for that (`SETTINGS`).
Per statement, `Plan` chooses once what each column and each parameter needs; most need nothing.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import orjson

from studio.contract.bounds import stays_text
from studio.contract.caps import Moments
from studio.contract.sql import unique_names
from studio.contract.table import Fix, big_integers, fixed
from studio.contract.values import canonical, size_of
from studio.errors import FieldError, InvalidRequest
from studio.models import Column
from studio.providers.postgresql.arrays import HOLDING, Weight, decoder
from studio.providers.postgresql.params import encoder

SETTINGS = {
    "DateStyle": "ISO, MDY",
    "TimeZone": "UTC",
    "IntervalStyle": "postgres",
    "standard_conforming_strings": "on",
    "bytea_output": "hex",
}

# -- from the server: one decoder a type, run while rows are read ---------------------------------


def _moment(text: str) -> str:
    text = text.replace(" ", "T", 1)
    if text.endswith("+00"):
        return text[:-3] + "Z"
    return text + ":00" if text[-3:-2] in {"+", "-"} and "T" in text else text


def _clock(text: str) -> str:
    return text[:-3] + "Z" if text.endswith("+00") else text


_INTERVAL = re.compile(
    r"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?"
    r"(?:([+-]?)(\d+):(\d\d):(\d\d(?:\.\d+)?))?"
)


def _seconds(text: str) -> float | str:
    """An interval as EXTRACT(EPOCH FROM ...) counts it: years of 365.25 days, months of 30."""
    found = _INTERVAL.fullmatch(text)
    if found is None:  # infinity, since PostgreSQL 17
        return text
    years, months, days, sign, hours, minutes, seconds = found.groups(default="0")
    clock = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    total = (int(years) * 365.25 + int(months) * 30 + int(days)) * 86400
    return total + (-clock if sign == "-" else clock)


_LONG_NUMBER = re.compile(r"\d{16}")


def _json(text: str) -> Any:
    if stays_text(text):
        return text
    try:
        if _LONG_NUMBER.search(text):  # perhaps an integer that a JSON reader would not keep exact
            return json.loads(text, parse_int=lambda digits: canonical(int(digits)) if len(digits) < 4000 else digits)
        return orjson.loads(text)
    except (orjson.JSONDecodeError, RecursionError):  # deeper than they read
        return text


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _float4(text: str) -> Any:
    return canonical(float(text))


_TEXT: dict[int, tuple[str, Callable[[str], Any]]] = {
    # pg_type.dat: these numbers are the same in every version
    18: ("char", str), 114: ("json", _json), 142: ("xml", str), 600: ("point", str), 601: ("lseg", str),
    602: ("path", str), 603: ("box", str), 604: ("polygon", str), 628: ("line", str), 650: ("cidr", str),
    700: ("float4", _float4), 718: ("circle", str), 774: ("macaddr8", str), 790: ("money", str),
    829: ("macaddr", str), 869: ("inet", str), 1082: ("date", str), 1083: ("time", str), 1114: ("timestamp", _moment),
    1184: ("timestamptz", _moment), 1186: ("interval", _seconds), 1266: ("timetz", _clock), 1560: ("bit", str),
    1562: ("varbit", str), 1700: ("numeric", str), 27: ("tid", str), 2249: ("record", str), 2950: ("uuid", str),
    2970: ("txid_snapshot", str), 3220: ("pg_lsn", str), 3614: ("tsvector", str), 3615: ("tsquery", str),
    3802: ("jsonb", _json), 4072: ("jsonpath", str), 5038: ("pg_snapshot", str),
    3904: ("int4range", str), 3906: ("numrange", str), 3908: ("tsrange", str), 3910: ("tstzrange", str),
    3912: ("daterange", str), 3926: ("int8range", str), 4451: ("int4multirange", str), 4532: ("nummultirange", str),
    4533: ("tsmultirange", str), 4534: ("tstzmultirange", str), 4535: ("datemultirange", str),
    4536: ("int8multirange", str),
}  # fmt: skip
_TEXT_NAMES = {name for name, _ in _TEXT.values()}
_ELEMENTS = {**dict(_TEXT.values()), "bytea": lambda text: _base64(bytes.fromhex(text[2:]))}


def as_text(settings: Any, oid: int, name: str, schema: str, decode: Callable[[str], Any] = str) -> None:
    """Let a type travel as the server's text on this connection."""
    settings.add_python_codec(oid, name, schema, [], "scalar", str, decode, "text")


_MOMENT_TYPES = {oid: name for oid, (name, decode) in _TEXT.items() if decode is _moment}


def nested_as_text(settings: Any, types: Iterable[Any]) -> None:
    """Let arrays and composites travel as text in statements that are prepared from now on."""
    for kind in types:
        as_text(settings, kind.oid, kind.name, kind.schema, decoder(kind.name, _ELEMENTS.get(kind.name[:-2])))


def nested_as_usual(settings: Any, types: Iterable[Any]) -> None:
    """End of `nested_as_text`."""
    for kind in types:
        settings.remove_python_codec(kind.oid, kind.name, kind.schema)


def moments_as(settings: Any, how: Moments | None) -> None:
    """How statements that are prepared from now on decode points in time: as usual, or raw for a whole column."""
    for oid, name in _MOMENT_TYPES.items():
        if how is Moments.MICROS:
            settings.add_python_codec(oid, name, "pg_catalog", [], "scalar", str, itemgetter(0), "tuple")
        else:
            as_text(settings, oid, name, "pg_catalog", _moment if how is None else str)


def install(settings: Any) -> None:
    """Set the codecs of a new connection (asyncpg's `ConnectionSettings`)."""
    for oid, (name, decode) in _TEXT.items():
        as_text(settings, oid, name, "pg_catalog", decode)
    settings.add_python_codec(17, "bytea", "pg_catalog", [], "scalar", bytes, _base64, "binary")


# -- columns: what is left to do for a whole column of a batch ------------------------------------


def _floats(values: Sequence[Any]) -> list[Any] | None:
    if math.isfinite(sum(filter(None, values))):
        return None
    return [canonical(value) for value in values]


def _any(values: Sequence[Any]) -> list[Any]:
    return [canonical(value) for value in values]


_SINCE_2000_US = 946_684_800_000_000
_INFINITE = {2**63 - 1: "infinity", -(2**63): "-infinity"}


def _zoned(values: Sequence[Any]) -> list[Any]:
    """Points in time as the server writes them, in canonical form: all at once where all of them end with +00."""
    if None not in values:
        whole = "\n".join(values) + "\n"
        if whole.count("+00\n") == whole.count(" ") == len(values):
            return whole.replace(" ", "T").replace("+00\n", "Z\n").split("\n")[:-1]
    return [value if value is None else _moment(value) for value in values]


def _naive(values: Sequence[Any]) -> list[Any]:
    """The same of dates and times without a zone."""
    if None not in values:
        whole = "\n".join(values)
        if "BC" not in whole:
            return whole.replace(" ", "T").split("\n")
    return [value if value is None else _moment(value) for value in values]


def _micros(values: Sequence[Any]) -> list[Any]:
    """Microseconds since 1970 of those since 2000; infinities are texts."""
    if None in values or max(values) in _INFINITE or min(values) in _INFINITE:
        return [value if value is None else _INFINITE.get(value, value + _SINCE_2000_US) for value in values]
    return [value + _SINCE_2000_US for value in values]


_READY = _TEXT_NAMES | {
    "bool", "int2", "int4", "oid", "xid", "cid", "text", "varchar", "bpchar", "name", "unknown", "bytea", "void",
}  # fmt: skip
_FIXES: dict[str, Fix] = {"int8": big_integers, "xid8": big_integers, "float8": _floats}


def _fix(kind: str, name: str) -> Fix | None:
    if name in _FIXES:
        return _FIXES[name]
    return None if name.removesuffix("[]") in _READY else _any


_WHOLE: dict[Moments | None, dict[int, Fix]] = {
    None: {}, Moments.TEXTS: {1114: _naive, 1184: _zoned}, Moments.MICROS: {1114: _micros, 1184: _micros},
}  # fmt: skip


class Plan:
    """One prepared statement of one connection, with the work that its columns and parameters need."""

    __slots__ = ("_encoders", "_fixes", "by_column", "columns", "has_moments", "nested", "state", "types", "weight")

    def __init__(self, state: Any, how: Moments | None = None) -> None:
        self.state = state
        attributes = state._get_attributes()
        names = unique_names(attribute.name for attribute in attributes)
        self.columns: list[Column] = [
            {"name": name, "type": attribute.type.name} for name, attribute in zip(names, attributes, strict=True)
        ]
        oids = [attribute.type.oid for attribute in attributes]
        self.has_moments = not _MOMENT_TYPES.keys().isdisjoint(oids) and all(
            a.type.kind == "scalar" for a in attributes
        )
        """Whether there are columns of them, and none that holds other values, whose decoder lives on."""
        self.by_column = how is Moments.TEXTS
        """Whether points in time come as the server's text, for a column at a time."""
        whole = _WHOLE[how]
        fixes = ((at, whole.get(a.type.oid) or _fix(a.type.kind, a.type.name)) for at, a in enumerate(attributes))
        self._fixes = [(at, fix) for at, fix in fixes if fix is not None]
        parameters = state._get_parameters()
        taken = {kind.oid for kind in parameters}  # a codec is for both ways, and what is sent is no text
        kinds = [attribute.type for attribute in attributes]
        self.nested = [kind for kind in kinds if kind.kind in HOLDING and kind.oid not in taken]
        """Types that can be had as text instead, see `arrays.py`."""
        self.weight = Weight.of(kinds, _TEXT_NAMES)
        self.types = [kind.name for kind in parameters]
        self._encoders = [encoder(name) for name in self.types]

    def encode(self, names: Sequence[str], values: Sequence[Any]) -> list[Any]:
        """The values as the driver takes them.

        Raises:
            InvalidRequest: naming the parameter and its type, never the value.
        """
        if len(values) != len(self._encoders):
            raise InvalidRequest.at("query", "uses $1, $2 ... ; give values as :name parameters instead")
        encoded = []
        for at, (encode, value) in enumerate(zip(self._encoders, values, strict=True)):
            try:
                encoded.append(None if value is None else encode(value))
            except ValueError as exc:
                raise self.misfit(names, at, str(exc)) from exc
        return encoded

    def misfit(self, names: Sequence[str], at: int, why: str) -> InvalidRequest:
        """The error about the parameter of that place."""
        field = f"params.{names[at]}" if at < len(names) else "params"
        message = f"{why}, because the database expects {self.types[at]} there"
        return InvalidRequest(f"{field}: {message}", fields=[FieldError(field, message)])

    def rows(self, records: Sequence[Any]) -> Sequence[tuple[Any, ...]]:
        """Records in canonical form."""
        return fixed(records, self._fixes)


def width(rows: Sequence[tuple[Any, ...]]) -> float:
    """About how many bytes one of the rows has, from a few of them."""
    sample = rows[:: max(1, len(rows) // 8)][:8]
    return sum(sum(map(size_of, row)) for row in sample) / max(1, len(sample))
