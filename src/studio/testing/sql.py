"""Conformance of SQL databases: the six verbs of `SqlProvider`, on top of `DatabaseConformance`."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from studio.errors import InvalidRequest, NotFound, ReadOnly, StudioError
from studio.services.connector_service import ConnectorService
from studio.testing.database import DatabaseConformance

HOSTILE_TEXTS = (
    "", " ", "'", '"', "\\", "a'b\"c`d", "'; DROP TABLE things; --", "/* x */", "-- x", "$1", "?1", ":name", "%s", "{}",
    "\t\n", "ünïcödé", "日本語", "🙂", "\u202eabc", "NULL", "1 OR 1=1", "$$x$$", "x" * 5000,
)  # fmt: skip
"""Texts that must travel as values, whatever they look like."""


class SqlConformance(DatabaseConformance):
    """The SQL verbs. Dialects differ in a few statements, which are attributes."""

    one: ClassVar[str] = "SELECT 1 AS one"
    broken: ClassVar[str] = "SELEC 1"
    series: ClassVar[str] = (
        "WITH RECURSIVE series(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM series WHERE n < {count}) "
        "SELECT n FROM series"
    )
    """Answers the numbers 1 to {count}."""
    create: ClassVar[str] = "CREATE TABLE things (id INTEGER PRIMARY KEY, name VARCHAR(10000))"
    echo: ClassVar[str] = "SELECT :value AS value"
    """Answers its parameter, which is a text."""

    @pytest.fixture
    async def writable(self, service: ConnectorService, config: dict[str, Any]) -> str:
        """A connector that may write, on a database with an empty table `things`."""
        connector_id = await self.connect(service, config, name="writable", read_only=False)
        await service.execute("execute", {"query": self.create}, connector_id=connector_id)
        return connector_id

    async def test_hostile_values_are_bound_and_come_back_unchanged(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config)
        for text in HOSTILE_TEXTS:
            result = await service.execute_query(connector_id, self.echo, {"value": text})
            assert result["data"] == [{"value": text}]

    async def test_a_missing_or_extra_parameter_is_named(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config)
        with pytest.raises(InvalidRequest, match="value"):
            await service.execute_query(connector_id, self.echo, {})
        with pytest.raises(InvalidRequest, match="other"):
            await service.execute_query(connector_id, self.echo, {"value": "x", "other": 1})

    async def test_truncated_is_exact_at_the_cap(self, service: ConnectorService, config: dict[str, Any]) -> None:
        connector_id = await self.connect(service, config, max_rows=100)
        for count, truncated in ((99, False), (100, False), (101, True)):
            result = await service.execute_query(connector_id, self.series.format(count=count))
            assert (result["row_count"], result["truncated"]) == (min(count, 100), truncated)

    async def test_the_byte_cap_truncates_too(self, service: ConnectorService, config: dict[str, Any]) -> None:
        connector_id = await self.connect(service, config, max_bytes=1024)
        result = await service.execute_query(connector_id, self.series.format(count=900))
        assert result["truncated"]
        assert 0 < result["row_count"] < 900

    async def test_rows_stream_in_order_and_the_caps_hold(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, max_rows=800)
        planned = service.plan_query(await service.target(connector_id), self.series.format(count=900), None)
        seen: list[Any] = []
        truncated = False
        async for part in service.stream(planned):
            seen += [row[0] for row in part.rows]
            truncated = part.truncated
        assert seen == list(range(1, 801))
        assert truncated

    async def test_a_stream_left_early_gives_its_session_back(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, pool_size=1, max_rows=100_000)
        for _ in range(3):
            planned = service.plan_query(await service.target(connector_id), self.series.format(count=900), None)
            parts = service.stream(planned)
            assert (await anext(parts)).columns
            await parts.aclose()
        assert (await service.execute_query(connector_id, self.one))["row_count"] == 1

    async def test_a_read_only_connector_refuses_writes_and_nothing_changes(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        reader = await self.connect(service, config, name="reader")
        for statement in ("INSERT INTO things VALUES (1, 'x')", "DELETE FROM things", "DROP TABLE things"):
            with pytest.raises(ReadOnly, match="read"):
                await service.execute_query(reader, statement)
            with pytest.raises(ReadOnly):
                await service.execute("execute", {"query": statement}, connector_id=reader)
            with pytest.raises(StudioError):
                await service.execute("query", {"query": statement}, connector_id=reader)
        assert (await service.execute_query(writable, "SELECT count(*) AS n FROM things"))["data"] == [{"n": 0}]

    async def test_the_query_operation_does_not_write_even_where_writing_is_allowed(
        self, service: ConnectorService, writable: str
    ) -> None:
        with pytest.raises(StudioError) as caught:
            await service.execute("query", {"query": "INSERT INTO things VALUES (1, 'x')"}, connector_id=writable)
        assert caught.value.code in {"read_only", "invalid_request"}
        assert (await service.execute_query(writable, "SELECT count(*) AS n FROM things"))["data"] == [{"n": 0}]

    async def test_two_statements_in_one_text_are_refused(
        self, service: ConnectorService, config: dict[str, Any], writable: str
    ) -> None:
        reader = await self.connect(service, config, name="reader")
        for connector_id in (reader, writable):
            with pytest.raises(StudioError) as caught:
                await service.execute_query(connector_id, "SELECT 1; DROP TABLE things")
            assert caught.value.code in {"read_only", "invalid_request", "upstream_error"}
        assert (await service.execute_query(writable, "SELECT count(*) AS n FROM things"))["row_count"] == 1

    async def test_execute_writes_and_counts(self, service: ConnectorService, writable: str) -> None:
        insert = {"query": "INSERT INTO things VALUES (:id, :name)", "params": {"id": 1, "name": "a'b"}}
        assert (await service.execute("execute", insert, connector_id=writable))["row_count"] == 1
        update = {"query": "UPDATE things SET name = :name", "params": {"name": "new"}}
        assert (await service.execute("execute", update, connector_id=writable))["row_count"] == 1
        result = await service.execute_query(writable, "SELECT id, name FROM things")
        assert result["data"] == [{"id": 1, "name": "new"}]

    async def test_execute_query_may_write_where_the_connector_allows_it(
        self, service: ConnectorService, writable: str
    ) -> None:
        result = await service.execute_query(writable, "INSERT INTO things VALUES (:id, 'x')", {"id": 7})
        assert result["row_count"] == 1

    async def test_a_transaction_is_all_or_nothing(self, service: ConnectorService, writable: str) -> None:
        good = {"query": "INSERT INTO things VALUES (:id, 'x')", "params": {"id": 1}}
        with pytest.raises(StudioError):
            await service.execute("transaction", {"statements": [good, good]}, connector_id=writable)
        assert (await service.execute_query(writable, "SELECT id FROM things"))["data"] == []
        other = {**good, "params": {"id": 2}}
        await service.execute("transaction", {"statements": [good, other]}, connector_id=writable)
        assert (await service.execute_query(writable, "SELECT id FROM things ORDER BY id"))["row_count"] == 2

    async def test_tables_are_listed_and_described(self, service: ConnectorService, writable: str) -> None:
        tables = await service.execute("list_tables", connector_id=writable)
        assert "things" in [row["name"] for row in tables["data"]]
        described = (await service.execute("describe_table", {"table": "things"}, connector_id=writable))["data"]
        assert [column["name"] for column in described["columns"]] == ["id", "name"]
        assert described["primary_key"] == ["id"]

    async def test_a_table_that_is_not_there_is_not_found_whatever_its_name(
        self, service: ConnectorService, writable: str
    ) -> None:
        for name in ("nothing", "things; DROP TABLE things", "things' --", 'things"', "`things`", "'; SELECT 1"):
            with pytest.raises(NotFound):
                await service.execute("describe_table", {"table": name}, connector_id=writable)
        assert (await service.execute_query(writable, "SELECT count(*) AS n FROM things"))["row_count"] == 1

    async def test_explain_shows_a_plan_and_runs_nothing(self, service: ConnectorService, writable: str) -> None:
        plan = await service.execute("explain", {"query": "SELECT * FROM things"}, connector_id=writable)
        assert plan["data"]

    async def test_duplicate_column_names_lose_nothing(self, service: ConnectorService, config: dict[str, Any]) -> None:
        result = await service.execute_query(await self.connect(service, config), "SELECT 1 AS a, 2 AS a")
        assert sorted(result["data"][0].values()) == [1, 2]

    async def test_a_changed_config_never_meets_an_old_session(
        self, service: ConnectorService, config: dict[str, Any]
    ) -> None:
        connector_id = await self.connect(service, config, max_rows=5)
        assert (await service.execute_query(connector_id, self.series.format(count=9)))["row_count"] == 5
        await service.update(connector_id, {"config": {"max_rows": 7}})
        assert (await service.execute_query(connector_id, self.series.format(count=9)))["row_count"] == 7
