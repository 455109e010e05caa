"""What the documents of one answer may hold, and documents decoded within it. Types of values: https://bsonspec.org."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from typing import Any

import bson

from studio.contract.bounds import MAX_VALUES
from studio.errors import ResultBlocked
from studio.providers.mongodb.values import CODEC

SIZE = struct.Struct("<i")
FIXED = {
    0x01: 8, 0x06: 0, 0x07: 12, 0x08: 1, 0x09: 8, 0x0A: 0, 0x10: 4, 0x11: 8, 0x12: 8, 0x13: 16, 0x7F: 0, 0xFF: 0,
}  # fmt: skip
"""Bytes of a value by its type."""
COUNTED = {0x02: 4, 0x03: 0, 0x04: 0, 0x05: 5, 0x0C: 16, 0x0D: 4, 0x0E: 4, 0x0F: 0}
"""What has its length before it: how many bytes there are beyond those that it counts."""
OBJECT, ARRAY, REGEX = 0x03, 0x04, 0x0B
_WEIGHTS = {OBJECT: 2, ARRAY: 2, 0x05: 2, 0x09: 2, 0x13: 4}
"""As how many values one counts, by its type: what it takes in memory, or in time to be decoded."""

_WIDE = re.compile(rb"[\xf0-\xf4][\x80-\xbf]{3}")
"""A character beyond U+FFFF: of a text with one, Python keeps four bytes for each character."""
_FORMS = 6
"""Times its bytes that such a text takes while it is decoded: what came, that in ASCII, and four bytes for each."""
_MEMORY = 30 << 20


@dataclass(slots=True)
class Room:
    """What an answer may hold.

    `document` counts the bytes that one document may have on the wire, `values` those that all documents may have
    together; None where nothing is kept. `full` says that a document was there and had no room.
    """

    document: int
    values: int | None = None
    full: bool = False
    size: int = 0
    """Bytes of the large documents that were kept so far."""

    def fits(self, raw: bytes | bytearray) -> bool:
        """Whether there is room for a large document, kept with those before it."""
        if self.values is None:
            return True
        self.size += len(raw)
        if self.size + _FORMS * len(raw) > _MEMORY and _WIDE.search(raw):
            return False
        return weight(raw, self.values) <= self.values

    def take(self, items: list[Any]) -> None:
        """Count what is kept, decoded."""
        if self.values is not None:
            self.values -= _values(items)
            self.full = self.values < 0


def _values(held: list[Any] | dict[str, Any]) -> int:
    """How many values there are, objects and lists counted twice: in each, as many as it has, and itself once more."""
    count = 1 + len(held)
    for one in held.values() if isinstance(held, dict) else held:
        if type(one) is dict or type(one) is list:
            count += _values(one)
    return count


def decoded(raw: bytes | bytearray) -> dict[str, Any]:
    """A document. Raises ResultBlocked where it has more values than are decoded."""
    if len(raw) > MAX_VALUES and weight(raw, MAX_VALUES) > MAX_VALUES:
        raise too_large()
    return bson.decode(raw, CODEC)


def weight(raw: bytes | bytearray, most: int) -> int:
    """How many values a document has, as `_WEIGHTS` counts them; or anything below `most`."""
    if raw.count(0) * max(_WEIGHTS.values()) <= most:
        return 0  # each value has a zero behind its name
    at, count = 4, 0
    while at < len(raw) and count <= most:
        kind = raw[at]
        at += 1
        if not kind:
            continue
        at = raw.find(0, at) + 1
        count += _WEIGHTS.get(kind, 1)
        if kind in (OBJECT, ARRAY):
            at += 4
        elif kind in FIXED:
            at += FIXED[kind]
        elif kind == REGEX:
            at = raw.find(0, raw.find(0, at) + 1) + 1
        elif kind in COUNTED and at + 4 <= len(raw):
            at += max(0, SIZE.unpack_from(raw, at)[0]) + COUNTED[kind]
        else:
            break  # the decoder says what is wrong
    return count


def most_of_document(max_bytes: int) -> int:
    """Bytes of one document on the wire that are read: somewhat more than an answer may show, 5 MiB in any case."""
    return max(max_bytes, 4 << 20) * 5 // 4


def most_of_all(max_bytes: int) -> int:
    """How many values the documents of an answer may have that is kept as a whole: 131,072 at the default cap."""
    return max(MAX_VALUES, max_bytes // 32)


def too_large() -> ResultBlocked:
    """What is said of a document that no answer can hold."""
    return ResultBlocked(
        "a document is larger than max_bytes of this connector, or has more than 100,000 values; "
        "project fewer fields, or have max_bytes raised"
    )
