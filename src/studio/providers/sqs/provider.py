"""Amazon SQS, and what speaks its protocol: standard and FIFO queues."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, Field, model_validator

from studio.contract import BELOW, Batch, Column, Probe, ProviderConfig, Result
from studio.contract.messaging import (
    AcknowledgingProvider,
    AutoAck,
    Encoding,
    Entries,
    Handles,
    Headers,
    HoldS,
    Key,
    Listing,
    MaxMessages,
    Message,
    Messages,
    Name,
    WaitS,
)
from studio.contract.web import BaseUrl, Url, split_url
from studio.errors import InvalidRequest, NotFound, StudioError
from studio.providers import _messages as shared
from studio.providers._aws.config import AwsConfig
from studio.providers._objects import net
from studio.providers.sqs.errors import Denied, error_of

if TYPE_CHECKING:
    from studio.providers.sqs.messages import Queue
    from studio.providers.sqs.queues import Queues

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo")
_QUEUE_PATH = re.compile(r"(?:/[A-Za-z0-9_.-]+)*/(?:[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}\.fifo)")
_MORE = (("deliveries", "integer"), ("sequence", "text"))
_ACTIONS = {"reader": ["GetQueueUrl", "GetQueueAttributes", "ListQueues"]}


def _queue_url(text: str) -> str:
    if not _QUEUE_PATH.fullmatch(split_url(text).path):
        raise ValueError("must end with the name of a queue, as SQS shows it: https://host/account/name")
    return text


QueueUrl = Annotated[BaseUrl, AfterValidator(_queue_url)]
QueuePrefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,80}$")]
Dedup = Annotated[
    str | None,
    Field(
        pattern=r"^[!-~]{1,128}$",
        description="Of a FIFO queue, with message: what SQS tells a repeated message by, for five minutes.",
    ),
]


class SqsConfig(AwsConfig):
    """Queues of one account and region. Without keys it asks anonymously; no key is ever looked for anywhere else."""

    queue_url: QueueUrl | None = Field(None, description="The address of the one queue that this connector is about.")
    queue_prefix: Annotated[QueuePrefix | None, BELOW] = Field(
        None, description="Put before every queue's name, and taken off again in answers; others cannot be reached."
    )

    @model_validator(mode="after")
    def _one_or_a_prefix(self) -> Self:
        if self.queue_url is not None and self.queue_prefix is not None:
            raise ValueError("queue_url: names one queue; give it or queue_prefix")
        return self


class Sqs(AcknowledgingProvider[SqsConfig], Listing):
    """Amazon SQS: standard and FIFO queues, at-least-once delivery."""

    kind: ClassVar[str] = "sqs"
    Config: ClassVar[type[ProviderConfig]] = SqsConfig
    fixes: ClassVar[Mapping[str, str]] = {
        "resolve": "check endpoint_url, or the region: the host name is made of it",
        "connect": "check the endpoint's host and port, and firewalls in between",
        "tls": "check that the endpoint speaks TLS, and give its CA as ssl_ca if it has one of its own",
        "login": "check region, the keys and the queue",
        "auth_failed": "check the access key and its secret; after a rotation, update the connector",
    }

    _queues: Queues

    async def open(self, stack: AsyncExitStack) -> None:
        """Make the client; it connects on first use."""
        config = self.config
        # The driver's import and its models take half a second, which is not the event loop's.
        aws = await asyncio.to_thread(import_module, "studio.providers._aws.session")
        from studio.providers.sqs.queues import Queues

        http = await net.session(
            stack, self.network, connections=config.pool_size, connect_s=config.connect_timeout_s,
            read_s=config.timeout_s + 1, ca=config.ssl_ca, answers=net.BoundedMessages,
        )  # fmt: skip
        self._client = await aws.client("sqs", stack, config.access(external_id=self.organization_id), http)
        self._queues = Queues(self._client, config.queue_url)

    async def ping(self) -> None:
        """Ask for the queue, or for one below the prefix. An account that may not is known there nevertheless."""
        config = self.config
        try:
            if config.queue_url:
                await self._client.get_queue_attributes(QueueUrl=config.queue_url, AttributeNames=["QueueArn"])
            else:
                prefix = {"QueueNamePrefix": config.queue_prefix} if config.queue_prefix else {}
                await self._client.list_queues(MaxResults=1, **prefix)
        except Exception as exc:
            if not isinstance(self.error(exc), Denied):
                raise

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return error_of(exc)

    async def reach(self, probe: Probe) -> None:
        """See `net.py`; then a signed request."""
        config = self.config
        url: Url = split_url(self._client.meta.endpoint_url)
        await net.reach(probe, self.network, url, connect_s=config.connect_timeout_s, ca=config.ssl_ca)
        with probe.stage("login"):
            await self.ping()

    async def privileges(self) -> dict[str, Any]:
        """SQS does not tell an account what it may do."""
        name = "*" if self.config.queue_url is None else self.config.queue_url.rpartition("/")[2]
        where = f"arn:aws:sqs:{self.config.region}:ACCOUNT:{self.config.queue_prefix or ''}{name}"
        actions = [f"sqs:{action}" for action in _ACTIONS["reader"]]
        policy = {
            "Version": "2012-10-17",
            "Statement": [{"Effect": "Allow", "Action": actions, "Resource": where}],
        }
        return {
            "enforced_by": "service",
            "excess": [],
            "grant": [json.dumps(policy)],
            "detail": "SQS does not tell an account its rights: this service keeps reads to reads. Use an account "
            "without sqs:SendMessage, sqs:ReceiveMessage and sqs:DeleteMessage where nothing shall be changed",
        }

    # -- operations -------------------------------------------------------------------------------

    async def publish(
        self,
        name: Name,
        message: Message = None,
        messages: Messages = None,
        batch: Entries = None,
        key: Key = None,
        headers: Headers = None,
        encoding: Encoding = "text",
        deduplication_id: Dedup = None,
    ) -> Result:
        """Send messages to a queue; each row has the id that SQS gave. FIFO queues need a key: the message group."""
        shared.must_write(self.config)
        going = shared.outgoing(
            message=message, messages=messages, batch=batch, key=key, headers=headers, encoding=encoding
        )
        if deduplication_id is not None and message is None:
            raise InvalidRequest.at("deduplication_id", "belongs to one message")
        queue = await self._queue(name)
        placed = await self._queues.send(queue, going, deduplication_id)
        columns = [Column(name="id", type="text"), Column(name="sequence", type="text")]
        return Result(columns=columns, rows=list(placed), row_count=len(placed))

    async def receive(
        self,
        name: Name,
        max_messages: MaxMessages = None,
        wait_s: WaitS = 1.0,
        auto_ack: AutoAck = False,
        hold_s: HoldS = None,
    ) -> Result:
        """Take messages from a queue: as soon as there is one, it and what is there beside it."""
        from studio.providers.sqs.messages import incoming

        shared.must_write(self.config)
        count, patience = shared.wanted(self.config, max_messages), shared.patience(self.config, wait_s)
        queue = await self._queue(name)
        found = await self._queues.receive(queue, count, patience, hold_s, self.config.max_bytes)
        receipts = [str(message["ReceiptHandle"]) for message in found]
        try:
            rows, cut = shared.fitting(map(incoming, shared.emptied(found)), self.config.max_bytes)
        except StudioError:
            await self._queues.settle(queue, receipts, back=True)
            raise
        kept, rest = receipts[: len(rows)], receipts[len(rows) :]
        await self._queues.settle(queue, rest, back=True)
        handles: Sequence[str | None] = [_handle(queue.name, receipt) for receipt in kept]
        if auto_ack:
            await self._queues.settle(queue, kept, back=False)
            handles = [None] * len(kept)
        return shared.answer(rows, handles, truncated=cut, more=_MORE)

    async def ack(self, handles: Handles) -> int:
        """Delete messages: they do not come back. Handles hold in any session, for as long as SQS takes them."""
        return await self._settle(handles, back=False)

    async def nack(self, handles: Handles) -> int:
        """Make messages visible again at once, to be received by whoever comes first."""
        return await self._settle(handles, back=True)

    async def describe(self, name: Name) -> dict[str, Any]:
        """Describe one queue: about how many messages it has, and its settings."""
        found = await self._queues.attributes(await self._queue(name))
        redrive = json.loads(found.get("RedrivePolicy") or "{}")
        return {
            "name": name,
            "messages": int(found.get("ApproximateNumberOfMessages", 0)),
            "in_flight": int(found.get("ApproximateNumberOfMessagesNotVisible", 0)),
            "delayed": int(found.get("ApproximateNumberOfMessagesDelayed", 0)),
            "fifo": found.get("FifoQueue") == "true",
            "hold_s": int(found.get("VisibilityTimeout", 30)),
            "retention_s": int(found.get("MessageRetentionPeriod", 0)),
            "deliveries_before_dead_letter": redrive.get("maxReceiveCount"),
        }

    async def list(self) -> AsyncIterator[Batch]:
        """List the names of the queues below the connector's prefix."""
        prefix = self.config.queue_prefix or ""
        async for names in self._queues.names(prefix):
            yield Batch([Column(name="name", type="text")], [(name.removeprefix(prefix),) for name in names])

    # -- below the operations ---------------------------------------------------------------------

    async def _queue(self, name: str) -> Queue:
        full = (self.config.queue_prefix or "") + name
        if not _NAME.fullmatch(full):
            raise InvalidRequest.at(
                "name",
                "must be letters, digits, dashes and underscores, 80 at most; a FIFO queue's ends with .fifo",
            )
        return await self._queues.get(full)

    async def _settle(self, handles: Sequence[str], *, back: bool) -> int:
        shared.must_write(self.config)
        prefix = self.config.queue_prefix or ""
        by_queue: dict[str, list[str]] = {}
        for number, handle in enumerate(dict.fromkeys(handles)):
            name, receipt = _parts(handle, number)
            if not name.startswith(prefix):
                raise NotFound.at(f"handles.{number}", "is not of a queue of this connector")
            by_queue.setdefault(name, []).append(receipt)
        for name, receipts in by_queue.items():
            await self._queues.settle(await self._queue(name.removeprefix(prefix)), receipts, back=back)
        return sum(map(len, by_queue.values()))


def _handle(name: str, receipt: str) -> str:
    return f"{base64.urlsafe_b64encode(name.encode()).decode().rstrip('=')}.{receipt}"


def _parts(handle: str, number: int) -> tuple[str, str]:
    head, dot, receipt = handle.partition(".")
    try:
        name = base64.b64decode(head + "=" * (-len(head) % 4), altchars=b"-_", validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError):
        name = ""
    if not (dot and receipt and _NAME.fullmatch(name)):
        raise InvalidRequest.at(f"handles.{number}", "is not one that receive gave")
    return name, receipt
