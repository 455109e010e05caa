"""Conformance of the storage family: streams of bytes, and what fails, hangs, lies or dies."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

from studio.contract import Provider
from studio.errors import Conflict, EgressDenied, InvalidRequest, NotFound, ReadOnly, StudioError, Unreachable
from studio.providers import load
from studio.security.egress import Egress
from studio.services.connector_service import ConnectorService
from studio.testing.harness import call, open_provider
from studio.testing.storage_base import StorageBase
from studio.testing.storage_rogue import Behaviour, Memory, Rogue, answering, raw, repeated

MIB = 1024 * 1024
SECRETS = ("#", "@", "/", ":", "%", "%2f", " ", "a b", "'", '"', "\\", "ünïcödé", "$HOME", "x" * 200)
"""What a secret may hold, and no answer may repeat."""
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("list", {}), ("head", {"key": "a"}), ("get", {"key": "a"}), ("rows", {"key": "a.csv"}),
    ("rows", {"key": "a.parquet"}), ("put", {"key": "a", "text": "x"}), ("delete", {"key": "a"}),
    ("copy", {"source": "a", "target": "b"}), ("put", {"key": "a", "text": "x", "if_none_match": True}),
)  # fmt: skip


NONSENSE: tuple[Behaviour, ...] = (
    raw(b""),
    raw(b"\x00\xff" * 100),
    raw(b"SSH-2.0-x\r\n"),
    raw(b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nx"),
    raw(b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 9000 + b"\r\n"),
    answering(200, b"<html>hello</html>"),
    answering(200, b"not what you want", {"content-type": "application/json"}),
    answering(200, b'{"items": [1]}', {"content-type": "application/json"}),
    answering(200, b"\x1f\x8b" + b"x" * 99, {"content-encoding": "gzip"}),
    answering(200, b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult><Name>&a;</Name></ListBucketResult>'),
    answering(204),
    answering(206, b"xxxx", {"content-range": "bytes 900-903/99999999999999999999999"}),
    answering(403, b"{"),
    answering(404),
    answering(500, b"<x>"),
)


async def outcome(provider: Provider[Any], name: str, arguments: dict[str, Any]) -> tuple[str | None, int]:
    """The code of the error that a call ends with, or the size of its answer."""
    try:
        answer = await call(provider, name, **arguments)
    except StudioError as exc:
        return exc.code, 0
    return None, len(json.dumps(answer.to_dict()))


class StorageFaults(StorageBase):
    """Needs, beside a place: how to move it to another port, and a server that may be killed."""

    missing: ClassVar[dict[str, Any]]
    """Changes of the config that name a bucket which is not there."""
    large: ClassVar[int] = 256 * MIB
    put_memory: ClassVar[int] = 64 * MIB
    get_memory: ClassVar[int] = 24 * MIB

    def at(self, place: dict[str, Any], port: int, host: str = "127.0.0.1") -> dict[str, Any]:
        """The place, behind plain HTTP on another address. To be overridden."""
        raise NotImplementedError

    def with_secret(self, secret: str) -> dict[str, Any]:
        """Changes of the config that give a wrong secret of about these characters."""
        return {self.secret_field: f"wr0ng{secret}wr0ng"}

    @pytest.fixture
    def own(self) -> Any:
        """A server of the test's own, with `config()`, `crash()` and `launch()`. To be overridden."""
        raise NotImplementedError

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

    # -- a connection test ----------------------------------------------------------------------

    async def test_a_test_names_its_stages_and_says_who_enforces_read_only(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        tested = await service.test_connection(await self.connect(service, config))
        names = [stage["name"] for stage in tested["stages"]]
        assert [name for name in names if name != "tls"] == ["resolve", "connect", "login", "privileges", "sample"]
        assert tested["privileges"]["enforced_by"] in {"account", "service"}
        rows = (await service.execute("list", connector_id=await self.connect(service, config, name="second")))["data"]
        assert [row["key"] for row in rows] == ["hello.txt"], "the test of a connection wrote something"

    async def test_a_wrong_secret_is_auth_failed_and_no_answer_repeats_it(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        for number, text in enumerate(SECRETS):
            wrong = self.with_secret(text)
            connector_id = await self.connect(service, config, name=f"c{number}", **wrong)
            tested = await service.test_connection(connector_id)
            assert (tested["success"], tested["code"]) == (False, "auth_failed"), tested
            shown = json.dumps([tested, await service.get(connector_id)], ensure_ascii=False)
            assert "wr0ng" not in shown
        assert tested["stages"][-1]["fix"]

    async def test_a_missing_bucket_is_named(self, service: ConnectorService, config: dict[str, Any]) -> None:
        connector_id = await self.connect(service, config, **self.missing)
        for query in ("list", "get x", "head x"):
            with pytest.raises(StudioError, match=r"bucket|container") as caught:
                await service.execute_query(connector_id, query)
            assert caught.value.code == "upstream_error"

    # -- the network ----------------------------------------------------------------------------

    async def test_a_closed_port_is_unreachable_at_once(
        self, service: ConnectorService, config: dict[str, Any], unused_tcp_port: int
    ) -> None:
        connector_id = await self.connect(service, self.at(config, unused_tcp_port))
        start = time.perf_counter()
        with pytest.raises(Unreachable):
            await service.execute_query(connector_id, self.one)
        assert time.perf_counter() - start < 2
        tested = await service.test_connection(connector_id)
        failed = [stage for stage in tested["stages"] if not stage["ok"]]
        assert (tested["code"], failed[0]["name"]) == ("unreachable", "connect")

    async def test_a_server_that_says_nothing_costs_the_deadline_and_no_more(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        async with Rogue() as rogue:
            connector_id = await self.connect(service, self.at(config, rogue.port), timeout_s=0.5)
            start = time.perf_counter()
            with pytest.raises(StudioError) as caught:
                await service.execute_query(connector_id, self.one)
            assert caught.value.code == "timeout"
            assert time.perf_counter() - start < 1.5

    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_no_redirect_is_followed(self, config: dict[str, Any], status: int) -> None:
        async with Rogue(answering(200)) as sink, Rogue() as rogue:
            rogue.behaviour = answering(status, headers={"location": f"{sink.url}/stolen", **self.lure(sink.url)})
            moved = {**self.at(config, rogue.port), "read_only": False}
            async with open_provider(load(self.kind), moved) as provider:
                for name, arguments in CALLS:
                    with pytest.raises(StudioError):
                        await call(provider, name, **arguments)
                with pytest.raises(StudioError):
                    await self.upload(provider, repeated(20 * MIB), key="a")
            assert rogue.connections
            assert sink.connections == 0

    def lure(self, url: str) -> dict[str, str]:
        """More headers of a redirecting answer that this service's clients would follow."""
        return {}

    async def test_a_server_that_talks_nonsense_is_an_error_of_ours(
        self, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("studio.providers._objects_base.PAUSES_S", (0.0, 0.0))
        async with Rogue() as rogue:
            moved = {**self.at(config, rogue.port), "read_only": False, "timeout_s": 2.0}
            async with open_provider(load(self.kind), moved) as provider:
                for number, behaviour in enumerate(NONSENSE):
                    rogue.behaviour = behaviour
                    for name, arguments in CALLS:
                        code, size = await outcome(provider, name, arguments)
                        assert code != "internal", (number, name)
                        assert size < 10_000

    async def test_closed_addresses_are_not_dialled(self, config: dict[str, Any]) -> None:
        for host in ("169.254.169.254", "[fd00:ec2::254]", "168.63.129.16", "0.0.0.0"):  # noqa: S104
            async with open_provider(load(self.kind), self.at(config, 80, host)) as provider:
                with pytest.raises(EgressDenied):
                    await call(provider, "list")
        async with Rogue() as sink:
            shut = Egress(private_open=False)
            for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]"):
                moved = {**self.at(config, sink.port, host), "read_only": False}
                async with open_provider(load(self.kind), moved, network=shut) as provider:
                    for name, arguments in CALLS:
                        with pytest.raises(EgressDenied):
                            await call(provider, name, **arguments)
            assert sink.connections == 0

    async def test_a_killed_server_heals(self, service: ConnectorService, own: Any) -> None:
        config = own.config(prefix="mine/", read_only=False)
        connector_id = await self.connect(service, config)
        await service.execute("put", {"key": "a", "text": "x"}, connector_id=connector_id)
        await asyncio.to_thread(own.crash)
        with pytest.raises(Unreachable):
            await service.execute_query(connector_id, "list")
        await asyncio.to_thread(own.launch)
        await service.execute("put", {"key": "a", "text": "y"}, connector_id=connector_id)
        assert (await service.execute_query(connector_id, "get a"))["data"]["content"] == "y"

    async def test_a_cancelled_call_leaves_a_usable_connector(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        connector_id = await self.connect(service, config, name="narrow", pool_size=1)
        for pause in (0, 0.001, 0.003, 0.01):
            task = asyncio.create_task(service.execute_query(connector_id, "list"))
            await asyncio.sleep(pause)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert (await service.execute_query(connector_id, self.one))["row_count"] == 1
