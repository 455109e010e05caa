"""How objects and lists of them are shown: rows, cursors, and content as text, JSON or base64."""

from __future__ import annotations

import asyncio
import base64 as b64
import binascii
import codecs
import hashlib
import json
from itertools import accumulate
from typing import Any

from studio.contract import Column, canonical
from studio.contract.bounds import MAX_VALUES, too_many
from studio.contract.storage import StorageConfig
from studio.contract.values import size_of
from studio.errors import InvalidRequest, ResultBlocked, UpstreamError
from studio.providers._objects.parts import Entry, Page

COLUMNS: list[Column] = [
    {"name": "key", "type": "text"},
    {"name": "type", "type": "text"},
    {"name": "size", "type": "integer"},
    {"name": "modified", "type": "timestamp"},
    {"name": "etag", "type": "text"},
]
_LONG = 256 * 1024
"""Bytes of JSON that are parsed off the event loop."""
Row = tuple[Any, ...]


class Listing:
    """One page of a list while it is being put together."""

    def __init__(
        self, config: StorageConfig, prefix: str, delimiter: str | None, cursor: str | None, limit: int | None
    ) -> None:
        self.rows: list[Row] = []
        self.prefix = prefix
        self._strip = len(config.prefix)
        self._want = min(limit or config.max_rows, config.max_rows)
        self._bytes_left = config.max_bytes
        self._digest = hashlib.sha256(f"{delimiter}|{prefix}".encode()).hexdigest()[:16]
        self.token = self._token(cursor)

    @property
    def missing(self) -> int:
        """Rows that may still come."""
        return self._want - len(self.rows)

    def take(self, page: Page) -> int | None:
        """Take the page, if it fits into the byte cap as a whole; else say how many rows of it would."""
        rows = self._rows_of(page)
        sizes = [sum(map(size_of, row)) for row in rows]
        if sum(sizes) > self._bytes_left:
            fit = sum(1 for total in accumulate(sizes) if total <= self._bytes_left)
            if not fit and not self.rows:
                raise ResultBlocked("not even one row fits into max_bytes of this connector")
            return fit
        self._bytes_left -= sum(sizes)
        self.rows += rows
        self.token = page.token
        return None

    def cursor(self) -> str | None:
        """What continues this list, and no other."""
        if self.token is None:
            return None
        return b64.urlsafe_b64encode(f"{self._digest}{self.token}".encode()).decode()

    def _token(self, cursor: str | None) -> str | None:
        if cursor is None:
            return None
        try:
            text = b64.b64decode(cursor, altchars=b"-_", validate=True).decode()
        except (ValueError, binascii.Error):
            text = ""
        if not text.startswith(self._digest):
            raise InvalidRequest.at("cursor", "does not continue this list: keep prefix and delimiter as they were")
        return text[len(self._digest) :]

    def _rows_of(self, page: Page) -> list[Row]:
        found: list[Row] = [(entry.name, "object", entry.size, entry.modified, entry.etag) for entry in page.entries]
        found += [(name, "prefix", None, None, None) for name in page.prefixes]
        if not all(name.startswith(self.prefix) for name, *_ in found):
            # A service that lists more than it was asked for would show what lies outside of the prefix.
            raise UpstreamError("the server lists keys that do not have the prefix that it was asked for")
        found.sort(key=lambda row: row[0])
        return [(name[self._strip :], *rest) for name, *rest in found if len(name) > self._strip]


def shown(key: str, entry: Entry) -> dict[str, Any]:
    """An object as callers see it."""
    return {
        "key": key,
        "size": entry.size,
        "modified": entry.modified,
        "etag": entry.etag,
        "content_type": entry.content_type,
    }


def from_base64(text: str) -> bytes:
    """Raises InvalidRequest."""
    try:
        return b64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise InvalidRequest.at("base64", "is not base64 (RFC 4648, section 4)") from None


async def decoded(body: bytes, encoding: str, entry: Entry, offset: int, cap: int) -> dict[str, Any]:
    """`encoding`, `content` and `length`: the bytes of the object that the content stands for.

    Raises:
        InvalidRequest: the content is not what `encoding` says.
    """
    whole = offset + len(body) >= entry.size
    likely = "json" in (entry.content_type or "") or entry.name.endswith(".json")
    if encoding == "json" or (encoding == "auto" and likely and whole and not offset):
        found = await (asyncio.to_thread(_json, body) if len(body) > _LONG else _at_once(body))
        if found is not _NOT_JSON:
            return {"encoding": "json", "content": found, "length": len(body)}
        if encoding == "json":
            if whole and too_many(body):
                raise InvalidRequest.at(
                    "encoding", f"the content has more than {MAX_VALUES} values; read it as text, or as rows"
                )
            cut = "" if whole else ", because it does not fit into max_bytes; read it as text, or as rows"
            raise InvalidRequest.at("encoding", f"the content is not JSON{cut}")
    if encoding != "base64":
        text = _text(body, whole=whole)
        if text is not None:
            return {"encoding": "text", "content": text[0], "length": text[1]}
        if encoding == "text":
            raise InvalidRequest.at("encoding", "the content is not UTF-8; read it as base64")
    body = body[: cap // 4 * 3]
    return {"encoding": "base64", "content": b64.b64encode(body).decode("ascii"), "length": len(body)}


_NOT_JSON = object()


async def _at_once(body: bytes) -> Any:
    return _json(body)


def _json(body: bytes) -> Any:
    if too_many(body):
        return _NOT_JSON
    try:
        return canonical(json.loads(body))
    except (ValueError, RecursionError):
        return _NOT_JSON


def _text(body: bytes, *, whole: bool) -> tuple[str, int] | None:
    """The text and how many bytes it took; a character that was cut at the end stays out."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        text = decoder.decode(body, final=whole)
    except UnicodeDecodeError:
        return None
    return text, len(body) - len(decoder.getstate()[0])
