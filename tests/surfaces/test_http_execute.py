"""The hot routes over a real connection: results, errors, streams, and clients that go away."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests import toy
from tests.surfaces.served import Api, serving
from tests.toy import Toy

from studio.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
NDJSON = "application/x-ndjson"
WIDE = {"max_rows": 100_000_000, "max_bytes": 1 << 40}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    with toy.installed():
        async with serving(Settings(data_dir=tmp_path_factory.mktemp("data"), port=0, max_waiters=2)) as found:
            yield found


@pytest.fixture(autouse=True)
def fresh() -> None:
    Toy.log.clear()
    Toy.failures.clear()


async def until(condition: Callable[[], Any], within_s: float = 3) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        await asyncio.sleep(0.005)


async def paths(api: Api, operation: str = "query", **config: Any) -> list[tuple[str, str]]:
    """The same call by the connector's id and by an alias of it, with who makes it."""
    instance = await api.attached(**config)
    tail = "query" if operation == "query" else f"operations/{operation}"
    return [
        (f"/api/v1/connectors/{instance['connector_id']}/{tail}", "developer"),
        (f"/api/v1/agents/agent-1/connectors/{instance['alias']}/{tail}", "agent"),
    ]


# -- results ------------------------------------------------------------------------------------


async def test_a_result_has_the_contracts_fields(api: Api) -> None:
    for path, who in await paths(api):
        reply = await api.call("POST", path, {"query": "rows 2", "params": None}, who=who)
        assert reply.status == 200
        assert reply.headers["content-type"] == "application/json"
        found = reply.json
        assert list(found) == [
            "success", "data", "row_count", "columns", "truncated", "next_cursor", "execution_time_ms",
        ]  # fmt: skip
        assert found["success"] is True
        assert found["data"] == [{"n": 0, "at": "db.example:1234/main"}, {"n": 1, "at": "db.example:1234/main"}]
        assert found["columns"] == [{"name": "n", "type": "int"}, {"name": "at", "type": "text"}]
        assert (found["row_count"], found["truncated"], found["next_cursor"]) == (2, False, None)
        assert 0 < found["execution_time_ms"] < 5000


async def test_an_operation_takes_its_arguments_as_the_body(api: Api) -> None:
    for path, who in await paths(api, "put", read_only=False):
        reply = await api.call("POST", path, {"key": "k", "value": [1, "two", None]}, who=who)
        assert reply.json["data"] == {"key": "k", "value": [1, "two", None]}


async def test_an_operation_without_arguments_needs_no_body(api: Api) -> None:
    for path, who in await paths(api, "secrets"):
        for raw in (None, b"", b"{}"):
            reply = await api.call("POST", path, who=who, raw=raw)
            assert reply.json["data"] == {"password": 15, "token": 12}


async def test_operations_are_listed_as_far_as_the_caller_may_run_them(api: Api) -> None:
    instance = await api.attached(read_only=False)
    for path, who in [
        (f"/api/v1/connectors/{instance['connector_id']}/operations", "developer"),
        (f"/api/v1/agents/agent-1/connectors/{instance['alias']}/operations", "agent"),
    ]:
        found = (await api.call("GET", path, who=who)).json["operations"]
        assert [entry["name"] for entry in found] == ["query", "secrets", "put", "drop"]
        assert all(entry["parameters"]["type"] == "object" for entry in found)
    narrow = await api.attached(override={"read_only": True}, read_only=False)
    path = f"/api/v1/agents/agent-1/connectors/{narrow['alias']}/operations"
    assert [entry["name"] for entry in (await api.call("GET", path, who="agent")).json["operations"]] == [
        "query",
        "secrets",
    ]


async def test_caps_hold_and_truncated_is_exact(api: Api) -> None:
    for path, who in await paths(api, max_rows=10):
        for count, rows, truncated in [(9, 9, False), (10, 10, False), (11, 10, True), (1000, 10, True)]:
            found = (await api.call("POST", path, {"query": f"rows {count}"}, who=who)).json
            assert (found["row_count"], len(found["data"]), found["truncated"]) == (rows, rows, truncated)


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "query", "status", "code"),
    [
        ({}, "broken", 502, "upstream_error"),
        ({}, "defect", 500, "internal"),
        ({"timeout_s": 0.1}, "sleep 5", 504, "timeout"),
        ({"open_error": "ours"}, "rows 1", 502, "auth_failed"),
        ({"open_error": "driver"}, "rows 1", 502, "upstream_error"),
        ({"open_error": "defect"}, "rows 1", 500, "internal"),
        ({"open_s": 5.0, "timeout_s": 0.1}, "rows 1", 504, "timeout"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", NDJSON])
async def test_an_error_has_its_status_its_code_and_no_text_of_the_drivers(
    api: Api, config: dict[str, Any], query: str, status: int, code: str, accept: str
) -> None:
    for path, who in await paths(api, **config):
        reply = await api.call("POST", path, {"query": query}, who=who, accept=accept)
        found = reply.is_problem(status, code)
        assert found["retryable"] is (code == "timeout")


async def test_a_write_through_a_read_only_connector_is_refused_before_anything_is_sent(api: Api) -> None:
    for path, who in await paths(api, "put"):
        found = (await api.call("POST", path, {"key": "k"}, who=who)).is_problem(403, "read_only")
        assert "read_only=false" in found["detail"]
    assert not Toy.log


async def test_an_operation_that_does_not_exist_is_answered_with_those_that_do(api: Api) -> None:
    for name in ("nonsense", "open", "__init__", "ping", "query%2f", "%00", "qu%65ry"):
        for path, who in await paths(api, name):
            reply = await api.call("POST", path, {"query": "rows 1"}, who=who)
            if name == "qu%65ry":  # decoded once, as everywhere
                assert reply.status in {200, 422}
                continue
            if reply.status == 404 and name == "query%2f":
                continue
            assert "query, secrets" in reply.is_problem(422, "operation_not_supported")["detail"] or name == "%00"
    assert set(Toy.log) <= {"opening", "opened", "rows"}


async def test_a_path_is_decoded_once(api: Api) -> None:
    instance = await api.attached()
    twice = "".join(f"%25{ord(char):02x}" for char in instance["alias"])
    once = twice.replace("%25", "%")
    base = "/api/v1/agents/agent-1/connectors"
    for tail, method in [("query", "POST"), ("operations", "GET")]:
        body = {"query": "rows 1"} if method == "POST" else None
        host, port = api.base.removeprefix("http://").split(":")
        statuses = []
        for alias in (once, twice):
            text = json.dumps(body).encode() if body else b""
            reader, writer = await asyncio.open_connection(host, int(port))
            head = (
                f"{method} {base}/{alias}/{tail} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n"
                f"Authorization: Bearer {api.keys['agent']}\r\nContent-Length: {len(text)}\r\n\r\n"
            )
            writer.write(head.encode() + text)
            statuses.append(int((await reader.readline()).split()[1]))
            writer.close()
            await writer.wait_closed()
        assert statuses == [200, 404]


async def test_an_inactive_connector_runs_nothing(api: Api) -> None:
    instance = await api.attached()
    await api.service.update(instance["connector_id"], {"status": "inactive"})
    path = f"/api/v1/agents/agent-1/connectors/{instance['alias']}/query"
    (await api.call("POST", path, {"query": "rows 1"}, who="agent")).is_problem(409, "inactive")
    assert not Toy.log


async def test_a_busy_pool_says_when_to_come_back(api: Api) -> None:
    (path, who), _ = await paths(api, pool_size=1, timeout_s=2.0)
    calls = [asyncio.create_task(api.call("POST", path, {"query": "sleep 0.4"}, who=who)) for _ in range(3)]
    await until(lambda: Toy.log["sleep"] == 1)
    await asyncio.sleep(0.05)
    reply = await api.call("POST", path, {"query": "rows 1"}, who=who)
    assert reply.is_problem(429, "pool_busy")["retryable"] is True
    assert int(reply.headers["retry-after"]) >= 1
    assert [reply.status for reply in await asyncio.gather(*calls)] == [200] * 3


async def test_a_detached_alias_and_a_revoked_key_stop_the_next_call(api: Api) -> None:
    instance = await api.attached()
    made = await api.service.create_key({"organization_id": "acme", "agent_id": "agent-1"})
    api.keys["short"] = made["key"]
    path = f"/api/v1/agents/agent-1/connectors/{instance['alias']}/query"
    assert (await api.call("POST", path, {"query": "rows 1"}, who="short")).status == 200
    assert (await api.call("DELETE", f"/api/v1/connectors/instances/{instance['id']}")).status == 200
    (await api.call("POST", path, {"query": "rows 1"}, who="short")).is_problem(404, "not_found")
    assert (await api.call("DELETE", f"/api/v1/keys/{made['id']}")).status == 200
    (await api.call("POST", path, {"query": "rows 1"}, who="short")).is_problem(401, "unauthenticated")


# -- streams ------------------------------------------------------------------------------------


def lines(body: bytes) -> list[Any]:
    assert body.endswith(b"\n")
    return [json.loads(line) for line in body.splitlines()]


@pytest.mark.parametrize(
    ("count", "rows", "truncated"), [(0, 0, False), (1, 1, False), (250, 250, False), (251, 250, True)]
)
async def test_a_stream_is_rows_and_one_line_that_says_how_it_ended(
    api: Api, count: int, rows: int, truncated: bool
) -> None:
    for path, who in await paths(api, max_rows=250):
        reply = await api.call("POST", path, {"query": f"rows {count}"}, who=who, accept=NDJSON)
        assert (reply.status, reply.headers["content-type"]) == (200, NDJSON)
        *found, end = lines(reply.body)
        assert [row["n"] for row in found] == list(range(rows))
        assert end == {"$result": {"success": True, "row_count": rows, "truncated": truncated}}


async def test_a_stream_that_breaks_says_so_in_its_last_line(api: Api) -> None:
    for path, who in await paths(api, **WIDE):
        reply = await api.call("POST", path, {"query": "broken-late 150"}, who=who, accept=NDJSON)
        *found, end = lines(reply.body)
        assert (reply.status, len(found)) == (200, 150)
        assert end["$result"]["success"] is False
        assert (end["$result"]["code"], end["$result"]["row_count"]) == ("upstream_error", 150)
        assert end["$result"]["request_id"]


async def test_a_stream_that_runs_out_of_time_says_so_in_its_last_line(api: Api) -> None:
    for path, who in await paths(api, timeout_s=0.3, **WIDE):
        start = time.perf_counter()
        reply = await api.call("POST", path, {"query": "endless"}, who=who, accept=NDJSON)
        assert time.perf_counter() - start < 2
        *_, end = lines(reply.body)
        assert (end["$result"]["success"], end["$result"]["code"]) == (False, "timeout")


async def test_what_returns_no_rows_cannot_be_streamed(api: Api) -> None:
    for path, who in await paths(api, "secrets"):
        (await api.call("POST", path, who=who, accept=NDJSON)).is_problem(422, "operation_not_supported")


async def test_a_stream_flows_before_its_source_has_ended(api: Api) -> None:
    (path, who), _ = await paths(api, timeout_s=30.0, **WIDE)
    headers = {"authorization": f"Bearer {api.keys[who]}", "accept": NDJSON}
    async with api.session.post(api.base + path, json={"query": "endless"}, headers=headers) as answer:
        for _ in range(5000):
            assert json.loads(await answer.content.readline())["at"]
        answer.close()
    await until(lambda: not in_use(api))


# -- clients that go away -----------------------------------------------------------------------


def in_use(api: Api) -> int:
    core = api.service._home._core
    assert core is not None
    return sum(session.leases for session in [*core.sessions._sessions.values(), *core.sessions._outdated])


async def leave(api: Api, path: str, who: str, query: str, accept: str, began: Callable[[], Any]) -> None:
    """Send a call and close the connection as soon as it is at work."""
    host, port = api.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
    text = json.dumps({"query": query}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\n"
        f"Authorization: Bearer {api.keys[who]}\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    writer.write(head.encode() + text)
    await until(began)
    writer.transport.abort()
    del reader


@pytest.mark.parametrize("accept", ["application/json", NDJSON])
@pytest.mark.parametrize("query", ["sleep 20", "endless"])
async def test_a_client_that_goes_away_cancels_its_work(api: Api, accept: str, query: str) -> None:
    for path, who in await paths(api, pool_size=1, timeout_s=30.0, **WIDE):
        before = Toy.log["cancelled"]
        verb = query.split()[0]
        seen = Toy.log[verb]
        await leave(api, path, who, query, accept, lambda verb=verb, seen=seen: Toy.log[verb] > seen)
        await until(lambda: not in_use(api))
        assert Toy.log["cancelled"] > before or accept == NDJSON
        assert (await api.call("POST", path, {"query": "rows 1"}, who=who)).status == 200


async def test_a_client_that_goes_away_from_the_queue_leaves_the_queue(api: Api) -> None:
    (path, who), _ = await paths(api, pool_size=1, timeout_s=5.0)
    running = asyncio.create_task(api.call("POST", path, {"query": "sleep 0.5"}, who=who))
    await until(lambda: Toy.log["sleep"] == 1)
    await leave(api, path, who, "rows 1", "application/json", lambda: in_use(api) == 2)
    await until(lambda: in_use(api) == 1)
    assert (await running).status == 200
    assert Toy.log["rows"] == 0, "nothing was sent for the one who left"


async def test_a_client_that_stops_reading_does_not_keep_its_session_past_the_deadline(api: Api) -> None:
    (path, who), _ = await paths(api, pool_size=1, timeout_s=0.5, **WIDE)
    host, port = api.base.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port), limit=1024)
    text = json.dumps({"query": "endless"}).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {NDJSON}\r\n"
        f"Authorization: Bearer {api.keys[who]}\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    try:
        writer.write(head.encode() + text)
        await until(lambda: Toy.log["endless"] == 1)
        await until(lambda: not in_use(api), within_s=3)
    finally:
        writer.transport.abort()
    assert (await api.call("POST", path, {"query": "rows 1"}, who=who)).status == 200


async def test_a_client_that_hurries_ahead_gets_both_answers_in_order(api: Api) -> None:
    """Two requests in one packet (HTTP pipelining): the second does not look like a farewell to the first."""
    (path, who), _ = await paths(api)
    host, port = api.base.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    texts = [json.dumps({"query": f"rows {number}"}).encode() for number in (3, 4)]
    for text in texts:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api.keys[who]}\r\n"
            f"Content-Length: {len(text)}\r\n\r\n"
        )
        writer.write(head.encode() + text)
    counts = []
    for _ in texts:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().splitlines() if b"content-length" in line)
        counts.append(json.loads(await reader.readexactly(length))["row_count"])
    assert counts == [3, 4]
    writer.close()
    await writer.wait_closed()


# -- a real provider ----------------------------------------------------------------------------


def sample(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "sample.db")) as made:
        made.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, big INTEGER, data BLOB)")
        rows = [(number, f"user {number}", 2**60, b"\x00\xff") for number in range(500)]
        made.executemany("INSERT INTO users VALUES (?, ?, ?, ?)", rows)
        made.commit()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def users(api: Api) -> str:
    sample(api.application.settings.files_root)
    made = await api.service.create(
        {"organization_id": "acme", "name": "users", "connector_type": "database", "provider": "sqlite",
         "config": {"path": "sample.db"}}
    )  # fmt: skip
    await api.service.attach_to_agent(made["id"], "agent-1", "users", {"max_rows": 100})
    return "/api/v1/agents/agent-1/connectors/users"


async def test_an_agent_queries_a_real_database_through_its_alias(api: Api, users: str) -> None:
    body = {"query": "SELECT * FROM users WHERE id = :id", "params": {"id": 7}}
    reply = await api.call("POST", f"{users}/query", body, who="agent")
    assert reply.json["data"] == [{"id": 7, "name": "user 7", "big": str(2**60), "data": "AP8="}]


async def test_a_real_database_streams_up_to_the_attachments_cap(api: Api, users: str) -> None:
    reply = await api.call(
        "POST", f"{users}/query", {"query": "SELECT id FROM users ORDER BY id"}, who="agent", accept=NDJSON
    )
    *rows, end = lines(reply.body)
    assert [row["id"] for row in rows] == list(range(100))
    assert end["$result"]["truncated"] is True


@pytest.mark.parametrize(
    ("body", "status", "code", "fields"),
    [
        ({"query": "SELECT :a"}, 422, "invalid_request", ["params.a"]),
        ({"query": "SELECT 1", "params": {"a": 1}}, 422, "invalid_request", ["params.a"]),
        ({"query": "SELECT 1; SELECT 2"}, None, None, None),
        ({"query": "DELETE FROM users"}, None, "read_only", None),
        ({"query": "SELEC 1"}, None, None, None),
    ],
)
async def test_a_real_database_refuses_in_our_words(
    api: Api, users: str, body: Any, status: int | None, code: str | None, fields: list[str] | None
) -> None:
    reply = await api.call("POST", f"{users}/query", body, who="agent")
    found = reply.problem
    assert 400 <= reply.status < 504
    assert reply.status != 500
    assert status in (None, reply.status)
    assert code in (None, found["code"])
    assert fields in (None, reply.fields)


async def test_an_agent_lists_tables_and_describes_one(api: Api, users: str) -> None:
    found = (await api.call("POST", f"{users}/operations/list_tables", {}, who="agent")).json
    assert [row["name"] for row in found["data"]] == ["users"]
    found = (await api.call("POST", f"{users}/operations/describe_table", {"table": "users"}, who="agent")).json
    assert [column["name"] for column in found["data"]["columns"]] == ["id", "name", "big", "data"]


async def test_deadlines_hold_on_a_real_database_and_the_next_call_works(api: Api, users: str) -> None:
    made = (await api.service.list(q="users"))["records"][0]["id"]
    await api.service.attach_to_agent(made, "agent-1", "slow", {"timeout_s": 0.5})
    path = "/api/v1/agents/agent-1/connectors/slow/query"
    slow = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c) SELECT count(*) FROM c"
    start = time.perf_counter()
    (await api.call("POST", path, {"query": slow}, who="agent")).is_problem(504, "timeout")
    assert time.perf_counter() - start < 2
    assert (await api.call("POST", path, {"query": "SELECT 1"}, who="agent")).status == 200
