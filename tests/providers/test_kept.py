"""What is kept from one answer to the next, or beside the rows that were made of it: little."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import bson
import pytest

from studio.providers._sql.server import Call
from studio.providers.kafka.ledger import Ledger
from studio.providers.mongodb.room import Room
from studio.providers.mysql import driver
from studio.providers.postgresql.work import Reading

MIB = 1 << 20


def _came(size: int) -> Any:
    return SimpleNamespace(size=size, offset=7, pack=lambda: None)


def test_a_kafka_member_that_rests_keeps_a_megabyte_of_what_came() -> None:
    ledger = Ledger(ahead={number: _came(700_000) for number in range(3)})
    for partition in ledger.ahead:
        ledger.begin(partition, 7)
    ledger.rest()
    assert list(ledger.ahead) == [0]


def test_large_wide_texts_of_mongodb_have_no_room_together_and_plain_ones_have() -> None:
    wide = bson.encode({"text": "x" * (3 * MIB) + "\U0001f600"})
    plain = bson.encode({"text": "x" * (3 * MIB)})
    room = Room(16 * MIB, 100_000)
    assert all(room.fits(plain) for _ in range(5))
    assert not room.fits(wide)
    assert Room(16 * MIB, 100_000).fits(wide), "alone it has room"


def test_a_mysql_session_lets_a_large_buffer_go_when_it_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    read, left = 2 * MIB, b"a row that has not come wholly"
    proto = SimpleNamespace(buffer=bytes(read) + left, pos=0, length=read + len(left))
    monkeypatch.setattr(driver, "parse_binary_rows_from_buffer", lambda *_given: (read, 0))
    session: Any = SimpleNamespace(_proto=proto, _next_seq_id=0, _deprecate_eof=True)
    driver.Connection._parse(session, SimpleNamespace(padding=0, specs=()), [])  # type: ignore[arg-type]
    assert (proto.pos, proto.length) == (0, len(left))
    assert proto.buffer.startswith(left)
    assert len(proto.buffer) <= len(left) + MIB


async def test_records_of_postgresql_are_not_kept_beside_their_rows() -> None:
    class One(Reading):
        async def _more(self, _session: Any) -> Any:
            return records, b"", True

    records: list[Any] = [(1,), (2,)]
    pool: Any = SimpleNamespace(narrow={}, release=lambda *_given: None)
    reading = One(pool, Call("SELECT 1"), 2)
    reading._session = SimpleNamespace()  # type: ignore[assignment]
    reading._plan = SimpleNamespace(rows=list, columns=[])  # type: ignore[assignment]
    batch = await reading.next()
    assert batch is not None
    assert (batch.rows, records) == ([(1,), (2,)], [])
