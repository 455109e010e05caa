"""Which messages of a partition were handed out, which are done, and what a group may commit.

Kafka knows one number for each partition: the offset that the group goes on from. Messages that are
acknowledged out of order are remembered here until everything before them is done too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from studio.providers.kafka.codec import weight

if TYPE_CHECKING:
    from studio.providers.kafka.fetched import Fetched
    from studio.providers.kafka.reader import Reader

Place = tuple[int, int]
"""Partition and offset."""
AHEAD_KEPT = 1 << 20
"""Bytes of a broker's answers that a member keeps from one call to the next, as they were sent."""

HELD_BYTES = 1 << 10
"""About what a record that was handed out takes beside its contents."""


@dataclass
class Ledger:
    """What is under way, of one assignment of partitions."""

    out: set[Place] = field(default_factory=set)
    back: dict[Place, Any] = field(default_factory=dict)
    """Records that were read and wait to be handed out, again or for the first time."""
    again: set[Place] = field(default_factory=set)
    """Those of them that were handed out before."""
    ahead: dict[int, Fetched] = field(default_factory=dict)
    """What came of a partition and is not read yet."""
    read_to: dict[int, int] = field(default_factory=dict)
    """Where each partition goes on."""
    committed: dict[int, int] = field(default_factory=dict)
    """Where the group went on from, and then what was committed here."""

    def begin(self, partition: int, offset: int) -> None:
        """The group goes on from there."""
        self.read_to[partition] = self.committed[partition] = offset

    def came(self, records: Iterable[Any]) -> None:
        """Records were read."""
        self.back.update({(record.partition, record.offset): record for record in records})

    def pack(self) -> None:
        """Keep no large batch unpacked."""
        for fetched in self.ahead.values():
            fetched.pack()

    def rest(self) -> None:
        """Forget what was read and not handed out, and most of what came: it is asked for again."""
        for partition, offset in self.back.keys() - self.again:
            del self.back[partition, offset]
            self.read_to[partition] = min(self.read_to[partition], offset)
        kept = 0
        for partition, fetched in list(self.ahead.items()):
            kept += fetched.size
            if kept > AHEAD_KEPT or fetched.offset != self.read_to[partition]:
                del self.ahead[partition]
        self.pack()

    def weight(self) -> int:
        """About how many bytes wait to be handed out."""
        return sum(map(weight, self.back.values()))

    def next(self, count: int) -> list[Any]:
        """The records to hand out next, in the order of their partitions."""
        return [self.back[place] for place in sorted(self.back)[:count]]

    def hand_out(self, records: Iterable[Any]) -> list[Place]:
        """They are the caller's now."""
        places = [(record.partition, record.offset) for record in records]
        self.out.update(places)
        for place in places:
            del self.back[place]
        self.again.difference_update(places)
        return places

    def give_back(self, record: Any) -> None:
        """It was handed out, and shall be again."""
        place = record.partition, record.offset
        self.out.discard(place)
        self.back[place] = record
        self.again.add(place)

    def due(self) -> dict[int, int]:
        """The offsets that are to be committed: up to the first message that is not done, in each partition."""
        open_places = self.out | self.back.keys()
        found = {}
        for partition, end in self.read_to.items():
            offset = min((place[1] for place in open_places if place[0] == partition), default=end)
            if offset > self.committed[partition]:
                found[partition] = offset
        return found


@dataclass(frozen=True)
class Delivery:
    """One message that was handed out. `record` is kept to be handed out again."""

    reader: Reader
    ledger: Ledger
    record: Any

    @property
    def place(self) -> Place:
        """Its partition and offset."""
        return self.record.partition, self.record.offset

    @property
    def weight(self) -> int:
        """About how many bytes it keeps."""
        return HELD_BYTES + weight(self.record)

    @property
    def gone(self) -> bool:
        """Whether its partition went to somebody else, or the reader ended: it comes back by itself."""
        return self.reader.closed or self.reader.ledger is not self.ledger
