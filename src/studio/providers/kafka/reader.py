"""Taking messages for a consumer group: one consumer a topic and group, shared by the calls that use it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.structs import TopicPartition

from studio.errors import StudioError
from studio.providers.kafka.cluster import Cluster
from studio.providers.kafka.codec import weight
from studio.providers.kafka.config import KafkaConfig
from studio.providers.kafka.connections import Client, Door
from studio.providers.kafka.ledger import Ledger
from studio.providers.kafka.work import FETCH_BYTES

STEP_S = 0.05
FIRST_LOOK_S = 5.0
"""How long the first look into a partition may take when nothing is waited for."""
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
            isolation_level="read_committed", fetch_max_bytes=FETCH_BYTES, max_partition_fetch_bytes=FETCH_BYTES,
            request_timeout_ms=int(config.timeout_s * 1000) + 1000, max_poll_interval_ms=DAY_MS,
            bootstrap_servers=[f"{host}:{port}" for host, port in door.servers],
        )  # fmt: skip
        self._client = Client.adopt(self._consumer._client, door)
        self._consumer.subscribe([topic], listener=_Listener(self))
        self._looked = False
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

    async def take(self, count: int, wait_s: float) -> list[Any]:
        """Up to `count` records, not handed out yet; no more are read when they fill max_bytes.

        Raises StudioError, and what aiokafka raises.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_s
        patience = loop.time() + FIRST_LOOK_S
        while len(self.ledger.back) < count and self.ledger.weight() < self._room:
            missing = count - len(self.ledger.back)
            if self.ledger.back:
                if not await self._poll(missing, 0):
                    break
            elif not await self._poll(missing, STEP_S):
                over = loop.time() >= until
                if over and (self._at_end() or self._client.failure is not None or loop.time() >= patience):
                    break
        if not self.ledger.back and self._client.failure is not None:
            raise self._client.failure
        return self.ledger.next(count)

    async def _poll(self, count: int, waiting: float) -> bool:
        async def poll() -> bool:
            left = self._room - self.ledger.weight()
            first = True
            for _ in range(count):
                # one at a time: a few bytes of a packed batch may unpack to anything
                found = await self._consumer.getmany(timeout_ms=int(waiting * 1000) * first, max_records=1)
                # with no await between: what a caller who was cancelled did not see is not lost
                records = [record for some in found.values() for record in some]
                self.ledger.came(records)
                left -= sum(map(weight, records))
                if not records or left <= 0:
                    return bool(records) or not first
                first = False
            return True

        return await self._unless_refused(poll())

    def _at_end(self) -> bool:
        """Whether the end of every partition that is ours was seen, so that nothing is there."""
        if self._looked:
            return True
        places = self._consumer.assignment()
        self._looked = all(self._consumer.highwater(place) is not None for place in places)
        return self._looked

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


class Readers:
    """The members that one connector has in its group, one a topic; those that nobody uses leave it."""

    def __init__(self, make: Callable[[str], Reader], idle_s: float) -> None:
        self._make = make
        self._idle_s = idle_s
        self._readers: dict[str, Reader] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def use(self, topic: str, cluster: Cluster) -> AsyncIterator[Reader]:
        """The member for a topic, for one call at a time. Raises NotFound, and what joining raises."""
        reader = await self._locked(topic)
        try:
            self.used(reader)
            await reader.joined(cluster)
            yield reader
        except BaseException as exc:
            if reader.failed or _broke(exc):
                self._drop(reader)
            raise
        finally:
            reader.lock.release()

    async def _locked(self, topic: str) -> Reader:
        while True:
            reader = self._readers.get(topic) or self._readers.setdefault(topic, self._make(topic))
            await reader.lock.acquire()
            if self._readers.get(topic) is reader:
                return reader
            reader.lock.release()  # it was dropped meanwhile

    def used(self, reader: Reader) -> None:
        """Note that somebody works with it."""
        reader.last_used = asyncio.get_running_loop().time()
        if self._sweeper is None or self._sweeper.done():
            self._sweeper = asyncio.create_task(self._sweep(), name="kafka-readers")

    def _drop(self, reader: Reader) -> None:
        """End a member, in the background: a broker that is silent must not keep a caller."""
        if self._readers.get(reader.topic) is reader:
            del self._readers[reader.topic]
        task = asyncio.ensure_future(reader.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _sweep(self) -> None:
        while self._readers:
            await asyncio.sleep(self._idle_s / 4)
            limit = asyncio.get_running_loop().time() - self._idle_s
            for reader in list(self._readers.values()):
                if reader.last_used < limit and not reader.ledger.out and not reader.lock.locked():
                    self._drop(reader)

    async def close(self) -> None:
        """End every member."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)
        for reader in list(self._readers.values()):
            self._drop(reader)
        while self._closing:
            await asyncio.gather(*self._closing, return_exceptions=True)


def _broke(exc: BaseException) -> bool:
    """Whether a member is of no use after this. A caller who was cancelled has done it no harm."""
    if isinstance(exc, StudioError):
        return exc.code in {"unreachable", "auth_failed", "egress_denied"}
    return isinstance(exc, Exception)
