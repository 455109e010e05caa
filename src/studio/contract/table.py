"""Rows of a batch that are kept by column, as some drivers give them and most forms of a stream take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, overload

from studio.contract.values import EXACT_INTEGER, canonical

Fix = Callable[[Sequence[Any]], Sequence[Any] | None]
"""A column in canonical form, or None where it is that already."""
_MANY = 64
"""Rows from which on they are kept by column; fewer are handed on sooner as tuples."""


class Table(Sequence[tuple[Any, ...]]):
    """Rows as columns of one length, of which there is at least one. A row is made when it is asked for."""

    __slots__ = ("columns",)

    def __init__(self, columns: list[Sequence[Any]]) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns[0])

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return zip(*self.columns, strict=True)

    @overload
    def __getitem__(self, at: int) -> tuple[Any, ...]: ...
    @overload
    def __getitem__(self, at: slice) -> Table: ...
    def __getitem__(self, at: int | slice) -> tuple[Any, ...] | Table:
        found = [column[at] for column in self.columns]
        return Table(found) if isinstance(at, slice) else tuple(found)


def columns_of(rows: Sequence[Sequence[Any]]) -> Sequence[Sequence[Any]]:
    """The columns of rows of one length; of none, there are none."""
    return rows.columns if isinstance(rows, Table) else list(zip(*rows, strict=True))


def big_integers(values: Sequence[Any]) -> list[Any] | None:
    """A `Fix` for integers of 64 bits: those that a JSON number does not hold become text."""
    if max(map(abs, filter(None, values)), default=0) <= EXACT_INTEGER:
        return None
    return [canonical(value) for value in values]


def fixed(records: Sequence[Sequence[Any]], fixes: Sequence[tuple[int, Fix]]) -> Sequence[tuple[Any, ...]]:
    """Records of a driver as rows, after the fixes of some of their columns."""
    columns: list[Sequence[Any]] = list(zip(*records, strict=True)) if fixes else []
    if not columns:  # nothing to do, or no records
        return list(map(tuple, records))
    for at, fix in fixes:
        if (column := fix(columns[at])) is not None:
            columns[at] = column
    return Table(columns) if len(records) > _MANY else list(zip(*columns, strict=True))
