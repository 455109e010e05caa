"""JSON objects as rows: NDJSON, and the elements of one array, read while they come."""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from studio.contract import Batch, Column, ProviderConfig, canonical
from studio.contract.bounds import MAX_VALUES, too_many_in
from studio.contract.sql import unique_names
from studio.errors import InvalidRequest
from studio.providers._objects.parts import MAX_COLUMNS, record_too_long, too_many_parts

_FIRST = 1000
"""Objects that are looked at for the columns."""
MORE = "_more"
"""The column for members that none of the first objects had."""


async def json_rows(
    chunks: AsyncIterator[bytes], *, lines: bool, config: ProviderConfig
) -> AsyncGenerator[Batch, None]:
    """The values of NDJSON (`lines`), or of one array, as rows."""
    split: _Lines | _Elements = _Lines() if lines else _Elements()
    async with aclosing(_tabled(_values(chunks, split, config.max_bytes), config.max_rows)) as batches:
        async for batch in batches:
            yield batch


class _Lines:
    """Splits NDJSON: one value a line."""

    def __init__(self) -> None:
        self._number = 0

    def split(self, text: str, *, final: bool) -> tuple[list[Any], str]:
        lines = text.split("\n")
        rest = "" if final else lines.pop()
        values = []
        for line in lines:
            self._number += 1
            if line.strip():
                try:
                    values.append(json.loads(line))
                except (ValueError, RecursionError):
                    raise InvalidRequest(f"line {self._number} of the object is not JSON") from None
        return values, rest


class _Elements:
    """Splits one JSON document: the elements of an array, or a single value."""

    _SPACE = " \t\r\n"

    def __init__(self) -> None:
        self._decoder = json.JSONDecoder()
        self._array: bool | None = None
        self._between = False

    def split(self, text: str, *, final: bool) -> tuple[list[Any], str]:
        values: list[Any] = []
        if self._array is None:
            text = text.lstrip(self._SPACE)
            if not text:
                return values, text
            self._array = text[0] == "["
            text = text[1:] if self._array else text
        if not self._array:
            return ([self._whole(text)], "") if final and text.strip() else (values, text)
        at = 0
        while True:
            at = self._skip(text, at)
            if at >= len(text) or text[at] == "]":
                break
            try:
                value, end = self._decoder.raw_decode(text, at)
            except (ValueError, RecursionError):
                break
            end = self._skip(text, end)
            if end >= len(text):  # a number may go on
                break
            if text[end] not in ",]":
                raise _not_json()
            values.append(value)
            at = end + (text[end] == ",")
        if final and text[at : at + 1] != "]":
            raise _not_json()
        return values, text[at:]

    def _skip(self, text: str, at: int) -> int:
        while at < len(text) and text[at] in self._SPACE:
            at += 1
        return at

    def _whole(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise _not_json() from None


def _not_json() -> InvalidRequest:
    return InvalidRequest("the object is not JSON; if it has one value a line, read it with form ndjson")


async def _values(
    chunks: AsyncIterator[bytes], split: _Lines | _Elements, limit: int
) -> AsyncGenerator[list[Any], None]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    rest = ""
    try:
        async for chunk in chunks:
            values, rest = split.split(rest + decoder.decode(chunk), final=False)
            if len(rest) > limit:
                raise record_too_long()
            if too_many_in(rest):
                raise too_many_parts()
            yield values
        values, _ = split.split(rest + decoder.decode(b"", final=True), final=True)
    except UnicodeDecodeError:
        raise InvalidRequest("the object is not UTF-8 text, so it is not JSON") from None
    yield values


async def _tabled(groups: AsyncGenerator[list[Any], None], max_rows: int) -> AsyncGenerator[Batch, None]:
    """Values as rows: the columns are the members of the first objects; others go to the column `_more`."""
    async with aclosing(groups):
        first: list[Any] = []
        ended = True
        size = 0
        async for values in groups:
            first += values
            size += sum(map(_parts, values))
            if len(first) > min(max_rows, _FIRST) or size > MAX_VALUES:
                ended = False
                break
        names = list(dict.fromkeys(name for value in first if isinstance(value, dict) for name in value))
        if len(names) > MAX_COLUMNS:
            names, ended = names[:MAX_COLUMNS], False
        if not all(isinstance(value, dict) for value in first):
            names.append("value")
        columns: list[Column] = [{"name": name, "type": "json"} for name in unique_names(names)]
        known = frozenset(names)
        if not ended:
            columns.append({"name": unique_names([*names, MORE])[-1], "type": "json"})
        some = max(1, MAX_VALUES // max(1, len(columns)))
        for at in range(0, max(1, len(first)), some):
            await asyncio.sleep(0)  # so many values are as much work as others shall wait for
            yield Batch(columns, [_row(value, names, known, not ended) for value in first[at : at + some]])
        first.clear()
        async for values in groups:
            for at in range(0, len(values), some):
                yield Batch(columns, [_row(value, names, known, True) for value in values[at : at + some]])


def _parts(value: Any) -> int:
    """Of a value, roughly how many it holds: its own members and theirs."""
    if not isinstance(value, dict | list):
        return 1
    inner = value.values() if isinstance(value, dict) else value
    return len(value) + sum(len(item) for item in inner if isinstance(item, dict | list))


def _row(value: Any, names: list[str], known: frozenset[str], more: bool) -> tuple[Any, ...]:
    if not isinstance(value, dict):
        value = {"value": value}
    found = [canonical(value.get(name)) for name in names]
    if more:
        others = {name: item for name, item in value.items() if name not in known}
        found.append(canonical(others) or None)
    return tuple(found)
