"""The quick ways to write rows give the same bytes as the plain ones."""

from __future__ import annotations

import csv
import io
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studio.models import Column, Result, as_objects
from studio.services.streams import form_of

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ["", " ", "a,b", 'a"b', "a\nb", "a\rb", "\0", "},{", "#", "é", "null", "1e5"]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [0.0, -0.0, 1e-4, 1e-5, 9.9e-5, 0.00012, 1e15, 1e16, 123456789012345680.0, 5e-324, 10.00001]
)
VALUES = {"text": TEXTS, "float": FLOATS, "int": st.integers(), "truth": st.booleans(), "null": st.none()}


@st.composite
def tables(draw: st.DrawFn) -> list[tuple[Any, ...]]:
    """Rows whose columns are mostly of one kind, some with nulls between."""
    kinds = draw(st.lists(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=2), min_size=1, max_size=5))
    columns = [st.one_of([VALUES[kind] for kind in one]) for one in kinds]
    return draw(st.lists(st.tuples(*columns), min_size=1, max_size=8))


def plain_csv(rows: list[tuple[Any, ...]]) -> bytes:
    buffer = io.StringIO()
    truths = {True: "true", False: "false"}
    shown = [[truths[value] if isinstance(value, bool) else value for value in row] for row in rows]
    csv.writer(buffer, lineterminator="\n").writerows(shown)
    return buffer.getvalue().encode()


@settings(max_examples=300, deadline=None)
@given(tables())
def test_csv_is_what_the_csv_module_writes(rows: list[tuple[Any, ...]]) -> None:
    columns: list[Column] = [{"name": f"c{at}", "type": ""} for at in range(len(rows[0]))]
    assert form_of("csv").rows(columns, rows) == plain_csv(rows)


@pytest.mark.parametrize("value", ["a,b", 'a"b', "a\nb", "a\rb", "", " ", "\0", None, 1e-5, 9.9e-5, 1e16, True, 2**70])
def test_csv_of_an_odd_value_is_what_the_csv_module_writes(value: Any) -> None:
    columns: list[Column] = [{"name": "a", "type": ""}, {"name": "b", "type": ""}]
    rows = [(value, 1), (value, 2)]
    assert form_of("csv").rows(columns, rows) == plain_csv(rows)


def test_csv_of_a_float_that_is_not_finite_is_what_the_csv_module_writes() -> None:
    columns: list[Column] = [{"name": "a", "type": ""}, {"name": "b", "type": ""}]
    rows = [(float("inf"), 1), (float("nan"), 2)]
    assert form_of("csv").rows(columns, rows) == plain_csv(rows)


@settings(max_examples=200, deadline=None)
@given(st.lists(TEXTS, min_size=0, max_size=6), st.data())
def test_objects_are_those_of_zip_even_where_a_name_stands_twice(names: list[str], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.tuples(*[st.integers()] * len(names)), max_size=4))
    plain = [dict(zip(names, row, strict=True)) for row in rows]
    assert [list(one.items()) for one in as_objects(names, rows)] == [list(one.items()) for one in plain]


def test_names_of_columns_are_never_compiled() -> None:
    name = "k0: v0} for [v0] in rows]\nraise SystemExit #"
    assert as_objects([name], [(1,)]) == [{name: 1}]
    assert as_objects([str(at) for at in range(1700)], [tuple(range(1700))])[0]["1699"] == 1699


@pytest.mark.parametrize("row", [(), (1,), (1, 2, 3)])
def test_a_row_with_another_number_of_values_is_a_defect(row: tuple[int, ...]) -> None:
    result = Result(columns=[{"name": "a", "type": ""}, {"name": "b", "type": ""}], rows=[row])
    with pytest.raises(ValueError, match="values to unpack"):
        orjson.dumps(result.to_dict())
