"""The caps on rows and bytes, applied while rows are read."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import orjson

from studio.contract.config import ProviderConfig
from studio.contract.operation import Batch
from studio.contract.values import size_of
from studio.models import Column

told_of_rows: ContextVar[Callable[[int], None] | None] = ContextVar("told_of_rows", default=None)
"""Is told of each batch, as it is read, how many rows it has; for whoever shows progress."""


@dataclass(slots=True)
class Capped:
    """A batch within the caps, of `size` bytes. `truncated` on the last one says that more existed."""

    columns: list[Column]
    rows: list[Any]
    truncated: bool = False
    documents: bool = False
    size: int = 0


async def capped(batches: AsyncGenerator[Batch, None], config: ProviderConfig) -> AsyncGenerator[Capped, None]:
    """Pass batches on until `max_rows` or `max_bytes` is reached, and stop the source there.

    `truncated` is exact: it is set only when a row past the cap was really there.

    Raises:
        ResultBlocked: a row holds a secret of the config.
    """
    rows_left, bytes_left = config.max_rows, config.max_bytes
    columns: list[Column] | None = None
    tell = told_of_rows.get()
    async with aclosing(batches) as source:
        async for batch in source:
            rows = batch.rows
            taken = min(len(rows), rows_left)
            encoded = orjson.dumps(rows[:taken])
            # The rows' own bytes: without the brackets around the list and the commas between them.
            size = len(encoded) - taken - 1 if taken else 0
            if size > bytes_left:
                taken, size = _fitting(rows[:taken], bytes_left)
                encoded = orjson.dumps(rows[:taken])
            config.watch.check(encoded)
            if batch.columns is not columns:
                columns = batch.columns
                config.watch.check_value(columns)
            bytes_left -= size
            rows_left -= taken
            if tell is not None:
                tell(taken)
            more = taken < len(rows)
            kept = rows if not more else rows[:taken]
            yield Capped(batch.columns, kept, more, batch.documents, size)
            if more:
                return


def _fitting(rows: list[Any], room: int) -> tuple[int, int]:
    """How many of the rows fit into `room` bytes, and their bytes."""
    size = 0
    for number, row in enumerate(rows):
        more = size_of(row)
        if size + more > room:
            return number, size
        size += more
    return len(rows), size
