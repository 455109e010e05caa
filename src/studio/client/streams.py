"""Streams read at a distance: how to ask for a form, and a failure in its last words as the error that it was."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import orjson

from studio.client.transport import error_of
from studio.errors import InvalidRequest, Unreachable

_ACCEPT = {
    "ndjson": "application/x-ndjson",
    "json": "application/json; stream=true",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
}
_LAST_WORDS = {"ndjson": b'{"$result":', "json": b'],"success":', "csv": b'# {"success":', "arrow": b'{"success":'}
"""What the end begins with. In a value the quotes would be escaped, or doubled."""
_LONGEST_END = 16_384


def accept_of(form: str) -> str:
    """The Accept header of a form. Raises InvalidRequest."""
    if form not in _ACCEPT:
        raise InvalidRequest.at("form", "must be ndjson, json, csv or arrow")
    return _ACCEPT[form]


async def streamed(chunks: AsyncGenerator[bytes, None], form: str) -> AsyncGenerator[bytes, None]:
    """The same bytes. Raises the error that the last words tell of, after them, or Unreachable."""
    tail = b""
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                tail = (tail + chunk)[-_LONGEST_END:]
                yield chunk
        except Unreachable:
            _raise_failure(tail, form)  # cut on purpose, with the reason before
            raise
    _raise_failure(tail, form)


def _raise_failure(tail: bytes, form: str) -> None:
    end = _end(tail[max(0, tail.rfind(_LAST_WORDS[form])) :], form)
    if end.get("success") is False and "code" in end:
        raise error_of(int(end.get("status", 500)), end)


def _end(words: bytes, form: str) -> dict[str, Any]:
    if not words.startswith(_LAST_WORDS[form]):
        return {}
    text = words.split(b"\n")[0].rstrip(b"\0").decode("utf-8", "replace")
    if form == "arrow":
        text = text[: text.rfind("}") + 1]
    try:
        found = orjson.loads({"json": "{" + text[2:], "csv": text[2:]}.get(form, text))
    except orjson.JSONDecodeError:
        return {}
    found = found.get("$result", found)
    return found if isinstance(found, dict) else {}
