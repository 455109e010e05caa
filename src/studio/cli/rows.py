"""Results of queries on stdout as they come: a small one as a whole, a large one page by page, in constant memory."""

from __future__ import annotations

import codecs
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import click

from studio.cli import text

PAGE = 1_000
"""Rows of a table whose widths are looked at together, and of a result that is shown as a whole."""
_BEFORE, _BETWEEN = '{"columns":', ',"data":['
_decoder = json.JSONDecoder()


class Document:
    """Reads a result that comes as one JSON document in pieces (the form json of `services/streams.py`)."""

    def __init__(self) -> None:
        self.columns: list[Mapping[str, str]] | None = None
        self.rows: list[Any] = []
        self.end: Mapping[str, Any] = {}
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._text = ""

    def feed(self, chunk: bytes) -> None:
        """Take a piece; what is complete is added to `rows`, and what follows the rows is `end`."""
        self._text += self._utf8.decode(chunk)
        at = 0
        with suppress(ValueError):  # the rest of it is still to come
            if self.columns is None:
                columns, after = _decoder.raw_decode(self._text, len(_BEFORE))
                at = self._text.index(_BETWEEN, after) + len(_BETWEEN)
                self.columns = columns
            while not self._text.startswith("]", at):
                row, after = _decoder.raw_decode(self._text, at + self._text.startswith(",", at))
                if after == len(self._text):  # a number may go on
                    break
                self.rows.append(row)
                at = after
            else:
                self.end = _decoder.raw_decode("{" + self._text[at + 2 :])[0]
        self._text = self._text[at:]

    def taken(self) -> list[Any]:
        """The rows that came since the last time."""
        found, self.rows = self.rows, []
        return found


async def show(
    chunks: AsyncGenerator[bytes, None], form: str, whole: Callable[[Mapping[str, Any]], None]
) -> Mapping[str, Any] | None:
    """Print a result as json or table; one of up to `PAGE` rows by `whole`. What else the end said of a longer one."""
    document, started = Document(), time.perf_counter()
    pages: _Json | _Table | None = None
    async for chunk in chunks:
        document.feed(chunk)
        if len(document.rows) > PAGE:
            pages = pages or (_Json(document.columns or []) if form == "json" else _Table())
            pages.page(document.taken())
    end: dict[str, Any] = {
        "row_count": document.end["row_count"], "truncated": document.end["truncated"], "next_cursor": None,
        "execution_time_ms": round((time.perf_counter() - started) * 1000, 3),
    }  # fmt: skip
    if pages is None:
        columns = document.columns or []
        order = {"success": True, "data": document.rows, "row_count": 0, "columns": columns, "truncated": False}
        whole({**order, **end})
        return None
    pages.page(document.taken())
    pages.close(end)
    return end


class _Json:
    """One document again, with a row a line."""

    def __init__(self, columns: Sequence[Any]) -> None:
        self._before = f'{{"success": true, "columns": {text.compact(columns)}, "data": [\n'

    def page(self, rows: Sequence[Any]) -> None:
        if rows:
            click.echo(self._before + ",\n".join(map(text.compact, rows)), nl=False)
            self._before = ",\n"

    def close(self, end: Mapping[str, Any]) -> None:
        click.echo("\n], " + text.compact(end)[1:])


class _Table:
    """Tables below one another; where nobody looks, one, as wide as its first page, while the columns stay the same."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._widths: list[int] | None = None

    def page(self, rows: Sequence[Any]) -> None:
        records = [row if isinstance(row, Mapping) else {"value": row} for row in rows]
        columns = text.columns_of(records)
        if records:
            same = columns == self._columns and not sys.stdout.isatty()
            self._widths = text.print_part(records, columns, self._widths if same else None)
            self._columns = columns

    def close(self, _end: Mapping[str, Any]) -> None:
        """A table has no end of its own."""
