"""Publishing, taking and settling messages on a RabbitMQ channel."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from aiormq.abc import DeliveredMessage
from aiormq.exceptions import ChannelAccessRefused, ChannelNotFoundEntity, PublishError
from pamqp import commands as spec

from studio.errors import StudioError, UpstreamError
from studio.providers._messages import Incoming, Outgoing
from studio.providers.rabbitmq.connections import Channel, Cut, Lane, Wire, driven
from studio.providers.rabbitmq.errors import Lost, work_error

AT_ONCE = 500
"""Messages of one publish that wait for their confirmation at the same time."""
AT_FIRST = 20
"""Messages of one receive that the server is asked for while little is known of their size."""
QUIET_S = 0.1
"""How long a message that the server counted may take to arrive; longer, and somebody else has taken it."""
PERSISTENT = 2


@dataclass(eq=False)
class Lot:
    """What one receive handed out on a channel that it keeps until the last of it is settled."""

    lane: Lane
    left: int

    @property
    def gone(self) -> bool:
        """Whether the channel broke, so that everything on it went back to its queue."""
        return self.lane.channel.is_closed or not self.lane.wire.alive


@dataclass(frozen=True)
class Delivery:
    """One message that was handed out."""

    lot: Lot
    tag: int


async def publish(lane: Lane, exchange: str, routing_key: str, messages: Sequence[Outgoing]) -> list[str]:
    """Publish and wait until the server has taken every one; their ids.

    Raises:
        StudioError: saying how many were taken.
    """
    ids: list[str] = []
    for start in range(0, len(messages), AT_ONCE):
        sent = [_send(lane.channel, exchange, routing_key, message) for message in messages[start : start + AT_ONCE]]
        answers = await asyncio.gather(*sent, return_exceptions=True)
        failed = {start + n: answer for n, answer in enumerate(answers) if isinstance(answer, BaseException)}
        if failed:
            raise _refused(failed, start + len(answers) - len(failed), len(messages))
        ids += [str(answer) for answer in answers]
    return ids


async def _send(channel: Channel, exchange: str, routing_key: str, message: Outgoing) -> str:
    name = uuid.uuid4().hex
    properties = spec.Basic.Properties(
        content_type=message.content_type, delivery_mode=PERSISTENT, message_id=name, headers=dict(message.headers),
        timestamp=dt.datetime.now(dt.UTC),
    )  # fmt: skip
    key = routing_key if message.key is None else message.key
    sent = channel.basic_publish(
        message.body, exchange=exchange, routing_key=key, properties=properties, mandatory=True, wait=False
    )
    await driven(sent)
    return name


def _refused(failed: dict[int, BaseException], taken: int, total: int) -> BaseException:
    first = next(iter(failed.values()))
    if total == 1 or not taken:
        return first
    known = work_error(first)
    if known is None:
        return first
    numbers = ", ".join(map(str, list(failed)[:20])) + (" …" if len(failed) > 20 else "")
    kind: type[StudioError] = type(known) if known.retryable else UpstreamError
    return kind(f"{taken} of {total} messages were published; the ones at {numbers} were not: {known.message}")


async def take(lane: Lane, queue: str, count: int, wait_s: float, room: int) -> list[DeliveredMessage]:
    """Up to `count` messages, unsettled, in their order; those beyond `room` bytes are `Cut` (see `Channel`)."""
    channel = lane.channel
    channel.room, channel.largest = room, 0
    first = await driven(channel.basic_get(queue))
    found: list[DeliveredMessage] = []
    counted = 0
    if isinstance(first.delivery, spec.Basic.GetOk):
        found.append(first)
        counted = min(count - 1, first.delivery.message_count or 0)
        if not counted or channel.room < 0:
            return found
    elif not wait_s:
        return found
    # In rounds: what is under way when the room is full has to be read to its end.
    wanted, at_once = counted or count, AT_FIRST
    while wanted > 0:
        asked = max(1, min(wanted, at_once, channel.room // max(channel.largest, 1)))
        more = await _consume(channel, queue, asked, 0 if found else wait_s)
        found += more
        wanted -= len(more)
        if len(more) < asked or channel.room < 0:
            break
        at_once *= 4
    return found


async def _consume(channel: Channel, queue: str, count: int, wait_s: float) -> list[DeliveredMessage]:
    """What the server pushes: all that is there once the first has come. The prefetch keeps it at `count`."""
    found: list[DeliveredMessage] = []
    news = asyncio.Event()

    async def arrived(message: DeliveredMessage) -> None:
        found.append(message)
        news.set()

    def ended(_: Any) -> None:
        news.set()

    closing = channel.closing
    closing.add_done_callback(ended)
    channel.on_consumer_cancel_callbacks.add(ended)
    try:
        await driven(channel.basic_qos(prefetch_count=count))
        begun = await driven(channel.basic_consume(queue, arrived))
        while len(found) < count and channel.room >= 0 and not channel.is_closed:
            news.clear()
            before = len(found)
            try:
                async with asyncio.timeout(QUIET_S if found or not wait_s else wait_s):
                    await news.wait()
            except TimeoutError:
                break
            if len(found) == before:  # the queue was deleted, or the channel ended
                break
        if channel.is_closed:
            raise Lost
        if begun.consumer_tag in channel.consumers:
            await driven(channel.basic_cancel(str(begun.consumer_tag)))
    finally:
        channel.on_consumer_cancel_callbacks.discard(ended)
        closing.cancel()
    return found


def incoming(message: DeliveredMessage, prefix: str) -> Incoming:
    """A delivered message in the family's shape. Its routing key is its key, if it came through an exchange."""
    properties = message.header.properties
    exchange = message.exchange or None
    return Incoming(
        body=message.body,
        key=message.routing_key if exchange else None,
        headers=properties.headers or {},
        id=properties.message_id,
        published_at=properties.timestamp,
        redelivered=message.redelivered,
        more=(exchange and exchange.removeprefix(prefix), properties.content_type),
    )


def whole(message: DeliveredMessage) -> bool:
    """Whether there was room for it."""
    return not isinstance(message, Cut)


async def settle(deliveries: Iterable[Delivery], *, back: bool) -> None:
    """Acknowledge deliveries, or give them back; returns when the server has done it. Raises Lost."""
    lots: dict[Lot, list[int]] = {}
    for delivery in deliveries:
        lots.setdefault(delivery.lot, []).append(delivery.tag)
    for lot, tags in lots.items():
        channel = lot.lane.channel
        lot.left -= len(tags)
        for tag in tags:
            if back:
                await driven(channel.basic_nack(tag, requeue=True, wait=False))
            else:
                await driven(channel.basic_ack(tag, wait=False))
        await _barrier(channel)
        if not lot.left:
            lot.lane.wire.leave(channel)


async def settle_here(channel: Channel, tags: Sequence[int], *, back: bool) -> None:
    """The same for messages that nobody was given a handle for."""
    for tag in tags:
        await driven(channel.basic_nack(tag, wait=False) if back else channel.basic_ack(tag, wait=False))
    if tags:
        await _barrier(channel)


async def _barrier(channel: Channel) -> None:
    """Acknowledgements have no answer of their own: one that comes after them tells that they were read."""
    await driven(channel.basic_qos(prefetch_count=0))


async def rights(wire: Wire, name: str) -> dict[str, bool]:
    """What the account may do with a queue, found by asking for one that does not exist: nothing changes."""
    attempts: dict[str, Any] = {
        "write": lambda channel: channel.basic_publish(b"", routing_key=name, mandatory=True),
        "read": lambda channel: channel.basic_get(name),
        "configure": lambda channel: channel.queue_delete(name, if_unused=True, if_empty=True),
    }
    found: dict[str, bool] = {}
    for right, attempt in attempts.items():
        channel = await wire.open_channel(confirms=True)
        try:
            await driven(attempt(channel))
            found[right] = True
        except (ChannelNotFoundEntity, PublishError):
            found[right] = True
        except ChannelAccessRefused:
            found[right] = False
        finally:
            wire.leave(channel)
    return found
