"""Whole pieces of work through the service against the bare client: objects and messages."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from bench import messages, objects
from bench.pieces import Pieces
from bench.runner import Outcome, once
from studio.services.connector_service import ConnectorService

CASES: dict[str, Callable[[ConnectorService], AbstractAsyncContextManager[Pieces]]] = {
    "s3": objects.s3,
    "minio": objects.minio,
    "gcs": objects.gcs,
    "azure_blob": objects.azure_blob,
    "kafka": messages.kafka,
    "rabbitmq": messages.rabbitmq,
    "sqs": messages.sqs,
    "redis_pubsub": messages.redis_pubsub,
}


async def run(name: str, service: ConnectorService, rounds: int) -> list[Outcome]:
    """Each piece of work of a case, `rounds` times."""
    async with CASES[name](service) as pieces:
        return [await once(f"{name}: {what}", "", ours, bare, rounds=rounds) for what, (ours, bare) in pieces.items()]
