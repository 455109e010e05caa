"""Apache Kafka, and what speaks its protocol: topics in partitions, consumer groups, headers."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from studio.contract import Batch, Column, Probe, ProviderConfig, Result
from studio.contract.messaging import (
    DEFAULT_HOLD_S,
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
    Peeking,
    WaitS,
)
from studio.contract.network import tls_context
from studio.errors import Conflict, InvalidConfig, InvalidRequest, StudioError
from studio.providers import _messages as shared
from studio.providers.kafka.config import KafkaConfig
from studio.providers.kafka.errors import work_error

if TYPE_CHECKING:
    from studio.providers.kafka.cluster import Cluster
    from studio.providers.kafka.ledger import Delivery
    from studio.providers.kafka.readers import Readers

Compression = Annotated[
    Literal["none", "gzip", "snappy", "lz4", "zstd"], Field(description="How the messages of the call are packed.")
]
Where = Annotated[
    Literal["next", "first", "last"],
    Field(description="next: what group_id would receive; first: the oldest there are; last: the newest."),
]
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
IDLE_S = 30.0
"""A member of the group that nobody uses and that has nothing out leaves it, so that others get its partitions."""
HELD_ANSWERS = 4
"""As many times max_bytes of messages may be handed out and neither acknowledged nor given back."""
_MORE = (("partition", "integer"), ("offset", "integer"))
_GRANT = (
    "kafka-acls --add --allow-principal User:studio_reader --operation Read --operation Describe "
    "--topic '{prefix}' --resource-pattern-type prefixed",
    "kafka-acls --add --allow-principal User:studio_reader --operation Describe --group '{group}'",
)
_UNTOLD = (
    "the brokers do not tell everything that the account may do (Kafka does from 2.3 on, of topics that exist): this "
    "service keeps reads to reads. Use an account without Write on topics, and without Read on groups, where nothing "
    "shall be taken"
)


class Kafka(AcknowledgingProvider[KafkaConfig], Peeking, Listing):
    """An Apache Kafka cluster: topics, consumer groups, at-least-once delivery."""

    kind: ClassVar[str] = "kafka"
    Config: ClassVar[type[ProviderConfig]] = KafkaConfig
    fixes: ClassVar[Mapping[str, str]] = {
        "resolve": "check the host names in bootstrap_servers, and that this machine's DNS knows them",
        "connect": "check bootstrap_servers, that the brokers run, and that no firewall stands between",
        "tls": "check that security_protocol is what that port speaks, and give the brokers' CA in ssl_ca",
        "login": "check security_protocol, sasl_mechanism, username and password",
        "auth_failed": "check sasl_mechanism, username and password",
        "sample": "check that the brokers' advertised.listeners can be reached from here",
    }

    _cluster: Cluster
    _readers: Readers

    async def open(self, stack: AsyncExitStack) -> None:
        """Prepare; connections are made when they are needed."""
        from studio.providers.kafka.cluster import Cluster
        from studio.providers.kafka.connections import Door
        from studio.providers.kafka.reader import Reader
        from studio.providers.kafka.readers import Readers

        config = self.config
        self._door = door = Door(self.network, config, await self._context())
        self._cluster = Cluster(door)
        self._held: shared.Held[Delivery] = shared.Held(self._give_back, gone=lambda delivery: delivery.gone)
        self._readers = Readers(lambda topic: Reader(topic, self._group(), config, door), IDLE_S)
        for closing in (self._cluster.close, self._readers.close, self._held.close):
            stack.push_async_callback(closing)

    async def _context(self) -> Any:
        if not self.config.tls:
            return None
        try:
            return await asyncio.to_thread(tls_context, None, verify=True, check_hostname=True, ca=self.config.ssl_ca)
        except (ssl.SSLError, ValueError):
            raise InvalidConfig.at("config.ssl_ca", "is not a usable PEM") from None

    async def ping(self) -> None:
        """Ask for metadata of nothing."""
        await self._cluster.ping()

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return work_error(exc)

    async def reach(self, probe: Probe) -> None:
        """See `reach.py`."""
        from studio.providers.kafka.reach import reach

        await reach(probe, self._door, self.network, self.config.connect_timeout_s)

    async def privileges(self) -> dict[str, Any]:
        """What the brokers tell (KIP-430). An account that may not list ACLs hears this much of its own."""
        from studio.providers.kafka.rights import rights

        config, excess, told = self.config, list[str](), False
        try:
            excess, told = await rights(self._cluster, config.topic_prefix or "", config.group_id)
        except Exception as exc:  # a broker that is too old, or will not say
            if self.translate(exc) is None:
                raise
        return {
            "enforced_by": "account" if told and not excess else "service",
            "excess": excess,
            "grant": [line.format(prefix=config.topic_prefix or "*", group=config.group_id or "*") for line in _GRANT],
            "detail": None if told else _UNTOLD,
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
        compression: Compression = "none",
    ) -> Result:
        """Publish messages to a topic with acks=all; each row tells where a message is.

        Messages with the same key go to the same partition, those without one all to one, in their order.
        """
        from studio.providers.kafka.work import publish

        shared.must_write(self.config)
        going = shared.outgoing(
            message=message, messages=messages, batch=batch, key=key, headers=headers, encoding=encoding
        )
        places = await publish(
            self._cluster, self._full(name), going, codec=compression, timeout_ms=int(self.config.timeout_s * 1000)
        )
        rows = [(f"{partition}:{offset}", partition, offset) for partition, offset in places]
        columns = [Column(name="id", type="text"), *(Column(name=each, type=kind) for each, kind in _MORE)]
        return Result(columns=columns, rows=rows, row_count=len(rows))

    async def receive(
        self,
        name: Name,
        max_messages: MaxMessages = None,
        wait_s: WaitS = 1.0,
        auto_ack: AutoAck = False,
        hold_s: HoldS = None,
    ) -> Result:
        """Take messages for the connector's group_id: as soon as there is one, it and what is there beside it.

        The first receive joins the group, which can take some seconds where it has other members.
        """
        from studio.providers.kafka import work
        from studio.providers.kafka.ledger import Delivery

        shared.must_write(self.config)
        count, patience = shared.wanted(self.config, max_messages), shared.patience(self.config, wait_s)
        self._group()
        if not auto_ack:
            self._require_room()
        async with self._readers.use(self._full(name), self._cluster) as reader:
            found = await reader.take(count, patience)
            ledger = reader.ledger

            def came(record: Any) -> shared.Incoming:
                each = work.incoming(record)
                each.redelivered = (record.partition, record.offset) in ledger.again or None
                return each

            rows, cut = shared.fitting(map(came, found), self.config.max_bytes)
            kept = found[: len(rows)]
            ledger.hand_out(kept)
            handles: Sequence[str | None] = [None] * len(kept)
            if auto_ack:
                ledger.out.difference_update((record.partition, record.offset) for record in kept)
                await reader.commit()
            elif kept:
                deliveries = [Delivery(reader, ledger, record) for record in kept]
                handles = self._held.hold(deliveries, hold_s or DEFAULT_HOLD_S)
        return shared.answer(rows, handles, truncated=cut, more=_MORE)

    def _require_room(self) -> None:
        """A record that was handed out is kept, to be handed out again: only so many bytes of them. Raises Conflict."""
        most = HELD_ANSWERS * self.config.max_bytes
        if sum(delivery.weight for delivery in self._held.items()) >= most:
            raise Conflict(
                f"messages of more than {HELD_ANSWERS} times max_bytes were handed out and are not acknowledged yet; "
                "ack or nack them first, or wait until their hold_s is over"
            )

    async def ack(self, handles: Handles) -> int:
        """Acknowledge messages. The group's offset moves on when everything before them is acknowledged too."""
        shared.must_write(self.config)
        deliveries = self._held.take(handles)
        for delivery in deliveries:
            delivery.ledger.out.discard(delivery.place)
        for reader in {delivery.reader for delivery in deliveries}:
            self._readers.used(reader)
            await reader.commit()
        return len(deliveries)

    async def nack(self, handles: Handles) -> int:
        """Give messages back: the next receive of this session hands them out again."""
        shared.must_write(self.config)
        deliveries = self._held.take(handles)
        await self._give_back(deliveries)
        return len(deliveries)

    async def peek(self, name: Name, max_messages: MaxMessages = None, where: Where = "next") -> Result:
        """Look at messages of a topic without a group, so that no offset moves and no member is disturbed."""
        from studio.providers.kafka import work

        config = self.config
        count = shared.wanted(config, max_messages)
        found, left = await work.look(
            self._cluster, self._full(name), count, group=config.group_id, where=where, room=config.max_bytes
        )
        rows, cut = shared.fitting(map(work.incoming, shared.emptied(found)), config.max_bytes)
        return shared.answer(rows, [None] * len(rows), truncated=cut or left, more=_MORE)

    async def describe(self, name: Name) -> dict[str, Any]:
        """Describe one topic: partitions with their offsets, how many messages lie between, and the group's lag."""
        from studio.providers.kafka.work import described

        return {"name": name, **await described(self._cluster, self._full(name), self.config.group_id)}

    async def list(self) -> AsyncIterator[Batch]:
        """List the topics below the connector's prefix: name and number of partitions."""
        prefix = self.config.topic_prefix or ""
        found = sorted(await self._cluster.topics())
        columns = [Column(name="name", type="text"), Column(name="partitions", type="integer")]
        yield Batch(columns, [(name.removeprefix(prefix), size) for name, size in found if name.startswith(prefix)])

    # -- below the operations ---------------------------------------------------------------------

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            if not delivery.gone:
                delivery.ledger.give_back(delivery.record)

    def _group(self) -> str:
        if self.config.group_id is None:
            raise InvalidRequest("this connector has no group_id, which keeps the offsets; ask an admin to set it")
        return self.config.group_id

    def _full(self, name: str) -> str:
        full = (self.config.topic_prefix or "") + name
        if not TOPIC.fullmatch(full) or full in {".", ".."}:
            raise InvalidRequest.at("name", "must be letters, digits, dots, dashes and underscores, 249 at most")
        return full
