"""A result in one of the forms that cost a model few tokens, cut to a number of rows and bytes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from studio.mcp.budget import Budget
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


def cut(result: Result, form: str, skip: int, max_rows: int | None, budget: Budget) -> Cut:
    """The part of a result that fits, from row `skip` on. At least one row is shown, shortened if it must be."""
    names, rows = _table(result)
    if rows is None:
        return _value(result.data, budget)
    found = rows[skip:] if skip else rows
    shown = found if max_rows is None else found[:max_rows]
    rendered = _render(names, shown, form)
    shortened = False
    if not budget.holds(rendered.text):
        shown = shown[: _fitting(names, shown, form, budget)]
        rendered = _render(names, shown, form)
        if len(shown) == 1 and not budget.holds(rendered.text):
            shown, shortened = [_shortened(names, shown[0], form, budget)], True
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


def _fitting(names: list[str] | None, rows: Sequence[Any], form: str, budget: Budget) -> int:
    """The most rows that fit, at least one."""
    fit, too_many = 1, len(rows)
    while too_many - fit > 1:
        middle = (fit + too_many) // 2
        if budget.holds(_render(names, rows[:middle], form).text):
            fit = middle
        else:
            too_many = middle
    return fit


def _value(value: Any, budget: Budget) -> Cut:
    """What is no list: whole if it fits, else with its long texts and lists shortened, else as text."""
    if value is None:
        return Cut("null", {"data": None}, None)
    text = orjson.dumps(value).decode()
    if budget.holds(text):
        return Cut(text, {"data": value}, None)
    for keep in _lengths(budget):
        small = _trimmed(value, keep)
        shorter = orjson.dumps(small).decode()
        if budget.holds(shorter):
            return Cut(shorter, {"data": small}, None, shortened=True)
    whole = text.encode()[: budget.bytes].decode(errors="ignore")
    return Cut(whole, {"data": whole}, None, shortened=True)


def _shortened(names: list[str] | None, row: Any, form: str, budget: Budget) -> Any:
    """A row that does not fit alone, with its long values shortened until it does."""
    small = row
    for keep in _lengths(budget):
        small = tuple(_trimmed(value, keep) for value in row) if isinstance(row, tuple) else _trimmed(row, keep)
        if budget.holds(_render(names, [small], form).text):
            break
    return small


def _lengths(budget: Budget) -> tuple[int, ...]:
    return (budget.bytes // 2, budget.bytes // 4, budget.bytes // 16, _KEPT)


def _trimmed(value: Any, keep: int) -> Any:
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
        if left < 0 and items:
            return [*items, f"…[{len(value) - len(items)} items more]"]
        items.append(small)
    return items
