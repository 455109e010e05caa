"""What a broker answers to a fetch: unpacked one batch at a time, and only when its records are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from aiokafka.consumer.fetcher import PartitionRecords
from aiokafka.errors import RecordTooLargeError
from aiokafka.protocol.fetch import FetchRequest
from aiokafka.structs import TopicPartition

from studio.providers.kafka.cluster import READ_COMMITTED
from studio.providers.kafka.codec import Records, weight

FETCH_MS = 500
"""How long a broker may wait for something to come."""
FETCH_BYTES = 1 << 20
"""Of one fetch: an answer is in memory three times while it is decoded."""
UNPACKED_KEPT = 2 << 20
"""Bytes of an unpacked batch that are kept for the next call. A larger one is unpacked again."""


def request(topic: str, wanted: Sequence[tuple[int, int]], wait_ms: int = FETCH_MS) -> FetchRequest:
    """Ask for what lies at the offsets of some partitions."""
    places = [(number, offset, FETCH_BYTES) for number, offset in wanted]
    return FetchRequest(wait_ms, 1, FETCH_BYTES, READ_COMMITTED, [(topic, places)])


class Part(NamedTuple):
    """One partition's part of an answer. `end`: the offset after the last record that can be read now."""

    number: int
    code: int
    end: int
    aborted: Any
    raw: bytes


def parts(response: Any) -> Iterator[Part]:
    """The parts of an answer."""
    version = response.API_VERSION
    for _, answers in response.topics:
        for number, code, end, *rest in answers:
            stable = rest[0] if version >= 4 else -1
            aborted = rest[2] if version >= 11 else rest[-2] if version >= 4 else None
            yield Part(number, code, stable if stable >= 0 else end, aborted, bytes(rest[-1] or b""))


class Fetched:
    """The records of one part, from an offset on."""

    def __init__(self, topic: str, part: Part, offset: int) -> None:
        self._place, self._raw = TopicPartition(topic, part.number), part.raw
        self.ended = False
        self._begin(offset, part.aborted)
        if part.raw and not self._batches.has_next():
            raise RecordTooLargeError

    def _begin(self, offset: int, aborted: Any) -> None:
        self._batches = Records(self._raw)
        self._records = PartitionRecords(
            self._place, self._batches, aborted, offset, None, None, True, READ_COMMITTED
        )  # fmt: skip
        # the driver lets them know each other, and megabytes would wait for the collector of cycles
        self._iterator, self._records._records_iterator = self._records._records_iterator, None
        self._unpacked = 0

    @property
    def offset(self) -> int:
        """Where it goes on."""
        return int(self._records.next_fetch_offset)

    @property
    def size(self) -> int:
        """Bytes as they were sent."""
        return len(self._raw)

    def take(self, count: int, room: int) -> tuple[list[Any], int]:
        """Up to `count` records, the last of which may fill `room`; and how much room is left.

        Raises what the driver raises of the first record; what it raises later comes with the next fetch.
        """
        found: list[Any] = []
        while len(found) < count and room > 0:
            Records.unpacked = 0
            try:
                record = next(self._iterator, None)
            except Exception:
                if not found:
                    raise
                record = None
            self._unpacked = Records.unpacked or self._unpacked
            if record is None:
                self.ended = True
                break
            found.append(record)
            room -= weight(record)
        return found, room

    def pack(self) -> None:
        """Keep no large batch unpacked: begin it again when more of it is wanted."""
        if self._unpacked > UNPACKED_KEPT:
            done = self._records
            self._raw = self._raw[self._batches.began :]
            self._begin(self.offset, done._aborted_transactions)
            self._records._aborted_producers = done._aborted_producers  # by markers that are behind us
