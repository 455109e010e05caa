"""Every value of every driver travels in one JSON form."""

from __future__ import annotations

import datetime as dt
import enum
import ipaddress
import json
import uuid
from collections import OrderedDict
from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from studio.contract.values import EXACT_INTEGER, canonical, size_of

UTC = dt.UTC
EAST = dt.timezone(dt.timedelta(hours=5, minutes=30))


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    HIGH = 3


class Metres(float):
    """A float of a driver's own class."""


FORMS: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (0, 0),
    (EXACT_INTEGER, 9007199254740991),
    (EXACT_INTEGER + 1, "9007199254740992"),
    (-EXACT_INTEGER - 1, "-9007199254740992"),
    (2**200, str(2**200)),
    (1.5, 1.5),
    (float("nan"), "NaN"),
    (float("inf"), "Infinity"),
    (float("-inf"), "-Infinity"),
    (Decimal("1.10"), "1.10"),
    (Decimal("NaN"), "NaN"),
    ("text", "text"),
    (b"\x00\xff", "AP8="),
    (bytearray(b"a"), "YQ=="),
    (memoryview(b"a"), "YQ=="),
    (dt.date(2026, 1, 2), "2026-01-02"),
    (dt.time(3, 4, 5), "03:04:05"),
    (dt.time(3, 4, 5, tzinfo=UTC), "03:04:05Z"),
    (dt.datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),
    (dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006Z"),
    (dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=EAST), "2026-01-02T03:04:05+05:30"),
    (dt.timedelta(days=1, microseconds=500_000), 86400.5),
    (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
    (ipaddress.ip_address("::1"), "::1"),
    (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
    ((1, Decimal("2")), [1, "2"]),
    ({"a": {1: b"x"}}, {"a": {"1": "eA=="}}),
    (OrderedDict(a=2**60), {"a": str(2**60)}),
    ([[[dt.date(2026, 1, 2)]]], [[["2026-01-02"]]]),
    (Level.HIGH, 3),
    (Colour.RED, "Colour.RED"),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=lambda value: repr(value)[:40])
def test_a_value_has_one_canonical_form(value: Any, form: Any) -> None:
    found = canonical(value)
    assert found == form
    assert isinstance(found, bool) == isinstance(form, bool)


def test_a_set_becomes_a_list() -> None:
    assert sorted(canonical({3, 1, 2})) == [1, 2, 3]


def test_a_float_of_another_class_can_be_written_as_json() -> None:
    assert orjson.loads(orjson.dumps(canonical(Metres(2.5)))) == 2.5


LEAVES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.decimals(), st.text(), st.binary(), st.dates(),
    st.times(), st.datetimes(timezones=st.none() | st.timezones()), st.timedeltas(), st.uuids(), st.ip_addresses(),
    st.sampled_from([Colour.RED, Level.HIGH]), st.frozensets(st.integers()),
)  # fmt: skip
KEYS = st.one_of(st.text(), st.integers(), st.binary(max_size=4))
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(VALUES)
def test_the_canonical_form_is_always_json_and_always_the_same(value: Any) -> None:
    form = canonical(value)
    text = orjson.dumps(form)
    assert json.loads(text) == json.loads(json.dumps(form, allow_nan=False))
    assert canonical(form) == form


@given(VALUES)
def test_the_counted_size_is_the_written_one(value: Any) -> None:
    form = canonical(value)
    assert size_of(form) == len(orjson.dumps(form))
