"""Rows by column: whatever is done with them is what is done with the same rows as tuples."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import toy

from studio.contract import Batch, Column, ProviderConfig
from studio.contract.caps import Caps
from studio.contract.table import Table, columns_of, fixed
from studio.errors import ResultBlocked
from studio.services.streams import form_of

VALUES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
    | st.lists(st.integers(0, 9), max_size=3)
)


def named(count: int) -> list[Column]:
    return [{"name": f"c{at}", "type": ""} for at in range(count)]


@st.composite
def rows_of_one_width(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    width = draw(st.integers(1, 5))
    return draw(st.lists(st.tuples(*[VALUES] * width), min_size=1, max_size=12))


def table(rows: list[tuple[Any, ...]]) -> Table:
    return Table(list(zip(*rows, strict=True)))


@settings(max_examples=300, deadline=None)
@given(rows_of_one_width(), st.integers(1, 12), st.integers(1, 600), st.booleans())
def test_the_caps_are_the_same(rows: list[tuple[Any, ...]], most: int, size: int, kept: bool) -> None:
    config = ProviderConfig(max_rows=most)
    object.__setattr__(config, "max_bytes", size)  # less than may be configured
    columns = named(len(rows[0]))
    plain, by_column = (Caps(config, kept=kept).take(Batch(columns, given)) for given in (rows, table(rows)))
    assert (list(by_column.rows), by_column.size, by_column.truncated) == (plain.rows, plain.size, plain.truncated)


def test_many_wide_texts_are_packed_and_come_back_as_the_same_rows() -> None:
    rows = [(n, "\U0001f600" * 300) for n in range(1000)]
    caps = Caps(ProviderConfig(), kept=True)
    assert caps.unpacked(list(caps.take(Batch(named(2), table(rows))).rows)) == rows


def test_as_many_values_are_counted() -> None:
    rows = [(n, n, n) for n in range(20_000)]
    config = ProviderConfig(max_rows=100_000)
    plain, by_column = (Caps(config, kept=True) for _ in range(2))
    for some, caps in ((rows, plain), (table(rows), by_column)):
        for _ in range(3):
            found = caps.take(Batch(named(3), some))
    assert plain._values_left == by_column._values_left
    assert found.truncated


def test_a_secret_in_a_column_is_found() -> None:
    rows = [(n, "x") for n in range(100)] + [(100, "correct-horse-battery")]
    with pytest.raises(ResultBlocked):
        Caps(toy.Toy.Config.parse(toy.config(password="correct-horse-battery"))).take(Batch(named(2), table(rows)))


@settings(max_examples=100, deadline=None)
@given(rows_of_one_width())
@pytest.mark.parametrize("form", ["ndjson", "json", "csv", "arrow"])
def test_every_form_writes_the_same(form: str, rows: list[tuple[Any, ...]]) -> None:
    columns = named(len(rows[0]))
    written = []
    for given_rows in (rows, table(rows)):
        one = form_of(form)
        try:
            written.append(one.rows(columns, given_rows))
        except Exception as exc:  # of mixed columns, Arrow has none: the same words then
            written.append(str(exc).encode())
    assert written[0] == written[1]


@given(rows_of_one_width(), st.integers(0, 12), st.integers(0, 12))
def test_parts_and_rows_are_those_of_the_list(rows: list[tuple[Any, ...]], start: int, end: int) -> None:
    found = table(rows)
    assert list(found[start:end]) == rows[start:end]
    assert len(found[start:end]) == len(rows[start:end])
    assert found[-1] == rows[-1]
    assert columns_of(found) == columns_of(rows)


@pytest.mark.parametrize("count", [0, 1, 64, 65, 1000])
def test_columns_are_fixed_however_many_rows_there_are(count: int) -> None:
    records = [[n, 2**53 + n] for n in range(count)]
    rows = fixed(records, [(0, lambda values: None), (1, lambda values: [str(value) for value in values])])
    assert list(rows) == [(n, str(2**53 + n)) for n in range(count)]
    assert list(fixed(records, [])) == [tuple(record) for record in records]
    assert isinstance(rows, Table) == (count > 64)
