"""What the storage verbs stand on: the holes that a member fills, its session, and the calls that may run again.

Names here are whole names, prefix included; `name` is the one place that makes one of a key.
"""

from __future__ import annotations

import asyncio
import random
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, ClassVar, TypeVar

from studio.contract import Probe
from studio.contract.keys import MAX_KEY_BYTES
from studio.contract.storage import ConfigT, Method, StorageProvider
from studio.contract.web import Url
from studio.errors import InvalidRequest, ReadOnly, UpstreamError
from studio.providers._objects.parts import Content, Entry, Page, PastEnd, passing, rejoined

if TYPE_CHECKING:
    from aiohttp import ClientSession

Answer = TypeVar("Answer")
PAUSES_S = (0.1, 0.4)
"""Before the second and the third try of a call that only reads."""


class ObjectBase(StorageProvider[ConfigT]):
    """A bucket or container behind an HTTP API, below the verbs."""

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

    # -- the connection test ----------------------------------------------------------------------

    async def session(self, stack: AsyncExitStack) -> ClientSession:
        """The guarded HTTP session that a member's `open` builds on."""
        net = await asyncio.to_thread(import_module, "studio.providers._objects.net")
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
        """See `net.reach`."""
        from studio.providers._objects import net

        ca = getattr(self.config, "ssl_ca", None)
        await net.reach(probe, self.network, self.endpoint(), connect_s=self.config.connect_timeout_s, ca=ca)

    async def sample(self) -> str | None:
        """See `StorageProvider`."""
        page = await self.page(self.config.prefix, None, None, 10)
        readable = next((entry for entry in page.entries if entry.size), None)
        if readable is None:
            return "there is no object below the prefix yet, so reading one was not tried"
        async with self.opened(readable.name, 0, 1, None) as content:
            _ = [chunk async for chunk in content.chunks]
        return "one byte of one object was read"

    # -- for the verbs ----------------------------------------------------------------------------

    def name(self, key: str) -> str:
        """The whole name of a key. Raises InvalidRequest."""
        name = self.config.prefix + key
        if len(name.encode()) > MAX_KEY_BYTES:
            raise InvalidRequest.at("key", f"is longer than {MAX_KEY_BYTES} bytes together with the prefix")
        return name

    def may_write(self) -> None:
        """The second layer below policy, which has refused this before. Raises ReadOnly."""
        if self.config.read_only:
            raise ReadOnly("this connector only reads; ask an admin to set read_only to false if it should write")

    @asynccontextmanager
    async def content(
        self, name: str, offset: int = 0, length: int | None = None, etag: str | None = None
    ) -> AsyncIterator[Content]:
        """Open a range, a few times if need be. An empty object has no range, and is content all the same."""
        async with AsyncExitStack() as stack:
            content: Content | None = None
            try:
                manager = partial(self.opened, name, offset, length, etag)
                content = await self.retried(lambda: stack.enter_async_context(manager()))
            except Exception as exc:
                if offset or not isinstance(self.error(exc), PastEnd):
                    raise
            if content is None:
                content = Content(await self.retried(partial(self.describe, name)), 0, rejoined([]))
                if content.entry.size:
                    raise UpstreamError("the server refuses the range that it was asked for")
            yield content

    async def retried(self, call: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of a call that may run again; where trouble may pass, it does, at most twice."""
        for pause in PAUSES_S:
            try:
                return await call()
            except Exception as exc:
                least = self._passes(exc)
                if least is None:
                    raise
            await asyncio.sleep(max(pause * random.uniform(0.5, 1.5), least))  # noqa: S311
        return await call()

    def _passes(self, exc: Exception) -> float | None:
        """The least pause before another try, seconds; None where there shall be none.

        A method of its own: an error that a frame of its traceback holds keeps what it was about, which is megabytes.
        """
        error = self.error(exc)
        return (error.retry_after_s or 0) if passing(error) else None
