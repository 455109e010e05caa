"""Taking messages for a consumer group: one member a topic and group, shared by the calls that use it.

aiokafka's consumer joins the group, finds where it goes on from, and commits. Its partitions are paused, for it would
read ahead whatever the brokers send: the records are fetched here, when a call wants them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, errors
from aiokafka.structs import TopicPartition

from studio.providers.kafka.cluster import Cluster
from studio.providers.kafka.config import KafkaConfig
from studio.providers.kafka.connections import Client, Door
from studio.providers.kafka.errors import answered
from studio.providers.kafka.fetched import FETCH_MS, Fetched, Part, parts, request
from studio.providers.kafka.ledger import Ledger

STEP_S = 0.05
PATIENCE_S = 5.0
"""How long a partition may take until it can be looked into, when nothing is waited for."""
STOP_S = 2.0
DAY_MS = 86_400_000
Answer = TypeVar("Answer")


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def on_partitions_revoked(self, revoked: Any) -> None:
        self._reader.ledger = Ledger()

    def on_partitions_assigned(self, assigned: Any) -> None:
        self._reader.ledger = Ledger()
        self._reader.pause(assigned)


class Reader:
    """A member of a consumer group, for one topic."""

    def __init__(self, topic: str, group: str, config: KafkaConfig, door: Door) -> None:
        self.topic = topic
        self.lock = asyncio.Lock()
        self.ledger = Ledger()
        self.closed = False
        self.last_used = asyncio.get_running_loop().time()
        self._room = config.max_bytes
        self._consumer = AIOKafkaConsumer(
            group_id=group, client_id=config.client_id, enable_auto_commit=False, auto_offset_reset="earliest",
            isolation_level="read_committed",
            request_timeout_ms=int(config.timeout_s * 1000) + 1000, max_poll_interval_ms=DAY_MS,
            bootstrap_servers=[f"{host}:{port}" for host, port in door.servers],
        )  # fmt: skip
        self._client = Client.adopt(self._consumer._client, door)
        self._consumer.subscribe([topic], listener=_Listener(self))
        self._joining: asyncio.Task[None] | None = None

    async def joined(self, cluster: Cluster) -> None:
        """Join the group, if that was not done yet. Raises StudioError, and what aiokafka raises.

        A caller who is cancelled does not stop it: a member that vanishes while it joins keeps the group
        waiting for its session_timeout.
        """
        if self._joining is None:
            self._joining = asyncio.create_task(self._join(cluster), name="kafka-join")
            self._joining.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._joining)

    async def _join(self, cluster: Cluster) -> None:
        await cluster.topic(self.topic)  # the driver would wait for it to be made
        await self._unless_refused(self._consumer.start())

    @property
    def failed(self) -> bool:
        """Whether joining came to nothing."""
        done = self._joining
        return done is not None and done.done() and (done.cancelled() or done.exception() is not None)

    def pause(self, places: Iterable[TopicPartition]) -> None:
        """Keep the driver from fetching."""
        self._consumer.pause(*places)

    async def take(self, count: int, wait_s: float) -> list[Any]:
        """Up to `count` records, not handed out yet; no more are read when they fill max_bytes.

        Raises StudioError, and what aiokafka raises.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        patience = loop.time() + PATIENCE_S
        ends: dict[int, int] = {}
        try:
            while not self._read(count) and not (self.ledger.back and self._at(ends)):
                waiting = 0 if self.ledger.back else max(0.0, until - loop.time())
                told = await self._unless_refused(self._fetch(waiting, ends))
                if self.ledger.ahead:
                    continue
                over = self.ledger.back or loop.time() >= until
                if over and (self.ledger.back or told or self._client.failure or loop.time() >= patience):
                    break
                if not told:
                    await asyncio.sleep(STEP_S)
        except Exception:
            if not self.ledger.back:  # what is wrong is found again by the next call
                raise
        if not self.ledger.back and self._client.failure is not None:
            raise self._client.failure
        self.ledger.pack()
        return self.ledger.next(count)

    def rest(self) -> None:
        """Nobody works with it for a while: keep little of what was read ahead."""
        self.ledger.rest()

    def _read(self, count: int) -> bool:
        """Read on in what came; whether there are `count` records now, or as many as max_bytes takes."""
        ledger = self.ledger
        room = self._room - ledger.weight()
        while len(ledger.back) < count and room > 0:
            if not ledger.ahead:
                return False
            number, fetched = next(iter(ledger.ahead.items()))
            try:
                records, room = fetched.take(count - len(ledger.back), room)
            except BaseException:
                del ledger.ahead[number]
                raise
            ledger.came(records)
            ledger.read_to[number] = fetched.offset
            if fetched.ended:
                del ledger.ahead[number]
        return True

    def _at(self, ends: dict[int, int]) -> bool:
        """Whether every partition is read to its end."""
        read_to = self.ledger.read_to
        places = self._consumer.assignment()
        return all(read_to.get(place.partition, -1) >= ends.get(place.partition, 1 << 63) for place in places)

    async def _fetch(self, waiting: float, ends: dict[int, int]) -> bool:
        """Ask for what comes next, and wait where there is nothing. Whether every partition's leader has told."""
        await self._consumer.getmany(timeout_ms=0)  # raises what went wrong in the group, and waits while it rebalances
        ledger = self.ledger
        places = list(self._consumer.assignment())
        if not places:
            await asyncio.sleep(min(waiting, STEP_S))
            return True
        wanted: dict[int, list[tuple[int, int]]] = {}
        for place in random.sample(places, len(places)):
            node = self._client.cluster.leader_for_partition(place)
            if node not in {None, -1} and await self._begun(place, ledger):
                wanted.setdefault(node, []).append((place.partition, ledger.read_to[place.partition]))
        most = FETCH_MS / 1000 if len(wanted) == 1 else STEP_S  # one that has something must not wait for the others
        wait_ms = int(min(waiting, most) * 1000)
        answers = await asyncio.gather(*(self._ask(node, some, wait_ms) for node, some in wanted.items()))
        told = 0
        for part in (part for answer in answers if answer is not None for part in parts(answer)):
            told += ledger is self.ledger and await self._came(part, ledger, ends)
        if told < len(places):
            self._client.force_metadata_update()
        return told == len(places)

    async def _begun(self, place: TopicPartition, ledger: Ledger) -> bool:
        """Whether it is known where the group goes on in a partition."""
        if place.partition not in ledger.read_to:
            try:
                async with asyncio.timeout(STEP_S):
                    ledger.begin(place.partition, await self._consumer.position(place))
            except (TimeoutError, errors.IllegalStateError):  # not yet, and not ours any more
                return False
        return True

    async def _ask(self, node: int, wanted: list[tuple[int, int]], wait_ms: int) -> Any:
        try:
            return await self._client.send(node, request(self.topic, wanted, wait_ms))
        except errors.KafkaError:  # `failure` of the client says why it cannot be reached
            return None

    async def _came(self, part: Part, ledger: Ledger, ends: dict[int, int]) -> bool:
        """Note what a leader says of a partition. Whether it was an answer. Raises StudioError."""
        kind = errors.for_code(part.code)
        if kind is errors.OffsetOutOfRangeError:  # it was deleted since: go on with the oldest there is
            del ledger.read_to[part.number]
            await self._consumer.seek_to_beginning(TopicPartition(self.topic, part.number))
            return False
        if failure := answered(part.code):
            if kind in {errors.NotLeaderForPartitionError, errors.UnknownTopicOrPartitionError} or failure.retryable:
                return False
            raise failure
        ends[part.number] = part.end
        if part.raw:
            ledger.ahead[part.number] = Fetched(self.topic, part, ledger.read_to[part.number])
        return True

    async def commit(self) -> None:
        """Commit what is due. Raises what aiokafka raises."""
        ledger = self.ledger
        if due := ledger.due():
            await self._unless_refused(
                self._consumer.commit({TopicPartition(self.topic, number): offset for number, offset in due.items()})
            )
            ledger.committed.update(due)

    async def _unless_refused(self, work: Awaitable[Answer]) -> Answer:
        """Await the driver, which tries for ever where a broker refuses the log-in or may not be dialled."""
        task = asyncio.ensure_future(work)
        refused = asyncio.ensure_future(self._client.refused.wait())
        try:
            await asyncio.wait({task, refused}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and self._client.failure is not None:
                raise self._client.failure
            return await task
        finally:
            task.cancel()
            refused.cancel()
            await asyncio.gather(task, refused, return_exceptions=True)
            del task, refused  # whose exceptions know this frame

    async def close(self) -> None:
        """Leave the group and close the connections; what is not done comes back to the group."""
        if self.closed:
            return
        self.closed = True
        self.ledger = Ledger()  # the driver's parts know each other, and this
        if self._joining is not None and not self._joining.done():
            self._joining.cancel()
            await asyncio.gather(self._joining, return_exceptions=True)
        if await self._stopped():
            return
        consumer = self._consumer
        consumer._closed = True
        for task in _tasks(consumer):
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        with suppress(Exception):
            async with asyncio.timeout(STOP_S):
                await self._client.close()

    async def _stopped(self) -> bool:
        """Whether the driver could be stopped in time.

        In a task of its own, because it lets the cancellation of its own fetches out of `stop`, and leaves
        its connections open then.
        """
        stopping = asyncio.ensure_future(self._consumer.stop())
        try:
            await asyncio.wait({stopping}, timeout=STOP_S)
        finally:
            stopping.cancel()
        return not isinstance((await asyncio.gather(stopping, return_exceptions=True))[0], BaseException)


def _tasks(consumer: Any) -> Iterable[asyncio.Future[Any]]:
    """What a consumer leaves running when its stop was cut short."""
    coordinator, fetcher = consumer._coordinator, consumer._fetcher
    names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
    found = [getattr(coordinator, name, None) for name in names]
    found += [getattr(fetcher, "_fetch_task", None), *getattr(fetcher, "_pending_tasks", ())]
    return [task for task in found if isinstance(task, asyncio.Future) and not task.done()]
