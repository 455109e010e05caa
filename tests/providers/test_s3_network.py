"""`s3`: no ambient credentials, no other address, TLS, rights; each guard also switched off, to see that it is one."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from tests.servers import certificates
from tests.upstreams.seaweedfs import BUCKET, Seaweedfs

from studio.contract import Probe
from studio.errors import EgressDenied, StudioError, Unreachable, UpstreamError
from studio.providers import load
from studio.providers._aws import session as aws_session
from studio.providers._objects import net as objects_net
from studio.providers.s3.rights import open_to
from studio.security.egress import Egress
from studio.testing.harness import call, open_provider
from studio.testing.storage_rogue import Rogue, answering, repeated

S3 = load("s3")
CANARY = "CANARYCANARYCANARY12"
EMPTY = b'<?xml version="1.0"?><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>'


@pytest.fixture
def fresh() -> Iterator[None]:
    aws_session.shared.cache_clear()
    yield
    aws_session.shared.cache_clear()


def poison(folder: Path, sink: Rogue, patch: pytest.MonkeyPatch) -> None:
    """Every place that botocore fills blanks from."""
    marker = folder / "ran"
    shared = f"[default]\naws_access_key_id={CANARY}\naws_secret_access_key={CANARY}\n"
    config = (
        f"[default]\nregion=eu-canary-1\nendpoint_url={sink.url}\ncredential_process=/bin/touch {marker}\n"
        f"[profile canary]\nsource_profile=default\nrole_arn=arn:aws:iam::123456789012:role/x\n"
    )
    (folder / ".aws").mkdir()
    for name, text in (("config", config), ("credentials", shared)):
        (folder / ".aws" / name).write_text(text)
    (folder / "token").write_text(CANARY)
    variables = {
        "AWS_ACCESS_KEY_ID": CANARY, "AWS_SECRET_ACCESS_KEY": CANARY, "AWS_SESSION_TOKEN": CANARY, "AWS_DEFAULT_REGION": "eu-canary-1",
        "AWS_CONFIG_FILE": str(folder / ".aws/config"), "AWS_SHARED_CREDENTIALS_FILE": str(folder / ".aws/credentials"),
        "AWS_ENDPOINT_URL": sink.url, "AWS_ENDPOINT_URL_S3": sink.url, "AWS_EC2_METADATA_SERVICE_ENDPOINT": sink.url,
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{sink.url}/creds", "AWS_WEB_IDENTITY_TOKEN_FILE": str(folder / "token"),
        "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/x", "HTTP_PROXY": sink.url, "http_proxy": sink.url, "HTTPS_PROXY": sink.url,
        "ALL_PROXY": sink.url, "AWS_CA_BUNDLE": "/nonexistent", "AWS_DATA_PATH": str(folder), "AWS_CSM_ENABLED": "true",
        "AWS_MAX_ATTEMPTS": "9", "HOME": str(folder), "BOTO_CONFIG": str(folder / "token"),
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_supported", "BOTOCORE_EXPERIMENTAL__PLUGINS": "canary=no.such.module",
    }  # fmt: skip
    for name, value in variables.items():
        patch.setenv(name, value)


async def test_blanks_are_not_filled_from_the_environment(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rogue(answering(200, EMPTY)) as sink, Rogue(answering(200, EMPTY)) as server:
        poison(tmp_path, sink, monkeypatch)
        async with open_provider(S3, {"bucket": "abc", "endpoint_url": server.url, "read_only": False}) as provider:
            await call(provider, "list")
            await call(provider, "put", key="a", text="x")
            await provider.probe(Probe())
        seen = bytes(server.seen).lower()
        assert server.connections
        assert b"list-type=2" in seen
        assert b"authorization" not in seen
        assert CANARY.lower().encode() not in seen
        assert b"canary" not in seen
        assert b"crc" not in seen
        assert sink.connections == 0
        assert not (tmp_path / "ran").exists()
    async with Rogue(answering(503)) as server:
        async with open_provider(S3, {"bucket": "abc", "endpoint_url": server.url, "read_only": False}) as provider:
            with pytest.raises(StudioError):
                await call(provider, "put", key="a", text="x")
        assert server.seen.count(b"PUT ") == 1


async def test_the_drivers_own_session_would_have_filled_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiobotocore.session import AioSession

    async with Rogue(answering(200, EMPTY)) as sink, Rogue(answering(200, EMPTY)) as server:
        poison(tmp_path, sink, monkeypatch)
        for name in (
            "BOTOCORE_EXPERIMENTAL__PLUGINS",
            "AWS_CA_BUNDLE",
            "REQUESTS_CA_BUNDLE",
            "AWS_CSM_ENABLED",
            "HTTP_PROXY",
            "http_proxy",
            "ALL_PROXY",
            "SSL_CERT_FILE",
            "REQUESTS_CA_BUNDLE",
        ):
            monkeypatch.delenv(name, raising=False)
        async with AioSession().create_client("s3", endpoint_url=server.url) as client:
            await client.list_objects_v2(Bucket="abc")
        assert CANARY.encode() in server.seen


async def test_given_keys_win_over_the_environment(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Rogue(answering(200, EMPTY)) as sink, Rogue(answering(200, EMPTY)) as server:
        poison(tmp_path, sink, monkeypatch)
        given = {"access_key_id": "MINE", "secret_access_key": "mine", "endpoint_url": server.url, "bucket": "abc"}
        async with open_provider(S3, given) as provider:
            await call(provider, "list")
        assert b"Credential=MINE/" in server.seen
        assert b"/us-east-1/s3/" in server.seen
        assert CANARY.encode() not in server.seen
        assert b"x-amz-security-token" not in server.seen.lower()
        assert sink.connections == 0


async def test_without_its_guard_a_redirect_would_be_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def request(self: Any, method: str, **given: Any) -> Any:
        kept = {name: given[name] for name in ("url", "headers", "data", "chunked")}
        return await self._http.request(method, **kept)

    monkeypatch.setattr(aws_session._Plain, "request", request)
    async with Rogue(answering(200, EMPTY)) as sink, Rogue() as server:
        server.behaviour = answering(307, headers={"location": f"{sink.url}/stolen"})
        async with open_provider(S3, {"bucket": "abc", "endpoint_url": server.url}) as provider:
            await call(provider, "list")
        assert sink.connections


async def test_another_region_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    body = b"<Error><Code>PermanentRedirect</Code><Endpoint>s3.eu-west-1.amazonaws.com</Endpoint></Error>"
    behaviour = answering(301, body, {"x-amz-bucket-region": "eu-west-1"})
    async with Rogue(behaviour) as server:
        config = {"bucket": "abc", "endpoint_url": server.url, "access_key_id": "a", "secret_access_key": "b"}
        async with open_provider(S3, config) as provider:
            with pytest.raises(UpstreamError, match="region"):
                await call(provider, "list")
        assert server.seen.count(b"GET ") == 1
        server.seen.clear()
        monkeypatch.setattr(aws_session, "_stay", lambda **_: None)
        async with open_provider(S3, config) as provider:
            with pytest.raises(StudioError):
                await call(provider, "list")
        assert server.seen.count(b"GET ") > 1, "botocore no longer follows regions by itself: the guard can go"


class Rebinding(Egress):
    """A resolver whose answer was changed after it had been judged."""

    async def resolve(self, host: str, port: int) -> list[str]:
        return ["127.0.0.1"]


async def test_the_address_that_is_dialled_is_judged_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Rogue(answering(200, EMPTY)) as sink:
        config = {"bucket": "abc", "endpoint_url": f"http://good.example:{sink.port}"}
        async with open_provider(S3, config, network=Rebinding(private_open=False)) as provider:
            with pytest.raises(EgressDenied):
                await call(provider, "list")
        assert sink.connections == 0
        monkeypatch.setattr(objects_net.Gate, "__call__", lambda _self, info: socket.socket(*info[:3]))
        async with open_provider(S3, config, network=Rebinding(private_open=False)) as provider:
            await call(provider, "list")
        assert sink.connections == 1


async def test_what_strangers_may_do_with_a_bucket_is_listed_where_that_may_be_asked() -> None:
    acl = (
        b'<AccessControlPolicy xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><AccessControlList><Grant>'
        b'<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="Group">'
        b"<URI>http://acs.amazonaws.com/groups/global/AllUsers</URI></Grantee><Permission>READ</Permission></Grant><Grant>"
        b'<Grantee xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:type="CanonicalUser"><ID>owner</ID></Grantee>'
        b"<Permission>FULL_CONTROL</Permission></Grant></AccessControlList></AccessControlPolicy>"
    )
    public = b"<PolicyStatus><IsPublic>true</IsPublic></PolicyStatus>"
    refused = b"<Error><Code>AccessDenied</Code></Error>"
    for answers, expected in (
        ((refused, refused), []),
        ((acl, public), ["ACL of the bucket: READ for everybody", "bucket policy: it is public"]),
    ):
        status = 403 if answers[0] is refused else 200
        async with Rogue(answering(status, answers[0])) as server:
            config = {"bucket": "abc", "endpoint_url": server.url, "access_key_id": "AK", "secret_access_key": "canary"}
            async with open_provider(S3, config) as provider:
                heard = await open_to(provider._client, "abc")
                server.behaviour = answering(status, answers[1])
                heard += await open_to(provider._client, "abc")
        assert list(dict.fromkeys(heard)) == expected


@pytest.mark.server
class TestRights:
    @pytest.fixture
    def place(self, seaweedfs: Seaweedfs) -> dict[str, Any]:
        prefix = f"{uuid4()}/"
        seaweedfs.put(f"{prefix}a.txt", b"hello")
        key, secret = seaweedfs.reader
        return seaweedfs.config(prefix=prefix, access_key_id=key, secret_access_key=secret)

    async def test_an_account_that_may_only_read_is_told_as_such(
        self, place: dict[str, Any], seaweedfs: Seaweedfs
    ) -> None:
        probe = Probe()
        async with open_provider(S3, place) as provider:
            await provider.probe(probe)
        assert probe.privileges is not None
        assert (probe.privileges["enforced_by"], probe.privileges["excess"]) == ("account", [])
        assert f"arn:aws:s3:::{BUCKET}/{place['prefix']}*" in probe.privileges["grant"][0]
        async with open_provider(S3, seaweedfs.config(prefix=place["prefix"])) as provider:
            await provider.probe(probe)
        assert probe.privileges["enforced_by"] == "service"
        assert probe.privileges["excess"] == ["s3:PutObject"]
        assert seaweedfs.names(place["prefix"]) == [f"{place['prefix']}a.txt"]
        assert seaweedfs.uploads(place["prefix"]) == []

    async def test_no_right_to_write_says_what_to_do(self, place: dict[str, Any]) -> None:
        async with open_provider(S3, {**place, "read_only": False}) as provider:
            assert (await call(provider, "get", key="a.txt")).data["content"] == "hello"
            form = provider.byte_form("put")
            for attempt in (
                call(provider, "put", key="b", text="x"),
                call(provider, "delete", key="a.txt"),
                call(provider, "copy", source="a.txt", target="b"),
                provider.upload(form, form.parse({"key": "b"}), repeated(20 * 1024 * 1024)),
            ):
                with pytest.raises(UpstreamError, match="policy"):
                    await attempt

    async def test_tls_is_checked_against_the_given_ca(self, place: dict[str, Any], seaweedfs: Seaweedfs) -> None:
        secure = {**place, "endpoint_url": f"https://localhost:{seaweedfs.tls_port}"}
        probe = Probe()
        async with open_provider(S3, {**secure, "ssl_ca": certificates().ca}) as provider:
            assert (await call(provider, "get", key="a.txt")).data["content"] == "hello"
            await provider.probe(probe)
        assert [stage.name for stage in probe.stages][:4] == ["resolve", "connect", "tls", "login"]
        probe = Probe()
        async with open_provider(S3, secure) as provider:
            with pytest.raises(Unreachable, match="ssl_ca"):
                await call(provider, "get", key="a.txt")
            with pytest.raises(Unreachable, match="ssl_ca"):
                await provider.probe(probe)
        assert [(stage.name, stage.ok) for stage in probe.stages][-1] == ("tls", False)
        async with open_provider(S3, {**place, "endpoint_url": f"https://127.0.0.1:{seaweedfs.port}"}) as provider:
            with pytest.raises(Unreachable, match="TLS"):
                await call(provider, "list")

    async def test_an_object_too_large_for_one_copy_is_copied_in_parts(
        self, seaweedfs: Seaweedfs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(S3, "copy_at_once", 1024)
        monkeypatch.setattr(S3, "copy_part", 6 * 1024 * 1024)
        prefix = f"{uuid4()}/"
        body = os.urandom(13 * 1024 * 1024)
        seaweedfs.put(f"{prefix}large", body)
        async with open_provider(S3, seaweedfs.config(prefix=prefix, read_only=False)) as provider:
            copied = (await call(provider, "copy", source="large", target="copy")).data
        assert copied["size"] == len(body)
        assert seaweedfs.read(f"{prefix}copy") == body
        assert seaweedfs.uploads(prefix) == []


async def test_amazon_is_the_endpoint_where_none_is_given() -> None:
    hosts = {
        "us-east-1": "s3.amazonaws.com",
        "eu-west-1": "s3.eu-west-1.amazonaws.com",
        "cn-north-1": "s3.cn-north-1.amazonaws.com.cn",
    }
    for region, host in hosts.items():
        async with open_provider(S3, {"bucket": "abc", "region": region}) as provider:
            url = provider.endpoint()  # type: ignore[attr-defined]
            assert (url.scheme, url.host, url.port) == ("https", host, 443)
            assert provider.access().path_style is False  # type: ignore[attr-defined]
