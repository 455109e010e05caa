"""Arrays, composites and documents of PostgreSQL in large rows: the same values as in small ones, or the server's text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.servers import Postgres

from studio.errors import ResultBlocked
from studio.providers.postgresql.arrays import parse
from studio.providers.postgresql.provider import Postgresql
from studio.testing.harness import call, open_provider

pytestmark = pytest.mark.server

ARRAYS = {
    "integers": "array_agg(n)",
    "large integers": "array_agg(n::int8 * 1000000007000)",
    "numerics": "array_agg(n::numeric / 3)",
    "texts": "array_agg('a\"b,{\\ NULL'||n)",
    "texts that look like nothing": "ARRAY['NULL', '', ' ', NULL, '{}', ';']",
    "nulls": "array_agg(CASE WHEN n % 2 = 0 THEN n END)",
    "booleans": "array_agg(n % 2 = 0)",
    "moments": "array_agg('2020-01-01'::timestamptz)",
    "floats": "array_agg(n::float8 / 7) || 'NaN'::float8 || '-Infinity'::float8",
    "short floats": "array_agg(n::float4 / 7)",
    "documents": "array_agg(json_build_object('a', n, 'b', 12345678901234567890))",
    "bytes": "array_agg('\\x0102'::bytea)",
    "uuids": "array_agg('6ba7b810-9dad-11d1-80b4-00c04fd430c8'::uuid)",
    "lists of lists": "array_agg(array[n, 1])",
    "other bounds": "'[3:4]={1,2}'::int[]",
    "none": "'{}'::int[]",
    "boxes": "array_agg('(1,1),(2,2)'::box)",
    "characters": "array_agg('x'::char(3))",
    "intervals": "array_agg('1 day 1 second'::interval)",
    "ranges": "array_agg(int4range(n, n + 1))",
}


@pytest.fixture
async def provider(postgres: Postgres) -> Any:
    async with open_provider(Postgresql, postgres.config()) as provider:
        yield provider


@pytest.mark.parametrize("name", ARRAYS)
async def test_an_array_beside_a_large_text_is_what_it_is_elsewhere(provider: Any, name: str) -> None:
    small = await call(provider, "query", query=f"SELECT {ARRAYS[name]} AS found FROM generate_series(1, 5) n")
    beside = f"SELECT {ARRAYS[name]} AS found, repeat('x', 2000000) FROM generate_series(1, 5) n"
    for _ in range(2):  # the second time it is known to be large
        large = await call(provider, "query", query=beside)
        assert large.rows[0][0] == small.rows[0][0]
        assert large.columns[0] == small.columns[0]


@given(st.lists(st.one_of(st.none(), st.text(st.characters(exclude_characters="\0", codec="utf-8"))), max_size=4))
async def test_any_text_comes_out_of_an_array_as_it_went_in(postgres: Postgres, texts: list[str | None]) -> None:
    async with open_provider(Postgresql, postgres.config()) as provider:
        query = "SELECT CAST(CAST(:texts AS text[]) AS text)"
        (row,) = (await call(provider, "query", query=query, params={"texts": texts})).rows or ()
        assert parse(row[0], str) == texts


async def test_more_elements_than_are_decoded_are_the_servers_text(provider: Any) -> None:
    query = "SELECT array_agg(1) FROM generate_series(1, {})"
    (fits,) = (await call(provider, "query", query=query.format(100_000))).rows or ()
    assert fits == ([1] * 100_000,)
    (text,) = (await call(provider, "query", query=query.format(300_000))).rows or ()
    assert text == ("{" + "1," * 299_999 + "1}",)


async def test_an_array_of_a_megabyte_is_read_as_text_before_it_is_decoded(provider: Any) -> None:
    query = "SELECT array_agg(n) FROM generate_series(1, 150000) n"
    (found,) = (await call(provider, "query", query=query)).rows or ()
    assert type(found[0]) is str


async def test_what_a_write_returns_may_hold_large_arrays_too(postgres: Postgres, database: str) -> None:
    async with open_provider(Postgresql, postgres.config(database=database, read_only=False)) as provider:
        await call(provider, "execute", query="CREATE TABLE t (n int, tags text[], body text)")
        insert = (
            "INSERT INTO t SELECT n, ARRAY['a', n::text], repeat('x', 300000) FROM generate_series(1, 20) n RETURNING *"
        )
        done = await call(provider, "execute", query=insert)
        assert done.row_count == 20
        assert [row[:2] for row in done.rows][:2] == [(1, ["a", "1"]), (2, ["a", "2"])]


async def test_an_array_that_is_a_parameter_too_is_not_had_as_text(provider: Any) -> None:
    query = "SELECT CAST(:ns AS int[]), repeat('x', :size)"
    small = await call(provider, "query", query=query, params={"ns": [1, 2], "size": 900_000})
    assert small.rows[0][0] == [1, 2]
    with pytest.raises(ResultBlocked):
        await call(provider, "query", query=query, params={"ns": [1, 2], "size": 2_000_000})


async def test_a_text_whose_rows_were_too_large_costs_a_session_only_once(provider: Any) -> None:
    query = (
        "SELECT repeat('{},', n * 0) || to_json(repeat('x', 100000))::text, ('[1]')::json FROM generate_series(1, 30) n"
    )
    begun = []
    for _ in range(3):
        result = await call(provider, "query", query=query)
        assert (result.row_count, result.truncated) == (30, False)
        backend = await call(provider, "query", query="SELECT pg_backend_pid()")
        begun.append(backend.rows[0][0])
    assert begun[0] == begun[1] == begun[2]
