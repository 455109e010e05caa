"""The storage verbs, written once over the few calls in which the services differ.

A member fills the holes below: `endpoint`, `page`, `describe`, `opened`, `store`, `store_parts`,
`duplicate`, `remove`, `signed` and `may`. Names there are whole names, prefix included; nothing
outside of this file turns a key into one.
"""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from studio.contract import Batch, Probe, Result, canonical
from studio.contract.keys import MAX_KEY_BYTES
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
    StorageProvider,
)
from studio.contract.web import Url
from studio.errors import InvalidRequest, OperationNotSupported, ReadOnly, UpstreamError
from studio.providers._objects_parts import (
    Content,
    Entry,
    Page,
    PastEnd,
    Stumbled,
    content_type_of,
    exactly,
    parts_of,
    passing,
    rejoined,
)
from studio.providers._objects_rows import Source, reader_of
from studio.providers._objects_text import COLUMNS, Listing, decoded, from_base64, shown

if TYPE_CHECKING:
    from aiohttp import ClientSession

Answer = TypeVar("Answer")
PAUSES_S = (0.1, 0.4)
"""Before the second and the third try of a call that only reads."""


class ObjectProvider(StorageProvider[ConfigT]):
    """A bucket or container behind an HTTP API."""

    put_headers: ClassVar[Mapping[str, str]] = {}
    """Headers that whoever uses a signed PUT has to send."""
    exact_tokens = True
    """Whether the service's next-page token means that there is a next row."""
    part_bytes = 8 * 1024 * 1024
    """Bytes of the first parts of a large object (later ones are larger)."""
    page_rows = 1000
    """Most rows that the service lists in one answer."""

    # -- the holes --------------------------------------------------------------------------------

    @abstractmethod
    def endpoint(self) -> Url:
        """Where requests go."""

    @abstractmethod
    async def page(self, prefix: str, delimiter: str | None, token: str | None, limit: int) -> Page:
        """One answer of the listing call; of at most `limit` rows."""

    @abstractmethod
    async def describe(self, name: str) -> Entry:
        """What is known of one object."""

    @abstractmethod
    def opened(
        self, name: str, offset: int, length: int | None, etag: str | None
    ) -> AbstractAsyncContextManager[Content]:
        """Open a range for reading; with an `etag`, only of that very object."""

    @abstractmethod
    async def store(self, name: str, body: bytes, content_type: str, create_only: bool) -> Entry:
        """Store a small object in one call."""

    @abstractmethod
    async def store_parts(self, name: str, parts: AsyncIterator[bytes], content_type: str, create_only: bool) -> Entry:
        """Store a large object of parts; on any failure nothing of it stays."""

    @abstractmethod
    async def duplicate(self, source: str, target: str) -> Entry:
        """Copy inside of the bucket, by the service itself."""

    @abstractmethod
    async def remove(self, name: str) -> None:
        """Delete; no error where there is none."""

    @abstractmethod
    async def signed(self, name: str, method: Method, seconds: int) -> str:
        """A URL that is good for so long."""

    @abstractmethod
    async def may(self) -> dict[str, Any]:
        """`Probe.privileges`, found out without writing."""

    # -- the verbs --------------------------------------------------------------------------------

    async def ping(self) -> None:
        """List one key."""
        await self.page(self.config.prefix, None, None, 1)

    async def list(
        self, prefix: KeyPrefix = "", delimiter: Delimiter = None, cursor: Cursor = None, limit: Limit = None
    ) -> Result:
        """See `StorageProvider`."""
        listing = Listing(self.config, self._name(prefix), delimiter, cursor, limit)
        ask = partial(self.page, listing.prefix, delimiter)
        while listing.missing:
            page = await self._retried(partial(ask, listing.token, min(listing.missing, self.page_rows)))
            fit = listing.take(page)
            if fit:  # ask again for just these, for a token that stands right behind them
                listing.take(await self._retried(partial(ask, listing.token, fit)))
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
            page = await self._retried(partial(ask, token, 1))
            if page.rows:
                return True
            token = page.token
        return False

    async def head(self, key: Key) -> dict[str, Any]:
        """See `StorageProvider`."""
        return shown(key, await self._retried(partial(self.describe, self._name(key))))

    async def get(self, key: Key, offset: Offset = 0, length: Length = None, encoding: Encoding = "auto") -> Result:
        """See `StorageProvider`."""
        cap = self.config.max_bytes
        async with self._content(self._name(key), offset, min(length or cap, cap)) as content:
            body = b"".join([chunk async for chunk in exactly(content)])
        asked = min(length or content.entry.size, content.entry.size - offset)
        found = await decoded(body, encoding, content.entry, offset, cap)
        data = {**shown(key, content.entry), "offset": offset, **found}
        return Result(data=data, row_count=1, truncated=found["length"] < asked)

    @asynccontextmanager
    async def read(self, key: Key, offset: Offset = 0, length: Length = None) -> AsyncIterator[Download]:
        """See `StorageProvider`."""
        async with self._content(self._name(key), offset, length) as content:
            if content.length > self.config.max_object_bytes:
                raise InvalidRequest("the object is larger than max_object_bytes of this connector; ask for a range")
            yield Download(
                exactly(content),
                content.length,
                offset=offset,
                size=content.entry.size,
                content_type=content.entry.content_type or "application/octet-stream",
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
        source = Source(key, partial(self._content, self._name(key)), self.config)
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
        self._may_write()
        if (text is None) == (base64 is None):
            raise InvalidRequest("put: give the content as text or as base64, one of the two")
        body = text.encode() if text is not None else from_base64(base64 or "")
        kind = content_type or content_type_of(key, text=text is not None)
        return shown(key, await self.store(self._name(key), body, kind, if_none_match))

    async def write(
        self,
        chunks: AsyncIterator[bytes],
        key: Key,
        content_type: ContentType = None,
        if_none_match: CreateOnly = False,
    ) -> dict[str, Any]:
        """See `StorageProvider`."""
        self._may_write()
        name, kind = self._name(key), content_type or content_type_of(key, text=False)
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
        self._may_write()
        return shown(target, await self.duplicate(self._name(source), self._name(target)))

    async def delete(self, key: Key) -> dict[str, Any]:
        """See `StorageProvider`."""
        self._may_write()
        await self._retried(partial(self.remove, self._name(key)))
        return {"key": key, "deleted": True}

    async def presign(self, key: Key, method: Method = "GET", expires_s: Seconds = None) -> dict[str, Any]:
        """See `StorageProvider`."""
        if not self.config.allow_presign:
            raise OperationNotSupported("presign is off here; an admin can set allow_presign of the connector to true")
        if method == "PUT":
            self._may_write()
        seconds = expires_s or min(60, self.config.presign_max_s)
        if seconds > self.config.presign_max_s:
            raise InvalidRequest.at("expires_s", f"must be at most {self.config.presign_max_s} here (presign_max_s)")
        url = await self.signed(self._name(key), method, seconds)
        expires = datetime.now(UTC) + timedelta(seconds=seconds)
        made = {"url": url, "method": method, "expires_s": seconds, "expires_at": canonical(expires)}
        return {**made, "headers": dict(self.put_headers)} if method == "PUT" and self.put_headers else made

    # -- the connection test ----------------------------------------------------------------------

    async def session(self, stack: AsyncExitStack) -> ClientSession:
        """The guarded HTTP session that a member's `open` builds on."""
        net = await asyncio.to_thread(import_module, "studio.providers._objects_net")
        config = self.config
        return await net.session(  # type: ignore[no-any-return]
            stack,
            self.network,
            connections=config.pool_size,
            connect_s=config.connect_timeout_s,
            read_s=config.timeout_s,
            ca=getattr(config, "ssl_ca", None),
        )

    async def reach(self, probe: Probe) -> None:
        """See `_objects_net.reach`."""
        from studio.providers import _objects_net as net

        ca = getattr(self.config, "ssl_ca", None)
        await net.reach(probe, self.network, self.endpoint(), connect_s=self.config.connect_timeout_s, ca=ca)

    async def privileges(self) -> dict[str, Any]:
        """See `may` of the member."""
        return await self.may()

    async def sample(self) -> str | None:
        """See `StorageProvider`."""
        page = await self.page(self.config.prefix, None, None, 10)
        readable = next((entry for entry in page.entries if entry.size), None)
        if readable is None:
            return "there is no object below the prefix yet, so reading one was not tried"
        async with self.opened(readable.name, 0, 1, None) as content:
            _ = [chunk async for chunk in content.chunks]
        return "one byte of one object was read"

    # -- below the verbs --------------------------------------------------------------------------

    def _name(self, key: str) -> str:
        """The whole name of a key. Raises InvalidRequest."""
        name = self.config.prefix + key
        if len(name.encode()) > MAX_KEY_BYTES:
            raise InvalidRequest.at("key", f"is longer than {MAX_KEY_BYTES} bytes together with the prefix")
        return name

    def _may_write(self) -> None:
        """The second layer below policy, which has refused this before. Raises ReadOnly."""
        if self.config.read_only:
            raise ReadOnly("this connector only reads; ask an admin to set read_only to false if it should write")

    @asynccontextmanager
    async def _content(
        self, name: str, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AsyncIterator[Content]:
        """Open a range, a few times if need be. An empty object has no range, and is content all the same."""
        async with AsyncExitStack() as stack:
            content: Content | None = None
            try:
                manager = partial(self.opened, name, offset, length, etag)
                content = await self._retried(lambda: stack.enter_async_context(manager()))
            except Exception as exc:
                if offset or not isinstance(self.error(exc), PastEnd):
                    raise
            if content is None:
                content = Content(await self._retried(partial(self.describe, name)), 0, rejoined([]))
                if content.entry.size:
                    raise UpstreamError("the server refuses the range that it was asked for")
            yield content

    async def _retried(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of a call that may run again; where trouble may pass, it does, at most twice."""
        for pause in PAUSES_S:
            try:
                return await call()
            except Exception as exc:
                error = self.error(exc)
                if not passing(error):
                    raise
            await asyncio.sleep(max(pause * random.uniform(0.5, 1.5), error.retry_after_s or 0))  # noqa: S311
        return await call()


__all__ = ["Content", "Entry", "ObjectProvider", "Page", "PastEnd", "Stumbled"]
