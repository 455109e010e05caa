"""Tables and lists in the headers of messages, decoded in linear time.

pamqp copies all that is left for each value: 128 KiB of small ones, as anybody may publish, keep the event loop for
half a second. It finds the decoders by name in its own module, so these take their places, for the whole process.
"""

from __future__ import annotations

import struct
from typing import Any

from pamqp import decode

_LONGEST = 16
"""Bytes of a value that does not say its own length (AMQP 0-9-1, section 4.2.5): nine at most."""
_TEXTS = {kind for kind, reads in decode.TABLE_MAPPING.items() if reads in {decode.long_str, decode.byte_array}}
_LENGTH = struct.Struct(">I")
MAX_DEPTH = 50


def field_array(value: Any, depth: int = 0) -> tuple[int, list[Any]]:
    """The bytes that a list takes, and the list. Raises ValueError."""
    view = memoryview(value)
    at, end = _bounds(view)
    found = []
    while at < end:
        taken, item = _value(view, at, depth)
        at += taken
        found.append(item)
    return at, found


def field_table(value: Any, depth: int = 0) -> tuple[int, dict[str, Any]]:
    """The bytes that a table takes, and the table. Raises ValueError."""
    view = memoryview(value)
    at, end = _bounds(view)
    found = {}
    while at < end:
        start, at = at + 1, at + 1 + view[at]
        if at >= end:
            raise ValueError("a key without a value")
        key = str(view[start:at], "utf-8")
        taken, found[key] = _value(view, at, depth)
        at += taken
    return end, found


def _bounds(view: memoryview) -> tuple[int, int]:
    if len(view) < 4:
        raise ValueError("no length")
    end = 4 + _LENGTH.unpack_from(view)[0]
    if end > len(view):
        raise ValueError("longer than what there is")
    return 4, end


def _value(view: memoryview, at: int, depth: int) -> tuple[int, Any]:
    kind, rest = bytes(view[at : at + 1]), view[at + 1 :]
    found: Any
    reads = decode.TABLE_MAPPING.get(kind)
    if reads is None or depth > MAX_DEPTH:
        raise ValueError("an unknown type, or too deep")
    if reads in {field_array, field_table}:
        taken, found = reads(rest, depth + 1)
    else:
        size = 4 + _LENGTH.unpack_from(rest)[0] if kind in _TEXTS and len(rest) >= 4 else _LONGEST
        taken, found = reads(bytes(rest[:size]))
    return taken + 1, found


def install() -> None:
    """Put the decoders into pamqp, for tables by themselves and for those within others."""
    for ours, name in ((field_array, "field_array"), (field_table, "field_table")):
        theirs = getattr(decode, name)
        mappings: tuple[dict[Any, Any], ...] = (decode.TABLE_MAPPING, decode.METHODS)
        for mapping in mappings:
            for kind, reads in mapping.items():
                if reads is theirs:
                    mapping[kind] = ours
        setattr(decode, name, ours)
