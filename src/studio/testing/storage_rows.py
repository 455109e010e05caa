"""Conformance of the storage family: objects as rows."""

from __future__ import annotations

import base64
import gzip
import io
import json
from typing import Any

import pytest

from studio.errors import InvalidRequest
from studio.services.connector_service import ConnectorService
from studio.testing.storage_base import StorageBase


class StorageRows(StorageBase):
    """CSV, JSON, text and Parquet."""

    async def test_csv_is_read_as_rows(self, service: ConnectorService, writable: str) -> None:
        text = '\ufeffid,name,name\r\n1,"a ""b"", c\nd",x\r\n\r\n2,ü,\r\n3\r\n'
        await service.execute("put", {"key": "t.csv", "text": text}, connector_id=writable)
        result = await service.execute_query(writable, "rows t.csv")
        assert result["data"] == [
            {"id": "1", "name": 'a "b", c\nd', "name_2": "x"}, {"id": "2", "name": "ü", "name_2": ""},
            {"id": "3", "name": None, "name_2": None},
        ]  # fmt: skip
        some = await service.execute_query(writable, "rows t.csv", {"columns": ["name", "id"], "header": True})
        assert list(some["data"][0]) == ["name", "id"]
        with pytest.raises(InvalidRequest, match="columns"):
            await service.execute_query(writable, "rows t.csv", {"columns": ["nothing"]})
        await service.execute("put", {"key": "t.dat", "text": "1;2\n3;4\n"}, connector_id=writable)
        plain = {"form": "csv", "separator": ";", "header": False}
        result = await service.execute_query(writable, "rows t.dat", plain)
        assert result["data"] == [{"column_1": "1", "column_2": "2"}, {"column_1": "3", "column_2": "4"}]

    async def test_json_forms_and_text_are_read_as_rows(self, service: ConnectorService, writable: str) -> None:
        rows = [{"a": 1, "b": [1, {"c": None}]}, {"b": "x", "d": 2**60}]
        expected = [{"a": 1, "b": [1, {"c": None}], "d": None}, {"a": None, "b": "x", "d": str(2**60)}]
        lines = "\n".join(map(json.dumps, rows)) + "\n\n"
        contents = {"t.ndjson": lines, "t.json": json.dumps(rows, indent=1), "u.jsonl": lines.strip()}
        for key, text in contents.items():
            await service.execute("put", {"key": key, "text": text}, connector_id=writable)
            assert (await service.execute_query(writable, "rows :key", {"key": key}))["data"] == expected
        packed = base64.b64encode(gzip.compress(lines.encode()[:40]) + gzip.compress(lines.encode()[40:])).decode()
        await service.execute("put", {"key": "t.ndjson.gz", "base64": packed}, connector_id=writable)
        assert (await service.execute_query(writable, "rows t.ndjson.gz"))["data"] == expected
        await service.execute("put", {"key": "t.log", "text": "one\r\ntwo\n\nlast"}, connector_id=writable)
        found = (await service.execute_query(writable, "rows t.log"))["data"]
        assert [row["line"] for row in found] == ["one", "two", "", "last"]
        for key, text in (("b.json", "[1,"), ("b.ndjson", "{}\n{"), ("b.parquet", "PAR1 no, it is not"), ("x", "?")):
            await service.execute("put", {"key": key, "text": text}, connector_id=writable)
            with pytest.raises(InvalidRequest):
                await service.execute(
                    "rows", {"key": key, **({"form": "json"} if key == "x" else {})}, connector_id=writable
                )

    async def test_rows_stop_at_the_caps_exactly(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        connector_id = await self.connect(service, config, max_rows=100)
        for count in (99, 100, 101, 5000):
            text = "n\n" + "".join(f"{number}\n" for number in range(count))
            await service.execute("put", {"key": "n.csv", "text": text}, connector_id=writable)
            result = await service.execute_query(connector_id, "rows n.csv")
            assert (result["row_count"], result["truncated"]) == (min(count, 100), count > 100)

    async def test_parquet_is_read_as_rows(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        given = {"key": "t.parquet", "base64": base64.b64encode(parquet_bytes(3000)).decode()}
        await service.execute("put", given, connector_id=writable)
        connector_id = await self.connect(service, config, max_rows=5)
        result = await service.execute_query(connector_id, "rows t.parquet")
        assert (result["row_count"], result["truncated"]) == (5, True)
        assert result["data"][1] == {"id": 1, "name": "n1", "at": "2026-01-01T00:00:00.000000001", "price": "1.50"}
        some = await service.execute_query(writable, "rows t.parquet", {"columns": ["name"]})
        assert (some["row_count"], some["data"][0]) == (1000, {"name": "n0"})
        with pytest.raises(InvalidRequest, match="columns"):
            await service.execute_query(writable, "rows t.parquet", {"columns": ["nothing"]})


def parquet_bytes(rows: int, padding: int = 0) -> bytes:
    """A Parquet file with some types that need care; `padding` bytes in each name."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    table = pa.table(
        {
            "id": pa.array(range(rows), pa.int64()),
            "name": [f"n{number}" + "x" * padding for number in range(rows)],
            "at": pa.array([1_767_225_600_000_000_000 + number for number in range(rows)], pa.timestamp("ns")),
            "price": pa.array(["1.50"] * rows).cast(pa.decimal128(10, 2)),
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=1000, compression="none")
    return sink.getvalue()
