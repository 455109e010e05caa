"""Redis Pub/Sub: channels that carry a message to whoever listens at that moment, and keep nothing."""

from __future__ import annotations

import secrets
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from studio.contract import BELOW, Batch, Column, Probe, ProviderConfig, Result, Text
from studio.contract.messaging import (
    AutoAck,
    Encoding,
    Entries,
    Headers,
    HoldS,
    Key,
    Listing,
    MaxMessages,
    Message,
    Messages,
    MessagingProvider,
    Name,
    WaitS,
)
from studio.contract.network import TlsContext
from studio.errors import InvalidRequest, ResultBlocked, StudioError
from studio.providers import _messages as shared
from studio.providers._lifo import Pool
from studio.providers._tcp import Tcp
from studio.providers.redis.config import RedisServerConfig
from studio.providers.redis.errors import FIXES, intact, lost
from studio.providers.redis.privileges import privileges
from studio.providers.redis.shapes import glob_literal, text

if TYPE_CHECKING:
    from studio.providers.redis.sessions import Session

UnheardOk = Annotated[bool, Field(description="A message that nobody hears is no error.")]
_GRANT = (
    "ACL SETUSER studio_reader reset on '>CHOOSE-A-PASSWORD' '&{prefix}*' -@all "
    "+pubsub|channels +pubsub|numsub +ping +select"
)


class RedisPubsubConfig(RedisServerConfig):
    """The channels of one Redis server, or those that begin with `channel_prefix`. `db` makes no difference to them."""

    channel_prefix: Annotated[Text | None, BELOW] = Field(
        None,
        min_length=1,
        description="Put before every channel's name, and taken off again in answers; others cannot be reached.",
    )


class RedisPubsub(MessagingProvider[RedisPubsubConfig], Listing):
    """Redis Pub/Sub: at most once, to whoever listens."""

    kind: ClassVar[str] = "redis_pubsub"
    Config: ClassVar[type[ProviderConfig]] = RedisPubsubConfig
    fixes: ClassVar[Mapping[str, str]] = FIXES

    _pool: Pool[Session]

    async def open(self, stack: AsyncExitStack) -> None:
        """Make an empty pool; sessions are made when they are needed."""
        config = self.config
        self._tcp = Tcp(
            self.network, config.host, config.port, connect_timeout_s=config.connect_timeout_s,
            tls=config.tls, ca=config.tls_ca,
        )  # fmt: skip
        self._prefix = (config.channel_prefix or "").encode()
        # before the deadline, so that a full pool is told from a slow server
        wait_s = config.timeout_s * 0.9
        self._pool = Pool(self._connect, size=config.pool_size, wait_s=wait_s, intact=intact, lost=lost)
        stack.push_async_callback(self._pool.close)

    async def ping(self) -> None:
        """PING."""
        await self._ask("PING")

    def translate(self, exc: Exception) -> StudioError | None:
        """See `errors.py`."""
        from studio.providers.redis_pubsub.window import error_of

        return error_of(exc)

    async def reach(self, probe: Probe) -> None:
        """See `_tcp.py`."""
        (await self._tcp.reach(probe, self._connect)).abort()

    async def privileges(self) -> dict[str, Any]:
        """What the account may do to keys and to the server, and whether it may publish."""
        from studio.providers.redis_pubsub.window import may_publish

        prefix = self.config.channel_prefix or ""
        async with self._pool.lease() as session:
            found = await privileges(session.calls, prefix)
            if await may_publish(session.calls, self._channel(f"studio-probe-{secrets.token_hex(8)}")):
                found["excess"].insert(0, "publish")
                found["enforced_by"] = "service"
        return {**found, "grant": [_GRANT.format(prefix=prefix)]}

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
        unheard_ok: UnheardOk = False,
    ) -> Result:
        """Publish messages to a channel; a row tells how many sessions heard it. One that nobody hears is an error."""
        from studio.providers.redis_pubsub.window import publish

        shared.must_write(self.config)
        going = shared.outgoing(
            message=message, messages=messages, batch=batch, key=key, headers=headers, encoding=encoding
        )
        for each in going:
            if each.key is not None or each.headers:
                field = "headers" if each.headers else "key"
                raise InvalidRequest.at(field, "is nothing that Redis Pub/Sub can carry; put it into the message")
        channel = self._channel(name)
        heard = await self._pool.use(
            lambda session: publish(session, channel, going, unheard_ok=unheard_ok), again=False
        )
        columns = [Column(name="receivers", type="integer")]
        return Result(columns=columns, rows=[(count,) for count in heard], row_count=len(heard))

    async def receive(
        self,
        name: Name,
        max_messages: MaxMessages = None,
        wait_s: WaitS = 1.0,
        auto_ack: AutoAck = False,
        hold_s: HoldS = None,
    ) -> Result:
        """Listen to a channel for wait_s, or until max_messages have come; auto_ack must be true.

        What is published before or after this window is not heard. `truncated` says that max_bytes ended it early.
        """
        from studio.providers.redis_pubsub.window import Window

        shared.must_write(self.config)
        if not auto_ack or hold_s is not None:
            raise InvalidRequest.at(
                "auto_ack", "must be true, without hold_s: Redis Pub/Sub keeps nothing that could be acknowledged later"
            )
        count, seconds = shared.wanted(self.config, max_messages), shared.patience(self.config, wait_s)
        channel = self._channel(name)

        async def listen(session: Session) -> tuple[list[bytes], bool]:
            window = Window(session, 2 * self.config.max_bytes + (1 << 16))
            try:
                await window.subscribe(channel)
                return await window.collect(count, seconds)
            finally:
                session.abort()
                window.close()

        bodies, cut = await self._pool.use(listen, again=True)
        try:
            rows, left = shared.fitting(map(shared.Incoming, shared.emptied(bodies)), self.config.max_bytes)
        except ResultBlocked:
            raise _gone() from None
        if cut and not rows:
            raise _gone()
        return shared.answer(rows, [None] * len(rows), truncated=cut or left)

    async def describe(self, name: Name) -> dict[str, Any]:
        """Describe one channel: how many sessions listen to it by name. Pub/Sub keeps no messages to count."""
        [_, count] = await self._ask("PUBSUB", "NUMSUB", self._channel(name))
        return {"name": name, "subscribers": count}

    async def list(self) -> AsyncIterator[Batch]:
        """List the channels below the connector's prefix that somebody listens to by name."""
        found = await self._ask("PUBSUB", "CHANNELS", glob_literal(self._prefix) + b"*")
        names = sorted(text(bytes(name).removeprefix(self._prefix)) for name in found)
        yield Batch([Column(name="name", type="text")], [(name,) for name in names])

    # -- below the operations ---------------------------------------------------------------------

    def _channel(self, name: str) -> bytes:
        try:
            return self._prefix + name.encode()
        except UnicodeEncodeError:
            raise InvalidRequest.at("name", "is not valid Unicode text") from None

    async def _ask(self, *arguments: Any) -> Any:
        return await self._pool.use(lambda session: session.call(*arguments), again=True)

    async def _connect(self) -> Session:
        return await self._tcp.open(self._log_in)

    async def _log_in(self, sock: socket.socket, tls: TlsContext | None) -> Session:
        from studio.providers.redis.sessions import log_in

        config = self.config
        return await log_in(
            sock, tls, host=config.host, port=config.port, username=config.username,
            password=config.password.get_secret_value() if config.password else None, db=config.db,
            limit=2 * config.max_bytes + (1 << 20),
        )  # fmt: skip


def _gone() -> ResultBlocked:
    return ResultBlocked("a message larger than max_bytes of this connector came, and is gone; raise max_bytes")
