"""The `redis_pubsub` provider on a real server: conformance, windows, rights, faults."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import secrets
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.providers.messaging_kit import code_of, pinged, run_page
from tests.upstreams.redis import HOSTILE, Redis
from tests.upstreams.stall import stalling

from studio.contract import Probe
from studio.errors import InvalidConfig, Timeout, Unreachable
from studio.providers.redis_pubsub.provider import RedisPubsub as Provider
from studio.providers.redis_pubsub.provider import RedisPubsubConfig
from studio.security.egress import Egress
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.testing.harness import open_provider
from studio.testing.messaging import MessagingConformance, ask
from studio.testing.messaging_queues import TEXTS

pytestmark = pytest.mark.server


class TestRedisPubsub(MessagingConformance):
    kind = "redis_pubsub"
    prefix_field = "channel_prefix"

    @pytest.fixture
    async def place(self, redis_server: Redis) -> dict[str, Any]:
        return redis_server.config(channel_prefix=f"t{secrets.token_hex(6)}:")


@pytest.fixture
def config(redis_server: Redis) -> dict[str, Any]:
    return redis_server.config(channel_prefix=f"t{secrets.token_hex(6)}:", read_only=False)


@pytest.fixture
async def provider(config: dict[str, Any]) -> AsyncIterator[Any]:
    async with open_provider(Provider, config) as opened:
        yield opened


@asynccontextmanager
async def window(provider: Any, name: str = "news", **more: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """A receive that is listening already, and is gone for the server too at the end: the next one would count it."""
    before = await listeners(provider, name)
    task = asyncio.create_task(ask(provider, "receive", name=name, auto_ack=True, **{"wait_s": 5.0, **more}))
    while await listeners(provider, name) == before:
        assert not task.done(), task.result()
        await asyncio.sleep(0.01)
    yield task
    async with asyncio.timeout(10):
        await asyncio.wait([task])
        with contextlib.suppress(Unreachable):  # a server that is down has none
            while await listeners(provider, name) > before:  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.01)


async def listeners(provider: Any, name: str) -> int:
    return int((await ask(provider, "describe", name=name)).data["subscribers"])


def messages(result: Any) -> list[Any]:
    return [row["message"] for row in result.to_dict()["data"]]


# -- windows --------------------------------------------------------------------------------------


async def test_what_is_published_into_a_window_comes_back_unchanged_and_in_order(provider: Any) -> None:
    async with window(provider, max_messages=len(TEXTS) + 2) as listening:
        sent = await ask(provider, "publish", name="news", messages=[*TEXTS, {"a": [1, "ü"]}])
        assert {row[0] for row in sent.rows} == {1}
        raw = base64.b64encode(bytes(range(256))).decode()
        await ask(provider, "publish", name="news", message=raw, encoding="base64")
        start = time.perf_counter()
        heard = await listening
    assert time.perf_counter() - start < 1  # the number ends the window before its time
    assert messages(heard) == [*TEXTS, '{"a":[1,"ü"]}', raw]
    assert [row[2] for row in heard.rows] == ["text"] * (len(TEXTS) + 1) + ["base64"]


async def test_time_ends_a_window_and_what_comes_later_is_not_heard(provider: Any) -> None:
    start = time.perf_counter()
    async with window(provider, wait_s=0.6) as listening:
        await ask(provider, "publish", name="news", message="in")
        heard = await listening
    assert 0.5 < time.perf_counter() - start < 1.5
    assert messages(heard) == ["in"]
    code, message = await code_of(ask(provider, "publish", name="news", message="late"))
    assert (code, "nobody listens" in message) == ("not_found", True)
    assert (await ask(provider, "publish", name="news", message="late", unheard_ok=True)).rows == [(0,)]


async def test_every_window_hears_everything(provider: Any) -> None:
    async with window(provider, max_messages=3) as one, window(provider, max_messages=3) as two:
        assert (await ask(provider, "describe", name="news")).data == {"name": "news", "subscribers": 2}
        assert (await ask(provider, "publish", name="news", messages=["a", "b", "c"])).rows == [(2,)] * 3
        assert messages(await one) == messages(await two) == ["a", "b", "c"]


async def test_the_channels_somebody_listens_to_are_listed_below_the_prefix(
    provider: Any, config: dict[str, Any]
) -> None:
    assert (await ask(provider, "list")).rows == []
    other = {**config, "channel_prefix": config["channel_prefix"][:-1] + "-other:"}
    async with (
        open_provider(Provider, other) as elsewhere,
        window(elsewhere) as far,
        window(provider, "ü*?[x]") as near,
    ):
        assert (await ask(provider, "list")).rows == [("ü*?[x]",)]
        assert (await code_of(ask(provider, "publish", name="news", message="x")))[0] == "not_found"
        await ask(elsewhere, "publish", name="news", messages=["x"] * 10)
        await ask(provider, "publish", name="ü*?[x]", messages=["y"] * 10)
        assert (set(messages(await far)), set(messages(await near))) == ({"x"}, {"y"})


async def test_a_batch_that_is_heard_in_part_says_which(provider: Any) -> None:
    from studio.providers.redis_pubsub.window import _unheard

    assert "those at 1, 2 were heard by nobody" in _unheard([1, 0, 0, 4], 4).message
    assert "and the 6 after these were not sent" in _unheard([1, 0, 0, 4], 10).message
    assert _unheard([0, 0], 2).code == "not_found"


async def test_windows_must_say_that_nothing_is_kept(provider: Any) -> None:
    for wrong in ({}, {"auto_ack": False}, {"auto_ack": True, "hold_s": 5}):
        code, message = await code_of(ask(provider, "receive", name="news", **wrong))
        assert (code, "auto_ack" in message) == ("invalid_request", True)
    for wrong in ({"key": "k"}, {"headers": {"h": "x"}}, {"key": ""}):
        assert (await code_of(ask(provider, "publish", name="news", message="x", **wrong)))[0] == "invalid_request"
    assert (await code_of(ask(provider, "publish", name="\ud800", message="x")))[0] == "invalid_request"
    assert not {"ack", "nack", "peek"} & set(Provider.operations)


async def test_bytes_end_a_window_and_no_flood_fills_the_memory(config: dict[str, Any]) -> None:
    async with open_provider(Provider, {**config, "max_bytes": 2048}) as provider:
        async with window(provider, max_messages=100) as listening:
            await ask(provider, "publish", name="news", messages=["x" * 300] * 100, unheard_ok=True)
            heard = await listening
        assert (heard.truncated, 0 < heard.row_count < 8) == (True, True)
        for size in (3000, 300_000):
            async with window(provider, max_messages=2) as listening:
                await ask(provider, "publish", name="news", message="x" * size)
                await asyncio.sleep(0.05)
                if size < 10_000:
                    await ask(provider, "publish", name="news", message="y")
                code, message = await code_of(listening)
                assert (code, "is gone" in message) == ("result_blocked", True)


async def test_no_flood_fills_the_memory(redis_server: Redis, config: dict[str, Any]) -> None:
    admin = redis_server.admin()
    async with (
        open_provider(Provider, {**config, "max_bytes": 2048}) as provider,
        window(provider, max_messages=100) as task,
    ):
        tracemalloc.start()
        for _ in range(40):
            await admin.publish(config["channel_prefix"] + "news", b"x" * (1 << 20))
        assert (await code_of(task))[0] == "result_blocked"
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    await admin.aclose()
    assert most < 15 << 20  # 40 MiB and more where they are kept


# -- rights ---------------------------------------------------------------------------------------


async def test_the_account_of_the_grant_lists_describes_and_does_nothing_else(
    redis_server: Redis, config: dict[str, Any]
) -> None:
    prefix = config["channel_prefix"]
    async with open_provider(Provider, config) as provider:
        assert (await provider.privileges())["enforced_by"] == "service"
        [grant] = (await provider.privileges())["grant"]
    user = f"u{secrets.token_hex(4)}"
    admin = redis_server.admin()
    words = [word.strip("'") for word in grant.split()]
    words[2], words[words.index(">CHOOSE-A-PASSWORD")] = user, ">pw"
    await admin.execute_command(*words)
    async with open_provider(Provider, {**config, "username": user, "password": "pw"}) as provider:
        probe = Probe()
        await provider.probe(probe)
        assert probe.privileges
        assert (probe.privileges["enforced_by"], probe.privileges["excess"]) == ("account", [])
        assert (await ask(provider, "list")).rows == []
        assert (await ask(provider, "describe", name="news")).data["subscribers"] == 0
        for verb, more in (("publish", {"message": "x"}), ("receive", {"auto_ack": True})):
            code, message = await code_of(ask(provider, verb, name="news", **more))
            assert (code, "ACL" in message, user in message) == ("upstream_error", True, False)
        await admin.execute_command("ACL", "SETUSER", user, "+publish", "resetchannels", f"&{prefix}mine")
        code, message = await code_of(ask(provider, "publish", name="news", message="x"))
        assert (code, "channel" in message) == ("upstream_error", True)
    await admin.execute_command("ACL", "DELUSER", user)
    await admin.aclose()


# -- reaching it ----------------------------------------------------------------------------------


async def test_tls_is_checked_against_the_given_ca(redis_server: Redis, config: dict[str, Any]) -> None:
    good = {**config, "port": redis_server.tls_port, "tls": True, "tls_ca": redis_server.ca}
    async with open_provider(Provider, good) as provider, window(provider, max_messages=1) as listening:
        await ask(provider, "publish", name="news", message="over TLS")
        assert messages(await listening) == ["over TLS"]
    async with open_provider(Provider, {**good, "tls_ca": trustme.CA().cert_pem.bytes().decode()}) as provider:
        code, message = await code_of(pinged(provider))
        assert (code, "TLS failed" in message) == ("unreachable", True)


@pytest.mark.parametrize("password", HOSTILE)
async def test_a_hostile_password_works_and_a_wrong_one_is_never_repeated(
    redis_server: Redis, config: dict[str, Any], password: str
) -> None:
    admin = redis_server.admin()
    await admin.execute_command("ACL", "SETUSER", "loud", "reset", "on", f">{password}", "&*", "+@all")
    await admin.aclose()
    async with open_provider(Provider, {**config, "username": "loud", "password": password}) as provider:
        await provider.ping()
    async with open_provider(Provider, {**config, "username": "loud", "password": f"{password}!"}) as provider:
        code, message = await code_of(pinged(provider))
        assert (code, password in message) == ("auth_failed", False)


async def test_an_address_that_is_closed_is_never_dialled(redis_server: Redis, config: dict[str, Any]) -> None:
    gate = Egress(private_open=True, deny=[f"127.0.0.0/8:{redis_server.port}"])
    async with open_provider(Provider, config, network=gate) as provider:
        for work in (
            ask(provider, "publish", name="n", message="x"),
            ask(provider, "receive", name="n", auto_ack=True),
        ):
            assert (await code_of(work))[0] == "egress_denied"


def test_the_config_has_a_prefix_and_no_free_driver_properties() -> None:
    made = RedisPubsubConfig.parse({"uri": "rediss://u:p%40@r.example:7000/2", "channel_prefix": "a:"})
    assert (made.host, made.port, made.tls, made.db, made.channel_prefix) == ("r.example", 7000, True, 2, "a:")
    for field in ("key_prefix", "retry", "unix_socket_path", "health_check_interval", "queue_prefix"):
        with pytest.raises(InvalidConfig):
            RedisPubsubConfig.parse({"host": "h", field: "x"})


# -- faults ---------------------------------------------------------------------------------------


async def test_a_hundred_calls_share_four_sessions_and_nothing_is_left_open(
    redis_server: Redis, config: dict[str, Any]
) -> None:
    admin = redis_server.admin()
    before = len(await admin.client_list())
    async with open_provider(Provider, {**config, "pool_size": 4}) as provider:
        async with window(provider, max_messages=100) as listening:
            await asyncio.gather(*(ask(provider, "publish", name="news", message=str(n)) for n in range(100)))
            assert len(await admin.client_list()) <= before + 4
            assert sorted(map(int, messages(await listening))) == list(range(100))
        for _ in range(5):
            task = asyncio.create_task(ask(provider, "receive", name="news", auto_ack=True))
            await asyncio.sleep(0.02)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.sleep(0.05)
        assert (await ask(provider, "describe", name="news")).data["subscribers"] == 0
    await asyncio.sleep(0.05)
    assert len(await admin.client_list()) == before
    await admin.aclose()


async def test_the_next_call_heals_after_a_restart_and_a_cut_window_keeps_what_it_heard(own_redis: Redis) -> None:
    async with open_provider(Provider, own_redis.config(read_only=False)) as provider:
        async with window(provider, max_messages=10) as listening:
            await ask(provider, "publish", name="news", message="heard")
            await asyncio.sleep(0.05)
            own_redis.crash()
            heard = await listening
        assert (messages(heard), heard.truncated) == (["heard"], True)
        for verb, more in (("publish", {"message": "x"}), ("receive", {"auto_ack": True}), ("describe", {})):
            assert (await code_of(ask(provider, verb, name="news", **more)))[0] == "unreachable"
        own_redis.launch()
        async with window(provider, max_messages=1) as listening:
            await ask(provider, "publish", name="news", message="again")
            assert messages(await listening) == ["again"]
            own_redis.restart()
        async with window(provider, max_messages=1) as listening:
            own_redis.crash()
            assert (await code_of(listening))[0] == "unreachable"


async def test_a_publish_on_a_silent_server_ends_at_the_deadline(
    redis_server: Redis, config: dict[str, Any], tmp_path: Path
) -> None:
    async with stalling(redis_server.port) as port, ConnectorService(Settings(data_dir=tmp_path / "studio")) as service:
        record = {"organization_id": "acme", "name": "it", "connector_type": "messaging", "provider": "redis_pubsub"}
        made = await service.create({**record, "config": {**config, "port": port, "timeout_s": 0.5}})
        start = time.perf_counter()
        with pytest.raises(Timeout):
            await service.execute_query(made["id"], "publish news", {"message": "studio-stall"})
        assert time.perf_counter() - start < 1
        assert json.dumps((await service.execute_query(made["id"], "describe news"))["data"])


async def test_the_example_of_the_page_runs(redis_server: Redis, tmp_path: Path) -> None:
    env = {
        "REDIS_HOST": redis_server.host, "REDIS_PORT": str(redis_server.port), "REDIS_USERNAME": redis_server.user,
        "REDIS_PASSWORD": redis_server.password,
    }  # fmt: skip
    assert await asyncio.to_thread(run_page, "redis_pubsub", tmp_path, env) == (
        "Connection successful\n['sun', '{\"wind\":3}']\n"
    )
