"""A result in one of the forms that cost a model few tokens, cut to a number of rows and bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from studio.models import Result

FORMS = ("columns", "objects", "csv", "markdown")
_KEPT = 40
"""Characters that even a shortened text keeps."""


@dataclass(frozen=True)
class Cut:
    """What fits: as text for a model and as fields of `structuredContent`.

    `count` is the number of rows shown (None for what is no list of them), `more` whether further
    rows were read, `shortened` whether values lost their ends.
    """

    text: str
    fields: dict[str, Any]
    count: int | None
    more: bool = False
    shortened: bool = False


def cut(result: Result, form: str, skip: int, max_rows: int | None, max_bytes: int) -> Cut:
    """The part of a result that fits, from row `skip` on. At least one row is shown, shortened if it must be."""
    names, rows = _table(result)
    if rows is None:
        return _value(result.data, max_bytes)
    found = rows[skip:] if skip else rows
    shown = found if max_rows is None else found[:max_rows]
    rendered = _render(names, shown, form)
    shortened = False
    if _size(rendered.text) > max_bytes:
        shown = shown[: _fitting(names, shown, form, max_bytes)]
        rendered = _render(names, shown, form)
        if len(shown) == 1 and _size(rendered.text) > max_bytes:
            shown, shortened = [_shortened(shown[0], max_bytes)], True
            rendered = _render(names, shown, form)
    return Cut(rendered.text, rendered.fields, len(shown), len(shown) < len(found), shortened)


def _table(result: Result) -> tuple[list[str] | None, Sequence[Any] | None]:
    """Column names and rows. A list that is no table has rows without names; anything else has none."""
    if result.rows is not None:
        return [column["name"] for column in result.columns], result.rows
    data = result.data
    if not isinstance(data, list):
        return None, None
    if data and all(isinstance(item, dict) for item in data):
        names = list(dict.fromkeys(name for item in data for name in item))
        if all(len(item) == len(names) for item in data):
            return names, [tuple(item[name] for name in names) for item in data]
    return None, data


@dataclass(frozen=True)
class _Rendered:
    text: str
    fields: dict[str, Any]


def _render(names: list[str] | None, rows: Sequence[Any], form: str) -> _Rendered:
    if names is None:
        return _json({"rows": list(rows)})
    if form == "objects":
        return _json({"rows": [dict(zip(names, row, strict=True)) for row in rows]})
    if form == "columns":
        return _json({"columns": names, "rows": list(rows)})
    text = _csv(names, rows) if form == "csv" else _markdown(names, rows)
    return _Rendered(text, {"columns": names, "data": text})


def _json(fields: dict[str, Any]) -> _Rendered:
    encoded = {name: orjson.dumps(value) for name, value in fields.items()}
    text = "{" + ",".join(f'"{name}":{value.decode()}' for name, value in encoded.items()) + "}"
    # Encoded once; the fragment goes into the answer as it is.
    return _Rendered(text, {name: orjson.Fragment(value) for name, value in encoded.items()})


def _csv(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(value) for value in row] for row in rows)
    return out.getvalue().removesuffix("\n")


def _markdown(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [names, ["---"] * len(names), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else orjson.dumps(value).decode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("\n", "<br>").replace("\r", "")


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _fitting(names: list[str] | None, rows: Sequence[Any], form: str, max_bytes: int) -> int:
    """How many rows fit, at least one. Each row is measured once, as a line of its own."""
    empty = _size(_render(names, rows[:0], form).text)
    comma = 0 if names is not None and form in {"csv", "markdown"} else 1  # there a row brings its own line break
    left = max_bytes - empty
    for number, row in enumerate(rows):
        left -= _size(_render(names, [row], form).text) - empty + (comma if number else 0)
        if left < 0:
            return max(number, 1)
    return len(rows)


def _value(value: Any, max_bytes: int) -> Cut:
    """What is no list: whole if it fits, else with its long texts and lists shortened, else as text."""
    if value is None:
        return Cut("null", {"data": None}, None)
    text = orjson.dumps(value).decode()
    if _size(text) <= max_bytes:
        return Cut(text, {"data": value}, None)
    for keep in (max_bytes // 4, max_bytes // 16, _KEPT):
        small = _trimmed(value, keep)
        text = orjson.dumps(small).decode()
        if _size(text) <= max_bytes:
            return Cut(text, {"data": small}, None, shortened=True)
    whole = orjson.dumps(value)[:max_bytes].decode(errors="ignore")
    return Cut(whole, {"data": whole}, None, shortened=True)


def _shortened(row: Any, max_bytes: int) -> Any:
    """A row that does not fit alone, with its long values shortened until it does."""
    convert: Callable[[Any], Any] = tuple if isinstance(row, tuple) else lambda value: value
    for keep in (max_bytes // 4, max_bytes // 16, _KEPT):
        small = convert(_trimmed(list(row) if isinstance(row, tuple) else row, keep, whole_list=isinstance(row, tuple)))
        if len(orjson.dumps(small)) <= max_bytes:
            return small
    return small


def _trimmed(value: Any, keep: int, *, whole_list: bool = False) -> Any:
    """Texts cut to `keep` characters, lists to the items that take about `keep` bytes."""
    if isinstance(value, str):
        return value if len(value) <= keep else f"{value[:keep]}…[{len(value) - keep} characters more]"
    if isinstance(value, dict):
        return {name: _trimmed(item, keep) for name, item in value.items()}
    if not isinstance(value, list):
        return value
    items: list[Any] = []
    left = keep
    for item in value:
        small = _trimmed(item, keep)
        left -= len(orjson.dumps(small))
        if left < 0 and items and not whole_list:
            return [*items, f"…[{len(value) - len(items)} items more]"]
        items.append(small)
    return items
