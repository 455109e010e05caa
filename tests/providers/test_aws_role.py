"""`role_arn` of the AWS providers on moto: whose external id arrives, how often, and what a refusal says."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from tests import poison
from tests.providers.messaging_kit import code_of, pinged
from tests.upstreams.sqs import Moto

from studio.providers._aws import role
from studio.providers.s3.provider import S3
from studio.providers.sqs.provider import Sqs
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.testing.harness import call, open_provider
from studio.testing.http import Received, reply, upstream

pytestmark = pytest.mark.server
ARN = "arn:aws:iam::123456789012:role/lent"
KINDS = {"s3": ("storage", S3, "put a.txt"), "sqs": ("messaging", Sqs, "publish orders")}


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[ConnectorService]:
    async with ConnectorService(Settings(data_dir=tmp_path / "data")) as found:
        yield found


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def config(kind: str, moto: Moto) -> dict[str, Any]:
    """The keys may do nothing but assume the role, which may do everything."""
    key, secret = moto.broker
    name = f"t{secrets.token_hex(6)}"
    found = moto.config(access_key_id=key, secret_access_key=secret, role_arn=moto.role, read_only=False)
    if kind == "s3":
        with_role = moto.client("sts", key, secret).assume_role(RoleArn=moto.role, RoleSessionName=name)
        _bucket(moto, name, with_role["Credentials"])
        return {**found, "bucket": name}
    moto.create(f"{name}-orders")
    return {**found, "queue_prefix": f"{name}-"}


def _bucket(moto: Moto, name: str, keys: dict[str, Any]) -> None:
    import botocore.session

    with poison.lifted():
        session = botocore.session.Session()
        session.set_credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])
        client = session.create_client("s3", region_name="us-east-1", endpoint_url=moto.url)
    client.create_bucket(Bucket=name)


def arrived(moto: Moto, since: int) -> list[str | None]:
    return [one["external_id"] for one in moto.assumed()[since:]]


async def test_the_external_id_is_the_organization_whatever_the_config_says(
    kind: str, config: dict[str, Any], moto: Moto, service: ConnectorService
) -> None:
    family, _, query = KINDS[kind]
    since = len(moto.assumed())
    for organization in ("acme", "rival"):
        body = {"name": "Lent", "connector_type": family, "provider": kind, "config": config}
        made = await service.create({"organization_id": organization, **body})
        assert (await service.test_connection(made["id"]))["success"]
        await service.execute_query(made["id"], query, {"text": "x"} if kind == "s3" else {"message": "x"})
    ids = arrived(moto, since)
    assert ids == ["acme", "acme", "rival", "rival"]  # once for the test's session, once for the operations' one
    code, message = await code_of(
        service.create({**_named(kind, config), "config": {**config, "external_id": "rival"}})
    )
    assert (code, "rival" in message) == ("invalid_config", False)


def _named(kind: str, config: dict[str, Any]) -> dict[str, Any]:
    return {
        "organization_id": "acme",
        "name": "X",
        "connector_type": KINDS[kind][0],
        "provider": kind,
        "config": config,
    }


async def test_a_test_of_an_unsaved_config_says_for_whom(
    kind: str, config: dict[str, Any], moto: Moto, service: ConnectorService
) -> None:
    since = len(moto.assumed())
    body = {"connector_type": KINDS[kind][0], "provider": kind, "config": config}
    without = await service.test_config(body)
    assert (without["success"], without["code"], "organization" in without["message"]) == (
        False,
        "invalid_config",
        True,
    )
    assert arrived(moto, since) == []
    assert (await service.test_config({**body, "organization_id": "acme"}))["success"]
    assert arrived(moto, since) == ["acme"]
    admin = await service.create_key({"organization_id": "rival", "role": "admin", "name": "x"})
    remote = await service.authenticate(admin["key"])
    assert (await remote.test_config(body))["success"]
    assert arrived(moto, since) == ["acme", "rival"]
    assert (await code_of(remote.test_config({**body, "organization_id": "acme"})))[0] == "invalid_request"


async def test_one_role_is_fetched_for_all_who_wait_and_anew_before_it_ends(
    kind: str, config: dict[str, Any], moto: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    since = len(moto.assumed())
    async with open_provider(KINDS[kind][1], config) as provider:
        await asyncio.gather(*(provider.ping() for _ in range(20)))
        assert arrived(moto, since) == ["acme"]
        now = time.time
        monkeypatch.setattr(role.time, "time", lambda: now() + 3500)  # within five minutes of the end of an hour
        await asyncio.gather(*(provider.ping() for _ in range(20)))
        assert len(arrived(moto, since)) > 1


async def test_a_role_that_does_not_trust_these_keys(kind: str, config: dict[str, Any], moto: Moto) -> None:
    key, secret = moto.reader
    async with open_provider(KINDS[kind][1], {**config, "access_key_id": key, "secret_access_key": secret}) as provider:
        code, message = await code_of(pinged(provider))
        assert (code, "sts:ExternalId" in message) == ("auth_failed", True)
    async with open_provider(KINDS[kind][1], {**config, "secret_access_key": "x" * 40}) as provider:
        code, message = await code_of(pinged(provider))
        assert (code, "secret" in message) == ("auth_failed", True)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"no such page"),
        (200, b"<AssumeRoleResponse><AssumeRoleResult/></AssumeRoleResponse>"),
        (400, b"<ErrorResponse><Error><Code>ValidationError</Code><Message>x</Message></Error></ErrorResponse>"),
        (503, b"later"),
        (307, b""),
    ],
)  # fmt: skip
async def test_an_sts_that_is_none(kind: str, status: int, body: bytes) -> None:
    came: list[str] = []

    async def sink(received: Received) -> bytes:
        came.append(received.path)
        return reply()

    async def serve(received: Received) -> bytes:
        return reply(status, body, location=f"{elsewhere.url}/latest/meta-data/")

    place = {"bucket": "abc"} if kind == "s3" else {}
    async with upstream(sink) as elsewhere, upstream(serve) as server:
        keys = {"access_key_id": "AKIA", "secret_access_key": "s", "role_arn": ARN, "endpoint_url": server.url}
        async with open_provider(KINDS[kind][1], {**place, **keys, "read_only": False}) as provider:
            found, _ = await code_of(pinged(provider))
            assert found == "upstream_error"
            if kind == "s3":  # a missing STS is never taken for a missing object, which delete would not mind
                assert (await code_of(call(provider, "delete", key="a")))[0] == "upstream_error"
    assert not came


@pytest.mark.parametrize(
    "arn",
    ["", "lent", "arn:aws:iam::1:role/lent", "arn:aws:sts::123456789012:assumed-role/a/b", ARN + "\n", "arn:aws:iam::123456789012:user/x", ARN + "?x"],
)  # fmt: skip
def test_a_role_is_named_by_its_arn(kind: str, arn: str) -> None:
    place = {"bucket": "abc"} if kind == "s3" else {}
    parse: Callable[..., Any] = KINDS[kind][1].Config.parse
    keys = {"access_key_id": "AKIA", "secret_access_key": "s"}
    parse({**place, **keys, "role_arn": ARN})
    for wrong in ({**keys, "role_arn": arn}, {"role_arn": ARN}):
        with pytest.raises(Exception, match="does not fit"):
            parse({**place, **wrong})
