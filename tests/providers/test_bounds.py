"""How many values of a body are decoded, and what becomes of one that holds more."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import hiredis
import pytest
from multidict import CIMultiDict

from studio.api.wire import MOST_VALUES, json_object
from studio.contract import Batch, Column, ProviderConfig
from studio.contract.bounds import MAX_LISTED, MAX_VALUES, first_values, most_values, too_many
from studio.contract.caps import Caps
from studio.contract.config import MOST_FIELDS
from studio.errors import BadRequest, InvalidConfig, ResultBlocked
from studio.providers._http.body import Answer
from studio.providers._http.redact import Redactor
from studio.providers._objects.parts import Entry
from studio.providers._objects.text import decoded
from studio.providers.mysql.values import _json as mysql_json
from studio.providers.postgresql.values import _json as postgresql_json
from studio.providers.redis.errors import TooLarge
from studio.providers.redis.line import parse
from studio.providers.redis.sessions import _Parser
from studio.providers.rest.answer import body_of

MANY = list(range(MAX_VALUES + 2))


def as_json(value: object) -> bytes:
    return json.dumps(value).encode()


def answer(value: object) -> Answer:
    return Answer(200, CIMultiDict({"Content-Type": "application/json"}), as_json(value))


def test_values_are_counted_and_not_the_commas_of_texts() -> None:
    assert not too_many(as_json(MANY[:-3]))
    assert too_many(as_json(MANY))
    assert too_many(b"[" + b"{}," * MAX_VALUES + b"{}]")
    assert not too_many(as_json({"csv": 'a,"b",{c}\\\n' * MAX_VALUES}))
    assert too_many(as_json({"csv": "a," * MAX_VALUES, "rows": MANY}))
    assert too_many(as_json({str(n): "x" for n in MANY}))
    assert too_many(b"\xef\xbb\xbf <l>" + b"<a/>" * 2 * MAX_LISTED + b"</l>")
    assert first_values(b"[1,2]") == b"[1,2]"
    assert first_values(as_json(MANY)).count(b",") == MAX_VALUES - 1


def test_of_an_array_of_too_many_values_the_first_are_given() -> None:
    body = body_of(answer(MANY), Redactor({}), 1 << 30)
    assert body.cut
    assert body.value == MANY[: len(body.value)]
    assert MAX_VALUES - 2 <= len(body.value) <= MAX_VALUES
    for whole in ({"data": MANY}, [MANY]):
        with pytest.raises(ResultBlocked, match="ask for less"):
            body_of(answer(whole), Redactor({}), 1 << 30)


async def test_an_object_of_too_many_values_is_text() -> None:
    body = as_json(MANY)
    entry = Entry("a.json", len(body), "2026-01-01T00:00:00Z", None, "application/json")
    found = await decoded(body, "auto", entry, 0, 1 << 30)
    assert (found["encoding"], found["length"]) == ("text", len(body))


def test_a_command_line_of_many_pieces_is_split_in_linear_time() -> None:
    line = parse("GET " + "'a'" * 30_000)
    assert len(line.arguments[1]) == 30_000


def test_rows_that_are_kept_are_held_to_a_number_of_values_and_streamed_ones_are_not() -> None:
    config = ProviderConfig()
    columns = [Column(name=str(n), type="integer") for n in range(1_000)]
    wide = Batch(columns, [tuple([1] * 1_000)] * 1_000)
    kept, streamed = Caps(config, kept=True).take(wide), Caps(config).take(wide)
    assert (len(kept.rows), kept.truncated) == (most_values(config.max_bytes) // 1_000, True)
    assert (len(streamed.rows), streamed.truncated) == (1_000, False)
    texts = Batch(columns[:1], [("a, b" * 50_000,)] * 10)
    assert not Caps(config, kept=True).take(texts).truncated


def test_rows_of_wide_texts_are_packed_until_the_last_is_read() -> None:
    """Python keeps four bytes for each character of a text in which one is beyond U+FFFF."""
    rows: list[Any] = [("x" * 400_000 + "\U0001f642", 1, None), ("small", 2, {"a": [0.5]}), ("ü" * 300_000, 3, None)]
    caps = Caps(ProviderConfig(), kept=True)
    kept = [row for at in range(3) for row in caps.take(Batch([], rows[at : at + 1])).rows]
    assert [type(row) for row in kept] == [bytes, tuple, tuple]
    assert caps.unpacked(kept) == rows
    documents: list[Any] = [{"a": "x" * 400_000 + "\U0001f642"}]
    assert caps.unpacked(caps.take(Batch([], list(documents), documents=True)).rows) == documents
    streamed = Caps(ProviderConfig()).take(Batch([], rows))
    assert streamed.rows == rows


def test_a_row_longer_than_the_room_that_is_left_is_not_kept() -> None:
    caps = Caps(ProviderConfig(max_bytes=1_000_000), kept=True)
    assert len(caps.take(Batch([], [("x" * 600_000 + "\U0001f642",)])).rows) == 1
    part = caps.take(Batch([], [("x" * 600_000 + "\U0001f642",)]))
    assert (part.rows, part.truncated) == ([], True)


@pytest.mark.parametrize("decode", [mysql_json, postgresql_json])
def test_a_wide_text_of_megabytes_stays_text(decode: Any) -> None:
    for size, kind in [(2_000_000, list), (3_000_000, str)]:
        assert type(decode('["' + "x" * size + '\U0001f642"]')) is kind


@pytest.mark.parametrize("decode", [mysql_json, postgresql_json])
def test_a_column_of_json_with_too_many_values_is_given_as_its_text(decode: Any) -> None:
    text = as_json(MANY).decode()
    assert decode(text) == text
    assert decode(as_json(MANY[:-3]).decode()) == MANY[:-3]


def test_json_that_is_too_deep_for_its_long_numbers_is_text() -> None:
    text = "[" * 5_000 + "12345678901234567" + "]" * 5_000
    assert postgresql_json(text) == text


async def test_a_reply_of_redis_has_no_more_elements_than_are_read() -> None:
    async def read(count: int) -> None:
        parser: Any = object.__new__(_Parser)
        parser._stream, parser._reader, parser._read_size = asyncio.StreamReader(), hiredis.Reader(), 65_536
        parser.left = 1 << 30
        half = b"*%d\r\n" % (count // 2) + b"$1\r\n1\r\n" * (count // 2)  # a longer list is refused by its head
        parser._stream.feed_data(b"*2\r\n" + half * 2)
        while parser._reader.gets() is False:
            await parser.read_from_socket()

    await read(MAX_VALUES - 4)
    with pytest.raises(TooLarge):
        await read(MAX_VALUES + 2)


def test_a_body_has_no_more_values_than_are_taken() -> None:
    assert json_object(as_json({"a": MANY[: MOST_VALUES - 2]}))
    with pytest.raises(BadRequest, match="values"):
        json_object(as_json({"a": MANY[: MOST_VALUES + 2]}))
    assert json_object(as_json({"a": ["x" * 30] * 2 * MOST_VALUES}))


def test_a_config_of_many_fields_is_refused_at_once() -> None:
    with pytest.raises(InvalidConfig, match="fields") as caught:
        ProviderConfig.parse({f"f{n}": n for n in range(MOST_FIELDS + 1)})
    assert not caught.value.fields
