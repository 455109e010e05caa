"""Pages put together: by the Link header (RFC 8288) or by a cursor, within the connector's caps."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Protocol

from studio.errors import InvalidRequest, ResultBlocked, UpstreamError
from studio.models import Result
from studio.providers._http.client import Answer, Request
from studio.providers.rest.answer import Body
from studio.providers.rest.call import Paginate

_LINK = re.compile(r"<([^<>]*)>\s*((?:;\s*[\w!#$&+.^`|~*-]+\s*(?:=\s*(?:\"[^\"]*\"|[^\s\",;]+))?\s*)*)")
_NEXT = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next(?![^\s,;]))", re.IGNORECASE)
_LEAST = 1024
"""With less room than this for another page, there is none."""


class Source(Protocol):
    """What pages are asked of: the `rest` provider."""

    config: Any

    async def follow(self, request: Request, *, limit: int | None = None) -> Answer:
        """An answer that is no error."""
        ...

    def page(self, answer: Answer, limit: int) -> Body:
        """Its body."""
        ...

    def at(self, request: Request, place: str) -> Request:
        """The request for a linked place."""
        ...

    def place_of(self, request: Request) -> str:
        """Path and query of a request, as a caller writes them."""
        ...


async def collect(source: Source, request: Request, how: Paginate) -> Result:
    """The items of all pages, up to max_rows, max_bytes and max_pages.

    `truncated` says that there was more; `next_cursor` then is where to go on, if that is the
    beginning of a page.

    Raises:
        InvalidRequest: the request cannot have pages.
        UpstreamError: the pages go in a circle, or lead elsewhere.
    """
    if request.method != "GET":
        raise InvalidRequest.at("paginate", "goes with GET only")
    config, items, seen = source.config, list[Any](), set[Any]()
    room, cursor = int(config.max_bytes), None
    for _ in range(how.max_pages):
        if room < _LEAST:
            return _result(items, config.max_rows, cursor, more=True)
        try:
            answer = await source.follow(request, limit=room)
            body = source.page(answer, room)
        except ResultBlocked:
            if not items:
                raise
            return _result(items, config.max_rows, cursor, more=True)
        room -= len(answer.body)
        items += _items(body.value, how.items_field)
        cursor, following = _next(source, request, how, answer, body)
        if len(items) > config.max_rows or body.cut:
            return _result(items, config.max_rows, None, more=True)
        if following is None:
            return _result(items, config.max_rows, None, more=False)
        if cursor in seen:
            raise UpstreamError("the upstream's pages go in a circle: the same next page came twice")
        seen.add(cursor)
        request = following
    return _result(items, config.max_rows, cursor, more=True)


def _result(items: list[Any], max_rows: int, cursor: Any, *, more: bool) -> Result:
    kept = items[:max_rows]
    return Result(data=kept, row_count=len(kept), truncated=more, next_cursor=None if cursor is None else str(cursor))


def _next(source: Source, request: Request, how: Paginate, answer: Answer, body: Body) -> tuple[Any, Request | None]:
    """What names the next page, and the request for it; both None on the last one."""
    if how.link:
        place = next_link(", ".join(answer.headers.getall("Link", [])))
        if place is None:
            return None, None
        following = source.at(request, place)
        return source.place_of(following), following
    cursor = _pick(body.value, how.cursor_field or "")
    if cursor in (None, "", False) or not isinstance(cursor, str | int | float):
        return None, None
    query = tuple(pair for pair in request.query if pair[0] != how.cursor_param)
    return cursor, replace(request, query=(*query, (how.cursor_param or "", str(cursor))))


def next_link(text: str) -> str | None:
    """The target of the link with `rel=next`."""
    return next((found[1] for found in _LINK.finditer(text[:16_384]) if _NEXT.search(found[2])), None)


def _items(value: Any, field: str | None) -> list[Any]:
    found = _pick(value, field) if field else value
    if found is None:
        return []
    if not isinstance(found, list):
        where = "items_field" if field else "paginate"
        raise InvalidRequest.at(where, "the answer holds no list there; name the field that does in items_field")
    return found


def _pick(value: Any, field: str) -> Any:
    for part in field.split("."):
        if not isinstance(value, dict):
            return None
        value = value.get(part)
    return value
