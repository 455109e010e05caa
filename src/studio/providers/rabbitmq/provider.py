"""RabbitMQ, and what speaks AMQP 0-9-1 as it does: queues, with acknowledgements and publisher confirms."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, ClassVar

from studio.contract import Probe, ProviderConfig, Result
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
    MaxMessages,
    Message,
    Messages,
    Name,
    WaitS,
)
from studio.contract.network import TlsContext
from studio.errors import InvalidRequest, PoolBusy, StudioError
from studio.models import Column
from studio.providers import _messages as shared
from studio.providers._lifo import Pool
from studio.providers._tcp import Tcp
from studio.providers.rabbitmq.config import RabbitmqConfig
from studio.providers.rabbitmq.errors import intact, lost, work_error

if TYPE_CHECKING:
    from studio.providers.rabbitmq.connections import Lane, Link, Wire
    from studio.providers.rabbitmq.work import Delivery

MAX_NAME = 255
"""UTF-8 bytes of a name or a routing key (AMQP 0-9-1, short string)."""
MAX_HELD = 500
"""Receives whose messages may wait for acknowledgement at one time; each keeps a channel open."""
_MORE = (("exchange", "text"), ("content_type", "text"))
_RIGHTS = {
    "write": "publish (write)",
    "read": "take messages away (read)",
    "configure": "declare and delete queues and exchanges (configure)",
}
GRANT = ["rabbitmqctl set_permissions -p VIRTUAL_HOST studio_reader '^$' '^$' '^$'"]
"""Describing needs no permission at all."""


class Rabbitmq(AcknowledgingProvider[RabbitmqConfig]):
    """A RabbitMQ server: durable queues, publisher confirms, acknowledgements."""

    kind: ClassVar[str] = "rabbitmq"
    rotates: ClassVar[str | None] = "password"
    rotates_through: ClassVar[str | None] = "management_url"
    Config: ClassVar[type[ProviderConfig]] = RabbitmqConfig
    fixes: ClassVar[Mapping[str, str]] = {
        "tls": "set tls to what the server offers on that port, and give its CA in tls_ca",
        "login": "check username, password and virtual_host",
        "auth_failed": "check username and password, and the user's permissions for the virtual_host",
        "sample": "check that the virtual host is up",
    }

    _in: Pool[Lane]
    _out: Pool[Lane]

    async def open(self, stack: AsyncExitStack) -> None:
        """Make empty pools of channels; the two connections are made when they are needed."""
        from studio.providers.rabbitmq.connections import Link

        config = self.config
        self._tcp = Tcp(
            self.network, config.host, config.port, connect_timeout_s=config.connect_timeout_s,
            tls=config.tls, ca=config.tls_ca,
        )  # fmt: skip
        # A server short of memory or disk stops reading from connections that publish: acks must not wait there.
        self._in_link, self._out_link = Link(self._tcp, self._log_in), Link(self._tcp, self._log_in)
        self._in = self._pool(self._in_link, confirms=False)
        self._out = self._pool(self._out_link, confirms=True)
        self._held: shared.Held[Delivery] = shared.Held(self._give_back, gone=lambda item: item.lot.gone)
        for closing in (self._in_link.close, self._out_link.close, self._in.close, self._out.close, self._held.close):
            stack.push_async_callback(closing)

    async def ping(self) -> None:
        """Ask for an exchange that is always there."""
        from studio.providers.rabbitmq.connections import driven

        async def ask(lane: Lane) -> None:
            await driven(lane.channel.exchange_declare("amq.direct", passive=True))

        await self._in.use(ask, again=True)

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        return work_error(exc)

    async def set_password(self, new: str) -> None:
        """See `password.py`. Connections that stand go on; RabbitMQ asks at log-in alone."""
        from studio.providers.rabbitmq.password import set_password

        await set_password(self.config, self.network, new)

    async def reach(self, probe: Probe) -> None:
        """See `_tcp.py`. The connection that was tested is used on."""
        wire = await self._tcp.reach(probe, lambda: self._tcp.open(self._log_in))
        await wire.end()

    async def privileges(self) -> dict[str, Any]:
        """What the account may do with a queue below the prefix that does not exist."""
        from studio.providers.rabbitmq.work import rights

        found = await rights(await self._in_link.wire(), self._full(f"studio-probe-{secrets.token_hex(8)}"))
        excess = [_RIGHTS[right] for right, allowed in found.items() if allowed]
        return {"enforced_by": "service" if excess else "account", "excess": excess, "grant": GRANT}

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
    ) -> Result:
        """Publish persistent messages to a queue, or with a key to an exchange; answered when the server has them.

        A message that no queue takes, or that its queue refuses, is an error.
        """
        from studio.providers.rabbitmq.work import publish

        shared.must_write(self.config)
        going = shared.outgoing(
            message=message, messages=messages, batch=batch, key=key, headers=headers, encoding=encoding
        )
        keyed = {each.key is not None for each in going}
        if len(keyed) > 1:
            raise InvalidRequest.at("batch", "mixes messages with a key (to an exchange) and without (to a queue)")
        for each in going:
            _short(each.key or "", "key")
            for header in each.headers:
                _short(header, "headers")
        exchange, routing_key = (self._full(name), "") if keyed == {True} else ("", self._full(name))
        ids = await self._out.use(lambda lane: publish(lane, exchange, routing_key, going), again=False)
        return Result(columns=[Column(name="id", type="text")], rows=[(each,) for each in ids], row_count=len(ids))

    async def receive(
        self,
        name: Name,
        max_messages: MaxMessages = None,
        wait_s: WaitS = 1.0,
        auto_ack: AutoAck = False,
        hold_s: HoldS = None,
    ) -> Result:
        """Take messages from a queue: as soon as there is one, it and what is there beside it."""
        from studio.providers.rabbitmq import work

        shared.must_write(self.config)
        count, patience = shared.wanted(self.config, max_messages), shared.patience(self.config, wait_s)
        queue = self._full(name)
        if len({delivery.lot for delivery in self._held.items()}) >= MAX_HELD:
            raise PoolBusy("too many messages wait for their acknowledgement; ack or nack some first")
        async with self._in.lease() as lane:
            found = await work.take(lane, queue, count, patience, self.config.max_bytes)
            try:
                whole = [message for message in found if work.whole(message)]
                tags = [int(message.delivery_tag or 0) for message in found]
                if found and not whole:
                    raise shared.too_large()
                prefix = self.config.queue_prefix or ""
                del found
                came = (work.incoming(message, prefix) for message in shared.emptied(whole))
                rows, _ = shared.fitting(came, self.config.max_bytes)
            except StudioError:
                await work.settle_here(lane.channel, tags, back=True)
                raise
            kept, rest = tags[: len(rows)], tags[len(rows) :]
            await work.settle_here(lane.channel, rest, back=True)
            handles: Sequence[str | None] = [None] * len(kept)
            if auto_ack:
                await work.settle_here(lane.channel, kept, back=False)
            elif kept:
                lane.keep()
                lot = work.Lot(lane, len(kept))
                handles = self._held.hold([work.Delivery(lot, tag) for tag in kept], hold_s or DEFAULT_HOLD_S)
        return shared.answer(rows, handles, truncated=bool(rest), more=_MORE)

    async def ack(self, handles: Handles) -> int:
        """Acknowledge messages: they do not come back."""
        return await self._settle(handles, back=False)

    async def nack(self, handles: Handles) -> int:
        """Give messages back to their queue, to be received again by whoever comes first."""
        return await self._settle(handles, back=True)

    async def describe(self, name: Name) -> dict[str, Any]:
        """Describe one queue: messages that are ready to be received, and how many consumers listen."""
        from studio.providers.rabbitmq.connections import driven

        queue = self._full(name)

        async def ask(lane: Lane) -> Any:
            return await driven(lane.channel.queue_declare(queue, passive=True))

        found = await self._in.use(ask, again=True)
        return {"name": name, "messages": found.message_count, "consumers": found.consumer_count}

    # -- below the operations ---------------------------------------------------------------------

    async def _settle(self, handles: Sequence[str], *, back: bool) -> int:
        from studio.providers.rabbitmq.work import settle

        shared.must_write(self.config)
        deliveries = self._held.take(handles)
        await settle(deliveries, back=back)
        return len(deliveries)

    async def _give_back(self, deliveries: Sequence[Delivery]) -> None:
        from studio.providers.rabbitmq.work import settle

        await settle([delivery for delivery in deliveries if not delivery.lot.gone], back=True)

    def _full(self, name: str) -> str:
        return _short((self.config.queue_prefix or "") + name, "name")

    def _pool(self, link: Link, *, confirms: bool) -> Pool[Lane]:
        async def connect() -> Lane:
            from studio.providers.rabbitmq.connections import lane

            return await lane(link, confirms=confirms)

        config = self.config
        # before the deadline, so that a full pool is told from a slow server
        return Pool(connect, size=config.pool_size, wait_s=config.timeout_s * 0.9, intact=intact, lost=lost)

    async def _log_in(self, sock: socket.socket, tls: TlsContext | None) -> Wire:
        from studio.providers.rabbitmq.connections import log_in

        config = self.config
        return await log_in(
            sock, tls, host=config.host, username=config.username,
            password=config.password.get_secret_value(), virtual_host=config.virtual_host,
        )  # fmt: skip


def _short(text: str, field: str) -> str:
    """A text that AMQP can carry as a name. Raises InvalidRequest."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest.at(field, "is not valid Unicode text") from None
    if size > MAX_NAME:
        raise InvalidRequest.at(field, f"is longer than {MAX_NAME} bytes of UTF-8, the prefix included")
    return text
