"""How many values of a body are decoded, and what becomes of one that holds more."""

from __future__ import annotations

import json

import pytest
from multidict import CIMultiDict

from studio.errors import ResultBlocked
from studio.providers._bounds import MAX_LISTED, MAX_VALUES, first_values, too_many
from studio.providers._http.body import Answer
from studio.providers._http.redact import Redactor
from studio.providers._objects.parts import Entry
from studio.providers._objects.text import decoded
from studio.providers.redis.line import parse
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
