"""`gcs`: tokens, rights, and addresses that a server or a key file would choose."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from tests.upstreams.gcs import VIEWER, Gcs, service_account

from studio.contract import Probe
from studio.errors import AuthFailed, InvalidConfig, StudioError, UpstreamError
from studio.providers import load
from studio.testing.harness import call, open_provider
from studio.testing.storage_rogue import Rogue, answering, repeated

GCS = load("gcs")
TOKEN = b'{"access_token": "t0ken", "expires_in": 3600}'
MIB = 1024 * 1024


async def test_blanks_are_not_filled_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Rogue(answering(200, b"{}")) as sink, Rogue(answering(200, b'{"items": []}')) as server:
        for name in (
            "STORAGE_EMULATOR_HOST",
            "GCE_METADATA_HOST",
            "GCE_METADATA_IP",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
        ):
            monkeypatch.setenv(name, sink.url)
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/proc/self/environ")
        async with open_provider(GCS, {"bucket": "abc", "endpoint": server.url}) as provider:
            await call(provider, "list")
        assert b"authorization" not in bytes(server.seen).lower()
        assert sink.connections == 0


async def test_the_key_files_own_token_uri_is_not_asked() -> None:
    async with Rogue(answering(200, TOKEN)) as sink, Rogue(answering(200, TOKEN)) as server:
        account = service_account(
            token_uri=f"{sink.url}/token", auth_uri=sink.url, universe_domain=f"127.0.0.1:{sink.port}"
        )
        config = {"bucket": "abc", "endpoint": server.url, "service_account": account}
        async with open_provider(GCS, config) as provider:
            await call(provider, "list")
        assert b"POST /token" in server.seen
        assert b"Bearer t0ken" in server.seen
        assert sink.connections == 0


async def test_one_token_serves_all_who_wait() -> None:
    async with Rogue(answering(200, TOKEN)) as server:
        config = {"bucket": "abc", "endpoint": server.url, "service_account": service_account()}
        async with open_provider(GCS, config) as provider:
            await asyncio.gather(*(call(provider, "list") for _ in range(30)))
            await call(provider, "list")
        assert server.seen.count(b"POST /token") == 1
        assert server.seen.count(b"Bearer t0ken") == 31


async def test_a_token_is_renewed_before_it_ends() -> None:
    async with Rogue(answering(200, TOKEN.replace(b"3600", b"1"))) as server:
        config = {"bucket": "abc", "endpoint": server.url, "service_account": service_account()}
        async with open_provider(GCS, config) as provider:
            await call(provider, "list")
            await asyncio.sleep(1.1)
            await call(provider, "list")
        assert server.seen.count(b"POST /token") == 2


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"access_token": 1.5e999}', b'{"access_token": "a b"}', b'{"access_token": "a\\r\\nb"}',
             b'{"access_token": "a", "expires_in": "soon"}', b'{"access_token": ""}'],
)  # fmt: skip
async def test_a_token_endpoint_that_talks_nonsense_is_an_upstream_error(body: bytes) -> None:
    async with Rogue(answering(200, body)) as server:
        config = {"bucket": "abc", "endpoint": server.url, "service_account": service_account()}
        async with open_provider(GCS, config) as provider:
            with pytest.raises((UpstreamError, AuthFailed)):
                await call(provider, "list")


async def test_the_address_of_an_upload_is_not_the_servers_to_choose() -> None:
    async with Rogue(answering(200, b"{}")) as sink, Rogue() as server:
        server.behaviour = answering(200, TOKEN, {"location": f"{sink.url}/upload?upload_id=abc"})
        config = {"bucket": "abc", "endpoint": server.url, "service_account": service_account(), "read_only": False}
        async with open_provider(GCS, config) as provider:
            form = provider.byte_form("put")
            with pytest.raises(StudioError):
                await provider.upload(form, form.parse({"key": "a"}), repeated(40 * MIB))
        assert b"upload_id=abc" in server.seen
        assert sink.connections == 0


async def test_a_url_cannot_be_signed_without_a_key() -> None:
    async with open_provider(GCS, {"bucket": "abc", "allow_presign": True}) as provider:
        with pytest.raises(InvalidConfig, match="service_account"):
            await call(provider, "presign", key="a")


async def test_google_is_the_endpoint_where_none_is_given() -> None:
    async with open_provider(GCS, {"bucket": "abc"}) as provider:
        assert provider.endpoint().origin == "https://storage.googleapis.com"  # type: ignore[attr-defined]


@pytest.mark.server
class TestRights:
    @pytest.fixture
    def place(self, gcs: Gcs) -> dict[str, Any]:
        return gcs.config(prefix=f"{uuid4()}/", read_only=False)

    async def test_an_account_that_may_only_read_is_told_as_such(self, place: dict[str, Any]) -> None:
        async with open_provider(GCS, place) as provider:
            await call(provider, "put", key="a", text="hello")
            probe = Probe()
            await provider.probe(probe)
        assert probe.privileges is not None
        assert probe.privileges["enforced_by"] == "service"
        assert "storage.objects.create" in probe.privileges["excess"]
        async with open_provider(GCS, {**place, "service_account": service_account(VIEWER)}) as provider:
            await provider.probe(probe)
            assert (probe.privileges["enforced_by"], probe.privileges["excess"]) == ("account", [])
            assert (await call(provider, "get", key="a")).data["content"] == "hello"
            form = provider.byte_form("put")
            for attempt in (
                call(provider, "put", key="b", text="x"),
                call(provider, "delete", key="a"),
                call(provider, "copy", source="a", target="b"),
                provider.upload(form, form.parse({"key": "b"}), repeated(40 * MIB)),
            ):
                with pytest.raises(UpstreamError, match="role"):
                    await attempt

    async def test_a_token_that_was_revoked_is_replaced(self, place: dict[str, Any], own_gcs: Gcs) -> None:
        async with open_provider(GCS, own_gcs.config()) as provider:
            await call(provider, "list")
            await asyncio.to_thread(own_gcs.revoke)
            await call(provider, "list")

    async def test_nobody_reads_anonymously(self, gcs: Gcs) -> None:
        async with open_provider(GCS, gcs.config(service_account=None)) as provider:
            with pytest.raises(UpstreamError, match="role"):
                await call(provider, "list")
