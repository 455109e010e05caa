"""`azure_blob`: signatures, rights, and what the driver would do by itself."""

from __future__ import annotations

import gzip
from typing import Any
from uuid import uuid4

import pytest
from tests.upstreams.azurite import Azurite

from studio.contract import Probe
from studio.errors import AuthFailed, InvalidConfig, StudioError, UpstreamError
from studio.providers import load
from studio.testing.harness import call, open_provider
from studio.testing.storage_rogue import Memory, Rogue, answering, repeated

AZURE = load("azure_blob")
MIB = 1024 * 1024
EMPTY = b'<?xml version="1.0"?><EnumerationResults ContainerName="box"><Blobs/><NextMarker/></EnumerationResults>'


def at(url: str, **more: Any) -> dict[str, Any]:
    return {"account": "acc1", "container": "box", "endpoint": f"{url}/acc1", **more}


async def test_blanks_are_not_filled_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    xml = {"content-type": "application/xml"}
    async with Rogue(answering(200)) as sink, Rogue(answering(200, EMPTY, xml)) as server:
        for name in (
            "AZURE_STORAGE_CONNECTION_STRING",
            "AZURE_STORAGE_KEY",
            "AZURE_CLIENT_SECRET",
            "AZURE_HTTP_USER_AGENT",
        ):
            monkeypatch.setenv(name, "canary")
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "IDENTITY_ENDPOINT", "MSI_ENDPOINT"):
            monkeypatch.setenv(name, sink.url)
        async with open_provider(AZURE, at(server.url)) as provider:
            await call(provider, "list")
        seen = bytes(server.seen).lower()
        assert b"comp=list" in seen
        assert b"authorization" not in seen
        assert b"canary" not in seen
        assert sink.connections == 0


async def test_trouble_is_not_tried_again_by_the_driver_nor_at_a_second_address() -> None:
    async with Rogue(answering(500)) as server:
        async with open_provider(AZURE, at(server.url, account_key="a2V5", read_only=False)) as provider:
            with pytest.raises(UpstreamError):
                await call(provider, "put", key="a", text="x")
        assert server.connections == 1
        assert server.seen.count(b"PUT ") == 1


async def test_a_packed_answer_is_not_unpacked() -> None:
    bomb = gzip.compress(bytes(512 * MIB), 9)
    async with Rogue(answering(200, bomb, {"content-encoding": "gzip", "content-type": "application/xml"})) as server:
        async with open_provider(AZURE, at(server.url)) as provider, Memory() as used:
            with pytest.raises(UpstreamError):
                await call(provider, "list")
        assert server.connections
        assert used.most < 32 * MIB


async def test_an_answer_without_an_end_is_cut() -> None:
    async def endless(_head: bytes, writer: Any) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/xml\r\nconnection: close\r\n\r\n<x>")
        for _ in range(200):
            writer.write(bytes(MIB))
            await writer.drain()

    for kind, config in (
        ("azure_blob", lambda url: at(url)),
        ("s3", lambda url: {"bucket": "abc", "endpoint_url": url}),
        ("gcs", lambda url: {"bucket": "abc", "endpoint": url}),
    ):
        async with Rogue(endless) as server, open_provider(load(kind), config(server.url)) as provider:
            async with Memory() as used:
                with pytest.raises(UpstreamError, match="larger"):
                    await call(provider, "list")
            assert used.most < 256 * MIB


async def test_a_url_can_be_signed_with_an_account_key_only() -> None:
    for more in ({}, {"sas_token": "sv=1&sp=rl&sig=x"}):
        config = {"account": "acc1", "container": "box", "allow_presign": True, **more}
        async with open_provider(AZURE, config) as provider:
            with pytest.raises(InvalidConfig, match="account_key"):
                await call(provider, "presign", key="a")
    config = {"account": "acc1", "container": "box", "allow_presign": True, "account_key": "a2V5"}
    async with open_provider(AZURE, config) as provider:
        url = (await call(provider, "presign", key="a/ö b")).data["url"]
    assert url.startswith("https://acc1.blob.core.windows.net/box/a/%C3%B6%20b?")
    assert "spr=https&" in url


@pytest.mark.server
class TestRights:
    @pytest.fixture
    async def place(self, azurite: Azurite) -> dict[str, Any]:
        config = azurite.config(prefix=f"{uuid4()}/", read_only=False)
        async with open_provider(AZURE, config) as provider:
            await call(provider, "put", key="a", text="hello")
        return config

    def signed(self, place: dict[str, Any], azurite: Azurite, rights: str) -> dict[str, Any]:
        return {**{k: v for k, v in place.items() if k != "account_key"}, "sas_token": azurite.sas(rights)}

    async def test_a_signature_that_may_only_read_is_told_as_such(
        self, place: dict[str, Any], azurite: Azurite
    ) -> None:
        probe = Probe()
        async with open_provider(AZURE, place) as provider:
            await provider.probe(probe)
        assert probe.privileges is not None
        assert probe.privileges["enforced_by"] == "service"
        async with open_provider(AZURE, self.signed(place, azurite, "rl")) as provider:
            await provider.probe(probe)
            assert (probe.privileges["enforced_by"], probe.privileges["excess"]) == ("account", [])
            assert (await call(provider, "get", key="a")).data["content"] == "hello"
            form = provider.byte_form("put")
            for attempt in (
                call(provider, "put", key="b", text="x"),
                call(provider, "delete", key="a"),
                call(provider, "copy", source="a", target="b"),
                provider.upload(form, form.parse({"key": "b"}), repeated(20 * MIB)),
            ):
                with pytest.raises(UpstreamError, match="permission"):
                    await attempt

    async def test_a_signature_is_enough_for_every_verb(self, place: dict[str, Any], azurite: Azurite) -> None:
        async with open_provider(AZURE, self.signed(place, azurite, "racwdl")) as provider:
            await call(provider, "put", key="b", text="x")
            await call(provider, "copy", source="b", target="c ö")
            assert (await call(provider, "get", key="c ö")).data["content"] == "x"
            await call(provider, "delete", key="b")
            rows = (await call(provider, "list")).rows
            assert [row[0] for row in rows or ()] == ["a", "c ö"]

    async def test_a_signature_that_was_changed_is_auth_failed(self, place: dict[str, Any], azurite: Azurite) -> None:
        config = self.signed(place, azurite, "rl")
        config["sas_token"] = config["sas_token"].replace("sp=rl", "sp=rwdl")
        async with open_provider(AZURE, config) as provider:
            with pytest.raises(AuthFailed):
                await call(provider, "list")

    async def test_a_connection_string_connects(self, place: dict[str, Any], azurite: Azurite) -> None:
        text = f"DefaultEndpointsProtocol=http;AccountName={azurite.storage_account};AccountKey={azurite.key};BlobEndpoint={azurite.url};"
        config = {"container": azurite.container, "connection_string": text, "prefix": place["prefix"]}
        async with open_provider(AZURE, config) as provider:
            assert (await call(provider, "get", key="a")).data["content"] == "hello"

    async def test_stored_gzip_comes_as_it_is(self, place: dict[str, Any], azurite: Azurite) -> None:
        from azure.storage.blob import ContentSettings

        packed = gzip.compress(b"line\n" * 1000)
        with azurite._service() as service:
            blob = service.get_blob_client(azurite.container, f"{place['prefix']}log.gz")
            blob.upload_blob(packed, content_settings=ContentSettings(content_encoding="gzip"))
        async with open_provider(AZURE, place) as provider:
            assert (await call(provider, "get", key="log.gz", encoding="base64")).data["length"] == len(packed)
            assert (await call(provider, "rows", key="log.gz", form="text")).row_count == 1000


async def test_every_error_of_the_driver_is_translated() -> None:
    async with Rogue(answering(418)) as server, open_provider(AZURE, at(server.url)) as provider:
        with pytest.raises(StudioError) as caught:
            await call(provider, "list")
        assert caught.value.code == "upstream_error"
