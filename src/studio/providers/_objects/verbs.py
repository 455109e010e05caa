"""The storage verbs, written once over the few calls in which the services differ.

A member fills the holes of `ObjectBase`: `endpoint`, `page`, `describe`, `opened`, `store`,
`store_parts`, `duplicate`, `remove`, `signed` and `privileges`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from studio.contract import Batch, Result, canonical
from studio.contract.operation import Download
from studio.contract.storage import (
    AsBase64,
    AsText,
    Columns,
    ConfigT,
    ContentType,
    CreateOnly,
    Cursor,
    Delimiter,
    Encoding,
    Form,
    Header,
    Key,
    KeyPrefix,
    Length,
    Limit,
    Method,
    Offset,
    Seconds,
    Separator,
)
from studio.errors import InvalidRequest, OperationNotSupported
from studio.providers._objects.base import ObjectBase
from studio.providers._objects.parts import (
    Page,
    content_type_of,
    exactly,
    parts_of,
    rejoined,
)
from studio.providers._objects.rows import reader_of
from studio.providers._objects.source import Source
from studio.providers._objects.text import COLUMNS, Listing, decoded, from_base64, shown


class ObjectProvider(ObjectBase[ConfigT]):
    """A bucket or container behind an HTTP API."""

    async def ping(self) -> None:
        """List one key."""
        await self.page(self.config.prefix, None, None, 1)

    async def list(
        self, prefix: KeyPrefix = "", delimiter: Delimiter = None, cursor: Cursor = None, limit: Limit = None
    ) -> Result:
        """See `StorageProvider`."""
        listing = Listing(self.config, self.name(prefix), delimiter, cursor, limit)
        ask = partial(self.page, listing.prefix, delimiter)
        while listing.missing:
            page = await self.retried(partial(ask, listing.token, min(listing.missing, self.page_rows)))
            fit = listing.take(page)
            if fit:  # ask again for just these, for a token that stands right behind them
                listing.take(await self.retried(partial(ask, listing.token, fit)))
            if fit is not None or page.token is None:
                break
        if listing.token is not None and not self.exact_tokens and not await self._more(ask, listing.token):
            listing.token = None
        return Result(
            columns=COLUMNS,
            rows=listing.rows,
            row_count=len(listing.rows),
            truncated=listing.token is not None,
            next_cursor=listing.cursor(),
        )

    async def _more(self, ask: Callable[[str, int], Awaitable[Page]], token: str | None) -> bool:
        while token is not None:
            page = await self.retried(partial(ask, token, 1))
            if page.rows:
                return True
            token = page.token
        return False

    async def head(self, key: Key) -> dict[str, Any]:
        """See `StorageProvider`."""
        return shown(key, await self.retried(partial(self.describe, self.name(key))))

    async def get(self, key: Key, offset: Offset = 0, length: Length = None, encoding: Encoding = "auto") -> Result:
        """See `StorageProvider`."""
        cap = self.config.max_bytes
        async with self.content(self.name(key), offset, min(length or cap, cap)) as content:
            body = b"".join([chunk async for chunk in exactly(content)])
        asked = min(length or content.entry.size, content.entry.size - offset)
        found = await decoded(body, encoding, content.entry, offset, cap)
        data = {**shown(key, content.entry), "offset": offset, **found}
        return Result(data=data, row_count=1, truncated=found["length"] < asked)

    @asynccontextmanager
    async def read(self, key: Key, offset: Offset = 0, length: Length = None) -> AsyncIterator[Download]:
        """See `StorageProvider`."""
        async with self.content(self.name(key), offset, length) as content:
            if content.length > self.config.max_object_bytes:
                raise InvalidRequest("the object is larger than max_object_bytes of this connector; ask for a range")
            yield Download(
                exactly(content),
                content.length,
                offset=offset,
                size=content.entry.size,
                content_type=content.entry.content_type or "application/octet-stream",
                name=key.rpartition("/")[2],
                etag=content.entry.etag,
                details=canonical(shown(key, content.entry)),
            )

    async def rows(
        self,
        key: Key,
        form: Form = "auto",
        columns: Columns = None,
        separator: Separator = ",",
        header: Header = True,
    ) -> AsyncGenerator[Batch, None]:
        """See `StorageProvider`."""
        source = Source(key, partial(self.content, self.name(key)), self.config)
        found = reader_of(source, form, separator=separator, header=header, columns=columns)
        async with aclosing(found) as batches:
            async for batch in batches:
                yield batch

    async def put(
        self,
        key: Key,
        text: AsText = None,
        base64: AsBase64 = None,
        content_type: ContentType = None,
        if_none_match: CreateOnly = False,
    ) -> dict[str, Any]:
        """See `StorageProvider`."""
        self.may_write()
        if (text is None) == (base64 is None):
            raise InvalidRequest("put: give the content as text or as base64, one of the two")
        body = text.encode() if text is not None else from_base64(base64 or "")
        kind = content_type or content_type_of(key, text=text is not None)
        return shown(key, await self.store(self.name(key), body, kind, if_none_match))

    async def write(
        self,
        chunks: AsyncIterator[bytes],
        key: Key,
        content_type: ContentType = None,
        if_none_match: CreateOnly = False,
    ) -> dict[str, Any]:
        """See `StorageProvider`."""
        self.may_write()
        name, kind = self.name(key), content_type or content_type_of(key, text=False)
        parts = parts_of(chunks, self.config.max_object_bytes, self.part_bytes)
        head = [await anext(parts, b"")]
        second = await anext(parts, None)
        if second is None:
            entry = await self.store(name, head[0], kind, if_none_match)
        else:
            head.append(second)
            del second  # parts are large: each is let go when it has been sent
            entry = await self.store_parts(name, rejoined(head, parts), kind, if_none_match)
        return shown(key, entry)

    async def copy(self, source: Key, target: Key) -> dict[str, Any]:
        """See `StorageProvider`."""
        self.may_write()
        return shown(target, await self.duplicate(self.name(source), self.name(target)))

    async def delete(self, key: Key) -> dict[str, Any]:
        """See `StorageProvider`."""
        self.may_write()
        await self.retried(partial(self.remove, self.name(key)))
        return {"key": key, "deleted": True}

    async def presign(self, key: Key, method: Method = "GET", expires_s: Seconds = None) -> dict[str, Any]:
        """See `StorageProvider`."""
        if not self.config.allow_presign:
            raise OperationNotSupported("presign is off here; an admin can set allow_presign of the connector to true")
        if method == "PUT":
            self.may_write()
        seconds = expires_s or min(60, self.config.presign_max_s)
        if seconds > self.config.presign_max_s:
            raise InvalidRequest.at("expires_s", f"must be at most {self.config.presign_max_s} here (presign_max_s)")
        url = await self.signed(self.name(key), method, seconds)
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        made = {"url": url, "method": method, "expires_s": seconds, "expires_at": canonical(expires)}
        return {**made, "headers": dict(self.put_headers)} if method == "PUT" and self.put_headers else made
