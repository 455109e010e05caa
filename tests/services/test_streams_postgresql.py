"""Streams from a real PostgreSQL have the same values as results that are collected, whatever is decoded in bulk."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from tests.servers import Postgres

from studio.errors import UpstreamError
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

pytestmark = pytest.mark.server
MANY = "SELECT n, '2024-01-01 00:00:13.37Z'::timestamptz + n * interval '1.001 s' AS at FROM generate_series(1, 9000) n"
QUERIES = {
    "zoned": MANY,
    "naive": MANY.replace("Z'::timestamptz", "'::timestamp"),
    "null": "SELECT CASE WHEN n % 2 = 0 THEN now() END AS at FROM generate_series(1, 300) n",
    "nothing": "SELECT now() AS at WHERE false",
    "empty naive": "SELECT now()::timestamp AS at WHERE false",
    "infinite": "SELECT 'infinity'::timestamptz AS a, '-infinity'::timestamp AS b UNION ALL SELECT now(), now()",
    "infinitely early": "SELECT '-infinity'::timestamptz AS a UNION ALL SELECT now()",
    "before Christ": "SELECT '0044-03-15 12:00 BC'::timestamptz AS a, '0044-03-15 BC'::timestamp AS b "
    "UNION ALL SELECT 'infinity', 'infinity'",
    "far": "SELECT '12024-02-29 12:34'::timestamp AS a, '12024-02-29 12:34Z'::timestamptz AS b",
    "all kinds": "SELECT now() AS a, '2024-12-31 23:59:59.000001'::timestamp AS b, NULL::timestamptz AS c, "
    "'a +00'::text AS d, 9007199254740991 AS e, 1e-5::float8 AS f FROM generate_series(1, 200)",
    "array": "SELECT ARRAY[now(), NULL] AS many, now() AS one",
    "record": "SELECT (now(), 1) AS pair, now()::timestamp AS one",
    "brackets": "SELECT '[{\"a\":[{},{\"},{\":1}]},{}]'::jsonb AS a, '},{' AS b FROM generate_series(1, 3)",
    "no columns": "SELECT FROM generate_series(1, 3)",
    "truth": "SELECT n % 2 = 0 AS even, n > 5 OR NULL AS perhaps FROM generate_series(1, 10) n",
}
FAR_US = int((dt.datetime(2024, 2, 29, 12, 34, tzinfo=dt.UTC).timestamp() + 25 * 146_097 * 86_400) * 1_000_000)
"""Ten thousand years later: 25 times the 400 years after which the calendar repeats."""
FITS = set(QUERIES) - {"infinite", "infinitely early", "before Christ", "far"}


@pytest.fixture
async def asked(tmp_path: Path, postgres: Postgres) -> AsyncIterator[tuple[ConnectorService, str]]:
    async with ConnectorService(Settings(data_dir=tmp_path)) as service:
        made = await service.create(
            {"organization_id": "acme", "name": "pg", "connector_type": "database", "provider": "postgresql",
             "config": postgres.config(max_rows=20_000, max_bytes=1 << 24)}
        )  # fmt: skip
        yield service, str(made["id"])


async def streamed(asked: tuple[ConnectorService, str], form: str, query: str, params: Any = None) -> bytes:
    return b"".join([chunk async for chunk in asked[0].stream_query(asked[1], query, params, form=form)])


@pytest.mark.parametrize("name", QUERIES)
async def test_a_stream_has_the_values_of_the_result(asked: tuple[ConnectorService, str], name: str) -> None:
    query = QUERIES[name].replace("now()", "'2024-05-06 07:08:09.5Z'::timestamptz")
    plain = (await asked[0].execute_query(asked[1], query))["data"]  # decoded value by value: the text is new
    for _ in range(3):  # prepared for once, kept, and used again
        result = await asked[0].execute_query(asked[1], query)
        assert result["data"] == plain
        *rows, _last = (await streamed(asked, "ndjson", query)).splitlines()
        assert list(map(orjson.loads, rows)) == result["data"]
        assert json.loads(await streamed(asked, "json", query))["data"] == result["data"]
        if name in FITS:
            table = pa.ipc.open_stream(await streamed(asked, "arrow", query)).read_all()
            table.validate(full=True)
            assert table.num_rows == result["row_count"]
            assert [list(row.values()) for row in table.to_pylist()] == list(map(typed, result["data"]))
        elif name == "far":  # of which Python's own type knows nothing
            table = pa.ipc.open_stream(await streamed(asked, "arrow", query)).read_all()
            assert [column.cast(pa.int64())[0].as_py() for column in table.columns] == [FAR_US] * 2
        else:
            with pytest.raises(UpstreamError, match="cast"):
                await streamed(asked, "arrow", query)


def typed(row: dict[str, Any]) -> list[Any]:
    """The values of a result as Arrow types them."""
    return [
        dt.datetime.fromisoformat(value) if isinstance(value, str) and value.startswith("2024")
        else orjson.dumps(value).decode() if isinstance(value, dict | list) else value
        for value in row.values()
    ]  # fmt: skip


@pytest.mark.parametrize("form", ["ndjson", "arrow"])
async def test_parameters_of_a_stream_may_be_points_in_time(asked: tuple[ConnectorService, str], form: str) -> None:
    query = "SELECT :at::timestamptz AS a, :then::timestamp AS b"
    params = {"at": "2024-01-01T02:00:00+02:00", "then": "2024-01-01T02:00:00.25"}
    for _ in range(3):
        content = await streamed(asked, form, query, params)
        if form == "ndjson":
            assert content.startswith(b'{"a":"2024-01-01T00:00:00Z","b":"2024-01-01T02:00:00.25"}\n')
        else:
            (row,) = pa.ipc.open_stream(content).read_all().to_pylist()
            assert [value.isoformat() for value in row.values()] == [
                "2024-01-01T00:00:00+00:00",
                "2024-01-01T02:00:00.250000",
            ]
    assert (await asked[0].execute_query(asked[1], query, params))["data"] == [
        {"a": "2024-01-01T00:00:00Z", "b": "2024-01-01T02:00:00.25"}
    ]
