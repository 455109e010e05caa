"""Messages through the service against the bare client: published and received, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.governed import started
from bench.pieces import MESSAGES, Pieces, aws, registered
from studio.services.connector_service import ConnectorService

BATCH = 500
ALL = "10,000 messages published and received"


def texts(count: int = MESSAGES) -> list[list[str]]:
    """The messages, in batches."""
    return [[f"message {number}" for number in range(at, at + BATCH)] for at in range(0, count, BATCH)]


async def queued(service: ConnectorService, connector: str, name: str) -> None:
    """Publish all and receive all, through the service."""
    for batch in texts():
        await service.execute("publish", {"name": name, "messages": batch}, connector_id=connector)
    await received(service, connector, name, MESSAGES)


async def received(service: ConnectorService, connector: str, name: str, left: int) -> None:
    """Receive so many."""
    while left:
        asked = {"name": name, "max_messages": BATCH, "auto_ack": True, "wait_s": 1.0}
        left -= (await service.execute("receive", asked, connector_id=connector))["row_count"]


@asynccontextmanager
async def rabbitmq(service: ConnectorService) -> AsyncIterator[Pieces]:
    """A real RabbitMQ; bare: aio-pika with publisher confirms."""
    import aio_pika
    from tests.upstreams.rabbitmq import Rabbitmq

    with started(Rabbitmq()) as server:
        connector = await registered(service, "rabbitmq", "messaging", server.config())
        connection = await aio_pika.connect(
            host=server.host, port=server.port, login=server.user, password=server.password
        )
        async with connection:
            channel = await connection.channel(publisher_confirms=True)
            for name in ("ours", "bare"):
                await channel.declare_queue(name, durable=True)
            exchange = channel.default_exchange

            async def bare() -> None:
                for batch in texts():
                    sent = (aio_pika.Message(text.encode(), delivery_mode=2) for text in batch)
                    await asyncio.gather(*(exchange.publish(message, "bare") for message in sent))
                queue = await channel.declare_queue("bare", durable=True)
                left = MESSAGES
                async with queue.iterator(no_ack=True) as messages:
                    async for _ in messages:
                        left -= 1
                        if not left:
                            break

            yield {ALL: (lambda: queued(service, connector, "ours"), bare)}


@asynccontextmanager
async def kafka(service: ConnectorService) -> AsyncIterator[Pieces]:
    """An emulator, without SASL and TLS; bare: aiokafka, acks=all, a commit a batch."""
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
    from tests.upstreams.kafka import Kafka

    with started(Kafka()) as server:
        config = {"bootstrap_servers": server.plain, "security_protocol": "PLAINTEXT", "group_id": "ours"}
        connector = await registered(service, "kafka", "messaging", config)
        for topic in ("ours", "bare"):
            await server.create(topic)
        producer = AIOKafkaProducer(bootstrap_servers=server.plain, acks="all")
        consumer = AIOKafkaConsumer(
            "bare", bootstrap_servers=server.plain, group_id="bare", enable_auto_commit=False,
            auto_offset_reset="earliest", max_poll_records=BATCH,
        )  # fmt: skip
        async with producer, consumer:

            async def bare() -> None:
                for batch in texts():
                    await asyncio.gather(*[await producer.send("bare", text.encode()) for text in batch])
                left = MESSAGES
                while left:
                    left -= sum(map(len, (await consumer.getmany(timeout_ms=1000)).values()))
                    await consumer.commit()

            yield {ALL: (lambda: queued(service, connector, "ours"), bare)}


@asynccontextmanager
async def sqs(service: ConnectorService) -> AsyncIterator[Pieces]:
    """An emulator (moto); bare: aiobotocore, ten messages a call, which is the most that SQS takes.

    One batch of the messages: moto takes about 10 ms for a message, and more for a longer queue.
    """
    from tests.upstreams.sqs import Moto

    with started(Moto()) as server:
        connector = await registered(service, "sqs", "messaging", server.config())
        server.create("ours")
        queue = {"QueueUrl": server.create("bare")}
        async with aws("sqs", server.url, server.key, server.secret) as client:

            async def ours() -> None:
                for batch in texts(BATCH):
                    await service.execute("publish", {"name": "ours", "messages": batch}, connector_id=connector)
                    await received(service, connector, "ours", BATCH)

            async def bare() -> None:
                for batch in texts(BATCH):
                    for at in range(0, BATCH, 10):
                        sent = [{"Id": str(at), "MessageBody": text} for at, text in enumerate(batch[at : at + 10])]
                        await client.send_message_batch(**queue, Entries=sent)
                    left = BATCH
                    while left:
                        left -= await _ten(client, queue)

            yield {"500 messages published and received": (ours, bare)}


async def _ten(client: Any, queue: dict[str, str]) -> int:
    answer = await client.receive_message(
        **queue, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageAttributeNames=["All"],
        MessageSystemAttributeNames=["All"],
    )  # fmt: skip
    found = answer.get("Messages", [])
    done = [{"Id": str(at), "ReceiptHandle": one["ReceiptHandle"]} for at, one in enumerate(found)]
    if done:
        await client.delete_message_batch(**queue, Entries=done)
    return len(found)


@asynccontextmanager
async def redis_pubsub(service: ConnectorService) -> AsyncIterator[Pieces]:
    """A real Redis; bare: redis-py, in pipelines. One listens while the other publishes."""
    from tests.upstreams.redis import Redis

    with started(Redis()) as server:
        connector = await registered(service, "redis_pubsub", "messaging", server.config())
        client = server.admin()

        async def heard(name: str) -> None:
            while (await client.pubsub_numsub(name))[0][1] == 0:  # noqa: ASYNC110 - only the server knows
                await asyncio.sleep(0.001)

        async def ours() -> None:
            asked = {"name": "ours", "max_messages": MESSAGES, "auto_ack": True, "wait_s": 60.0}
            window = asyncio.create_task(service.execute("receive", asked, connector_id=connector))
            await heard("ours")
            for batch in texts():
                await service.execute("publish", {"name": "ours", "messages": batch}, connector_id=connector)
            assert (await window)["row_count"] == MESSAGES

        async def bare() -> None:
            async with client.pubsub() as listening:
                await listening.subscribe("bare")
                window = asyncio.create_task(_heard(listening))
                await heard("bare")
                for batch in texts():
                    pipeline = client.pipeline(transaction=False)
                    for text in batch:
                        pipeline.publish("bare", text)
                    await pipeline.execute()
                await window

        yield {ALL: (ours, bare)}
        await client.aclose()


async def _heard(listening: Any) -> None:
    left = MESSAGES
    async for message in listening.listen():
        left -= message["type"] == "message"
        if not left:
            return
