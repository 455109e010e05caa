"""Conformance of the storage family: what fails, hangs, lies or dies; with the streams of bytes below it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any, ClassVar

import pytest

from studio.contract import Provider
from studio.errors import EgressDenied, PoolBusy, StudioError, Unreachable
from studio.providers import load
from studio.security.egress import Egress
from studio.services.connector_service import ConnectorService
from studio.testing.harness import call, open_provider, says_who_enforces
from studio.testing.http import Received, upstream
from studio.testing.storage_rogue import Behaviour, Rogue, answering, raw, repeated
from studio.testing.storage_streams import MIB, StorageStreams

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


class StorageFaults(StorageStreams):
    """Needs, beside a place: how to move it to another port, and a server that may be killed."""

    missing: ClassVar[dict[str, Any]]
    """Changes of the config that name a bucket which is not there."""

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

    # -- a connection test ----------------------------------------------------------------------

    async def test_a_test_names_its_stages_and_says_who_enforces_read_only(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        tested = await service.test_connection(await self.connect(service, config))
        names = [stage["name"] for stage in tested["stages"]]
        assert [name for name in names if name != "tls"] == ["resolve", "connect", "login", "privileges", "sample"]
        says_who_enforces(tested)
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
        monkeypatch.setattr("studio.providers._objects.base.PAUSES_S", (0.0, 0.0))
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
        load = [asyncio.create_task(service.execute_query(connector_id, "list")) for _ in range(20)]
        await asyncio.to_thread(own.crash)
        for ended in await asyncio.gather(*load, return_exceptions=True):
            assert not isinstance(ended, BaseException) or isinstance(ended, Unreachable | PoolBusy), ended
        with pytest.raises(Unreachable):
            await service.execute_query(connector_id, "list")
        await asyncio.to_thread(own.launch)
        await service.execute("put", {"key": "a", "text": "y"}, connector_id=connector_id)
        assert (await service.execute_query(connector_id, "get a"))["data"]["content"] == "y"

    async def test_a_cancelled_call_is_ended_for_the_server_too(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        async def never(_: Received) -> bytes:
            await asyncio.sleep(60)
            return b""

        async with upstream(never) as server:
            connector_id = await self.connect(service, self.at(config, server.port), name="slow")
            task = asyncio.create_task(service.execute_query(connector_id, self.one))
            async with asyncio.timeout(10):
                while not server.requests:  # noqa: ASYNC110 - only the server knows
                    await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert await server.drained(), "a connection outlived its call"

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
