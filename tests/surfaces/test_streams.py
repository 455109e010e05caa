"""Large results: every form says how it ended, is the same on each surface, and needs no memory to speak of."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pyarrow as pa
import pytest
from tests import toy
from tests.servers import Postgres
from tests.surfaces.conftest import Server
from tests.surfaces.served import Api, serving

from studio.client import RemoteService
from studio.contract.caps import Capped
from studio.errors import InvalidRequest, OperationNotSupported, UpstreamError
from studio.services.arrow import RESULT_KEY, Arrow
from studio.services.streams import encoded, form_of
from studio.settings import Settings

ACCEPT = {
    "ndjson": "application/x-ndjson",
    "json": "application/json; stream=true",
    "csv": "text/csv",
    "arrow": "application/vnd.apache.arrow.stream",
}
COLUMNS = [
    {"name": "id", "type": "int8"}, {"name": "at", "type": "timestamptz"}, {"name": "on", "type": "date"},
    {"name": "amount", "type": "float8"}, {"name": "ok", "type": "bool"}, {"name": "raw", "type": "bytea"},
    {"name": "more", "type": "jsonb"}, {"name": "price", "type": "numeric"},
]  # fmt: skip
ROWS = [
    (1, "2024-01-01T00:00:01.5Z", "2024-02-29", 1.5, True, "AAE=", {"a": [1]}, "1.10"),
    ("9007199254740993", None, None, "NaN", None, None, None, None),
]


@pytest.fixture
async def api(tmp_path: Path, toys: None) -> AsyncIterator[Api]:
    async with serving(Settings(data_dir=tmp_path)) as found:
        yield found


def rss_mib() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def read_arrow(content: bytes) -> tuple[list[dict[str, object]], dict[str, object]]:
    reader = pa.ipc.open_stream(content)
    rows: list[dict[str, object]] = []
    end: dict[str, object] = {}
    while True:
        try:
            batch, metadata = reader.read_next_batch_with_custom_metadata()
        except StopIteration:
            return rows, end
        rows += batch.to_pylist()
        if metadata is not None:
            end = json.loads(metadata[RESULT_KEY.encode()])


def read(form: str, content: bytes) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Rows and last words."""
    if form == "arrow":
        return read_arrow(content)
    if form == "json":
        document = json.loads(content)
        return document.pop("data"), document
    lines = content.decode().splitlines()
    if form == "ndjson":
        *rows, last = map(json.loads, lines)
        return rows, last["$result"]
    last = json.loads(lines.pop()[2:]) if lines[-1].startswith("# ") else {"success": True, "truncated": False}
    return [{**row, "n": int(row["n"])} for row in csv.DictReader(lines)], last


async def written(form: str, *parts: Capped) -> bytes:
    async def source() -> AsyncIterator[Capped]:
        for part in parts:
            yield part

    return b"".join([chunk async for chunk in encoded(source(), form_of(form))])


@pytest.mark.parametrize("form", ACCEPT)
@pytest.mark.parametrize(("count", "max_rows"), [(0, 10), (10, 10), (11, 10), (5000, 5000)])
async def test_a_stream_has_every_row_up_to_the_cap_and_says_exactly_whether_there_were_more(
    api: Api, form: str, count: int, max_rows: int
) -> None:
    await api.attached("rows", max_rows=max_rows)
    path = "/api/v1/agents/agent-1/connectors/rows/query"
    reply = await api.call("POST", path, {"query": f"rows {count}"}, accept=ACCEPT[form])
    assert (reply.status, reply.headers["content-type"].split(";")[0]) == (200, ACCEPT[form].split(";")[0])
    rows, end = read(form, reply.body)
    assert [row["n"] for row in rows] == list(range(min(count, max_rows)))
    assert (end["success"], end["truncated"]) == (True, count > max_rows)
    assert end.get("row_count", len(rows)) == len(rows)


@pytest.mark.parametrize("form", ACCEPT)
async def test_a_failure_before_the_first_row_is_an_ordinary_problem(api: Api, form: str) -> None:
    await api.attached("broken")
    path = "/api/v1/agents/agent-1/connectors/broken/query"
    reply = await api.call("POST", path, {"query": "broken"}, accept=ACCEPT[form])
    assert reply.status >= 400
    assert reply.problem["code"]


@pytest.mark.parametrize("form", ACCEPT)
async def test_a_failure_after_the_first_row_is_told_and_cannot_be_overlooked(api: Api, form: str) -> None:
    await api.attached("late", max_rows=1000)
    headers = {"authorization": f"Bearer {api.keys['admin']}", "accept": ACCEPT[form]}
    url = f"{api.base}/api/v1/agents/agent-1/connectors/late/query"
    content, cut = b"", False
    async with api.session.post(url, json={"query": "broken-late 150"}, headers=headers) as answer:
        try:
            async for chunk in answer.content.iter_any():
                content += chunk
        except aiohttp.ClientPayloadError:
            cut = True
    rows, end = read(form, content)
    assert (end["success"], end["row_count"], end["code"]) == (False, len(rows), "upstream_error")
    assert len(rows) > 0
    assert cut is (form in {"csv", "arrow"})


@pytest.mark.parametrize("form", ACCEPT)
async def test_a_program_and_a_client_get_the_same_rows_and_the_same_failure(
    tmp_path: Path, server: Server, form: str
) -> None:
    async with RemoteService(server.url, server.key) as remote:
        made = await remote.create({**toy.body("toy"), "config": {**toy.body("toy")["config"], "max_rows": 1000}})
        chunks = [chunk async for chunk in remote.stream_query(made["id"], "rows 700", form=form)]
        rows, end = read(form, b"".join(chunks))
        assert ([row["n"] for row in rows], end["success"]) == (list(range(700)), True)
        content = b""
        with pytest.raises(UpstreamError):
            async for chunk in remote.stream_query(made["id"], "broken-late 150", form=form):
                content += chunk
        assert read(form, content)[0]
        with pytest.raises(InvalidRequest):
            await anext(remote.stream_query(made["id"], "rows 1", form="xml"))


async def test_arrow_columns_have_the_upstreams_types_and_the_values_survive() -> None:
    content = await written("arrow", Capped(COLUMNS, [ROWS[0]]), Capped(COLUMNS, [ROWS[1]]))
    table = pa.ipc.open_stream(content).read_all()
    assert list(map(str, table.schema.types)) == [
        "int64", "timestamp[us, tz=UTC]", "date32[day]", "double", "bool", "binary", "string", "string",
    ]  # fmt: skip
    first, second = table.to_pylist()
    assert first["at"].isoformat() == "2024-01-01T00:00:01.500000+00:00"
    assert (first["on"].isoformat(), first["raw"], first["more"]) == ("2024-02-29", b"\0\1", '{"a":[1]}')
    assert second["id"] == 9007199254740993
    assert second["amount"] != second["amount"]
    assert table.schema.field("price").metadata == {b"type": b"numeric"}


async def test_a_value_that_does_not_fit_its_arrow_type_fails_by_name() -> None:
    columns = [{"name": "at", "type": "timestamp"}]
    with pytest.raises(UpstreamError, match=r"'at'.*cast"):
        await written("arrow", Capped(columns, [("infinity",)]))


async def test_csv_keeps_what_json_has_and_quotes_what_needs_it() -> None:
    content = (await written("csv", Capped(COLUMNS, ROWS))).decode()
    head, first, second = csv.reader(io.StringIO(content))
    assert head == [column["name"] for column in COLUMNS]
    assert first == ["1", "2024-01-01T00:00:01.5Z", "2024-02-29", "1.5", "true", "AAE=", '{"a":[1]}', "1.10"]
    assert second == ["9007199254740993", "", "", "NaN", "", "", "", ""]
    tricky = (await written("csv", Capped([{"name": "a", "type": "text"}], [('x,"y"\n# {"success":',)]))).decode()
    assert list(csv.reader(io.StringIO(tricky))) == [["a"], ['x,"y"\n# {"success":']]


@pytest.mark.parametrize("form", ["csv", "ndjson", "arrow"])
def test_the_command_line_streams(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    from studio.cli import run

    monkeypatch.setenv("STUDIO_DATA_DIR", str(tmp_path))
    (tmp_path / "files").mkdir()
    with sqlite3.connect(tmp_path / "files" / "app.db") as db:
        db.execute("CREATE TABLE t (n INTEGER)")
        db.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(30)])
    db.close()
    create = ["connectors", "create", "--name", "db", "--provider", "sqlite", "--set", "path=app.db"]
    assert run([*create, "--set", "max_rows=20"]) == 0
    capfdbinary.readouterr()
    assert run(["query", "db", "SELECT n FROM t ORDER BY n", "--format", form]) == 0
    out, told = capfdbinary.readouterr()
    rows, end = read(form, out)
    assert [row["n"] for row in rows] == list(range(20))
    assert (b"truncated" in told) if form == "csv" else (end["truncated"] is True)


@pytest.mark.parametrize("form", ACCEPT)
async def test_documents_are_streamed_as_objects_and_not_as_columns(form: str) -> None:
    part = Capped([], [{"n": 1}, {"m": [2]}], documents=True)
    if form in {"csv", "arrow"}:
        with pytest.raises(OperationNotSupported, match="ndjson"):
            await written(form, part)
    else:
        assert read(form, await written(form, part))[0] == part.rows


def test_an_arrow_form_is_of_use_without_a_row() -> None:
    assert read_arrow(Arrow().end({"success": True}))[1] == {"success": True}


@pytest.fixture
async def million(api: Api, postgres: Postgres, database: str) -> str:
    """The path of a query on a real PostgreSQL with generous caps."""
    config = postgres.config(database=database, max_rows=10_000_000, max_bytes=1 << 34, timeout_s=60.0)
    made = await api.service.create(
        {"organization_id": "acme", "name": "pg", "connector_type": "database", "provider": "postgresql",
         "config": config}
    )  # fmt: skip
    await api.service.attach_to_agent(made["id"], "agent-1", "pg")
    return f"{api.base}/api/v1/agents/agent-1/connectors/pg/query"


LONG = {"query": "SELECT n, repeat('x', 100) AS filler, now() AS at FROM generate_series(1, 5000000) n"}


async def busy(postgres: Postgres, database: str) -> list[str]:
    """What a second session sees of the stream: the wait event of each session that is in a transaction."""
    admin = await postgres.admin(database)
    try:
        rows = await admin.fetch(
            "SELECT coalesce(wait_event, state) AS seen FROM pg_stat_activity WHERE datname = current_database() "
            "AND query LIKE '%generate_series%' AND state <> 'idle' AND pid <> pg_backend_pid()"
        )
        return [row["seen"] for row in rows]
    finally:
        await admin.close()


@pytest.mark.parametrize("form", ACCEPT)
async def test_a_reader_that_stops_holds_the_database_back_and_one_that_goes_cancels_it(
    api: Api, million: str, postgres: Postgres, database: str, form: str
) -> None:
    headers = {"authorization": f"Bearer {api.keys['admin']}", "accept": ACCEPT[form]}
    async with api.session.post(million, json=LONG, headers=headers) as answer:
        await answer.content.readany()
        await asyncio.sleep(0.5)  # buffers on the way fill up
        before = rss_mib()
        await asyncio.sleep(1)
        assert rss_mib() - before < 8, "it went on reading although nobody took the rows"
        assert await busy(postgres, database) in (["ClientWrite"], ["ClientRead"], ["idle in transaction"])
        answer.close()
    for _ in range(200):
        if not await busy(postgres, database):
            return
        await asyncio.sleep(0.05)
    pytest.fail("the query runs on for nobody")


@pytest.mark.parametrize("form", ACCEPT)
async def test_many_rows_take_little_memory(api: Api, million: str, form: str) -> None:
    headers = {"authorization": f"Bearer {api.keys['admin']}", "accept": ACCEPT[form]}
    size, most = 0, 0.0
    small = {"query": LONG["query"].replace("5000000", "20000")}
    for body in (small, {"query": LONG["query"].replace("5000000", "300000")}):
        before = rss_mib()
        async with api.session.post(million, json=body, headers=headers) as answer:
            async for chunk in answer.content.iter_any():
                size += len(chunk)
                most = max(most, rss_mib() - before)
        if body is small:  # imports and pools are not the stream's
            most = 0.0
    assert size > 300_000 * 100
    assert most < 32
