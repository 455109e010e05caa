"""The `rabbitmq` provider on a real server: conformance, exchanges, rights, faults."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import struct
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.providers.messaging_kit import code_of, pinged, run_page
from tests.upstreams.rabbitmq import HOSTILE, Rabbitmq
from tests.upstreams.stall import stalling

from studio.contract import Probe
from studio.errors import InvalidConfig
from studio.providers.rabbitmq.config import RabbitmqConfig
from studio.providers.rabbitmq.provider import Rabbitmq as Provider
from studio.security.egress import Egress
from studio.testing.harness import open_provider
from studio.testing.messaging import ask
from studio.testing.messaging_faults import DurableConformance
from studio.testing.messaging_queues import QueueConformance

pytestmark = pytest.mark.server


class TestRabbitmq(QueueConformance):
    kind = "rabbitmq"
    prefix_field = "queue_prefix"
    keyed = False

    @pytest.fixture
    async def place(self, rabbitmq: Rabbitmq) -> AsyncIterator[dict[str, Any]]:
        prefix = f"t{secrets.token_hex(6)}."
        async with rabbitmq.fresh_queue(prefix + "orders"):
            yield rabbitmq.config(queue_prefix=prefix)


class TestDurable(DurableConformance):
    kind = "rabbitmq"

    @pytest.fixture
    async def own(self, own_rabbitmq: Rabbitmq) -> AsyncIterator[Any]:
        async with own_rabbitmq.fresh_queue() as name:
            yield own_rabbitmq, own_rabbitmq.config(), name


@pytest.fixture
async def writer(rabbitmq: Rabbitmq) -> AsyncIterator[Any]:
    async with open_provider(Provider, rabbitmq.config(read_only=False)) as provider:
        yield provider


# -- exchanges ------------------------------------------------------------------------------------


async def test_with_a_key_the_name_is_an_exchange(writer: Any, rabbitmq: Rabbitmq, queue: str) -> None:
    exchange = f"x-{queue}"
    async with rabbitmq.channel() as channel:
        await channel.exchange_declare(exchange, exchange_type="topic", auto_delete=True)
        await channel.queue_bind(queue, exchange, "order.*")
    await ask(writer, "publish", name=exchange, message="m", key="order.made")
    answer = (await ask(writer, "receive", name=queue, auto_ack=True)).to_dict()["data"]
    assert [(row["message"], row["key"], row["exchange"]) for row in answer] == [("m", "order.made", exchange)]
    code, message = await code_of(ask(writer, "publish", name=exchange, message="m", key="nobody.bound.this"))
    assert (code, "bound" in message) == ("not_found", True)
    assert (await code_of(ask(writer, "publish", name="no-such-exchange", message="m", key="k")))[0] == "not_found"
    mixed = [{"message": "a", "key": "order.x"}, {"message": "b"}]
    assert (await code_of(ask(writer, "publish", name=exchange, batch=mixed)))[0] == "invalid_request"


async def test_a_prefix_is_put_before_exchanges_too(rabbitmq: Rabbitmq, queue: str) -> None:
    async with rabbitmq.channel() as channel:
        await channel.exchange_declare(f"x-{queue}", exchange_type="fanout", auto_delete=True)
        await channel.queue_bind(queue, f"x-{queue}", "")
    async with open_provider(Provider, rabbitmq.config(read_only=False, queue_prefix="x-")) as provider:
        await ask(provider, "publish", name=queue, message="m", key="")
    async with open_provider(Provider, rabbitmq.config(read_only=False, queue_prefix="q-")) as provider:
        [row] = (await ask(provider, "receive", name=queue.removeprefix("q-"))).to_dict()["data"]
        assert row["exchange"] == f"x-{queue}"


async def test_a_batch_that_is_refused_in_part_says_which(writer: Any, rabbitmq: Rabbitmq) -> None:
    limits = {"x-max-length": 2, "x-overflow": "reject-publish"}
    async with rabbitmq.fresh_queue(**limits) as name:
        code, message = await code_of(ask(writer, "publish", name=name, messages=["a", "b", "c"]))
        assert code == "upstream_error"
        assert "2 of 3" in message
        assert "at 2 were not" in message
        assert (await ask(writer, "describe", name=name)).data["messages"] == 2
        assert (await code_of(ask(writer, "publish", name=name, message="d")))[0] == "upstream_error"


async def test_what_the_server_refuses_closes_one_channel_and_disturbs_nobody(writer: Any, queue: str) -> None:
    await ask(writer, "publish", name=queue, messages=["a", "b"])
    held = (await ask(writer, "receive", name=queue, max_messages=2)).to_dict()["data"]
    for _ in range(5):
        for verb, more in (("publish", {"message": "x"}), ("receive", {}), ("describe", {})):
            assert (await code_of(ask(writer, verb, name="nothing", **more)))[0] == "not_found"
    assert (await ask(writer, "ack", handles=[row["handle"] for row in held])).data == 2
    assert (await ask(writer, "describe", name=queue)).data["messages"] == 0


async def test_a_queue_of_one_consumer_and_a_long_name_are_errors_in_words(writer: Any, rabbitmq: Rabbitmq) -> None:
    async with rabbitmq.channel() as channel:
        await channel.queue_declare("q-mine", exclusive=True)
        assert (await code_of(ask(writer, "receive", name="q-mine")))[0] == "upstream_error"
    for name, headers in (("ü" * 128, None), ("q", {"ü" * 128: "x"})):
        assert (await code_of(ask(writer, "publish", name=name, message="x", headers=headers)))[0] == "invalid_request"


async def test_a_stream_says_that_it_cannot_be_received(writer: Any, rabbitmq: Rabbitmq) -> None:
    async with rabbitmq.fresh_queue(**{"x-queue-type": "stream"}) as name:
        code, message = await code_of(ask(writer, "receive", name=name))
        assert (code, "stream" in message) == ("upstream_error", True)
        assert (await ask(writer, "describe", name=name)).data["name"] == name


# -- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "enforced", "excess"),
    [("app", "service", 3), ("publisher", "service", 1), ("taker", "service", 1), ("nobody", "account", 0)],
)
async def test_a_test_tells_what_the_account_may_do(rabbitmq: Rabbitmq, user: str, enforced: str, excess: int) -> None:
    given = rabbitmq.config() if user == "app" else rabbitmq.config(username=user, password="pw")
    before = (
        await rabbitmq_state(rabbitmq) if user == "app" else None
    )  # it could change most, and asking takes a second
    async with open_provider(Provider, given) as provider:
        found = await provider.privileges()
        await provider.ping()
    assert (found["enforced_by"], len(found["excess"])) == (enforced, excess)
    assert before is None or await rabbitmq_state(rabbitmq) == before


async def rabbitmq_state(server: Rabbitmq) -> list[str]:
    """Queues and exchanges, as the node itself lists them."""
    found = await asyncio.to_thread(server.control, "list_queues", "name", "messages")
    return [*found, *await asyncio.to_thread(server.control, "list_exchanges", "name")]


async def test_the_account_of_the_grant_may_describe_and_nothing_else(rabbitmq: Rabbitmq, queue: str) -> None:
    given = rabbitmq.config(username="nobody", password="pw", read_only=False)
    async with open_provider(Provider, given) as provider:
        assert (await ask(provider, "describe", name=queue)).data["messages"] == 0
        for verb, more in (("publish", {"message": "x"}), ("receive", {})):
            code, message = await code_of(ask(provider, verb, name=queue, **more))
            assert (code, "permissions" in message) == ("upstream_error", True)


async def test_a_virtual_host_that_is_not_there_or_closed_is_auth_failed(rabbitmq: Rabbitmq) -> None:
    for changes in ({"virtual_host": "nope"}, {"username": "outside", "password": "pw"}):
        async with open_provider(Provider, rabbitmq.config(**changes)) as provider:
            code, message = await code_of(pinged(provider))
            assert (code, "virtual_host" in message) == ("auth_failed", True)


# -- reaching it ----------------------------------------------------------------------------------


async def test_hostile_passwords_are_sent_as_they_are_and_shown_nowhere(rabbitmq: Rabbitmq, caplog: Any) -> None:
    for wrong in HOSTILE:
        async with open_provider(Provider, rabbitmq.config(password=wrong)) as provider:
            code, message = await code_of(pinged(provider))
            assert code == "auth_failed"
            assert len(wrong) < 3 or wrong not in message + caplog.text
    for number, right in enumerate(HOSTILE):
        async with open_provider(Provider, rabbitmq.config(username=f"h{number}", password=right)) as provider:
            await provider.ping()
    assert not caplog.text


async def test_tls_is_checked_against_the_given_ca_and_the_host_name(rabbitmq: Rabbitmq) -> None:
    good = rabbitmq.config(port=rabbitmq.tls_port, tls=True, tls_ca=rabbitmq.ca)
    for host in ("127.0.0.1", "localhost"):
        async with open_provider(Provider, {**good, "host": host}) as provider:
            probe = Probe()
            await provider.probe(probe)
            assert [stage.name for stage in probe.stages] == [
                "resolve", "connect", "tls", "login", "privileges", "sample",
            ]  # fmt: skip
    other = trustme.CA().cert_pem.bytes().decode()
    for changes in ({"tls_ca": None}, {"tls_ca": other}, {"port": rabbitmq.port}):
        given = {name: value for name, value in {**good, **changes}.items() if value is not None}
        async with open_provider(Provider, given) as provider:
            code, message = await code_of(pinged(provider))
            assert (code, "TLS failed" in message) == ("unreachable", True), changes


async def test_an_address_that_is_closed_is_never_dialled(rabbitmq: Rabbitmq) -> None:
    before = rabbitmq.connections()
    gate = Egress(private_open=True, deny=[f"127.0.0.0/8:{rabbitmq.port}"])
    async with open_provider(Provider, rabbitmq.config(read_only=False), network=gate) as provider:
        assert (await code_of(pinged(provider)))[0] == "egress_denied"
        assert (await code_of(ask(provider, "publish", name="q", message="x")))[0] == "egress_denied"
    assert rabbitmq.connections() == before


async def test_the_password_of_the_environment_is_never_sent(rabbitmq: Rabbitmq) -> None:
    with pytest.raises(InvalidConfig):
        Provider.Config.parse(rabbitmq.config(password=None))
    with pytest.raises(InvalidConfig):
        Provider.Config.parse(rabbitmq.config(username=None))


def test_a_uri_is_taken_apart_and_contradictions_are_refused() -> None:
    made = RabbitmqConfig.parse({"uri": "amqps://us%40er:p%2Fw%23@mq.example/v%2Fh"})
    assert (made.host, made.port, made.tls, made.username, made.virtual_host) == (
        "mq.example", 5671, True, "us@er", "v/h",
    )  # fmt: skip
    assert made.password.get_secret_value() == "p/w#"
    for uri, more in (
        ("amqp://u:p@h/", {"host": "other"}), ("http://u:p@h/", {}), ("amqp://u:p@h/?auth=external", {}), ("x", {}),
        ("amqp://u:p@h:port/", {}), ("amqp://u:p@h/v", {"virtual_host": "w"}), (7, {}),
    ):  # fmt: skip
        with pytest.raises(InvalidConfig) as caught:
            RabbitmqConfig.parse({"uri": uri, **more})
        assert "u:p" not in str(caught.value.fields)


@pytest.mark.parametrize(
    "field", ["heartbeat", "ssl_options", "auth", "login_method", "loop", "client_properties", "virtualhost", "cafile"]
)
def test_there_are_no_free_driver_properties(field: str) -> None:
    with pytest.raises(InvalidConfig, match="schema"):
        RabbitmqConfig.parse({"host": "h", "username": "u", "password": "p", field: "x"})


# -- faults ---------------------------------------------------------------------------------------


async def test_nothing_is_left_open_and_two_connections_serve_a_hundred_calls(rabbitmq: Rabbitmq, queue: str) -> None:
    before = rabbitmq.connections()
    async with open_provider(Provider, rabbitmq.config(read_only=False, pool_size=4)) as provider:
        await asyncio.gather(*(ask(provider, "publish", name=queue, message=str(n)) for n in range(50)))
        answers = await asyncio.gather(*(ask(provider, "receive", name=queue, wait_s=0.0) for _ in range(50)))
        assert sum(answer.row_count for answer in answers) == 50
        assert rabbitmq.connections() == before + 2
    await asyncio.sleep(0.1)
    assert rabbitmq.connections() == before
    found = await asyncio.to_thread(rabbitmq.control, "list_queues", "name", "messages_ready")
    assert f"{queue}\t50" in found


async def test_what_was_acknowledged_stays_away_though_the_connection_is_cut_at_once(writer: Any, queue: str) -> None:
    await ask(writer, "publish", name=queue, messages=[str(n) for n in range(200)])
    for auto_ack in (True, False):
        found = await ask(writer, "receive", name=queue, max_messages=100, auto_ack=auto_ack)
        if not auto_ack:
            await ask(writer, "ack", handles=[row[0] for row in found.rows])
        writer._in_link._wire.cut()
        await asyncio.sleep(0.05)
    assert (await ask(writer, "describe", name=queue)).data["messages"] == 0


async def test_calls_that_are_cancelled_leave_nothing_taken_and_nothing_broken(rabbitmq: Rabbitmq, queue: str) -> None:
    async with open_provider(Provider, rabbitmq.config(read_only=False, pool_size=2)) as provider:
        await ask(provider, "publish", name=queue, messages=[str(n) for n in range(100)])
        for delay in (0.0, 0.001, 0.003, 0.01, 0.03) * 4:
            task = asyncio.create_task(ask(provider, "receive", name=queue, max_messages=60))
            await asyncio.sleep(delay)
            task.cancel()
            answer = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(answer, BaseException):
                await ask(provider, "nack", handles=[row[0] for row in answer.rows])
        await asyncio.sleep(0.2)
        assert (await ask(provider, "describe", name=queue)).data == {"name": queue, "messages": 100, "consumers": 0}


async def test_a_server_that_is_cut_in_the_middle_of_a_call_is_unreachable(rabbitmq: Rabbitmq, queue: str) -> None:
    async with stalling(rabbitmq.port, b"studio-stall") as port:
        config = rabbitmq.config(port=port, read_only=False)
        async with open_provider(Provider, config) as provider:
            await ask(provider, "publish", name=queue, message="x")
            task = asyncio.create_task(ask(provider, "publish", name=queue, message="studio-stall"))
            await asyncio.sleep(0.2)
            assert not task.done()
    assert (await code_of(task))[0] == "unreachable"


async def test_a_rogue_server_cannot_make_us_read_a_giant_frame() -> None:
    received = 0

    async def rogue(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reader.read(8)
        writer.write(struct.pack(">BHI", 1, 0, 1 << 30))
        with contextlib.suppress(OSError):
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
                received += 65_536
        writer.close()

    server = await asyncio.start_server(rogue, "127.0.0.1", 0)
    config = {"host": "127.0.0.1", "port": server.sockets[0].getsockname()[1], "username": "u", "password": "canary"}
    async with open_provider(Provider, config) as provider:
        assert (await code_of(pinged(provider)))[0] == "unreachable"
    assert received < 16 << 20
    server.close()


async def test_bodies_are_not_kept_beyond_max_bytes(rabbitmq: Rabbitmq, queue: str) -> None:
    config = rabbitmq.config(read_only=False)
    async with open_provider(Provider, config) as provider:
        for _ in range(8):
            await ask(provider, "publish", name=queue, messages=["x" * (1 << 20)] * 4)
    async with open_provider(Provider, {**config, "max_bytes": 3 << 19}) as provider:
        await provider.ping()
        tracemalloc.start()
        answer = await ask(provider, "receive", name=queue, max_messages=32)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert (answer.row_count, answer.truncated) == (1, True)
        assert most < 30 << 20  # 52 MB where bodies are kept
        await ask(provider, "nack", handles=[row[0] for row in answer.rows])
        assert (await ask(provider, "describe", name=queue)).data["messages"] == 32


# -- the page -------------------------------------------------------------------------------------


async def test_the_example_of_the_page_runs(rabbitmq: Rabbitmq, tmp_path: Path) -> None:
    prefix = f"page{secrets.token_hex(4)}."
    async with rabbitmq.fresh_queue(prefix + "orders"):
        names = {"HOST": rabbitmq.host, "PORT": str(rabbitmq.port), "USERNAME": rabbitmq.user, "PREFIX": prefix}
        env = {f"RABBITMQ_{name}": value for name, value in {**names, "PASSWORD": rabbitmq.password}.items()}
        assert await asyncio.to_thread(run_page, "rabbitmq", tmp_path, env) == (
            "Connection successful\n{\"id\":7,\"item\":\"tea\"}\n{'name': 'orders', 'messages': 0, 'consumers': 0}\n"
        )


def test_no_depth_of_headers_exhausts_the_stack() -> None:
    from studio.providers.rabbitmq import tables

    def nested(depth: int) -> bytes:
        found = struct.pack(">I", 0)
        for _ in range(depth):
            found = struct.pack(">I", len(found) + 1) + b"A" + found
        return found

    tables.install()
    assert tables.field_array(nested(2))[1] == [[[]]]
    with pytest.raises(ValueError, match="too deep"):
        tables.field_array(nested(3000))
