"""The `sqs` provider on moto: conformance on standard and FIFO queues, rights, faults."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trustme
from tests.providers.messaging_kit import code_of, pinged, run_page
from tests.servers import certificates
from tests.upstreams.rabbitmq import HOSTILE, established
from tests.upstreams.sqs import Moto, SecureMoto

from studio.contract import Probe
from studio.errors import InvalidConfig, StudioError
from studio.providers.sqs.errors import coded, refused
from studio.providers.sqs.provider import Sqs as Provider
from studio.providers.sqs.provider import SqsConfig
from studio.security.egress import Egress
from studio.testing.harness import open_provider
from studio.testing.http import Received, reply, upstream
from studio.testing.messaging import ask
from studio.testing.messaging_queues import QueueConformance

pytestmark = pytest.mark.server


class TestSqs(QueueConformance):
    kind = "sqs"
    prefix_field = "queue_prefix"
    secret_field = "secret_access_key"
    session_holds = False
    keyed = False
    most_headers: ClassVar[dict[str, Any]] = {"text": "ünï", "number": 7, "half": 1.5, "yes": True}

    @pytest.fixture
    async def place(self, moto: Moto) -> dict[str, Any]:
        prefix = f"t{secrets.token_hex(6)}-"
        moto.create(prefix + "orders")
        return moto.config(queue_prefix=prefix)

    def elsewhere(self, place: dict[str, Any], port: int) -> dict[str, Any]:
        return {**place, "endpoint_url": f"http://127.0.0.1:{port}"}


@pytest.fixture
def config(moto: Moto) -> dict[str, Any]:
    return moto.config(queue_prefix=f"t{secrets.token_hex(6)}-", read_only=False)


@pytest.fixture
async def provider(config: dict[str, Any]) -> AsyncIterator[Any]:
    async with open_provider(Provider, config) as opened:
        yield opened


def rows(result: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result.to_dict()["data"]
    return found


# -- queues ---------------------------------------------------------------------------------------


async def test_a_fifo_queue_wants_a_key_and_keeps_its_order(provider: Any, config: dict[str, Any], moto: Moto) -> None:
    moto.create(config["queue_prefix"] + "line.fifo")
    code, message = await code_of(ask(provider, "publish", name="line.fifo", message="x"))
    assert (code, "key" in message) == ("invalid_request", True)
    sent = rows(await ask(provider, "publish", name="line.fifo", messages=[str(n) for n in range(25)], key="g"))
    assert all(row["sequence"] for row in sent)  # random numbers here, growing ones at Amazon
    found: list[dict[str, Any]] = []
    while len(found) < 25:
        found += rows(await ask(provider, "receive", name="line.fifo", max_messages=30, auto_ack=True))
    assert [row["message"] for row in found] == [str(n) for n in range(25)]
    assert {row["key"] for row in found} == {"g"}
    assert (await ask(provider, "describe", name="line.fifo")).data["fifo"] is True


async def test_a_fifo_queue_tells_repeated_messages(provider: Any, config: dict[str, Any], moto: Moto) -> None:
    prefix = config["queue_prefix"]
    moto.create(prefix + "by-id.fifo")
    for text in ("a", "b", "c"):
        await ask(provider, "publish", name="by-id.fifo", message=text, key="g", deduplication_id="once")
    await ask(provider, "publish", name="by-id.fifo", messages=["a", "a"], key="g")  # two ids of our own
    assert (await ask(provider, "describe", name="by-id.fifo")).data["messages"] == 3
    moto.create(prefix + "by-content.fifo", ContentBasedDeduplication="true")
    await ask(provider, "publish", name="by-content.fifo", messages=["a", "a", "b"], key="g")
    assert (await ask(provider, "describe", name="by-content.fifo")).data["messages"] == 2
    code, _ = await code_of(ask(provider, "publish", name="by-id.fifo", messages=["a"], key="g", deduplication_id="x"))
    assert code == "invalid_request"


async def test_one_queue_by_its_address(moto: Moto) -> None:
    name = f"q{secrets.token_hex(6)}"
    url = moto.create(name)
    moto.create(name + "-other")
    async with open_provider(Provider, moto.config(queue_url=url, read_only=False)) as provider:
        await ask(provider, "publish", name=name, message="x")
        assert rows(await provider.run(provider.operation("list"), {})) == [{"name": name}]
        assert (await code_of(ask(provider, "publish", name=name + "-other", message="x")))[0] == "not_found"
        [row] = rows(await ask(provider, "receive", name=name))
    async with open_provider(Provider, moto.config(queue_prefix=name + "-", read_only=False)) as provider:
        code, message = await code_of(ask(provider, "ack", handles=[row["handle"]]))
        assert (code, "not of a queue of this connector" in message) == ("not_found", True)


async def test_a_handle_holds_in_another_session(provider: Any, config: dict[str, Any], moto: Moto) -> None:
    url = moto.create(config["queue_prefix"] + "orders")
    await ask(provider, "publish", name="orders", messages=["a", "b"])
    found = rows(await ask(provider, "receive", name="orders", max_messages=2))
    async with open_provider(Provider, config) as other:
        assert (await ask(other, "ack", handles=[found[0]["handle"]])).data == 1
        assert (await ask(other, "nack", handles=[found[1]["handle"]])).data == 1
    assert moto.attributes(url)["ApproximateNumberOfMessages"] == "1"


async def test_what_sqs_cannot_carry_is_refused_in_words(provider: Any, config: dict[str, Any], moto: Moto) -> None:
    moto.create(config["queue_prefix"] + "orders")
    for given in (
        {"message": "x", "headers": {f"h{n}": "x" for n in range(11)}}, {"message": "x", "headers": {"h": ""}},
        {"message": ""}, {"message": "x", "headers": {"a b": "x"}}, {"message": "x" * 1_100_000},
        {"messages": ["ok", "x" * 1_100_000]},
    ):  # fmt: skip
        with pytest.raises(StudioError) as caught:
            await ask(provider, "publish", name="orders", **given)
        assert caught.value.code in {"invalid_request", "upstream_error"}, given
        assert len(caught.value.message) > 15
    await ask(provider, "publish", name="orders", message="a\x00b")
    assert [row["message"] for row in rows(await ask(provider, "receive", name="orders", auto_ack=True))] == ["a\x00b"]
    for name in ("a b", "a/b", "x" * 81, "a.fifo.fifo", "ü"):
        assert (await code_of(ask(provider, "publish", name=name, message="x")))[0] == "invalid_request"


def test_a_batch_that_is_refused_in_part_says_which() -> None:
    from studio.providers.sqs.messages import batches
    from studio.providers.sqs.queues import _reason

    found = _reason({12: coded("InvalidMessageContents", ""), 14: coded("AccessDenied", "")}, 11, 30)
    assert (found.code, "11 of 30" in found.message, "at 12, 14 were not" in found.message) == (
        "upstream_error",
        True,
        True,
    )
    assert "and the 17 after these were not sent" in found.message
    entries = [{"Id": str(n), "MessageBody": "x" * size} for n, size in enumerate([600_000, 600_000, *[1] * 12])]
    assert [len(batch) for batch in batches(entries)] == [1, 10, 3]


# -- rights ---------------------------------------------------------------------------------------


async def test_reads_change_nothing_and_the_granted_account_can_do_no_more(
    provider: Any, config: dict[str, Any], moto: Moto
) -> None:
    url = moto.create(config["queue_prefix"] + "orders")
    await ask(provider, "publish", name="orders", messages=["a", "b"])
    before = moto.attributes(url)
    key, secret = moto.reader
    reader = {**config, "access_key_id": key, "secret_access_key": secret}
    async with open_provider(Provider, reader) as opened:
        probe = Probe()
        await opened.probe(probe)
        assert [stage.name for stage in probe.stages] == ["resolve", "connect", "login", "privileges", "sample"]
        assert json.loads(probe.privileges["grant"][0])["Statement"][0]["Resource"].startswith("arn:aws:sqs:us-east-1:")
        assert (await ask(opened, "describe", name="orders")).data["messages"] == 2
        assert rows(await opened.run(opened.operation("list"), {})) == [{"name": "orders"}]
        for verb, more in (("publish", {"message": "x"}), ("receive", {})):
            code, message = await code_of(ask(opened, verb, name="orders", **more))
            assert (code, "may not do this" in message) == ("upstream_error", True)
    assert moto.attributes(url) == before
    [first, _] = rows(await ask(provider, "receive", name="orders", max_messages=2))
    assert (first["deliveries"], first["redelivered"]) == (1, False)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        ({"Code": "AWS.SimpleQueueService.NonExistentQueue"}, 400, "not_found"),
        ({"Code": "QueueDoesNotExist"}, 400, "not_found"),
        ({"Code": "InvalidClientTokenId"}, 403, "auth_failed"),
        ({"Code": "SignatureDoesNotMatch"}, 403, "auth_failed"),
        ({"Code": "403", "Message": "<Error><Code>SignatureDoesNotMatch</Code></Error>"}, 403, "auth_failed"),
        ({"Code": "403", "Message": "<Error><Code>AccessDenied</Code></Error>"}, 403, "upstream_error"),
        ({"Code": "AccessDeniedException"}, 400, "upstream_error"),
        ({"Code": "ExpiredToken"}, 400, "auth_failed"),
        ({"Code": "ThrottlingException"}, 400, "rate_limited"),
        ({"Code": "OverLimit"}, 403, "rate_limited"),
        ({"Code": "ReceiptHandleIsInvalid"}, 400, "not_found"),
        ({"Code": "InvalidParameterValue", "Message": "because"}, 400, "invalid_request"),
        ({"Code": "SomethingNew", "Message": "because"}, 400, "upstream_error"),
        ({"Code": "InternalError"}, 500, "unreachable"),
        ({"Code": "307"}, 307, "upstream_error"),
    ],
)
def test_what_the_service_answers_has_a_code_of_ours(error: dict[str, str], status: int, code: str) -> None:
    found = refused({"Error": error, "ResponseMetadata": {"HTTPStatusCode": status}})
    assert found.code == code
    assert len(found.message) > 15


# -- reaching it ----------------------------------------------------------------------------------


async def test_an_unknown_key_and_hostile_secrets_are_auth_failed_and_shown_nowhere(moto: Moto, caplog: Any) -> None:
    for changes in ({"access_key_id": "AKIAUNKNOWN"}, *({"secret_access_key": secret} for secret in HOSTILE)):
        async with open_provider(Provider, moto.config(**changes)) as provider:
            code, message = await code_of(pinged(provider))
            assert code == "auth_failed", changes
            assert not any(len(value) > 3 and value in message + caplog.text for value in changes.values())


async def test_nothing_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "HTTP_PROXY",
        "AWS_ENDPOINT_URL_SQS",
    ):
        monkeypatch.setenv(name, "http://poison.example:1" if "URL" in name or "PROXY" in name else "poison")
    async with upstream(reply(200, b"{}", Content_Type="application/x-amz-json-1.0")) as server:
        async with open_provider(Provider, {"endpoint_url": server.url}) as provider:
            await provider.ping()
        [request] = server.requests
        assert request.header("Authorization") is None
        assert "poison" not in str(request)
    async with open_provider(Provider, {"region": "eu-west-1"}) as provider:
        assert provider._client.meta.endpoint_url == "https://sqs.eu-west-1.amazonaws.com"


async def test_neither_a_redirect_nor_a_queue_address_leads_elsewhere() -> None:
    async with upstream(reply(200, b"{}")) as sink:
        moved = reply(307, b"", Location=sink.url + "/")
        named = reply(
            200, json.dumps({"QueueUrl": f"{sink.url}/1/orders"}).encode(), Content_Type="application/x-amz-json-1.0"
        )

        def answer(received: Received) -> bytes:
            return named if "GetQueueUrl" in (received.header("X-Amz-Target") or "") else moved

        async with upstream(answer) as server:
            keys = {"access_key_id": "AK", "secret_access_key": "canary"}
            async with open_provider(Provider, {"endpoint_url": server.url, "read_only": False, **keys}) as provider:
                for work in (pinged(provider), ask(provider, "publish", name="orders", message="x")):
                    code, message = await code_of(work)
                    assert (code, "redirects" in message) == ("upstream_error", True)
        assert len(server.requests) == 3
    assert not sink.connections


async def test_an_address_that_is_closed_is_never_dialled(moto: Moto) -> None:
    gate = Egress(private_open=True, deny=[f"127.0.0.0/8:{moto.port}"])
    async with open_provider(Provider, moto.config(read_only=False), network=gate) as provider:
        for work in (pinged(provider), ask(provider, "publish", name="q", message="x")):
            assert (await code_of(work))[0] == "egress_denied"


async def test_tls_is_checked_against_the_given_ca(secure_moto: SecureMoto) -> None:
    good = secure_moto.config(access_key_id="AK", secret_access_key="SK", ssl_ca=certificates().ca)
    async with open_provider(Provider, good) as provider:
        probe = Probe()
        await provider.probe(probe)
        assert "tls" in [stage.name for stage in probe.stages]
    async with open_provider(Provider, {**good, "ssl_ca": trustme.CA().cert_pem.bytes().decode()}) as provider:
        code, message = await code_of(pinged(provider))
        assert (code, "certificate" in message) == ("unreachable", True)


def test_the_config_is_read_strictly() -> None:
    SqsConfig.parse(
        {"queue_url": "https://sqs.eu-west-1.amazonaws.com/123456789012/orders.fifo", "region": "eu-west-1"}
    )
    for wrong in (
        {"queue_url": "https://h/"}, {"queue_url": "x"}, {"queue_url": "https://h/1/a b"}, {"access_key_id": "AK"},
        {"queue_url": "https://h/1/q", "queue_prefix": "a"}, {"queue_prefix": "a b"}, {"queue_prefix": ""},
        {"session_token": "x"}, {"region": "EU"}, {"region": "a.b"}, {"endpoint_url": "ftp://h"}, {"role_arn": "x"},
        {"endpoint_url": "http://user@h"}, {"profile_name": "x"}, {"aws_access_key_id": "x"}, {"proxies": {}},
    ):  # fmt: skip
        with pytest.raises(InvalidConfig):
            SqsConfig.parse(wrong)


# -- faults ---------------------------------------------------------------------------------------


async def test_a_cut_poll_is_unreachable_a_silent_server_is_late_and_the_next_call_heals(own_moto: Moto) -> None:
    own_moto.create("orders")
    async with open_provider(Provider, own_moto.config(read_only=False)) as provider:
        polling = asyncio.create_task(ask(provider, "receive", name="orders", wait_s=10.0))
        await asyncio.sleep(0.5)
        own_moto.crash()
        assert (await code_of(polling))[0] == "unreachable"
        for verb, more in (("publish", {"message": "x"}), ("receive", {}), ("describe", {})):
            assert (await code_of(ask(provider, verb, name="orders", **more)))[0] == "unreachable"
        own_moto.launch()
        assert (await code_of(pinged(provider)))[0] == "auth_failed"  # it has forgotten everything, the keys too
    own_moto.create("orders")
    config = own_moto.config(read_only=False, timeout_s=1.0)
    async with open_provider(Provider, config) as provider:
        await ask(provider, "publish", name="orders", message="x")
        own_moto.freeze()
        try:
            start = time.perf_counter()
            code, _ = await code_of(ask(provider, "publish", name="orders", message="x"))
            assert code in {"timeout", "unreachable"}
            assert time.perf_counter() - start < 4
        finally:
            own_moto.thaw()
        assert (await ask(provider, "publish", name="orders", message="x")).row_count == 1


async def test_four_connections_serve_a_hundred_calls_and_nothing_is_left_open(
    moto: Moto, config: dict[str, Any]
) -> None:
    moto.create(config["queue_prefix"] + "orders")
    before = established(moto.port)
    async with open_provider(Provider, {**config, "pool_size": 4}) as provider:
        await asyncio.gather(*(ask(provider, "publish", name="orders", message=str(n)) for n in range(100)))
        assert established(moto.port) - before <= 4
    await asyncio.sleep(0.1)
    assert established(moto.port) <= before


async def test_the_example_of_the_page_runs(moto: Moto, tmp_path: Path) -> None:
    prefix = f"page{secrets.token_hex(4)}-"
    moto.create(prefix + "orders")
    env = {
        "SQS_ENDPOINT": moto.url, "SQS_KEY_ID": moto.key, "SQS_SECRET": moto.secret, "SQS_PREFIX": prefix,
    }  # fmt: skip
    assert await asyncio.to_thread(run_page, "sqs", tmp_path, env) == (
        'Connection successful\n{"id":7,"item":"tea"} {\'source\': \'web\'}\n0 0\n'
    )
