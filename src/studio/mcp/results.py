"""Results made for a model: compact forms, budgets, a way to go on, and untrusted data marked as such.

What a connected system answers is data, whoever wrote it. In the text that a model reads it stands
between two tags with a random number, which nothing inside can know and so nothing inside can close;
`structuredContent` holds the same as plain JSON.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from studio.errors import InvalidRequest
from studio.mcp.budget import Budget
from studio.mcp.forms import Cut, cut
from studio.models import Result

OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "columns": {"type": "array", "items": {"type": "string"}},
        "rows": {"type": "array", "description": "Untrusted data"},
        "data": {"description": "Untrusted data that is no list of rows"},
        "row_count": {"type": "integer"},
        "truncated": {"type": "boolean", "description": "More exists; hint says how to get it"},
        "next_cursor": {"type": ["string", "null"]},
        "hint": {"type": "string"},
    },
    "required": ["row_count", "truncated", "next_cursor"],
}

SHORT_OUTPUT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "row_count": {"type": "integer"},
        "truncated": {"type": "boolean"},
        "next_cursor": {"type": ["string", "null"]},
    },
    "required": ["row_count", "truncated", "next_cursor"],
}
"""The same, for a set of tools that has it once for each of many."""


@dataclass(frozen=True)
class Place:
    """Where a result begins: rows to skip on one page of the provider's, and that page's own cursor."""

    skip: int = 0
    page: str | None = None


def digest_of(*call: Any) -> str:
    """What a cursor belongs to: alias, operation and arguments."""
    return hashlib.sha256(orjson.dumps(call, option=orjson.OPT_SORT_KEYS, default=str)).hexdigest()[:12]


def write_cursor(place: Place, digest: str) -> str:
    """A cursor as text. It grants nothing: whoever makes one up only names other rows of their own call."""
    return base64.urlsafe_b64encode(orjson.dumps([place.skip, place.page, digest])).decode().rstrip("=")


def read_cursor(text: str, digest: str) -> Place:
    """The place that a cursor names. Raises InvalidRequest for one of another call."""
    try:
        skip, page, belongs_to = orjson.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, TypeError, binascii.Error):
        raise InvalidRequest.at("cursor", "is not a next_cursor of this service") from None
    if not (isinstance(skip, int) and 0 <= skip < 10**9 and (page is None or isinstance(page, str))):
        raise InvalidRequest.at("cursor", "is not a next_cursor of this service")
    if belongs_to != digest:
        raise InvalidRequest.at("cursor", "belongs to another call: repeat that call's other arguments unchanged")
    return Place(skip, page)


@dataclass(frozen=True)
class Wanted:
    """How a result shall look: its form, the most rows and its budget, and where it begins."""

    form: str = "columns"
    max_rows: int | None = None
    budget: Budget = field(default_factory=Budget)
    place: Place = Place()


def tool_result(
    result: Result, wanted: Wanted, *, source: str, digest: Callable[[], str] | None, paged: bool
) -> dict[str, Any]:
    """A tool's answer.

    Args:
        result: what the operation answered, capped by the connector already.
        wanted: how it shall look.
        source: the alias, for the tag around the data.
        digest: of the call, for cursors; None where the call must not be repeated.
        paged: the operation itself takes the provider's cursor.
    """
    if result.data is None and not result.columns and not result.rows:
        return _affected(result.row_count)
    found = cut(result, wanted.form, wanted.place.skip, wanted.max_rows, wanted.budget)
    after = _after(found, result, wanted.place, paged=paged)
    truncated = found.more or found.shortened or result.truncated
    cursor = write_cursor(after, digest()) if after is not None and digest is not None else None
    structured: dict[str, Any] = {
        **found.fields,
        "row_count": found.count if found.count is not None else result.row_count,
        "truncated": truncated,
        "next_cursor": cursor,
    }
    if truncated:
        structured["hint"] = _hint(found, cursor, repeatable=digest is not None)
    text = f"{marked(found.text, source)}\n{_said(structured)}"
    return {"content": [{"type": "text", "text": text}], "structuredContent": structured}


def _after(found: Cut, result: Result, place: Place, *, paged: bool) -> Place | None:
    if found.more:
        return Place(place.skip + (found.count or 0), place.page)
    if paged and result.next_cursor is not None:
        return Place(0, result.next_cursor)
    return None


def _hint(found: Cut, cursor: str | None, *, repeatable: bool) -> str:
    if cursor is not None:
        return "more rows: repeat the call unchanged, with cursor set to next_cursor"
    if found.shortened:
        return "long values were shortened: ask for fewer fields, or raise max_tokens"
    if not repeatable:
        return "the rest is not shown, and repeating the call would repeat its effect: read it with a query"
    return "the connector's row or byte cap was reached: narrow the query, or read on with LIMIT and OFFSET"


def _affected(count: int) -> dict[str, Any]:
    structured = {"row_count": count, "truncated": False, "next_cursor": None}
    text = f"done; {count} row{'s' * (count != 1)} affected"
    return {"content": [{"type": "text", "text": text}], "structuredContent": structured}


def _said(structured: Mapping[str, Any]) -> str:
    count = structured["row_count"]
    said = (
        "the answer" if "rows" not in structured and "columns" not in structured else f"{count} row{'s' * (count != 1)}"
    )
    if not structured["truncated"]:
        return f"{said}, complete"
    cursor = structured["next_cursor"]
    return f"{said}, truncated; {structured['hint']}" + (f": {cursor}" if cursor else "")


def marked(text: str, source: str) -> str:
    """Text of a connected system, between tags that say so."""
    tag = f"untrusted-data-{os.urandom(4).hex()}"
    return f'<{tag} from="{source}">\n{text}\n</{tag}>'


def plain_result(value: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's answer that holds nothing of a connected system."""
    return {"content": [{"type": "text", "text": orjson.dumps(value).decode()}], "structuredContent": value}
