"""What goes between the storage verbs and a service: entries, pages, content, parts, and passing trouble."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from studio.errors import InvalidRequest, RateLimited, StudioError, Unreachable, UpstreamError

PARTS_OF_A_SIZE = 1000
"""Then they are larger: services take 10,000 parts at most."""
_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Entry:
    """What a service tells of one object. `name` is whole; `modified` is canonical."""

    name: str
    size: int
    modified: str | None = None
    etag: str | None = None
    content_type: str | None = None


@dataclass(slots=True)
class Page:
    """One answer of a listing."""

    entries: list[Entry] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    token: str | None = None

    @property
    def rows(self) -> int:
        """How many rows it makes."""
        return len(self.entries) + len(self.prefixes)


@dataclass(slots=True)
class Content:
    """An open range of one object: `length` bytes are to come."""

    entry: Entry
    length: int
    chunks: AsyncIterator[bytes]


class PastEnd(InvalidRequest):
    """The range begins behind the object's last byte."""

    def __init__(self) -> None:
        super().__init__("offset: the object ends before it")


class TooSlow(Unreachable):
    """No connection within connect_timeout_s: once more would only take as long again."""

    def __init__(self) -> None:
        super().__init__("the server did not answer within connect_timeout_s; a firewall may drop the packets")


class Stumbled(UpstreamError):
    """The service failed in a way that the same call may not meet again (5xx)."""

    retryable = True


_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")


def content_range(header: str | None, content_length: int | str | None) -> tuple[int, int]:
    """First byte and size of the whole, of an answer with or without Content-Range (RFC 9110, section 14.4).

    Raises:
        UpstreamError: the answer does not tell.
    """
    found = _RANGE.fullmatch(header or "")
    if found:
        return int(found[1]), int(found[3])
    text = str(content_length)
    if header or not re.fullmatch(r"\d{1,15}", text):
        raise UpstreamError("the server does not tell how large the object is")
    return 0, int(text)


MAX_COLUMNS = 4_096
"""Of an object that is read as rows."""


def too_many_columns() -> InvalidRequest:
    """Rows of an object that nobody could look at."""
    return InvalidRequest(f"the object has more than {MAX_COLUMNS:,} columns; is the form right? Read it with get")


def too_many_parts() -> InvalidRequest:
    """One record of an object that is read as rows takes too much memory."""
    return InvalidRequest("one record of the object has more than 100,000 values; is the form right? Read it with get")


def record_too_long() -> InvalidRequest:
    """One record of an object that is read as rows does not end."""
    return InvalidRequest("one record of the object is larger than max_bytes of this connector; is the form right?")


def passing(error: StudioError) -> bool:
    """Whether the same read may do better in a moment."""
    if isinstance(error, RateLimited):
        return (error.retry_after_s or 0) <= _WAIT_S
    return isinstance(error, Stumbled | Unreachable) and not isinstance(error, TooSlow)


async def exactly(content: Content) -> AsyncIterator[bytes]:
    """The content's chunks, no byte more and none less than it announced."""
    left = content.length
    async for chunk in content.chunks:
        if len(chunk) > left:
            chunk = chunk[:left]
        left -= len(chunk)
        if chunk:
            yield chunk
        if not left:
            return
    if left:
        raise Unreachable("the server closed the connection before the object was complete")


async def parts_of(chunks: AsyncIterator[bytes], limit: int, part_bytes: int) -> AsyncIterator[bytes]:
    """The same bytes in parts of one size, which grows after many; only the last may be smaller.

    Raises:
        InvalidRequest: there are more than `limit` bytes.
    """
    size, number, total = part_bytes, 0, 0
    buffer = bytearray()
    async for chunk in chunks:
        total += len(chunk)
        if total > limit:
            raise InvalidRequest("the content is larger than max_object_bytes of this connector; nothing was stored")
        view = memoryview(chunk)
        while len(buffer) + len(view) >= size:
            fits = size - len(buffer)
            buffer += view[:fits]
            view = view[fits:]
            yield bytes(buffer)
            buffer.clear()
            number += 1
            size = part_bytes * (1 + number // PARTS_OF_A_SIZE)
        buffer += view
    if buffer:
        yield bytes(buffer)


async def rejoined(head: list[bytes], rest: AsyncIterator[bytes] | None = None) -> AsyncIterator[bytes]:
    """What was taken off the front of `rest`, then the rest. `head` is emptied on the way."""
    while head:
        yield head.pop(0)
    if rest is not None:
        async for part in rest:
            yield part


_TYPES = {
    "avro": "application/avro", "css": "text/css", "csv": "text/csv", "gif": "image/gif", "gz": "application/gzip",
    "html": "text/html", "jpeg": "image/jpeg", "jpg": "image/jpeg", "js": "text/javascript", "json": "application/json",
    "jsonl": "application/x-ndjson", "log": "text/plain", "md": "text/markdown", "mp4": "video/mp4",
    "ndjson": "application/x-ndjson", "parquet": "application/vnd.apache.parquet", "pdf": "application/pdf",
    "png": "image/png", "svg": "image/svg+xml", "tsv": "text/tab-separated-values", "txt": "text/plain",
    "webp": "image/webp", "xml": "application/xml", "yaml": "application/yaml", "yml": "application/yaml",
    "zip": "application/zip", "zst": "application/zstd",
}  # fmt: skip
"""By the key's ending (IANA names). Not the system's table, so that the same key means the same everywhere."""


def content_type_of(key: str, *, text: bool) -> str:
    """The media type that a key's ending stands for."""
    found = _TYPES.get(key.rpartition(".")[2].lower(), "text/plain" if text else "application/octet-stream")
    return f"{found}; charset=utf-8" if text and found.startswith("text/") else found
