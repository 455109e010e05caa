"""Objects as rows: CSV, NDJSON, JSON arrays and lines of text, read while they come.

Reading stops with the reader, so the first rows of a large object cost about as many bytes as they
have. A record, and what a `.gz` unpacks to without ending one, is bounded by `max_bytes`.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing
from typing import Any

from studio.contract import Batch, Column
from studio.contract.bounds import MAX_VALUES
from studio.contract.sql import unique_names
from studio.errors import InvalidRequest
from studio.providers._objects.json import json_rows
from studio.providers._objects.parquet import parquet
from studio.providers._objects.parts import MAX_COLUMNS, record_too_long, too_many_columns
from studio.providers._objects.source import Source

csv.field_size_limit(2**31 - 1)  # the bound is that of a record, below

FORMS = {
    "csv": "csv", "tsv": "csv", "ndjson": "ndjson", "jsonl": "ndjson", "json": "json", "geojson": "json",
    "parquet": "parquet", "txt": "text", "log": "text", "md": "text",
}  # fmt: skip
"""By the key's ending, without `.gz`."""
_TYPES = {"text/csv": "csv", "application/x-ndjson": "ndjson", "application/json": "json", "text/plain": "text",
          "application/vnd.apache.parquet": "parquet"}  # fmt: skip
_UNPACKED_AT_ONCE = 128 * 1024
_UNPACKED_MOST = 64
"""Times `max_bytes`: what a `.gz` may unpack to while rows are read."""


async def reader_of(
    source: Source, form: str, *, separator: str, header: bool, columns: Sequence[str] | None
) -> AsyncGenerator[Batch, None]:
    """The object's rows in batches.

    Raises:
        InvalidRequest: the content is not of that form, or has not all of the `columns`.
    """
    if form == "auto":
        form = FORMS.get(source.key.lower().removesuffix(".gz").rpartition(".")[2], "auto")
    if form == "parquet":
        async with aclosing(parquet(source, columns)) as batches:
            async for batch in batches:
                yield batch
        return
    async with source.open() as content:
        if form == "auto":
            form = _TYPES.get((content.entry.content_type or "").partition(";")[0].strip(), "auto")
        chunks = _plain(content.chunks, source.config.max_bytes)
        if form == "csv":
            tab = "\t" if separator == "," and ".tsv" in source.key.lower() else separator
            batches = _csv(chunks, tab, header, source.config.max_bytes)
        elif form == "text":
            batches = _text(chunks, source.config.max_bytes)
        elif form in {"json", "ndjson"}:
            batches = json_rows(chunks, lines=form == "ndjson", config=source.config)
        else:
            raise InvalidRequest.at("form", "cannot be told from the key or the content type: name it")
        async with aclosing(batches), aclosing(chunks):
            async for batch in batches:
                yield _projected(batch, columns)


def _projected(batch: Batch, columns: Sequence[str] | None) -> Batch:
    if columns is None:
        return batch
    places = [place(batch.columns, name) for name in columns]
    return Batch([batch.columns[at] for at in places], [tuple(row[at] for at in places) for row in batch.rows])


def place(columns: Sequence[Column], name: str) -> int:
    """Where a column stands. Raises InvalidRequest."""
    names = [column["name"] for column in columns]
    if name not in names:
        known = ", ".join(names[:50])
        raise InvalidRequest.at("columns", f"names one that the object does not have; it has: {known}"[:1000])
    return names.index(name)


async def _plain(chunks: AsyncIterator[bytes], limit: int) -> AsyncGenerator[bytes, None]:
    """The chunks, unpacked where they are gzip (RFC 1952), a bounded piece at a time."""
    unpack: Any = None
    begun, total = False, 0
    async for chunk in chunks:
        if not begun and chunk[:2] == b"\x1f\x8b":
            unpack = zlib.decompressobj(wbits=31)
        begun = True
        if unpack is None:
            for first in range(0, len(chunk), _UNPACKED_AT_ONCE):  # Azure's driver gives 4 MiB in one
                yield chunk[first : first + _UNPACKED_AT_ONCE]
                await asyncio.sleep(0)
            continue
        while chunk:
            piece, chunk, unpack = _unpacked(unpack, chunk)
            total += len(piece)
            if total > limit * _UNPACKED_MOST:
                raise InvalidRequest(f"the object unpacks to more than {_UNPACKED_MOST} times max_bytes for these rows")
            yield piece
            await asyncio.sleep(0)  # a small chunk can unpack to very many pieces: others want their turn
    if unpack is not None and not unpack.eof:
        raise InvalidRequest("the object's gzip data ends too early")


def _unpacked(unpack: Any, chunk: bytes) -> tuple[bytes, bytes, Any]:
    """A piece, the rest of the chunk, and what unpacks it."""
    if unpack.eof:  # members may follow each other
        unpack = zlib.decompressobj(wbits=31)
    try:
        piece = unpack.decompress(chunk, _UNPACKED_AT_ONCE)
    except zlib.error:
        raise InvalidRequest("the object's gzip data is damaged") from None
    return piece, unpack.unused_data if unpack.eof else unpack.unconsumed_tail, unpack


# -- CSV and text -----------------------------------------------------------------------------------


async def _lines_of(chunks: AsyncIterator[bytes], limit: int, errors: str) -> AsyncGenerator[list[str], None]:
    """Complete lines with their ends, as many as each chunk finishes."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")(errors)
    rest = ""
    try:
        async for chunk in chunks:
            text = rest + decoder.decode(chunk)
            end = text.rfind("\n") + 1
            rest = text[end:]
            if len(rest) > limit:
                raise record_too_long()
            if end:
                yield text[:end].split("\n")[:-1]
        rest += decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise InvalidRequest("the object is not UTF-8 text; read it with get and encoding base64") from None
    if rest:
        yield [rest]


async def _text(chunks: AsyncIterator[bytes], limit: int) -> AsyncGenerator[Batch, None]:
    columns: list[Column] = [{"name": "line", "type": "text"}]
    yield Batch(columns, [])
    async for lines in _lines_of(chunks, limit, "backslashreplace"):
        yield Batch(columns, [(line.removesuffix("\r"),) for line in lines])


class _Starved(Exception):
    """The CSV reader needs a line that has not come yet."""


class _Feed:
    """Lines for the CSV reader; those of an unfinished record are given to it again."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.at = 0
        self.done = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self.at < len(self.waiting):
            self.at += 1
            return self.waiting[self.at - 1] + "\n"
        if self.done:
            raise StopIteration
        raise _Starved


async def _csv(chunks: AsyncIterator[bytes], separator: str, header: bool, limit: int) -> AsyncGenerator[Batch, None]:
    feed = _Feed()
    reader = csv.reader(feed, delimiter=separator)
    columns: list[Column] = []
    number = 0
    async with aclosing(_lines_of(chunks, limit, "strict")) as groups:
        while not feed.done:
            lines = await anext(groups, None)
            feed.done = lines is None
            if any(len(line) > MAX_VALUES and line.count(separator) > MAX_VALUES for line in lines or ()):
                raise too_many_columns()
            feed.waiting += lines or []
            records = _records(reader, feed)
            if sum(map(len, feed.waiting)) > limit:
                raise record_too_long()
            if records and not columns:
                names = records.pop(0) if header else [f"column_{at + 1}" for at in range(len(records[0]))]
                if len(names) > MAX_COLUMNS:
                    raise too_many_columns()
                columns = [{"name": name, "type": "text"} for name in unique_names(names)]
            some = max(1, MAX_VALUES // max(1, len(columns)))
            for first in range(0, max(1, len(records)), some):  # short records are filled up to the columns
                part = records[first : first + some]
                rows = [_fitted(record, len(columns), number + at) for at, record in enumerate(part, 1)]
                number += len(rows)
                yield Batch(columns, rows)


def _records(reader: Any, feed: _Feed) -> list[list[str]]:
    """The records that the waiting lines finish; the others go on waiting."""
    records: list[list[str]] = []
    finished = 0
    try:
        while True:
            record = next(reader)
            finished = feed.at
            if record:
                records.append(record)
    except (_Starved, StopIteration):
        pass
    except csv.Error as exc:
        raise InvalidRequest(f"the object is not CSV: {exc}") from None
    del feed.waiting[:finished]
    feed.at = 0
    return records


def _fitted(record: list[str], width: int, number: int) -> tuple[str | None, ...]:
    if len(record) > width:
        raise InvalidRequest(f"record {number} has {len(record)} fields and the first one {width}; check the separator")
    return (*record, *[None] * (width - len(record)))
