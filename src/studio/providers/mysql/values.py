"""Values from MySQL's types to the canonical JSON form.

Per statement, `Plan` chooses once what each column needs. Dates and times travel as a length and
some numbers, so that asyncmy's row parser can hand them to a converter of ours as bytes: no zero
date, no 29th of an odd February and no time of 800 hours is lost in a Python type.
Protocol: https://mariadb.com/kb/en/resultset-row/
"""

from __future__ import annotations

import base64
import json
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from studio.contract.bounds import stays_text
from studio.contract.sql import unique_names
from studio.contract.table import Fix, big_integers, fixed
from studio.contract.values import canonical
from studio.models import Column

Spec = tuple[int, bool, int, str | None, Callable[[bytes], Any] | None]
"""A column as asyncmy's row parser takes it: wire type, unsigned, decoding, encoding, converter."""

MAX_COLUMNS = 4_096
"""MySQL's own bound."""
_BYTES, _UTF8, _ASCII = 0, 1, 2
_BYTES_OF_TEXT = 253
"""The wire type whose values are a length and bytes."""
_BINARY = 63
"""The number of the character set `binary`, which tells BLOB from TEXT."""
_UNSIGNED, _ENUM, _SET = 32, 256, 2048

# -- from the server ------------------------------------------------------------------------------


_day = struct.Struct("<HBB").unpack_from
_moment = struct.Struct("<HBBBBB").unpack_from


def _date(value: bytes) -> str:
    return "{:04}-{:02}-{:02}".format(*_day(value)) if len(value) >= 4 else "0000-00-00"


def _datetime(value: bytes) -> str:
    if len(value) < 7:
        return _date(value) + "T00:00:00"
    text = "%04d-%02d-%02dT%02d:%02d:%02d" % _moment(value)  # noqa: UP031 - twice as fast as the others
    return text if len(value) < 11 else text + _fraction(value[7:11])


def _fraction(micros: bytes) -> str:
    return f".{int.from_bytes(micros, 'little'):06}"


def _timestamp(value: bytes) -> str:
    return _datetime(value) + "Z"


def _time(value: bytes) -> str:
    if len(value) < 8:
        return "00:00:00"
    negative, days, hour, minute, second = struct.unpack_from("<BIBBB", value)
    text = f"{'-' if negative else ''}{days * 24 + hour:02}:{minute:02}:{second:02}"
    return text if len(value) < 12 else text + _fraction(value[8:12])


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _bits(value: bytes) -> int | str:
    return canonical(int.from_bytes(value, "big"))  # type: ignore[no-any-return]


_LONG_NUMBER = re.compile(r"\d{16}")


def _json(text: Any) -> Any:
    if stays_text(text):
        return text
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return text  # nothing keeps MariaDB from calling a text JSON that is none
    return canonical(json.loads(text)) if _LONG_NUMBER.search(text) else value


def _float(value: Any) -> Any:
    """A 4-byte float as its shortest decimal, as the server prints it: 3.14, not 3.140000104904175."""
    if value is None:
        return None
    for digits in (6, 7, 8):
        short = float(f"{value:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", value):
            return short
    return canonical(value)


def _floats(values: Sequence[Any]) -> list[Any]:
    return [_float(value) for value in values]


_NUMBERS = {
    1: "tinyint", 2: "smallint", 3: "int", 4: "float", 5: "double", 6: "null", 8: "bigint", 9: "mediumint", 13: "year",
}  # fmt: skip
_CONVERTED: dict[int, tuple[str, int, Callable[[Any], Any] | None]] = {
    0: ("decimal", _ASCII, None), 7: ("timestamp", _BYTES, _timestamp), 10: ("date", _BYTES, _date),
    11: ("time", _BYTES, _time), 12: ("datetime", _BYTES, _datetime), 14: ("date", _BYTES, _date),
    16: ("bit", _BYTES, _bits), 245: ("json", _UTF8, _json), 246: ("decimal", _ASCII, None),
    255: ("geometry", _BYTES, _base64),
}  # fmt: skip
_UNCHECKED = {1, 2, 4, 13}
"""Types of which asyncmy's parser does not check that the row holds them; see `Connection._parse`."""
_FIXES: dict[int, Fix] = {8: big_integers, 4: _floats}


@dataclass(frozen=True, slots=True)
class Field:
    """What a column definition says. `extended` is MariaDB's own name of a type or a format."""

    name: str
    kind: int
    charset: int
    flags: int
    extended: str | None

    @property
    def type_name(self) -> str:
        """The type as SQL calls it."""
        if self.extended is not None:
            return self.extended
        if self.kind in _NUMBERS:
            signed = self.kind in {4, 5, 6, 13} or not self.flags & _UNSIGNED
            return _NUMBERS[self.kind] + ("" if signed else " unsigned")
        if self.kind in _CONVERTED:
            return _CONVERTED[self.kind][0]
        if self.flags & (_ENUM | _SET):
            return "enum" if self.flags & _ENUM else "set"
        binary = self.charset == _BINARY
        if 249 <= self.kind <= 252:
            return "blob" if binary else "text"
        return ("binary" if binary else "char") if self.kind == 254 else ("varbinary" if binary else "varchar")

    @property
    def spec(self) -> Spec:
        """How the row parser reads it."""
        if self.kind in _NUMBERS:
            return self.kind, bool(self.flags & _UNSIGNED), _BYTES, None, None
        if self.extended == "json":
            return _BYTES_OF_TEXT, False, _UTF8, "utf8", _json
        if self.kind in _CONVERTED:
            _, code, convert = _CONVERTED[self.kind]
            return _BYTES_OF_TEXT, False, code, "utf8", convert
        if self.charset == _BINARY and self.extended is None:
            return _BYTES_OF_TEXT, False, _BYTES, None, _base64
        return _BYTES_OF_TEXT, False, _UTF8, "utf8", None


def _field(packet: bytes, extended: bool) -> Field:
    """A column definition packet (`Protocol::ColumnDefinition41`)."""
    at, parts = 0, []
    for _ in range(7 if extended else 6):
        part, at = _text(packet, at)
        parts.append(part)
    charset, _, kind, flags = struct.unpack_from("<HIBH", packet, at + 1)
    # MariaDB: pairs of a kind (0 type, 1 format) and its name.
    own = parts[6][2 : 2 + parts[6][1]].decode() if extended and parts[6] else None
    return Field(parts[4].decode(), kind, charset, flags, own)


def _text(packet: bytes, at: int) -> tuple[bytes, int]:
    """A string behind its length, and where the next one begins."""
    size, at = packet[at], at + 1
    if size > 250:
        width = {252: 2, 253: 3}[size]
        size, at = int.from_bytes(packet[at : at + width], "little"), at + width
    return packet[at : at + size], at + size


class Plan:
    """One prepared statement of one session, with the work that its columns need."""

    __slots__ = ("_fixes", "_packets", "columns", "extended", "marks", "number", "padding", "specs")

    def __init__(self, number: int, marks: int, packets: Sequence[bytes], *, extended: bool) -> None:
        self.number = number
        self.marks = marks
        self.extended = extended
        self._packets: Sequence[bytes] = ()
        self.columns: list[Column] = []
        self.specs: tuple[Spec, ...] = ()
        self.padding = 0
        self._fixes: list[tuple[int, Fix]] = []
        self.describe(packets)

    def describe(self, packets: Sequence[bytes]) -> None:
        """Take the columns as the server tells them; most times they are the ones known already."""
        if packets == self._packets:
            return
        fields = [_field(packet, self.extended) for packet in packets]
        names = unique_names(field.name for field in fields)
        self.columns = [{"name": name, "type": field.type_name} for name, field in zip(names, fields, strict=True)]
        self.specs = tuple(field.spec for field in fields)
        self.padding = 4 * sum(field.kind in _UNCHECKED for field in fields)
        self._fixes = [(at, _FIXES[field.kind]) for at, field in enumerate(fields) if field.kind in _FIXES]
        self._packets = packets

    def rows(self, records: Sequence[tuple[Any, ...]]) -> Sequence[tuple[Any, ...]]:
        """Records in canonical form."""
        return fixed(records, self._fixes)
