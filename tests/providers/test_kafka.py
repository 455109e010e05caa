"""The `kafka` provider on two emulators: conformance, groups, keys, faults. See `tests/upstreams/kafka.py`."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import secrets
import struct
import time
import tracemalloc
import warnings
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.providers.messaging_kit import advertising, code_of, pinged, run_page
from tests.upstreams.kafka import HOSTILE, Kafka, Tansu, create, genuine, listening
from tests.upstreams.rabbitmq import established

from studio.contract import Probe
from studio.errors import Conflict, InvalidConfig, NotFound
from studio.providers.kafka import codec
from studio.providers.kafka.config import KafkaConfig
from studio.providers.kafka.provider import Kafka as Provider
from studio.security.egress import Egress
from studio.testing.harness import open_provider
from studio.testing.messaging import ask
from studio.testing.messaging_faults import DurableConformance
from studio.testing.messaging_queues import QueueConformance

pytestmark = pytest.mark.server


class TestKafka(QueueConformance):
    """On the emulator with SASL and TLS, or on the broker that `STUDIO_TEST_KAFKA` names."""

    kind = "kafka"
    prefix_field = "topic_prefix"
    out_of_order = False
    settle_s = 15

    @pytest.fixture
    async def place(self, request: pytest.FixtureRequest) -> dict[str, Any]:
        prefix = f"t{secrets.token_hex(6)}."
        more = {"topic_prefix": prefix, "group_id": f"g{secrets.token_hex(6)}"}
        if given := genuine():
            await create(given, prefix + "orders")
            return {**given, **more}
        kafka: Kafka = request.getfixturevalue("kafka")
        await kafka.create(prefix + "orders")
        return kafka.config(**more)

    def elsewhere(self, place: dict[str, Any], port: int) -> dict[str, Any]:
        return {**place, "bootstrap_servers": f"127.0.0.1:{port}"}


class TestDurable(DurableConformance):
    kind = "kafka"

    @pytest.fixture
    async def own(self, own_kafka: Kafka) -> Any:
        await own_kafka.create("orders")
        return own_kafka, own_kafka.config(group_id="g"), "orders"


@pytest.fixture
async def topic(kafka: Kafka) -> str:
    name = f"t-{secrets.token_hex(6)}"
    await kafka.create(name, 4)
    return name


@pytest.fixture
def config(kafka: Kafka) -> dict[str, Any]:
    return kafka.config(group_id=f"g{secrets.token_hex(6)}", read_only=False)


@pytest.fixture
async def provider(config: dict[str, Any]) -> AsyncIterator[Any]:
    async with open_provider(Provider, config) as opened:
        yield opened


def rows(result: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = result.to_dict()["data"]
    return found


async def drained(provider: Any, topic: str, count: int, **more: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    until = time.monotonic() + 15
    while len(found) < count and time.monotonic() < until:
        found += rows(await ask(provider, "receive", name=topic, max_messages=min(count - len(found), 1000), **more))
    return found


async def stopped(bare: Any) -> None:
    """Stop a client of the driver's own. It forgets the connection that it found the cluster with; that is not ours."""
    await bare.stop()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# -- partitions and packing -----------------------------------------------------------------------


async def test_keys_choose_partitions_as_the_bare_client_does(provider: Any, kafka: Kafka, topic: str) -> None:
    from aiokafka import AIOKafkaProducer

    batch = [{"message": "x", "key": f"key-{n}"} for n in range(20)]
    ours = [row["partition"] for row in rows(await ask(provider, "publish", name=topic, batch=batch))]
    bare = AIOKafkaProducer(bootstrap_servers=kafka.plain)
    await bare.start()
    theirs = [(await bare.send_and_wait(topic, b"x", key=f"key-{n}".encode())).partition for n in range(20)]
    await stopped(bare)
    assert ours == theirs
    assert len(set(ours)) == 4


async def test_messages_without_a_key_stay_together_and_in_order(provider: Any, topic: str) -> None:
    sent = rows(await ask(provider, "publish", name=topic, messages=[str(n) for n in range(500)]))
    assert len({row["partition"] for row in sent}) == 1
    offsets = [row["offset"] for row in sent]
    assert offsets == list(range(offsets[0], offsets[0] + 500))
    assert [row["message"] for row in await drained(provider, topic, 500, auto_ack=True)] == [
        str(n) for n in range(500)
    ]


async def test_a_call_larger_than_a_batch_is_sent_in_several_in_order(provider: Any, topic: str) -> None:
    messages = [f"{number:04}" + "x" * 60_000 for number in range(40)]
    sent = rows(await ask(provider, "publish", name=topic, messages=messages))
    assert [row["offset"] for row in sent] == sorted(row["offset"] for row in sent)
    found = await drained(provider, topic, 40, auto_ack=True)
    assert [row["message"][:4] for row in found] == [f"{number:04}" for number in range(40)]


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])
async def test_packed_batches_go_out_and_come_in(provider: Any, kafka: Kafka, topic: str, name: str) -> None:
    from aiokafka import AIOKafkaProducer

    await ask(provider, "publish", name=topic, messages=["ü" * 50] * 100, compression=name)
    bare = AIOKafkaProducer(bootstrap_servers=kafka.plain, compression_type=name, linger_ms=20)
    await bare.start()
    await asyncio.gather(*[await bare.send(topic, ("b" * 50).encode()) for _ in range(100)])
    await stopped(bare)
    found = [row["message"] for row in await drained(provider, topic, 200, auto_ack=True)]
    assert sorted(set(found)) == ["b" * 50, "ü" * 50]
    assert len(rows(await ask(provider, "peek", name=topic, max_messages=200, where="first"))) == 200


@pytest.mark.parametrize("name", ["gzip", "snappy", "lz4", "zstd"])
def test_a_batch_that_unpacks_to_too_much_is_refused(name: str) -> None:
    from aiokafka import codec as theirs

    pack, unpack = getattr(theirs, f"{name}_encode"), getattr(codec, f"{name}_decode")
    for size in (0, 1, 100_000, codec.LIMIT):
        assert len(unpack(pack(b"\0" * size))) == size
    with pytest.raises(codec.Unpackable):
        unpack(pack(b"\0" * (codec.LIMIT + 1)))
    if name == "snappy":
        assert unpack(theirs.snappy_encode(b"x" * 10, xerial_compatible=False)) == b"x" * 10
    if name == "gzip":  # in several members, as RFC 1952 has it, but not in very many
        assert unpack(pack(b"a") * codec.MOST_MEMBERS) == b"a" * codec.MOST_MEMBERS
        with pytest.raises(codec.Unpackable):
            unpack(pack(b"a") * (codec.MOST_MEMBERS + 1))
    for damaged in (b"x" * 100, pack(b"hello" * 100)[:-5]):
        with pytest.raises(codec.Unpackable):
            unpack(damaged)


async def test_a_bomb_in_a_topic_is_an_error_in_words(provider: Any, kafka: Kafka, topic: str) -> None:
    from aiokafka import AIOKafkaProducer

    bare = AIOKafkaProducer(bootstrap_servers=kafka.plain, compression_type="gzip", max_request_size=1 << 30)
    await bare.start()
    await bare.send_and_wait(topic, b"\0" * (40 << 20))
    await stopped(bare)
    for verb in ("receive", "peek"):
        code, message = await code_of(ask(provider, verb, name=topic))
        assert (code, "8 MiB" in message) == ("upstream_error", True)


async def test_tombstones_repeated_headers_and_bytes_are_shown(provider: Any, kafka: Kafka, topic: str) -> None:
    from aiokafka import AIOKafkaProducer

    bare = AIOKafkaProducer(bootstrap_servers=kafka.plain)
    await bare.start()
    await bare.send_and_wait(topic, None, key=b"\xff", headers=[("a", b"1"), ("a", b"\xfe"), ("b", b"x")])
    await stopped(bare)
    [row] = await drained(provider, topic, 1, auto_ack=True)
    assert (row["message"], row["encoding"], row["key"]) == (None, None, "/w==")
    assert row["headers"] == {"a": ["1", "/g=="], "b": "x"}


# -- groups ---------------------------------------------------------------------------------------


async def test_offsets_move_when_everything_before_is_acknowledged(provider: Any, config: Any, kafka: Kafka) -> None:
    topic = f"one-{secrets.token_hex(6)}"
    await kafka.create(topic)
    await ask(provider, "publish", name=topic, messages=["a", "b", "c", "d"])
    found = await drained(provider, topic, 4)
    for number, committed in ((2, {}), (0, {f"{topic}:0": 1}), (1, {f"{topic}:0": 3}), (3, {f"{topic}:0": 4})):
        await ask(provider, "ack", handles=[found[number]["handle"]])
        assert await kafka.committed(config["group_id"]) == committed
    described = (await ask(provider, "describe", name=topic)).data
    assert (described["messages"], described["lag"], described["partitions"][0]["committed"]) == (4, 0, 4)


async def test_reads_move_no_offset_and_join_no_group(config: dict[str, Any], kafka: Kafka, topic: str) -> None:
    async with open_provider(Provider, config) as writer:
        await ask(writer, "publish", name=topic, batch=[{"message": str(n), "key": str(n)} for n in range(20)])
        taken = await drained(writer, topic, 5, auto_ack=True)
    before = await kafka.committed(config["group_id"])
    async with open_provider(Provider, {**config, "read_only": True}) as reader:
        for where, count in (("next", 15), ("first", 20), ("last", 20)):
            seen = rows(await ask(reader, "peek", name=topic, max_messages=100, where=where))
            assert len(seen) == count, where
        assert not {row["id"] for row in taken} & {row["id"] for row in rows(await ask(reader, "peek", name=topic))}
        assert len(rows(await ask(reader, "peek", name=topic, max_messages=3, where="last"))) == 3
        await ask(reader, "describe", name=topic)
        assert topic in [row["name"] for row in rows(await reader.run(reader.operation("list"), {}))]
        async with kafka.admin() as admin:
            [group] = await admin.describe_consumer_groups([config["group_id"]])
        assert b"studio" not in str(group).encode()  # no member of ours
    assert await kafka.committed(config["group_id"]) == before


def shares(provider: Any) -> int:
    """How many partitions a provider's member of the group has."""
    return sum(len(reader._consumer.assignment()) for reader in provider._readers._readers.values())


async def test_two_members_of_a_group_share_a_topic(config: dict[str, Any], topic: str) -> None:
    async with open_provider(Provider, config) as one, open_provider(Provider, config) as two:
        until = time.monotonic() + 15
        while sorted(map(shares, (one, two))) != [2, 2] and time.monotonic() < until:
            await asyncio.gather(*(ask(each, "receive", name=topic, wait_s=0.1) for each in (one, two)))
        batch = [{"message": str(n), "key": str(n)} for n in range(200)]
        await ask(one, "publish", name=topic, batch=batch)
        seen: dict[int, list[Any]] = {1: [], 2: []}
        while sum(map(len, seen.values())) < 200 and time.monotonic() < until:
            for number, each in ((1, one), (2, two)):
                answer = await ask(each, "receive", name=topic, wait_s=0.1, max_messages=100, auto_ack=True)
                seen[number] += [row["message"] for row in rows(answer)]
    assert sorted([*seen[1], *seen[2]], key=int) == [str(n) for n in range(200)]
    assert seen[1]
    assert seen[2]


async def test_a_member_that_nobody_uses_leaves_the_group(
    config: dict[str, Any], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.providers.kafka.provider.IDLE_S", 0.4)
    async with open_provider(Provider, config) as provider:
        await ask(provider, "publish", name=topic, messages=["a", "b"])
        found = await drained(provider, topic, 2, hold_s=2)
        await asyncio.sleep(1)
        assert provider._readers._readers  # it has something out
        await ask(provider, "ack", handles=[row["handle"] for row in found])
        await asyncio.sleep(1)
        assert not provider._readers._readers
        await ask(provider, "publish", name=topic, message="c")
        assert [row["message"] for row in await drained(provider, topic, 1, auto_ack=True)] == ["c"]


async def test_a_connector_without_a_group_peeks_and_does_not_receive(kafka: Kafka, topic: str) -> None:
    async with open_provider(Provider, kafka.config(read_only=False)) as provider:
        await ask(provider, "publish", name=topic, message="x")
        code, message = await code_of(ask(provider, "receive", name=topic))
        assert (code, "group_id" in message) == ("invalid_request", True)
        assert len(rows(await ask(provider, "peek", name=topic))) == 1
        assert (await ask(provider, "describe", name=topic)).data["lag"] is None


async def test_calls_that_are_cancelled_lose_nothing(config: dict[str, Any], topic: str) -> None:
    async with open_provider(Provider, config) as provider:
        await ask(provider, "publish", name=topic, batch=[{"message": str(n), "key": str(n)} for n in range(300)])
        seen: set[str] = set()
        for delay in (0.0, 0.002, 0.005, 0.01, 0.05, 0.1, 0.3) * 3:
            task = asyncio.create_task(ask(provider, "receive", name=topic, max_messages=20))
            await asyncio.sleep(delay)
            task.cancel()
            answer = (await asyncio.gather(task, return_exceptions=True))[0]
            if not isinstance(answer, BaseException):
                with contextlib.suppress(Conflict, NotFound):  # a member that was cancelled while it joined has left
                    await ask(provider, "ack", handles=[row[0] for row in answer.rows])
                    seen |= {row["message"] for row in rows(answer)}
        until = time.monotonic() + 15
        while len(seen) < 300 and time.monotonic() < until:
            seen |= {row["message"] for row in rows(await ask(provider, "receive", name=topic, auto_ack=True))}
        assert len(seen) == 300


async def test_a_member_leaves_no_connection_when_the_driver_stumbles_in_its_own_stop(
    config: dict[str, Any], topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def stumble() -> None:
        raise asyncio.CancelledError  # as aiokafka's fetcher does, when it is stopped between two tries

    async with open_provider(Provider, config) as provider:
        await ask(provider, "publish", name=topic, message="x")
        await ask(provider, "receive", name=topic, auto_ack=True)
        (reader,) = provider._readers._readers.values()
        monkeypatch.setattr(reader._consumer._fetcher, "close", stumble)
        used = list(reader._client._conns.values())
        assert used
        assert any(connection.connected() for connection in used)
        await reader.close()
        assert not any(connection.connected() for connection in used)


async def test_little_is_kept_of_what_was_read_ahead_and_nothing_after_the_end(config: Any, kafka: Kafka) -> None:
    from aiokafka import AIOKafkaProducer

    topic = f"ahead-{secrets.token_hex(6)}"
    await kafka.create(topic)
    async with open_provider(Provider, config) as provider:
        await ask(provider, "publish", name=topic, messages=["x"] * 5)
        await drained(provider, topic, 5, auto_ack=True)
        packed = AIOKafkaProducer(bootstrap_servers=kafka.plain, compression_type="zstd", max_batch_size=1 << 30)
        await packed.start()
        batch = packed.create_batch()
        for number in range(7):
            batch.append(key=None, value=b"%d" % number + b"x" * (1 << 20), timestamp=None)
        batch.close()
        for _ in range(60):
            await (await packed.send_batch(batch, topic, partition=0))
        await stopped(packed)
        gc.collect()
        gc.disable()  # what waits for the collector of cycles is kept, too
        tracemalloc.start()
        try:
            seen = []
            for _ in range(5):
                seen += [row["message"][0] for row in await drained(provider, topic, 2, auto_ack=True)]
                assert tracemalloc.get_traced_memory()[0] < 2 << 20
            before = await kafka.committed(config["group_id"])
            answer = await ask(provider, "receive", name=topic, max_messages=2)
            assert len(rows(answer)) == 2
            del answer
            (reader,) = provider._readers._readers.values()
            assert not reader._consumer._fetcher._records  # the driver reads nothing by itself
            await reader.close()
            await provider._held.close()
            assert tracemalloc.get_traced_memory()[0] < 1 << 20
        finally:
            tracemalloc.stop()
            gc.enable()
    assert seen == list("0123456012")
    assert before == {f"{topic}:0": 15}


async def test_what_an_answer_had_no_room_for_comes_next_and_once(config: Any, kafka: Kafka) -> None:
    topic = f"cut-{secrets.token_hex(6)}"
    await kafka.create(topic)
    async with open_provider(Provider, config) as provider:
        for start in (0, 5):  # a control character takes six bytes of an answer
            sent = [f"{n}" + "\x01" * 150_000 for n in range(start, start + 5)]
            await ask(provider, "publish", name=topic, messages=sent, compression="gzip" if start else "none")
        seen: list[str] = []
        until = time.monotonic() + 15
        while len(seen) < 10 and time.monotonic() < until:
            answer = await ask(provider, "receive", name=topic)
            assert answer.row_count < 5
            found = rows(answer)
            if len(seen) == 4:  # comes again, with what is behind it
                await ask(provider, "nack", handles=[row["handle"] for row in found])
                found = rows(await ask(provider, "receive", name=topic))
                assert found[0]["redelivered"]
            seen += [row["message"][0] for row in found]
            await ask(provider, "ack", handles=[row["handle"] for row in found])
    assert seen == list("0123456789")
    assert await kafka.committed(config["group_id"]) == {f"{topic}:0": 10}


async def test_no_more_is_handed_out_than_the_service_can_keep(config: Any, kafka: Kafka, topic: str) -> None:
    async with open_provider(Provider, {**config, "max_bytes": 4096}) as provider:
        await ask(provider, "publish", name=topic, messages=["x" * 3000] * 10)
        handles: list[str] = []
        with pytest.raises(Conflict, match="ack or nack"):
            while len(handles) < 10:
                handles += [row["handle"] for row in rows(await ask(provider, "receive", name=topic, max_messages=1))]
        assert len(handles) == 5  # of 4 KiB each, what is kept beside the contents included
        assert rows(await ask(provider, "receive", name=topic, max_messages=1, auto_ack=True))  # keeps nothing
        await ask(provider, "ack", handles=handles[:2])
        assert rows(await ask(provider, "receive", name=topic, max_messages=1))


# -- reaching it ----------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_every_way_to_log_in_works_and_fails_fast(
    kafka: Kafka, protocol: str, mechanism: str, caplog: Any
) -> None:
    secure = protocol == "SASL_SSL"
    host = "127.0.0.1" if secure else "127.0.0.2"
    given = kafka.config(
        security_protocol=protocol, sasl_mechanism=mechanism, bootstrap_servers=f"{host}:{kafka.port}",
        ssl_ca=kafka.ca if secure else None, group_id="g", read_only=False,
    )  # fmt: skip
    async with open_provider(Provider, given) as provider:
        probe = Probe()
        await provider.probe(probe)
        names = ["resolve", "connect", *(["tls"] if secure else []), "login", "privileges", "sample"]
        assert [stage.name for stage in probe.stages] == names
    start = time.perf_counter()
    for changes in ({"password": "wrong#@/%"}, {"username": "nobody#@"}):
        async with open_provider(Provider, {**given, **changes}) as provider:
            for work in (
                pinged(provider),
                ask(provider, "publish", name="t", message="x"),
                ask(provider, "receive", name="t"),
            ):
                code, message = await code_of(work)
                assert code == "auth_failed"
                assert not any(value in message + caplog.text for value in changes.values())
    assert time.perf_counter() - start < 3


async def test_hostile_passwords_are_sent_as_they_are(kafka: Kafka) -> None:
    for number, secret in enumerate(HOSTILE):
        for mechanism in ("PLAIN", "SCRAM-SHA-256"):
            given = kafka.config(username=f"h{number}", password=secret, sasl_mechanism=mechanism)
            async with open_provider(Provider, given) as provider:
                await provider.ping()
            async with open_provider(Provider, {**given, "password": secret + "."}) as provider:
                assert (await code_of(pinged(provider)))[0] == "auth_failed"


async def test_a_server_may_not_ask_for_any_number_of_rounds() -> None:
    from aiokafka.errors import SaslAuthenticationFailed

    from studio.providers.kafka.connections import _BoundedScram

    class Inner:
        async def step(self, payload: bytes | None) -> bytes:
            return b"proof"

    scram = _BoundedScram(Inner())
    assert await scram.step(None) == await scram.step(b"r=x,s=eA==,i=4096") == b"proof"
    for rounds in (b"1", b"4095", b"200001", b"999999999999"):
        with pytest.raises(SaslAuthenticationFailed):
            await scram.step(b"r=x,s=eA==,i=" + rounds)


async def test_tls_is_checked_against_the_given_ca(kafka: Kafka) -> None:
    other = trustme.CA().cert_pem.bytes().decode()
    for changes in ({"ssl_ca": other}, {"ssl_ca": None}, {"bootstrap_servers": f"127.0.0.2:{kafka.port}"}):
        async with open_provider(Provider, kafka.config(**changes)) as provider:
            code, message = await code_of(pinged(provider))
            assert (code, "TLS failed" in message) == ("unreachable", True), changes
    plain = {
        "security_protocol": "PLAINTEXT",
        "sasl_mechanism": None,
        "username": None,
        "password": None,
        "ssl_ca": None,
    }
    for host in ("127.0.0.1", "127.0.0.2"):  # plain to TLS, and no log-in where one is wanted
        given = kafka.config(**plain, bootstrap_servers=f"{host}:{kafka.port}")
        async with open_provider(Provider, given) as provider:
            assert (await code_of(pinged(provider)))[0] == "unreachable"


async def test_a_bootstrap_server_that_is_down_is_passed_over(kafka: Kafka, config: Any, unused_tcp_port: int) -> None:
    servers = [f"127.0.0.1:{unused_tcp_port}", f"localhost:{kafka.port}"]
    async with open_provider(Provider, {**config, "bootstrap_servers": servers}) as provider:
        probe = Probe()
        await provider.probe(probe)
        assert all(stage.ok for stage in probe.stages)


async def test_brokers_that_the_metadata_name_pass_the_gate_too(kafka: Kafka, topic: str) -> None:
    plain = {"security_protocol": "PLAINTEXT", "group_id": "g", "read_only": False}
    async with advertising(("127.0.0.3", kafka.port), "127.0.0.6") as (port, sink):
        given = {**plain, "bootstrap_servers": f"127.0.0.1:{port}"}
        gate = Egress(private_open=True, deny=["127.0.0.6/32"])
        async with open_provider(Provider, given, network=gate) as provider:
            for verb, more in (("publish", {"message": "x"}), ("peek", {}), ("describe", {}), ("receive", {})):
                start = time.perf_counter()
                code, message = await code_of(ask(provider, verb, name=topic, **more))
                assert code == "egress_denied", (verb, message)
                assert time.perf_counter() - start < 2
        assert sink == []
        async with open_provider(Provider, given) as provider:  # without that gate the attack works
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await ask(provider, "publish", name=topic, message="x")
        assert len(sink) >= 1


async def test_an_address_that_is_closed_is_never_dialled(kafka: Kafka) -> None:
    gate = Egress(private_open=True, deny=[f"127.0.0.0/8:{kafka.port}"])
    async with open_provider(Provider, kafka.config(group_id="g", read_only=False), network=gate) as provider:
        for work in (
            pinged(provider),
            ask(provider, "publish", name="t", message="x"),
            ask(provider, "receive", name="t"),
        ):
            assert (await code_of(work))[0] == "egress_denied"


async def test_a_rogue_broker_cannot_make_us_read_a_giant_answer() -> None:
    async def rogue(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(100)
        writer.write(struct.pack(">i", 1 << 30) + b"x" * 100_000)
        await reader.read()
        writer.close()

    server = await asyncio.start_server(rogue, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    start = time.perf_counter()
    async with open_provider(Provider, {"bootstrap_servers": f"127.0.0.1:{port}"}) as provider:
        assert (await code_of(pinged(provider)))[0] == "unreachable"
    assert time.perf_counter() - start < 2
    server.close()
    await asyncio.sleep(0.05)


LIBRDKAFKA = [
    "plugin.library.paths", "sasl.kerberos.kinit.cmd", "ssl.engine.location", "ssl.key.location", "sasl.jaas.config",
    "sasl_jaas_config", "ssl_key_location", "sasl_kerberos_service_name", "sasl_oauth_token_provider", "ssl_context",
    "key_deserializer", "bootstrap.servers", "debug", "interceptors",
]  # fmt: skip


@pytest.mark.parametrize("field", LIBRDKAFKA)
def test_there_are_no_free_driver_properties(field: str) -> None:
    with pytest.raises(InvalidConfig, match="schema"):
        KafkaConfig.parse({"bootstrap_servers": "h", field: "x"})


def test_the_config_is_read_strictly() -> None:
    made = KafkaConfig.parse({"bootstrap_servers": ["A.example:1", "[::1]:2", "b"]})
    assert made.bootstrap_servers == "a.example:1,[::1]:2,b:9092"
    assert [tuple(server) for server in made.servers] == [("a.example", 1), ("::1", 2), ("b", 9092)]
    sasl = {"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u", "password": "p"}
    KafkaConfig.parse({"bootstrap_servers": "h", **sasl})
    for wrong in (
        {"bootstrap_servers": ""}, {"bootstrap_servers": "h:x"}, {"bootstrap_servers": "h:0"}, {"bootstrap_servers": "h,"},
        {"bootstrap_servers": "SASL_SSL://h:1"}, {"bootstrap_servers": "/var/run/x"}, {"bootstrap_servers": "h:1:2"},
        {"bootstrap_servers": "h:٣"}, {"username": "u", "password": "p"}, {**sasl, "sasl_mechanism": "GSSAPI"},
        {**sasl, "sasl_mechanism": "OAUTHBEARER"}, {**sasl, "password": None}, {**sasl, "security_protocol": "SSL"},
        {"ssl_ca": "-----BEGIN CERTIFICATE-----"}, {"topic_prefix": "a b"}, {"topic_prefix": ""},
    ):  # fmt: skip
        given = {"bootstrap_servers": "h", **wrong}
        with pytest.raises(InvalidConfig):
            KafkaConfig.parse({name: value for name, value in given.items() if value is not None})


# -- faults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (3, "not_found"), (10, "invalid_request"), (17, "invalid_request"), (18, "invalid_request"), (29, "upstream_error"),
        (30, "upstream_error"), (31, "upstream_error"), (6, "unreachable"), (5, "unreachable"), (19, "upstream_error"),
        (20, "upstream_error"), (7, "timeout"), (15, "unreachable"), (16, "unreachable"), (22, "unreachable"),
        (25, "unreachable"), (27, "unreachable"), (24, "upstream_error"), (87, "invalid_request"), (2, "upstream_error"),
        (58, "upstream_error"), (9999, "upstream_error"),
    ],
)  # fmt: skip
def test_what_a_broker_answers_has_a_code_of_ours(number: int, code: str) -> None:
    from studio.providers.kafka.errors import answered

    found = answered(number)
    assert found is not None
    assert found.code == code
    assert len(found.message) > 10


async def test_every_replica_in_sync_must_have_a_message(provider: Any, topic: str, monkeypatch: Any) -> None:
    asked = []
    ask_node = provider._cluster.ask
    monkeypatch.setattr(
        provider._cluster, "ask", lambda node, request: asked.append(request) or ask_node(node, request)
    )
    await ask(provider, "publish", name=topic, message="x")
    assert [request.required_acks for request in asked if hasattr(request, "required_acks")] == [-1]


def test_a_batch_that_is_refused_in_part_says_which() -> None:
    from studio.providers.kafka.cluster import reason
    from studio.providers.kafka.errors import answered

    moved, large = answered(6), answered(10)
    assert moved
    assert large
    assert reason({0: large, 1: large}, 0, 2) is large
    found = reason(dict.fromkeys(range(3, 30), large), 3, 30)
    assert (found.code, "3 of 30" in found.message, "at 3, 4, 5" in found.message) == ("upstream_error", True, True)
    assert (reason({1: moved}, 1, 2).code, reason({1: moved}, 1, 2).retryable) == ("unreachable", True)


async def test_nothing_is_left_open(kafka: Kafka, config: dict[str, Any], topic: str) -> None:
    before = established(kafka.port)
    async with open_provider(Provider, {**config, "pool_size": 4}) as provider:
        await asyncio.gather(*(ask(provider, "publish", name=topic, message=str(n)) for n in range(100)))
        await ask(provider, "receive", name=topic, max_messages=5)
        await ask(provider, "describe", name=topic)
        assert established(kafka.port) - before <= 2 * 7  # each has one behind the front
    await asyncio.sleep(0.2)
    assert established(kafka.port) == before
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


# -- the second opinion ---------------------------------------------------------------------------


async def test_another_broker_agrees_on_the_main_job(tansu: Tansu) -> None:
    assert listening(tansu.port, tansu.host)
    topic = f"t{secrets.token_hex(4)}"
    await tansu.create(topic, 2)
    given = tansu.config(topic_prefix=topic[:2], read_only=False)
    async with open_provider(Provider, given) as provider:
        probe = Probe()
        await provider.probe(probe)
        assert all(stage.ok for stage in probe.stages)
        batch = [{"message": f"m{n}", "key": str(n), "headers": {"n": n}} for n in range(50)]
        sent = rows(await ask(provider, "publish", name=topic[2:], batch=batch, compression="zstd"))
        assert len({row["id"] for row in sent}) == 50
        seen = rows(await ask(provider, "peek", name=topic[2:], max_messages=100))
        assert sorted(row["message"] for row in seen) == sorted(f"m{n}" for n in range(50))
        assert {row["message"]: row["headers"]["n"] for row in seen} == {f"m{n}": str(n) for n in range(50)}
        described = (await ask(provider, "describe", name=topic[2:])).data
        assert len(described["partitions"]) == 2  # it counts a batch as one offset, so its numbers are not looked at
        listed = rows(await provider.run(provider.operation("list"), {}))
        assert {"name": topic[2:], "partitions": 2} in listed
        assert (await code_of(ask(provider, "publish", name="nothing", message="x")))[0] == "not_found"


async def test_another_broker_agrees_on_groups(tansu: Tansu) -> None:
    topic = f"t{secrets.token_hex(4)}"
    await tansu.create(topic)
    given = tansu.config(group_id=f"g{secrets.token_hex(4)}", read_only=False)
    async with open_provider(Provider, given) as provider:
        await ask(provider, "publish", name=topic, messages=["a", "b", "c"])
        found = await drained(provider, topic, 3)
        assert [row["message"] for row in found] == ["a", "b", "c"]
        await ask(provider, "ack", handles=[row["handle"] for row in found[:2]])
        await ask(provider, "nack", handles=[found[2]["handle"]])
        assert [row["message"] for row in await drained(provider, topic, 1, auto_ack=True)] == ["c"]


# -- the page -------------------------------------------------------------------------------------


async def test_the_example_of_the_page_runs(kafka: Kafka, tmp_path: Path) -> None:
    prefix = f"page{secrets.token_hex(4)}."
    await kafka.create(prefix + "orders")
    env = {
        "SERVERS": f"127.0.0.1:{kafka.port}", "USERNAME": kafka.user, "PASSWORD": kafka.password, "CA": kafka.ca,
        "PREFIX": prefix, "GROUP": prefix + "g",
    }  # fmt: skip
    given = {f"KAFKA_{name}": value for name, value in env.items()}
    assert await asyncio.to_thread(run_page, "kafka", tmp_path, given) == (
        "Connection successful\n[('7', {'source': 'web'})]\n['{\"id\":7,\"item\":\"tea\"}']\n0\n"
    )


# -- what the account may do ----------------------------------------------------------------------

R, W, DELETE, ALTER, DESCRIBE = 3, 4, 6, 7, 8


def bits(*operations: int) -> int:
    return sum(1 << operation for operation in operations)


def told(cluster: int, topics: dict[str, int], group: int) -> Any:
    """A broker's answers after KIP-430, whose layout the emulators above share; they fill none of it in."""
    from types import SimpleNamespace

    from studio.providers.kafka import rights

    async def answer(_node: Any, request: Any) -> Any:
        if isinstance(request, rights._Ask):
            entries = [(0, name, name.startswith("__"), [], of_topic) for name, of_topic in topics.items()]
            return SimpleNamespace(topics=entries, authorized_operations=cluster)
        if isinstance(request, rights._AskGroup):
            return SimpleNamespace(groups=[(0, "g", "Empty", "", "", [], group)])
        return SimpleNamespace(error_code=0, coordinator_id=1, host="h", port=1)

    return SimpleNamespace(ask=answer, learn=lambda *_: None)


NOTHING = -(2**31)


@pytest.mark.parametrize(
    ("cluster", "topics", "group", "expected"),
    [
        (bits(DESCRIBE), {"a": bits(R, DESCRIBE)}, bits(DESCRIBE), ([], True)),
        (bits(DESCRIBE), {"a": bits(R, DESCRIBE)}, bits(R, DESCRIBE), (["Read on group g"], True)),
        (bits(ALTER), {"a": bits(R, W), "b": bits(W, DELETE), "__x": bits(W)}, bits(DESCRIBE),
         (["Alter on the cluster", "Write on 2 topic(s), such as a", "Delete on 1 topic(s), such as b"], True)),
        (NOTHING, {"a": bits(W)}, NOTHING, (["Write on 1 topic(s), such as a"], False)),
        (bits(DESCRIBE), {}, bits(DESCRIBE), ([], False)),
        (-1, {"a": NOTHING}, NOTHING, ([], False)),
    ],
)  # fmt: skip
async def test_what_brokers_tell_of_the_account_is_listed(
    cluster: int, topics: dict[str, int], group: int, expected: tuple[list[str], bool]
) -> None:
    from studio.providers.kafka.rights import rights

    assert await rights(told(cluster, topics, group), "", "g") == expected


async def test_a_broker_that_does_not_tell_is_not_believed_to_keep_anybody_from_writing(
    kafka: Kafka, tansu: Tansu, topic: str
) -> None:
    for given in (kafka.config(group_id="g"), tansu.config(group_id="g")):
        async with open_provider(Provider, given) as provider:
            found = await provider.privileges()
        assert (found["enforced_by"], found["excess"]) == ("service", [])
        assert "do not tell" in found["detail"]
