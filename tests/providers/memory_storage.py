"""A storage provider over a dict, whose server can be slow, fail and lie: for tests of the verbs by themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from studio.contract.storage import StorageConfig
from studio.contract.web import Url
from studio.errors import NotFound, StudioError
from studio.providers._objects.parts import Content, Entry, Page, PastEnd
from studio.providers._objects.verbs import ObjectProvider


class Memory(ObjectProvider[StorageConfig]):
    """Objects in a dict, by whole name."""

    kind = "memory"
    Config = StorageConfig

    async def open(self, stack: AsyncExitStack) -> None:
        self.objects: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.given = 0
        self.chunk = 1000
        self.fault: Callable[[str], None] = lambda call: None
        self.etag = "1"

    def translate(self, exc: Exception) -> StudioError | None:
        return None

    def endpoint(self) -> Url:
        return Url("http", "memory", 80, "")

    def _called(self, call: str) -> None:
        self.calls.append(call)
        self.fault(call)

    async def page(self, prefix: str, delimiter: str | None, token: str | None, limit: int) -> Page:
        self._called("page")
        rows: dict[str, Entry | None] = {}
        for name in sorted(self.objects):
            if name.startswith(prefix):
                rest, slash, _ = name[len(prefix) :].partition("/")
                if delimiter and slash:
                    rows[f"{prefix}{rest}/"] = None
                else:
                    rows[name] = Entry(name, len(self.objects[name]))
        left = [row for row in rows.items() if row[0] > (token or "")]
        taken = left[:limit]
        entries = [entry for _, entry in taken if entry is not None]
        prefixes = [name for name, entry in taken if entry is None]
        return Page(entries, prefixes, taken[-1][0] if len(left) > limit else None)

    async def describe(self, name: str) -> Entry:
        self._called("describe")
        if name not in self.objects:
            raise NotFound("no such object")
        return Entry(name, len(self.objects[name]), etag=self.etag)

    @asynccontextmanager
    async def opened(self, name: str, offset: int, length: int | None, etag: str | None) -> AsyncIterator[Content]:
        self._called("opened")
        if name not in self.objects:
            raise NotFound("no such object")
        body = self.objects[name]
        if (offset or length) and offset >= len(body):
            raise PastEnd
        end = len(body) if length is None else min(len(body), offset + length)
        yield Content(Entry(name, len(body), etag=self.etag), end - offset, self._chunks(body[offset:end]))

    async def _chunks(self, body: bytes) -> AsyncIterator[bytes]:
        for at in range(0, len(body), self.chunk):
            self.given += len(body[at : at + self.chunk])
            yield body[at : at + self.chunk]

    async def store(self, name: str, body: bytes, content_type: str, create_only: bool) -> Entry:
        self._called("store")
        self.objects[name] = body
        return Entry(name, len(body), content_type=content_type)

    async def store_parts(self, name: str, parts: AsyncIterator[bytes], content_type: str, create_only: bool) -> Entry:
        self.objects[name] = b"".join([part async for part in parts])
        return Entry(name, len(self.objects[name]))

    async def duplicate(self, source: str, target: str) -> Entry:
        self.objects[target] = self.objects[source]
        return Entry(target, len(self.objects[target]))

    async def remove(self, name: str) -> None:
        self._called("remove")
        self.objects.pop(name, None)

    async def signed(self, name: str, method: str, seconds: int) -> str:
        return f"memory:{name}"

    async def privileges(self) -> dict[str, Any]:
        return {"enforced_by": "service", "excess": [], "grant": ["read"]}
