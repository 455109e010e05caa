"""The Arrow IPC streaming format, as far as flat columns need it: messages as bytes, without a library.

A message is a FlatBuffers table behind its length, then the columns' buffers, each padded to eight bytes:
https://arrow.apache.org/docs/format/Columnar.html#serialization-and-interprocess-communication-ipc,
tables and slots as in Schema.fbs and Message.fbs there. pyarrow would do the same for 30 MiB of memory.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

END = b"\xff\xff\xff\xff\0\0\0\0"
Child = Callable[[bytearray], int]
"""Appends itself to a buffer; the position that offsets lead to."""
_VERSION, _SCHEMA, _BATCH = 4, 1, 3
_UINT, _INT, _LONG, _SHORT, _BYTE = "<I", "<i", "<q", "<h", "<B"
Slots = Mapping[int, tuple[str, int] | Child]


@dataclass(frozen=True)
class Type:
    """A type of Arrow: its name, its number in the union `Type`, and the slots of its table."""

    name: str
    number: int
    slots: Slots

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Field:
    """A column: its name, its type, and what is said of it."""

    name: str
    type: Type
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Column:
    """The values of a column in a batch, in this machine's byte order. The first buffer has the validity bits; it is
    empty where there are no nulls."""

    nulls: int
    buffers: Sequence[bytes]


def integer(bits: int, *, signed: bool = True) -> Type:
    """A type of integers."""
    return Type(f"{'' if signed else 'u'}int{bits}", 2, {0: (_INT, bits), 1: (_BYTE, int(signed))})


def floating(bits: int) -> Type:
    """A type of binary floating point numbers: of 32 or of 64 bits."""
    return Type(f"float{bits}", 3, {0: (_SHORT, bits // 32)})


BINARY = Type("binary", 4, {})
UTF8 = Type("utf8", 5, {})
BOOL = Type("bool", 6, {})
DATE = Type("date32", 8, {0: (_SHORT, 0)})
MOMENT = Type("timestamp[us]", 10, {0: (_SHORT, 2)})
"""A date and a time of day, somewhere."""
MOMENT_UTC = Type("timestamp[us, tz=UTC]", 10, {0: (_SHORT, 2), 1: lambda out: _string("UTC", out)})


def schema(fields: Sequence[Field]) -> bytes:
    """The first message of a stream."""
    listed = partial(_offsets, [partial(_table, _field(field)) for field in fields])
    return _message(_SCHEMA, partial(_table, {0: (_SHORT, int(sys.byteorder == "big")), 1: listed}), [], {})


def batch(length: int, columns: Sequence[Column], metadata: Mapping[str, str]) -> bytes:
    """A record batch of so many rows."""
    buffers = [buffer for column in columns for buffer in column.buffers]
    nodes = b"".join([struct.pack("<qq", length, column.nulls) for column in columns])
    places, at = [], 0
    for buffer in buffers:
        places.append(struct.pack("<qq", at, len(buffer)))
        at += _padded(len(buffer))
    slots: Slots = {
        0: (_LONG, length),
        1: partial(_vector, len(columns), nodes),
        2: partial(_vector, len(buffers), b"".join(places)),
    }
    return _message(_BATCH, partial(_table, slots), buffers, metadata)


def _message(kind: int, header: Child, buffers: Sequence[bytes], metadata: Mapping[str, str]) -> bytes:
    size = sum(_padded(len(buffer)) for buffer in buffers)
    slots: dict[int, tuple[str, int] | Child] = {
        0: (_SHORT, _VERSION), 1: (_BYTE, kind), 2: header, 3: (_LONG, size), **_said(4, metadata)
    }  # fmt: skip
    out = bytearray(4)
    struct.pack_into(_UINT, out, 0, _table(slots, out))
    out += bytes(-len(out) % 8)
    body = [part for buffer in buffers for part in (buffer, bytes(-len(buffer) % 8))]
    return b"".join([b"\xff\xff\xff\xff", struct.pack(_INT, len(out)), out, *body])


def _padded(size: int) -> int:
    return size + -size % 8


def _field(field: Field) -> Slots:
    return {
        0: partial(_string, field.name), 1: (_BYTE, 1), 2: (_BYTE, field.type.number),
        3: partial(_table, field.type.slots), 5: partial(_offsets, []), **_said(6, field.metadata),
    }  # fmt: skip


def _said(slot: int, metadata: Mapping[str, str]) -> dict[int, tuple[str, int] | Child]:
    if not metadata:
        return {}
    pairs = [partial(_table, {0: partial(_string, key), 1: partial(_string, value)}) for key, value in metadata.items()]
    return {slot: partial(_offsets, pairs)}


# -- FlatBuffers, written forwards: a parent first, then what its offsets lead to -------------------


def _table(slots: Slots, out: bytearray) -> int:
    """A vtable and, behind it, its table, eight-byte fields first so that each one is aligned."""
    order = sorted(slots.items(), key=lambda item: -struct.calcsize(_form(item[1])))
    places, size = {}, 4
    for slot, value in order:
        places[slot] = size
        size += struct.calcsize(_form(value))
    count = max(slots, default=-1) + 1
    start = len(out) + 4 + 2 * count
    start += (4 - start) % 8
    vtable = start - 4 - 2 * count
    out += bytes(vtable - len(out))
    out += struct.pack(f"<{2 + count}H", 4 + 2 * count, size, *(places.get(slot, 0) for slot in range(count)))
    out += struct.pack(_INT, start - vtable) + bytes(size - 4)
    for slot, value in order:
        at = start + places[slot]
        if isinstance(value, tuple):
            struct.pack_into(value[0], out, at, value[1])
        else:
            struct.pack_into(_UINT, out, at, value(out) - at)
    return start


def _form(value: tuple[str, int] | Child) -> str:
    return value[0] if isinstance(value, tuple) else _UINT


def _vector(count: int, content: bytes, out: bytearray) -> int:
    """Behind its length; the content begins at a multiple of eight."""
    out += bytes((4 - len(out)) % 8)
    start = len(out)
    out += struct.pack(_UINT, count) + content
    return start


def _offsets(children: Sequence[Child], out: bytearray) -> int:
    start = _vector(len(children), bytes(4 * len(children)), out)
    for number, child in enumerate(children):
        at = start + 4 + 4 * number
        struct.pack_into(_UINT, out, at, child(out) - at)
    return start


def _string(text: str, out: bytearray) -> int:
    content = text.encode()
    return _vector(len(content), content + b"\0", out)
