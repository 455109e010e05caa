"""Publishing to a topic, and looking at what is in it."""

from __future__ import annotations

import datetime as dt
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.partitioner import DefaultPartitioner
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder

from studio.contract.messaging import Scalar
from studio.errors import InvalidRequest
from studio.providers._messages import Incoming, Outgoing
from studio.providers.kafka.cluster import FIRST, NEXT, Cluster, Partition, by_leader, reason
from studio.providers.kafka.errors import answered, work_error
from studio.providers.kafka.fetched import Fetched, parts, request

BATCH_BYTES = 900_000
"""Of one batch: brokers take 1 MiB unless told otherwise (message.max.bytes)."""
ACKS_ALL = -1
CODECS = {"none": 0, "gzip": 1, "snappy": 2, "lz4": 3, "zstd": 4}
ROUNDS = 10
"""Fetches of one look at a node: a broker may answer less than there is."""


@dataclass
class Batch:
    """Encoded messages for one partition, and their numbers in the call."""

    partition: int
    body: bytes
    numbers: list[int]


async def publish(
    cluster: Cluster, topic: str, messages: Sequence[Outgoing], *, codec: str, timeout_ms: int
) -> list[tuple[int, int]]:
    """Publish with acks=all; partition and offset of each message.

    Raises:
        StudioError: saying how many were taken.
    """
    partitions = await cluster.topic(topic)
    placed: dict[int, tuple[int, int]] = {}
    failures: dict[int, BaseException] = {}
    # the batches of one partition one after the other, or they could change places
    for group in _rounds(batches(messages, partitions, codec)):
        await _send(cluster, topic, group, partitions, timeout_ms, placed, failures)
        if failures:
            raise reason(failures, len(placed), len(messages))
    return [placed[number] for number in range(len(messages))]


async def _send(
    cluster: Cluster, topic: str, group: Mapping[int, Batch], partitions: Sequence[Partition], timeout_ms: int,
    placed: dict[int, tuple[int, int]], failures: dict[int, BaseException],
) -> None:  # fmt: skip
    for node, numbers in by_leader(part for part in partitions if part.number in group).items():
        request = ProduceRequest(None, ACKS_ALL, timeout_ms, [(topic, [(n, group[n].body) for n in numbers])])
        try:
            response = await cluster.ask(node, request)
        except Exception as exc:
            if len(group) == 1 and not placed:
                raise
            failures |= {number: work_error(exc) or exc for n in numbers for number in group[n].numbers}
            continue
        for _, answers in response.topics:
            for partition, code, offset, *_ in answers:
                batch = group[partition]
                if failure := answered(code):
                    failures |= dict.fromkeys(batch.numbers, failure)
                else:
                    placed |= {number: (partition, offset + n) for n, number in enumerate(batch.numbers)}


def _rounds(all_batches: Iterable[Batch]) -> Iterable[dict[int, Batch]]:
    """Batches in groups that hold one of each partition."""
    left = list(all_batches)
    while left:
        group: dict[int, Batch] = {}
        for batch in left:
            group.setdefault(batch.partition, batch)
        yield group
        left = [batch for batch in left if group[batch.partition] is not batch]


def batches(messages: Sequence[Outgoing], partitions: Sequence[Partition], codec: str) -> list[Batch]:
    """Messages by partition: by their keys as Kafka's own clients do, those without one all in one place, in order."""
    choose = DefaultPartitioner()
    numbers = [partition.number for partition in partitions]
    led = [partition.number for partition in partitions if partition.leader >= 0]
    keyless = random.choice(led or numbers)  # noqa: S311 - it spreads load
    by_partition: dict[int, list[int]] = {}
    for number, message in enumerate(messages):
        place = keyless if message.key is None else choose(message.key.encode(), numbers, led)
        by_partition.setdefault(place, []).append(number)
    return [batch for place, some in by_partition.items() for batch in _encoded(place, some, messages, codec)]


def _encoded(place: int, numbers: Sequence[int], messages: Sequence[Outgoing], codec: str) -> Iterable[Batch]:
    now = int(time.time() * 1000)
    builder, inside = _builder(codec), list[int]()
    for number in numbers:
        message = messages[number]
        key = None if message.key is None else message.key.encode()
        headers = [(name, _header(value)) for name, value in message.headers.items()]
        if builder.append(len(inside), now, key, message.body, headers) is None:
            if inside:
                yield Batch(place, bytes(builder.build()), inside)
            builder, inside = _builder(codec), []
            builder.append(0, now, key, message.body, headers)  # the first one always fits
        inside.append(number)
    yield Batch(place, bytes(builder.build()), inside)


def _builder(codec: str) -> Any:
    return DefaultRecordBatchBuilder(
        magic=2, compression_type=CODECS[codec], is_transactional=0, producer_id=-1, producer_epoch=-1,
        base_sequence=-1, batch_size=BATCH_BYTES,
    )  # fmt: skip


def _header(value: Scalar) -> bytes:
    if isinstance(value, bool):
        return b"true" if value else b"false"
    try:
        return str(value).encode()
    except UnicodeEncodeError:
        raise InvalidRequest.at("headers", "is not valid Unicode text") from None


def incoming(record: Any) -> Incoming:
    """A record in the family's shape."""
    several: dict[str, list[Any]] = {}
    for name, value in record.headers:
        several.setdefault(name, []).append(value)
    headers = {name: values if len(values) > 1 else values[0] for name, values in several.items()}
    at = dt.datetime.fromtimestamp(record.timestamp / 1000, dt.UTC) if (record.timestamp or -1) > 0 else None
    return Incoming(
        body=record.value, key=record.key, headers=headers, id=f"{record.partition}:{record.offset}",
        published_at=at, more=(record.partition, record.offset),
    )  # fmt: skip


async def look(
    cluster: Cluster, topic: str, count: int, *, group: str | None, where: str, room: int
) -> tuple[list[Any], bool]:
    """Up to `count` records in the order of their times, without a group: nothing is committed and nobody is told.

    And whether `room` bytes, of which each partition has its share, left some out.

    `where`: `next` is what the group would receive, `first` the oldest, `last` the newest.
    """
    partitions = await cluster.topic(topic)
    starts = await cluster.offsets(topic, partitions, FIRST)
    ends = await cluster.offsets(topic, partitions, NEXT)
    if where == "last":
        starts = {number: max(starts[number], ends[number] - count) for number in starts}
    elif where == "next" and group is not None:
        done = await cluster.committed(group, topic, partitions)
        starts = {number: max(start, done.get(number, start)) for number, start in starts.items()}
    places = {part.number: (starts[part.number], ends[part.number]) for part in partitions}
    found: list[Any] = []
    cut = False
    wanted = [part for part in partitions if _between(places[part.number])]
    for node, numbers in by_leader(wanted).items():
        share = room * len(numbers) // len(wanted)
        more, less = await _fetch(cluster, node, topic, {number: places[number] for number in numbers}, count, share)
        found += more
        cut = cut or less
    found.sort(key=lambda record: (record.timestamp, record.partition, record.offset))
    return (found[-count:] if where == "last" else found[:count]), cut


def _between(place: tuple[int, int]) -> bool:
    return place[0] < place[1]


async def _fetch(
    cluster: Cluster, node: int, topic: str, places: dict[int, tuple[int, int]], count: int, room: int
) -> tuple[list[Any], bool]:
    """Up to `count` records of each partition, from the first to the second offset of its place.

    A partition ends with the record that fills its share of `room`, all with what fills all of it; and whether one did.
    """
    found: dict[int, list[Any]] = {number: [] for number in places}
    left = dict.fromkeys(places, room // max(len(places), 1))
    for _ in range(ROUNDS):
        wanted = [
            (n, place[0])
            for n, place in places.items()
            if _between(place) and len(found[n]) < count and left[n] > 0 and sum(left.values()) > 0
        ]
        if not wanted:
            break
        for part in parts(await cluster.ask(node, request(topic, wanted))):
            if failure := answered(part.code):
                raise failure
            number, room = part.number, sum(left.values())
            fetched = Fetched(topic, part, places[number][0])
            least = min(room, left[number])
            more, rest = fetched.take(count - len(found[number]), least)
            found[number] += more
            left[number] -= least - rest
            places[number] = (fetched.offset, places[number][1])
            del part, fetched  # megabytes, which need not wait for the next answer
    full = any(left[n] <= 0 and _between(place) and len(found[n]) < count for n, place in places.items())
    return [record for some in found.values() for record in some], full or sum(left.values()) <= 0 < len(left)


async def described(cluster: Cluster, topic: str, group: str | None) -> dict[str, Any]:
    """Where a topic begins and ends in each partition, and how far a group has come in it."""
    partitions = await cluster.topic(topic)
    first = await cluster.offsets(topic, partitions, FIRST)
    after = await cluster.offsets(topic, partitions, NEXT)
    done = await cluster.committed(group, topic, partitions) if group else {}
    lag = {number: end - max(done.get(number, 0), first[number]) for number, end in after.items()} if group else {}
    rows = [
        {
            "partition": part.number, "leader": part.leader, "first_offset": first[part.number],
            "next_offset": after[part.number], "committed": done.get(part.number), "lag": lag.get(part.number),
        }
        for part in partitions
    ]  # fmt: skip
    return {
        "messages": sum(after[part.number] - first[part.number] for part in partitions),
        "group_id": group,
        "lag": sum(lag.values()) if group else None,
        "partitions": rows,
    }
