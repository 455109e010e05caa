"""Whole pieces of work through the service against the bare client: objects and messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from bench.governed import started
from bench.runner import Outcome, once
from studio.services.connector_service import ConnectorService

SMALL = 1000
MESSAGES = 10_000
BATCH = 500
CALLERS = 16
MIB = 1 << 20
CHUNK = bytes(range(256)) * 4096
Work = Callable[[], Awaitable[object]]


async def many(call: Callable[[int], Awaitable[object]], count: int = SMALL) -> None:
    """`count` calls from a few callers at once."""
    numbers = iter(range(count))

    async def caller() -> None:
        for number in numbers:
            await call(number)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def registered(service: ConnectorService, kind: str, family: str, config: dict[str, Any]) -> str:
    """A writable connector; its id."""
    made = await service.create(
        {
            "organization_id": "bench", "name": kind, "connector_type": family, "provider": kind,
            "config": {**config, "read_only": False, "pool_size": CALLERS, "timeout_s": 120, "max_rows": MESSAGES},
        }
    )  # fmt: skip
    return str(made["id"])


async def content() -> AsyncIterator[bytes]:
    """256 MiB."""
    for _ in range(256):
        yield CHUNK


@asynccontextmanager
async def s3(service: ConnectorService) -> AsyncIterator[dict[str, tuple[Work, Work]]]:
    """SeaweedFS; bare: aiobotocore, with as many connections."""
    from aiobotocore.config import AioConfig
    from aiobotocore.session import get_session
    from tests.upstreams.seaweedfs import Seaweedfs

    with started(Seaweedfs()) as server:
        connector = await registered(service, "s3", "storage", server.config())
        target = await service.target(connector)
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                get_session().create_client(
                    "s3", region_name="us-east-1", endpoint_url=server.url, aws_access_key_id=server.key,
                    aws_secret_access_key=server.secret,
                    config=AioConfig(
                        max_pool_connections=CALLERS, s3={"addressing_style": "path"},
                        request_checksum_calculation="when_required", response_checksum_validation="when_required",
                    ),
                )
            )  # fmt: skip

            async def put(number: int) -> object:
                arguments = {"key": f"ours/{number}", "text": "x" * 1000}
                return await service.execute("put", arguments, connector_id=connector)

            async def bare_put(number: int) -> object:
                return await client.put_object(Bucket=server.bucket, Key=f"bare/{number}", Body=b"x" * 1000)

            async def get(number: int) -> object:
                return await service.execute("get", {"key": f"ours/{number}"}, connector_id=connector)

            async def bare_get(number: int) -> object:
                return await _drained(await client.get_object(Bucket=server.bucket, Key=f"bare/{number}"))

            async def put_large() -> object:
                return await service.upload(service.plan(target, "put", {"key": "ours-large"}, raw=True), content())

            async def get_large() -> None:
                planned = service.plan(target, "get", {"key": "ours-large"}, raw=True)
                async with service.download(planned) as found:
                    async for _ in found.chunks:
                        pass

            async def bare_get_large() -> object:
                return await _drained(await client.get_object(Bucket=server.bucket, Key="ours-large"))

            yield {
                "1,000 small puts": (lambda: many(put), lambda: many(bare_put)),
                "1,000 small gets": (lambda: many(get), lambda: many(bare_get)),
                "one put of 256 MiB, streamed": (put_large, lambda: _bare_put_large(client, server.bucket)),
                "one get of 256 MiB, streamed": (get_large, bare_get_large),
            }


async def _drained(answer: Any) -> int:
    size = 0
    async with answer["Body"] as body:
        async for chunk in body.iter_chunks(MIB):
            size += len(chunk)
    return size


async def _bare_put_large(client: Any, bucket: str) -> None:
    """Multipart by hand, 16 parts of 16 MiB: the client has no streamed put of unknown length."""
    upload = await client.create_multipart_upload(Bucket=bucket, Key="bare-large")
    parts = []
    for number in range(1, 17):
        part = await client.upload_part(
            Bucket=bucket, Key="bare-large", UploadId=upload["UploadId"], PartNumber=number, Body=CHUNK * 16
        )
        parts.append({"ETag": part["ETag"], "PartNumber": number})
    await client.complete_multipart_upload(
        Bucket=bucket, Key="bare-large", UploadId=upload["UploadId"], MultipartUpload={"Parts": parts}
    )


@asynccontextmanager
async def rabbitmq(service: ConnectorService) -> AsyncIterator[dict[str, tuple[Work, Work]]]:
    """A real RabbitMQ; bare: aio-pika with publisher confirms. Both in batches of 500."""
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

            async def ours() -> None:
                for start in range(0, MESSAGES, BATCH):
                    texts = [f"message {number}" for number in range(start, start + BATCH)]
                    await service.execute("publish", {"name": "ours", "messages": texts}, connector_id=connector)
                left = MESSAGES
                while left:
                    asked = {"name": "ours", "max_messages": BATCH, "auto_ack": True, "wait_s": 1.0}
                    left -= (await service.execute("receive", asked, connector_id=connector))["row_count"]

            async def bare() -> None:
                exchange = channel.default_exchange
                for start in range(0, MESSAGES, BATCH):
                    await asyncio.gather(
                        *(
                            exchange.publish(aio_pika.Message(b"message %d" % number, delivery_mode=2), "bare")
                            for number in range(start, start + BATCH)
                        )
                    )
                queue = await channel.declare_queue("bare", durable=True)
                left = MESSAGES
                async with queue.iterator(no_ack=True) as messages:
                    async for _ in messages:
                        left -= 1
                        if not left:
                            break

            yield {"10,000 messages published and received": (ours, bare)}


CASES = {"s3": s3, "rabbitmq": rabbitmq}


async def run(name: str, service: ConnectorService, rounds: int) -> list[Outcome]:
    """Each piece of work of a case, `rounds` times."""
    async with CASES[name](service) as pieces:
        return [await once(f"{name}: {what}", "", ours, bare, rounds=rounds) for what, (ours, bare) in pieces.items()]
