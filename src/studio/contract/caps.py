"""The caps on rows and bytes, applied while rows are read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from enum import Enum
from typing import Any

import orjson

from studio.contract.bounds import marks, most_values, values_of
from studio.contract.config import ProviderConfig
from studio.contract.operation import Batch
from studio.contract.table import Table
from studio.models import Column

told_of_rows: ContextVar[Callable[[int], None] | None] = ContextVar("told_of_rows", default=None)
"""Is told of each batch, as it is read, how many rows it has; for whoever shows progress."""

_FEW = 4_096
_MUCH = 256 * 1024
_WIDE = tuple(bytes([lead]) for lead in range(0xF0, 0xF5))
"""What a character beyond U+FFFF begins with in UTF-8. For one of them Python keeps four bytes for each of a text."""


class Moments(Enum):
    """How a provider may hand out a column of points in time when it begins a stream of many rows."""

    TEXTS = "texts"
    """In the canonical form only, as always."""
    MICROS = "micros"
    """Also as whole microseconds since 1970-01-01 (in UTC, where there is a zone), if all of the column is so."""


moments: ContextVar[Moments | None] = ContextVar("moments", default=None)
"""Set while a stream begins; None where a result is collected, and texts are all that is taken."""


@dataclass(slots=True)
class Capped:
    """A batch within the caps, of `size` bytes. `truncated` on the last one says that more existed."""

    columns: list[Column]
    rows: Sequence[Any]
    truncated: bool = False
    documents: bool = False
    size: int = 0


class Caps:
    """Holds the rows of one operation to a config's `max_rows` and `max_bytes`, batch by batch.

    `truncated` is exact: it is set only when a row past the cap was really there.
    With `kept`, where all rows are, their values are held to a number too: each takes memory beyond its bytes.
    A batch that takes several times its bytes is then packed until the end, see `unpacked`.
    """

    __slots__ = ("_bytes_left", "_columns", "_packed", "_rows_left", "_tell", "_values_left", "_watch")

    def __init__(self, config: ProviderConfig, *, kept: bool = False) -> None:
        self._values_left = most_values(config.max_bytes) if kept else None
        self._rows_left, self._bytes_left, self._watch = config.max_rows, config.max_bytes, config.watch
        self._columns: list[Column] | None = None
        self._packed = False
        self._tell = told_of_rows.get()

    def take(self, batch: Batch) -> Capped:
        """What of the batch may be shown. Nothing more may be asked of the source once it is `truncated`.

        Raises:
            ResultBlocked: a row holds a secret of the config.
        """
        rows = batch.rows
        taken = min(len(rows), self._rows_left)
        kept = rows if taken == len(rows) else rows[:taken]
        if (self._packed or taken == 1) and _longest(kept) > self._bytes_left:
            kept, taken = rows[:0], 0  # not even to be encoded: there would be three forms of it
        encoded, size = _encoded(kept)
        values = 0 if self._values_left is None else _values(encoded, kept)
        if size > self._bytes_left or (self._values_left is not None and values > self._values_left):
            del encoded  # each row is encoded once more there
            taken, size, values = _fitting(kept, self._bytes_left, self._values_left)
            kept = rows[:taken]
            encoded, _ = _encoded(kept)
        self._watch.check(encoded)
        if batch.columns is not self._columns:
            self._columns = batch.columns
            self._watch.check_value(self._columns)
        self._bytes_left -= size
        self._rows_left -= taken
        if self._values_left is not None:
            self._values_left -= values
        if self._tell is not None:
            self._tell(taken)
        if self._values_left is not None and size > _MUCH and _is_wide(encoded):
            self._packed, kept = True, [orjson.dumps(list(kept)) if isinstance(kept, Table) else encoded]
        return Capped(batch.columns, kept, batch.more or taken < len(rows), batch.documents, size)

    def unpacked(self, rows: list[Any]) -> list[Any]:
        """All rows that were kept, after the last batch. Those given are used up where some are packed."""
        if not self._packed:
            return rows
        found: list[Any] = []
        rows.reverse()
        while rows:
            row = rows.pop()
            if isinstance(row, bytes):  # no canonical value is
                found += (tuple(one) if isinstance(one, list) else one for one in orjson.loads(row))
            else:
                found.append(row)
        return found


async def capped(batches: AsyncGenerator[Batch, None], config: ProviderConfig) -> AsyncGenerator[Capped, None]:
    """Pass batches on within the caps, and stop the source where they are reached. Raises as `Caps.take`."""
    caps = Caps(config)
    async with aclosing(batches) as source:
        async for batch in source:
            part = caps.take(batch)
            yield part
            if part.truncated:
                return


def _values(encoded: bytes, rows: Sequence[Any]) -> int:
    """At least as many values as it holds; of a few bytes, as many as can be in them."""
    if len(encoded) < _FEW:
        return len(encoded) // 2
    return marks(encoded) + (len(rows) - len(rows.columns) if isinstance(rows, Table) else 0)


def _is_wide(encoded: bytes) -> bool:
    return not encoded.isascii() and any(lead in encoded for lead in _WIDE)


def _encoded(rows: Sequence[Any]) -> tuple[bytes, int]:
    """The values as JSON, and the bytes of the rows alone: each with its brackets, without what stands around them."""
    if isinstance(rows, Table):
        encoded = orjson.dumps(rows.columns)
        # Behind each value is a comma or bracket both ways; a row, and a column, has one bracket before it too.
        return encoded, len(encoded) - 2 * len(rows.columns) - 1 + len(rows) if len(rows) else 0
    encoded = orjson.dumps(rows)
    return encoded, len(encoded) - len(rows) - 1 if len(rows) else 0


def _longest(rows: Sequence[Any]) -> int:
    """Characters of the longest text that stands in a row, as far as can be seen at a glance."""
    found = 0
    for row in rows:
        for value in row.values() if isinstance(row, dict) else row if isinstance(row, tuple) else ():
            if isinstance(value, str) and len(value) > found:
                found = len(value)
    return found


def _fitting(rows: Sequence[Any], room: int, most: int | None) -> tuple[int, int, int]:
    """How many of the rows fit into `room` bytes and have `most` values; their bytes and values."""
    size = values = 0
    for number, row in enumerate(rows):
        encoded = orjson.dumps(row)
        more = 0 if most is None else values_of(encoded)
        length = len(encoded)
        del encoded
        if size + length > room or (most is not None and values + more > most):
            return number, size, values
        size += length
        values += more
    return len(rows), size, values
