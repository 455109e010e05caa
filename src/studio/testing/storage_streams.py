"""Conformance of the storage family: objects of any size as streams of bytes."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from studio.contract import Provider
from studio.errors import Conflict, InvalidRequest, NotFound, ReadOnly
from studio.providers import load
from studio.testing.harness import call, open_provider
from studio.testing.storage_base import StorageBase
from studio.testing.storage_rogue import Memory, repeated

MIB = 1024 * 1024


class StorageStreams(StorageBase):
    """What goes in and out without ever being held as a whole."""

    large: ClassVar[int] = 256 * MIB
    put_memory: ClassVar[int] = 64 * MIB
    get_memory: ClassVar[int] = 24 * MIB

    def unfinished(self, place: dict[str, Any]) -> list[str]:
        """Uploads below the place that were begun and are still kept, where the service has such a thing."""
        return []

    @pytest.fixture
    async def provider(self, config: dict[str, Any]) -> AsyncIterator[Provider[Any]]:
        """The provider by itself; it may write."""
        async with open_provider(load(self.kind), {**config, "read_only": False}) as provider:
            yield provider

    async def upload(self, provider: Provider[Any], chunks: AsyncIterator[bytes], **arguments: Any) -> Any:
        """Stream in."""
        form = provider.byte_form("put")
        return (await provider.upload(form, form.parse(arguments), chunks)).data

    # -- streams --------------------------------------------------------------------------------

    async def test_a_large_object_is_streamed_in_and_out_in_constant_memory(self, provider: Provider[Any]) -> None:
        await self.upload(provider, repeated(9 * MIB), key="warm")
        start = time.perf_counter()
        async with Memory() as putting:
            stored = await self.upload(provider, repeated(self.large), key="large")
        put_s, start = time.perf_counter() - start, time.perf_counter()
        assert stored["size"] == self.large
        form, size = provider.byte_form("get"), 0
        async with Memory() as getting, provider.download(form, form.parse({"key": "large"})) as content:
            assert content.length == self.large
            async for chunk in content.chunks:
                size += len(chunk)
        assert size == self.large
        print(
            f"\n{self.kind}: put {put_s:.1f} s, +{putting.most // MIB} MiB; "
            f"get {time.perf_counter() - start:.1f} s, +{getting.most // MIB} MiB"
        )
        assert putting.most < self.put_memory
        assert getting.most < self.get_memory

    async def test_streamed_bytes_come_back_unchanged_whatever_their_chunks(self, provider: Provider[Any]) -> None:
        async def odd(content: bytes) -> AsyncIterator[bytes]:
            at, size = 0, 1
            while at < len(content):
                yield content[at : at + size]
                at, size = at + size, size * 3 % 3_000_001 + 1

        for length in (0, 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 20 * MIB):
            given = os.urandom(length)
            stored = await self.upload(provider, odd(given), key="odd.bin", content_type="application/x-odd")
            assert stored["size"] == length
            form = provider.byte_form("get")
            async with provider.download(form, form.parse({"key": "odd.bin"})) as content:
                assert b"".join([chunk async for chunk in content.chunks]) == given
                assert (content.content_type, content.details["key"]) == ("application/x-odd", "odd.bin")
        async with provider.download(form, form.parse({"key": "odd.bin", "offset": 8 * MIB, "length": 7})) as content:
            assert b"".join([chunk async for chunk in content.chunks]) == given[8 * MIB : 8 * MIB + 7]
            assert (content.offset, content.length, content.size) == (8 * MIB, 7, 20 * MIB)

    async def test_a_stream_that_fails_or_is_cancelled_leaves_nothing_behind(
        self, provider: Provider[Any], config: dict[str, Any]
    ) -> None:
        async def failing() -> AsyncIterator[bytes]:
            async for chunk in repeated(20 * MIB):
                yield chunk
            raise ZeroDivisionError

        async def endless() -> AsyncIterator[bytes]:
            async for chunk in repeated(20 * MIB):
                yield chunk
            await asyncio.sleep(60)

        with pytest.raises(ZeroDivisionError):
            await self.upload(provider, failing(), key="half")
        task = asyncio.create_task(self.upload(provider, endless(), key="half"))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(NotFound):
            await call(provider, "head", key="half")
        assert self.unfinished(config) == []

    async def test_create_only_holds_for_streams_too(self, provider: Provider[Any]) -> None:
        for key, size in (("small", 10), ("long", 20 * MIB)):
            await self.upload(provider, repeated(size), key=key, if_none_match=True)
            with pytest.raises(Conflict):
                await self.upload(provider, repeated(size + 1), key=key, if_none_match=True)
            assert (await call(provider, "head", key=key)).data["size"] == size

    async def test_max_object_bytes_bounds_a_stream_in_both_directions(self, config: dict[str, Any]) -> None:
        bounded = {**config, "read_only": False, "max_object_bytes": 10 * MIB}
        async with open_provider(load(self.kind), bounded) as provider:
            with pytest.raises(InvalidRequest, match="max_object_bytes"):
                await self.upload(provider, repeated(10 * MIB + 1), key="long")
            with pytest.raises(NotFound):
                await call(provider, "head", key="long")
            await self.upload(provider, repeated(10 * MIB), key="fits")
        assert self.unfinished(config) == []
        form = provider.byte_form("get")
        async with open_provider(load(self.kind), {**config, "max_object_bytes": MIB}) as provider:
            with pytest.raises(InvalidRequest, match="max_object_bytes"):
                async with provider.download(form, form.parse({"key": "fits"})):
                    pass
            async with provider.download(form, form.parse({"key": "fits", "length": MIB})) as content:
                assert content.length == MIB

    async def test_a_stream_left_early_gives_its_connection_back(self, config: dict[str, Any]) -> None:
        async with open_provider(load(self.kind), {**config, "read_only": False, "pool_size": 1}) as provider:
            await self.upload(provider, repeated(20 * MIB), key="long")
            form = provider.byte_form("get")
            for _ in range(3):
                async with provider.download(form, form.parse({"key": "long"})) as content:
                    async for _chunk in content.chunks:
                        break
            assert (await call(provider, "get", key="hello.txt")).data["content"] == "hello"

    async def test_a_reader_may_not_stream_in(self, config: dict[str, Any]) -> None:
        async with open_provider(load(self.kind), config) as provider:
            with pytest.raises(ReadOnly):
                await self.upload(provider, repeated(1), key="hello.txt")

    async def test_nothing_stays_open(self, config: dict[str, Any]) -> None:
        async with open_provider(load(self.kind), config) as provider:
            await call(provider, "list")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            async with open_provider(load(self.kind), config) as provider:
                await asyncio.gather(*(call(provider, "get", key="hello.txt") for _ in range(4)))
                await call(provider, "rows", key="hello.txt")
        await asyncio.sleep(0.05)
        assert len(os.listdir("/proc/self/fd")) <= before
