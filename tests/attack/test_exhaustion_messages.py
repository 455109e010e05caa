"""Bombs in the messages of brokers: live brokers hold them, or a stand-in sends them; the bounds are those of `served`."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from tests.attack.served import LIMITS, MIB, Bounds, Cost, Served, config
from tests.attack.sink import answer, sink
from tests.upstreams.kafka import Kafka
from tests.upstreams.rabbitmq import Rabbitmq
from tests.upstreams.redis import Redis
from tests.upstreams.sqs import Moto

from studio.contract.messaging import MAX_BATCH

MOST = 1000
"""Messages of one answer: max_rows."""
LARGE = MIB - 2048
"""Bytes of a body that a broker still takes as 1 MiB with what is around it."""
WIDE = ("x" * (LARGE - 4) + "🙂").encode()
"""A text that takes four times the memory of its bytes, for the sake of one character."""
SMALL = b"[" + b"{}," * (LARGE // 3 - 2) + b"{}]"
DEEP = b"[" * (LARGE // 2) + b"]" * (LARGE // 2)
BODIES = {
    "large texts": b"x" * LARGE,
    "large bytes": b"\xff" * LARGE,
    "wide texts": WIDE,
    "escapes": b"\x01" * (LARGE // 2),
    "small values": SMALL,
    "deep JSON": DEEP,
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "as many messages as are taken": {"messages": ["x" * 80] * MAX_BATCH},
    "as many entries as are taken": {"batch": [{"message": "x", "headers": {"a": 1}}] * 6_600},
    "one large message": {"message": "x" * 1_000_000},
    "one large message in base64": {"message": base64.b64encode(b"\xff" * 700_000).decode(), "encoding": "base64"},
    "small values": {"message": [{}] * 19_000},
    "one wide message": {"message": "x" * 1_000_000 + "🙂"},
    "many escapes": {"message": "\x01" * 170_000},
}


async def published(served: Served, bounds: Bounds, made: str, name: str, **more: Any) -> None:
    for bomb, arguments in PUBLISHED.items():
        await bounds.hold(f"publish: {bomb}", partial(served.operate, made, "publish", name=name, **arguments, **more))


# -- Kafka ----------------------------------------------------------------------------------------

Made = Callable[[Any], Awaitable[None]]


@asynccontextmanager
async def producer(kafka: Kafka, packed: str | None = None) -> AsyncIterator[Any]:
    from aiokafka import AIOKafkaProducer

    bare = AIOKafkaProducer(
        bootstrap_servers=kafka.plain, compression_type=packed, max_request_size=1 << 30, max_batch_size=1 << 30
    )
    await bare.start()
    try:
        yield bare
    finally:
        await bare.stop()


async def put(kafka: Kafka, topic: str, *records: Any, packed: str | None = None, times: int = 1) -> None:
    """A batch of records (value, key, headers), so many times."""
    async with producer(kafka, packed) as bare:
        batch = bare.create_batch()
        for value, key, headers in records:
            assert batch.append(key=key, value=value, timestamp=None, headers=list(headers))
        batch.close()
        for _ in range(times):
            await (await bare.send_batch(batch, topic, partition=0))


RECORDS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    **{name: (((body, None, ()),), {"times": 4}) for name, body in BODIES.items()},
    "more than was asked for": (((b"x" * LARGE, None, ()),), {"times": 40}),
    "small records": (((b"x", None, ()),) * 80_000, {}),
    "large keys": (((b"x", b"\xff" * LARGE, ()),), {"times": 4}),
    "headers": (((b"x", None, (("h", b"x"),) * 40_000),) * 4, {"times": 4}),
    "packed headers": (((b"", None, (("h", b""),) * 500_000),), {"packed": "gzip", "times": 40}),
    "headers of other names": (
        ((b"", None, [(f"{n}", b"") for n in range(100_000)]),),
        {"packed": "gzip", "times": 20},
    ),
    "packed small records": (((b"", None, ()),) * 500_000, {"packed": "gzip"}),
    **{f"{each}, 200 MiB": (((bytes(200 * MIB), None, ()),), {"packed": each}) for each in ("gzip", "zstd")},
    "many packed batches": (((b"x" * 7 * MIB, None, ()),), {"packed": "gzip", "times": 60}),
    "many packed texts": (((b"x" * MIB, None, ()),) * 7, {"packed": "zstd", "times": 60}),
    "many packed wide texts": (((WIDE, None, ()),) * 7, {"packed": "zstd", "times": 60}),
    "many packed bytes": (((b"\xff" * 2 * MIB, None, ()),) * 3, {"packed": "lz4", "times": 60}),
    "snappy, as much as is unpacked": (((bytes(7 * MIB), None, ()),), {"packed": "snappy", "times": 4}),
}
RECEIVED = {
    "large texts",
    "wide texts",
    "small records",
    "headers",
    "packed headers",
    "many packed wide texts",
    "gzip, 200 MiB",
}
"""The same is decoded by `peek` and `receive`, but by different code of the driver; joining a group takes its time."""


async def test_no_record_of_kafka_takes_more(served: Served, kafka: Kafka) -> None:
    warm = f"warm-{secrets.token_hex(4)}"
    await kafka.create(warm)
    await put(kafka, warm, (b"x", b"k", (("h", b"v"),)), times=3)
    for packed in ("gzip", "snappy", "lz4", "zstd"):
        await put(kafka, warm, (b"x", b"k", ()), packed=packed)
    given = kafka.config(group_id=warm, read_only=False)
    made = await served.create("kafka", {**given, "timeout_s": 20.0})
    await served.warm(
        partial(served.operate, made, "receive", name=warm),
        partial(served.operate, made, "publish", name=warm, message="x"),
    )
    made = await served.create("kafka", {**given, **LIMITS})
    await served.warm(partial(served.operate, made, "peek", name=warm, where="first"))
    bounds = Bounds("kafka")
    topics = {name: f"bomb-{secrets.token_hex(4)}" for name in RECORDS}
    for topic in topics.values():
        await kafka.create(topic)
    received, members = {}, {}
    for name in RECEIVED:  # a group of its own each: members that come one after the other let all of a group wait
        each = members[name] = await served.create("kafka", {**given, **LIMITS, "group_id": topics[name]})
        received[name] = partial(
            served.operate, each, "receive", name=topics[name], max_messages=MOST, wait_s=0.5, auto_ack=True
        )
    while any(cost.status != 200 for cost in await asyncio.gather(*[receive() for receive in received.values()])):
        pass  # they are joining their groups
    await served.warm(partial(served.operate, made, "peek", name=warm, where="first"))
    for name, (records, how) in RECORDS.items():
        await put(kafka, topics[name], *records, **how)
        if name in RECEIVED:
            for turn in ("receive", "receive again", "receive more"):
                await bounds.hold(f"{name}, {turn}", received[name])
            # what a member has read ahead is its session's, and not the next bomb's doing
            async with served.http.delete(f"/api/v1/connectors/{members[name]}") as reply:
                assert reply.status == 200
        for where in ("first", "last") if name in RECEIVED else ("first",):
            await bounds.hold(
                f"{name}, peek {where}",
                partial(served.operate, made, "peek", name=topics[name], where=where, max_messages=MOST),
            )
    await published(served, bounds, made, warm)
    for packed in ("gzip", "snappy", "lz4", "zstd"):
        await bounds.hold(
            f"publish: {packed}",
            partial(served.operate, made, "publish", name=warm, compression=packed, message="x" * 1_000_000),
        )
    assert not bounds.broken


# -- RabbitMQ -------------------------------------------------------------------------------------

HEADERS: dict[str, dict[str, Any]] = {
    "many headers of other names": {f"{n}": n for n in range(9_000)},
    "a list of headers": {"h": [True] * 60_000},
    "one large header": {"h": "x" * 120_000},
}
QUEUED: dict[str, tuple[bytes, int, dict[str, Any]]] = {
    **{name: (body, 20, {}) for name, body in BODIES.items()},
    "small messages": (b"x", 5_000, {}),
    "16 MiB": (b"x" * 16 * MIB, 4, {}),
    **{name: (b"x", 300, headers) for name, headers in HEADERS.items()},
}


async def test_no_message_of_rabbitmq_takes_more(served: Served, rabbitmq: Rabbitmq) -> None:
    from pamqp import commands as spec

    given = rabbitmq.config(read_only=False)
    bounds = Bounds("rabbitmq")
    async with rabbitmq.fresh_queue() as warm:
        made = await served.create("rabbitmq", {**given, "timeout_s": 20.0})
        await served.warm(
            partial(served.operate, made, "publish", name=warm, message="x", headers={"a": 1}),
            partial(served.operate, made, "receive", name=warm),
        )
        made = await served.create("rabbitmq", {**given, **LIMITS})
        await served.warm(partial(served.operate, made, "publish", name=warm, message="x"))
        for name, (body, times, headers) in QUEUED.items():
            async with rabbitmq.fresh_queue() as queue:
                async with rabbitmq.channel() as channel:
                    sent = [
                        channel.basic_publish(
                            body, routing_key=queue, properties=spec.Basic.Properties(headers=headers)
                        )
                        for _ in range(times)
                    ]
                    for start in range(0, times, 500):
                        await asyncio.gather(*sent[start : start + 500])
                for turn in ("first", "again"):
                    await bounds.hold(
                        f"{name}, {turn}",
                        partial(served.operate, made, "receive", name=queue, max_messages=MOST, wait_s=0.5),
                    )
        await published(served, bounds, made, warm)
    assert not bounds.broken


# -- Redis Pub/Sub --------------------------------------------------------------------------------

PUSHED = {
    "one message": "redis.call('PUBLISH', KEYS[1], string.rep('x', 200000000))",
    "a million messages": "for n = 1, 1000000 do redis.call('PUBLISH', KEYS[1], n) end",
    "large messages": "for n = 1, 30 do redis.call('PUBLISH', KEYS[1], string.rep('x', 1048576)) end",
    "large bytes": "for n = 1, 30 do redis.call('PUBLISH', KEYS[1], string.rep('\\255', 1048576)) end",
    "wide texts": "for n = 1, 30 do redis.call('PUBLISH', KEYS[1], string.rep('x', 1000000) .. '🙂') end",
    "escapes": "for n = 1, 30 do redis.call('PUBLISH', KEYS[1], string.rep('\\1', 500000)) end",
    "small values": "for n = 1, 30 do redis.call('PUBLISH', KEYS[1], string.rep('{},', 330000)) end",
}


def bulk(*parts: bytes) -> bytes:
    return b">%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


LET_IN = {b"HELLO": b"%1\r\n$5\r\nproto\r\n:3\r\n", b"SUBSCRIBE": b">3\r\n$9\r\nsubscribe\r\n$4\r\nnews\r\n:1\r\n"}


def pushes(flood: bytes, request: bytes) -> bytes:
    """What a server that lets anybody in says to one that listens. A flood of `INSTEAD` confirms nothing."""
    said = b""
    for command in re.findall(rb"\*\d+\r\n\$\d+\r\n(\w+)\r\n", request):
        listens = command == b"SUBSCRIBE"
        if not (listens and flood.startswith(INSTEAD)):
            said += LET_IN.get(command, b"+OK\r\n")
        said += flood.removeprefix(INSTEAD) if listens else b""
    return said


INSTEAD = b"instead"
MESSAGE = b">3\r\n$7\r\nmessage\r\n$4\r\nnews\r\n"
FLOODS = {
    "small pushes": bulk(b"message", b"news", b"x") * 1_000_000,
    "empty pushes": b">0\r\n" * 5_000_000,
    "pushes of many parts": (b">200000\r\n" + b":1\r\n" * 200_000) * 20,
    "nested pushes": b">1\r\n" * 1_000_000,
    "a message of any size": MESSAGE + b"$500000000\r\n" + b"x" * 64 * MIB,
    "a message of any number of parts": MESSAGE + b"*2000000000\r\n" + b":1\r\n" * 10_000_000,
    "a nested message": MESSAGE + b"*1\r\n" * 1_000_000,
    "pushes to others": bulk(b"message", b"olds", b"x" * 100_000) * 600,
    "replies, no confirmation": INSTEAD + b"+OK\r\n" * 5_000_000,
    "errors, no confirmation": INSTEAD + b"-ERR no\r\n" * 2_000_000,
    "an endless line, no confirmation": INSTEAD + b"+" + b"x" * 64 * MIB,
    "a map of maps, no confirmation": INSTEAD + b"%1\r\n+a\r\n" * 500_000,
    "nothing of any size, no confirmation": INSTEAD + b">1000000000\r\n",
}


async def test_no_push_of_redis_takes_more(served: Served, redis_server: Redis) -> None:
    bounds = Bounds("redis_pubsub")
    made = await served.create("redis_pubsub", {**redis_server.config(read_only=False), **LIMITS})
    asked = {"name": "news", "max_messages": MOST, "wait_s": 0.8, "auto_ack": True}
    await served.warm(
        partial(served.operate, made, "publish", name="news", message="x", unheard_ok=True),
        partial(served.operate, made, "receive", **asked),
    )
    async with redis_server.admin() as admin:

        async def heard(script: str) -> Cost:
            async with asyncio.TaskGroup() as tasks:
                listening = tasks.create_task(served.operate(made, "receive", **asked))
                while not (await admin.pubsub_numsub("news"))[0][1]:  # noqa: ASYNC110 - another process's
                    await asyncio.sleep(0.01)
                await admin.eval(script, 1, "news")
            return listening.result()

        for name, script in PUSHED.items():
            await bounds.hold(name, partial(heard, script))
    await published(served, bounds, made, "news", unheard_ok=True)
    for name, flood in FLOODS.items():
        async with sink() as upstream:
            upstream.say = partial(pushes, flood)
            rogue = await served.create(
                "redis_pubsub", {**config("redis_pubsub", upstream.port), "read_only": False, **LIMITS}
            )
            await bounds.hold(f"rogue: {name}", partial(served.operate, rogue, "receive", **asked))
            assert b"SUBSCRIBE" in upstream.seen, f"{name} was not set off"
    assert not bounds.broken


# -- SQS ------------------------------------------------------------------------------------------


def messages(*bodies: bytes | str, **more: Any) -> bytes:
    """The answer to ReceiveMessage."""
    made = [
        {
            "MessageId": f"{n}",
            "ReceiptHandle": f"r{n}",
            "Body": body.decode() if isinstance(body, bytes) else body,
            **more,
        }
        for n, body in enumerate(bodies)
    ]
    return json.dumps({"Messages": made}, ensure_ascii=more.pop("ascii", True)).encode()


def attributes(count: int, size: int) -> dict[str, Any]:
    return {f"a{n}": {"DataType": "String", "StringValue": "x" * size} for n in range(count)}


MARKED = {"studio-encoding": {"DataType": "String", "StringValue": "base64"}}
ANSWERS = {
    "ten texts": messages(*["x" * MIB] * 10),
    "ten wide texts": messages(*[WIDE] * 10).replace(b"\\ud83d\\ude42", "🙂".encode()),
    "ten texts of escapes": messages(*['"' * MIB] * 10),
    "ten texts of other letters": messages(*["ü" * (MIB // 2)] * 10),
    "three texts of other letters": messages(*["ü" * (MIB // 2)] * 3),
    "ten of bytes": messages(*[base64.b64encode(b"\xff" * (MIB * 3 // 4))] * 10, MessageAttributes=MARKED),
    "ten of small values": messages(*[SMALL] * 10),
    "ten of many attributes": messages(*["x"] * 10, MessageAttributes=attributes(1000, 10)),
    "ten of large attributes": messages(*["x"] * 10, MessageAttributes=attributes(10, 100_000)),
    "a thousand messages": messages(*["x" * 10_000] * 1000),
    "small messages": messages(*["x"] * 20_000),
}


async def test_no_message_of_sqs_takes_more(served: Served, moto: Moto) -> None:
    bounds = Bounds("sqs")
    queue = f"bombs-{secrets.token_hex(4)}"
    url = moto.create(queue)
    bare = moto.client()
    made = await served.create("sqs", {**moto.config(read_only=False), **LIMITS})
    await served.warm(
        partial(served.operate, made, "publish", name=queue, messages=["x"] * 3),
        partial(served.operate, made, "receive", name=queue, auto_ack=True, wait_s=0),
    )
    bare.purge_queue(QueueUrl=url)
    for _ in range(12):
        await asyncio.to_thread(bare.send_message, QueueUrl=url, MessageBody="x" * MIB)
    for turn in ("first", "again", "and again"):
        await bounds.hold(
            f"live: {turn}", partial(served.operate, made, "receive", name=queue, max_messages=MOST, wait_s=0)
        )
    await published(served, bounds, made, queue)
    for name, body in ANSWERS.items():
        async with sink("sqs", http=answer(body)) as upstream:
            rogue = await served.create("sqs", {**config("sqs", upstream.port), "read_only": False, **LIMITS})
            for count in (10, MOST):
                await bounds.hold(
                    f"{name}, {count}",
                    partial(served.operate, rogue, "receive", name="things", max_messages=count, wait_s=0),
                )
    assert not bounds.broken
