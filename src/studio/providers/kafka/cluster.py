"""Single requests to the right broker of a cluster: what is where, offsets, fetches and produces.

aiokafka's producer and admin client are not used: they retry in the background for as long as they
live, whoever waits, and make topics that are misspelled. One request here is one request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.protocol.offset import OffsetRequest

from studio.errors import NotFound, StudioError, Unreachable, UpstreamError
from studio.providers.kafka.connections import Connection, Door
from studio.providers.kafka.errors import answered

FIRST, NEXT = -2, -1
"""Times that ListOffsets takes for the oldest offset, and for the one after the newest."""
READ_COMMITTED = 1
_GROUP = 0


@dataclass(frozen=True)
class Partition:
    """One partition and the node that leads it; -1 for none."""

    number: int
    leader: int


class Cluster:
    """The brokers that one connector knows, with one connection each."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self._nodes: dict[int, tuple[str, int]] = {}
        self._connections: dict[int | None, Connection] = {}
        self._locks: dict[int | None, asyncio.Lock] = {}

    async def topic(self, name: str) -> list[Partition]:
        """The partitions of a topic, by number. Raises NotFound."""
        response = await self._metadata([name])
        for code, topic, _, partitions in response.topics:
            if topic == name:
                if failure := answered(code):
                    raise failure
                return sorted((Partition(part[1], part[2]) for part in partitions), key=lambda part: part.number)
        raise NotFound("there is no topic of that name")

    async def topics(self) -> list[tuple[str, int]]:
        """Names and numbers of partitions of all topics that are not Kafka's own."""
        response = await self._metadata(None)
        return [(name, len(parts)) for code, name, internal, parts in response.topics if not code and not internal]

    async def ping(self) -> None:
        """A round trip."""
        await self._metadata([])

    async def _metadata(self, topics: list[str] | None) -> Any:
        response = await self.ask(None, MetadataRequest(topics))
        self._nodes = {broker[0]: (broker[1], broker[2]) for broker in response.brokers}
        return response

    async def ask(self, node: int | None, request: Any) -> Any:
        """The answer of a node (None: of any) to one request. Raises StudioError, and what aiokafka raises."""
        connection = await self._connection(node)
        return await connection.send(request)

    async def _connection(self, node: int | None) -> Connection:
        async with self._locks.setdefault(node, asyncio.Lock()):
            found = self._connections.get(node)
            if found is None or not found.connected():
                if found is not None:
                    found.close()  # it may have read the end without having been told
                if node is None:
                    found = await self._door.first()
                elif node in self._nodes:
                    found = await self._door.connect(*self._nodes[node])
                else:
                    raise Unreachable("the partition has no leader now; try again")
                self._connections[node] = found
            return found

    async def offsets(self, topic: str, partitions: Iterable[Partition], when: int) -> dict[int, int]:
        """The offset of each partition at a time (`FIRST`, `NEXT`)."""
        found: dict[int, int] = {}
        for node, numbers in by_leader(partitions).items():
            request = OffsetRequest(-1, READ_COMMITTED, [(topic, [(number, when) for number in numbers])])
            for _, answers in (await self.ask(node, request)).topics:
                for number, code, *rest in answers:
                    if failure := answered(code):
                        raise failure
                    found[number] = rest[1]
        return found

    async def committed(self, group: str, topic: str, partitions: Iterable[Partition]) -> dict[int, int]:
        """The offsets that a group has committed; partitions without one are left out."""
        place = await self.ask(None, FindCoordinatorRequest(group, _GROUP))
        if failure := answered(place.error_code):
            raise failure
        self.learn(place.coordinator_id, place.host, place.port)
        request = OffsetFetchRequest(group, [(topic, [partition.number for partition in partitions])])
        response = await self.ask(place.coordinator_id, request)
        found: dict[int, int] = {}
        for _, answers in response.topics:
            for number, offset, _, code in answers:
                if failure := answered(code):
                    raise failure
                if offset >= 0:
                    found[number] = offset
        return found

    def learn(self, node: int, host: str, port: int) -> None:
        """Where a node is, as a broker said."""
        self._nodes[node] = (host, port)

    async def close(self) -> None:
        """Close every connection."""
        closing = [connection.close() for connection in self._connections.values()]
        self._connections.clear()
        if closing:
            await asyncio.wait([asyncio.ensure_future(future) for future in closing if future is not None], timeout=1)
        for _ in range(3):  # a transport tells its protocol in the next rounds of the loop
            await asyncio.sleep(0)


def by_leader(partitions: Iterable[Partition]) -> Mapping[int, list[int]]:
    """Numbers of partitions by the node that leads them. Raises Unreachable."""
    found: dict[int, list[int]] = {}
    for partition in partitions:
        if partition.leader < 0:
            raise Unreachable("a partition has no leader now; try again")
        found.setdefault(partition.leader, []).append(partition.number)
    return found


def reason(failures: Mapping[int, BaseException], taken: int, total: int) -> StudioError:
    """One error for messages of a batch that were not published, by their numbers."""
    first = next(iter(failures.values()))
    known = first if isinstance(first, StudioError) else UpstreamError(f"({type(first).__name__})")
    if not taken:
        return known
    numbers = ", ".join(map(str, sorted(failures)[:20])) + (" …" if len(failures) > 20 else "")
    kind = type(known) if known.retryable else UpstreamError
    return kind(f"{taken} of {total} messages were published; the ones at {numbers} were not: {known.message}")
