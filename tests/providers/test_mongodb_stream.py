"""Documents as NDJSON: over HTTP, in constant memory, within the caps, and left early."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from tests.surfaces.served import Api, serving
from tests.upstreams.mongodb import Mongodb

from studio.settings import Settings

pytestmark = pytest.mark.server
COUNT = 6000


async def attached(api: Api, server: Mongodb, database: str, **config: Any) -> str:
    client = server.client()
    for start in range(0, COUNT, 1000):
        found = [{"n": n, "text": "x" * 2000, f"only{n % 3}": True} for n in range(start, start + 1000)]
        await client[database]["wide"].insert_many(found)
    await client.close()
    wide = {"max_rows": 1_000_000, "max_bytes": 1 << 40, **config}
    made = await api.service.create(
        {
            "organization_id": "acme", "name": "docs", "connector_type": "database", "provider": "mongodb",
            "config": server.config(database=database, pool_size=1, **wide),
        }
    )  # fmt: skip
    await api.service.attach_to_agent(made["id"], "agent-1", "docs")
    return "/api/v1/agents/agent-1/connectors/docs"


async def test_documents_are_streamed_in_constant_memory(
    mongodb_server: Mongodb, mongodb_database: str, tmp_path: Any
) -> None:
    async with serving(Settings(data_dir=tmp_path / "data", port=0)) as api:
        path = await attached(api, mongodb_server, mongodb_database)
        headers = {"authorization": f"Bearer {api.keys['agent']}", "accept": "application/x-ndjson"}
        for tail, body in (
            ("/operations/find", {"collection": "wide", "projection": {"_id": 0}}),
            ("/query", {"query": json.dumps({"aggregate": "wide", "pipeline": [{"$match": {}}]})}),
        ):
            tracemalloc.start()
            count, last = 0, b""
            async with api.session.post(api.base + path + tail, json=body, headers=headers) as answer:
                assert (answer.status, answer.content_type) == (200, "application/x-ndjson")
                async for line in answer.content:
                    if count < 2:
                        first = json.loads(line)
                        assert {name: first[name] for name in first if name != "_id"} == {
                            "n": count,
                            "text": "x" * 2000,
                            f"only{count}": True,
                        }
                    count, last = count + 1, line
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert json.loads(last) == {"$result": {"success": True, "row_count": COUNT, "truncated": False}}
            assert count == COUNT + 1
            assert most < 8 << 20, f"{most >> 20} MiB of {COUNT * 2000 >> 20} and more in all"

        whole = await api.call("POST", f"{path}/operations/find", {"collection": "wide", "limit": 2}, who="agent")
        assert [row["n"] for row in whole.json["data"]] == [0, 1]
        assert (whole.json["columns"], whole.json["row_count"], whole.json["truncated"]) == ([], 2, False)


async def test_a_stream_keeps_to_the_caps_and_one_left_early_gives_its_session_back(
    mongodb_server: Mongodb, mongodb_database: str, tmp_path: Any
) -> None:
    async with serving(Settings(data_dir=tmp_path / "data", port=0)) as api:
        path = await attached(api, mongodb_server, mongodb_database, max_rows=1500)
        find = {"collection": "wide", "sort": {"n": 1}, "projection": {"n": 1, "_id": 0}}
        reply = await api.call("POST", f"{path}/operations/find", find, who="agent", accept="application/x-ndjson")
        *rows, end = map(json.loads, reply.body.splitlines())
        assert rows == [{"n": n} for n in range(1500)]
        assert end == {"$result": {"success": True, "row_count": 1500, "truncated": True}}

        target = await api.service.target(agent_id="agent-1", alias="docs")
        for _ in range(3):
            parts = api.service.stream(api.service.plan(target, "find", {"collection": "wide"}))
            assert len((await anext(parts)).rows) == 100
            await parts.aclose()
        again = await api.call("POST", f"{path}/operations/find", {**find, "limit": 1}, who="agent")
        assert again.json["data"] == [{"n": 0}]
        wrong = await api.call(
            "POST", f"{path}/operations/find", {"collection": "wide", "filter": {"$where": "1"}}, who="agent",
            accept="application/x-ndjson",
        )  # fmt: skip
        assert wrong.problem["code"] in {"invalid_request", "read_only"}
