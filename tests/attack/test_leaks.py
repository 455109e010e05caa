"""A canary for each provider and secret field; every byte that leaves the service is searched for all of them.

The service is the real program, on SQLite and on PostgreSQL, with everything at its most talkative. What it writes,
answers, logs, traces and keeps, and what the processes below it hold, is searched for each canary as it is and in five
encodings. The controls put one where it does show, and the same search finds it in every place.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from tests import poison
from tests.attack import corpus
from tests.attack.conftest import KINDS, Target
from tests.attack.leaks import Leaks, Served, files, message, processes, serving, spellings, tables
from tests.attack.report import report
from tests.attack.sink import sink
from tests.servers import Postgres

from studio import providers

QUICK = {"connect_timeout_s": 0.3, "timeout_s": 1.0}


# -- every kind, every way ----------------------------------------------------------------------------


async def stored(served: Served, kind: str, body: dict[str, Any], secrets: Any) -> str:
    """Register, change, test and attach a connector, rightly and with its secrets where none belong; its path."""
    config, said = body["config"], json.dumps(secrets)
    made = await served.call("POST", "/api/v1/connectors", {**body, "config": {**config, **secrets}})
    assert "id" in made, (kind, made)
    path = f"/api/v1/connectors/{made['id']}"
    for wrong in (
        secrets, {"name": secrets}, {**body, "config": {**config, **secrets, "nope": secrets}},
        {**body, "name": 7, "config": [secrets]}, {**body, "config": {**config, "port": said}},
    ):  # fmt: skip
        await served.call("POST", "/api/v1/connectors", wrong)
        await served.call("PUT", path, wrong)
    await served.call("POST", f"{path}/test")
    await served.call("POST", f"{path}/attach", {"agent_id": "agent", "alias": kind})
    await served.call("PUT", path, {"config": secrets})
    return path


async def asked(served: Served, kind: str, path: str, config: dict[str, Any], secrets: Any, query: str) -> None:
    """Use it through HTTP, MCP and the command line, rightly and with its secrets where none belong."""
    said = json.dumps(secrets)
    for statement in (query, said):
        await served.call("POST", f"{path}/query", {"query": statement})
        await served.call("POST", f"/api/v1/agents/agent/connectors/{kind}/query", {"query": statement})
        await served.rpc("tools/call", "run", alias=kind, query=statement)
    await served.rpc("tools/call", "run", alias=kind, operation="list", args=secrets)
    await served.rpc("tools/call", "describe", alias=kind)
    await served.rpc("tools/call", f"{kind}__query", "per-operation", query=said)
    for tail in ("", "/operations"):
        await served.call("GET", path + tail)
    for command in (
        ("connectors", "get", kind), ("connectors", "get", kind, "--json"), ("connectors", "test", kind),
        ("connectors", "operations", kind), ("connectors", "health", kind), ("connectors", "instances", kind, "--json"),
        ("query", kind, query), ("query", kind, query, "--agent", "agent", "--json"),
        ("run", kind, "nope", "--args", said), ("connectors", "update", kind, "--config", json.dumps({"nope": secrets})),
        ("connectors", "test-config", "--provider", kind, "--config", json.dumps({**config, **secrets})),
    ):  # fmt: skip
        await served.command(*command)


async def all_at_once(served: Served, kinds: list[str]) -> None:
    """What tells of every connector: lists, logs, metrics, and MCP on a pipe."""
    for path in (
        "/api/v1/connectors", "/api/v1/agents/agent/connectors", "/api/v1/connectors/types", "/api/v1/audit",
        "/metrics", "/api/v1/metrics", "/api/v1/openapi.json", "/health",
    ):  # fmt: skip
        await served.call("GET", path)
    for command in (
        ("connectors", "list"), ("connectors", "list", "--json"), ("connectors", "agent", "agent"), ("connectors", "types"),
        ("audit", "list", "--json"), ("audit", "export"), ("keys", "list", "--json"),
    ):  # fmt: skip
        await served.command(*command)
    assert "tools" in (await served.rpc("tools/list"))["result"]
    assert "tools" in (await served.rpc("tools/list", tools="per-operation"))["result"]
    await served.rpc("tools/call", "list_connectors")
    commands = ("connectors", "list", "--json"), ("connectors", "test", kinds[-1]), ("encryption", "status")
    await asyncio.gather(*(served.program("the command line", *command) for command in commands))
    asked = [message("tools/list"), message("tools/call", "list_connectors", {})]
    for kind in kinds:
        asked += [message("tools/call", name, {"alias": kind}) for name in ("describe", "run")]
    lines = "".join(json.dumps({**one, "id": number}) + "\n" for number, one in enumerate(asked))
    answers = await served.program("MCP on a pipe", "mcp", "--agent", "agent", given=lines)
    assert len(answers.splitlines()) == len(asked)


async def while_workers_work(served: Served, secrets: dict[str, Any]) -> None:
    """The processes that run SQLite and read Parquet, in the middle of it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"a": list(range(20_000))}), served.folder / "a.parquet")
    reached, go_on, ranges = asyncio.Event(), asyncio.Event(), set()

    async def objects(request: web.Request) -> web.StreamResponse:
        if request.method == "GET" and request.path.endswith(".parquet"):
            ranges.add(request.headers.get("Range"))
        if len(ranges) > 1:  # the first one is to see what it is; another one the process that decodes asks for
            reached.set()
            await go_on.wait()
        return web.FileResponse(served.folder / "a.parquet")

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", objects)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        body = {
            "name": "Rows",
            "connector_type": "storage",
            "provider": "s3",
            "config": {**corpus.config("s3", "127.0.0.1", port), **secrets},
        }
        made = await served.call("POST", "/api/v1/connectors", body)
        path = f"/api/v1/connectors/{made['id']}/query"
        await served.call("POST", "/api/v1/agents/agent/connectors/sqlite/query", {"query": "SELECT 1"})
        rows = asyncio.create_task(served.call("POST", path, {"query": "rows a.parquet"}))
        await asyncio.wait_for(reached.wait(), 20)
        seen = served.look_at_processes()
        assert b"parquet_worker" in seen
        assert seen.count(b"worker") > 1, "the process that runs SQLite is missing"
        for path_, content in files(served.folder / "tmp"):
            served.leaks.search("other files", path_.name.encode() + content)
        go_on.set()
        assert (await rows)["row_count"] > 0
    finally:
        go_on.set()
        await runner.cleanup()


async def every_kind(served: Served, *, used: bool) -> None:
    """Everything above, for all kinds, each with canaries of its own; without what takes long where they are not `used`."""
    async with sink("redis", reply=b"-ERR no such command\r\n") as upstream:
        for kind in KINDS:
            described = corpus.read("kinds")[kind]
            secrets = served.leaks.plant(described["secrets"], kind, plain="http" in str(described["config"]))
            config = corpus.config(kind, "127.0.0.1", upstream.port) | QUICK
            body = {"name": kind, "connector_type": providers.load(kind).family, "provider": kind, "config": config}
            path = await stored(served, kind, body, secrets)
            if used:
                await asked(served, kind, path, config, secrets, described["query"])
        await while_workers_work(served, served.leaks.plant(corpus.read("kinds")["s3"]["secrets"], "rows", plain=True))
        await all_at_once(served, KINDS)
    served.look_at_processes()


def nothing_was_found(served: Served) -> None:
    report.count("leaks", "HTTP answers", canaries=len(set(served.leaks.needles.values())))
    assert not served.leaks.found, sorted(set(served.leaks.found))
    assert (served.folder / "log").stat().st_size > 1000
    assert len(served.collector.spans()) > 1


@pytest.mark.timeout(300)
async def test_no_canary_leaves_the_service_on_sqlite(tmp_path: Path) -> None:
    async with serving(tmp_path, Leaks()) as served:
        await every_kind(served, used=True)
        assert (tmp_path / "data" / "studio.db-wal").exists()
    nothing_was_found(served)


@pytest.mark.timeout(300)
async def test_no_canary_leaves_the_service_on_postgresql(postgres: Postgres, tmp_path: Path) -> None:
    async with on_postgresql(postgres, tmp_path, Leaks()) as served:
        await every_kind(served, used=False)  # which store it is, nothing but the store knows
    nothing_was_found(served)


@asynccontextmanager
async def on_postgresql(postgres: Postgres, folder: Path, leaks: Leaks, **settings: str) -> AsyncIterator[Served]:
    """The program on an empty database, which is searched at its end: its tables, and the files of its server."""
    async with postgres.fresh_database() as name:
        url = f"postgresql://{postgres.user}:{postgres.password}@{postgres.host}:{postgres.port}/{name}"
        async with serving(folder, leaks, STUDIO_DATABASE_URL=url, **settings) as served:
            yield served
            async for row in tables(postgres, name):
                leaks.search("tables of PostgreSQL", row)
            for _, content in files(postgres.dir / "data"):
                leaks.search("files of PostgreSQL", content)


# -- the controls -------------------------------------------------------------------------------------


def test_the_search_finds_a_canary_in_every_encoding() -> None:
    for plain in (False, True):
        leaks = Leaks(counted=False)
        for spelled in spellings(leaks.canary("x", plain=plain)):
            leaks.found.clear()
            leaks.search("the control", b"before" + spelled + b"after")
            assert leaks.found, spelled


@pytest.mark.timeout(300)
async def test_what_does_show_is_found_in_every_place(postgres: Postgres, tmp_path: Path) -> None:
    """A name instead of a secret, searched for by the very same walk."""
    leaks = Leaks(counted=False)
    name, traced = leaks.canary("name", plain=True), leaks.canary("trace", plain=True)
    async with on_postgresql(postgres, tmp_path, leaks, OTEL_RESOURCE_ATTRIBUTES=f"told={traced}") as served:
        for file in ("log", "tmp/left"):  # no message of the log holds a name
            with (tmp_path / file).open("a") as left:
                left.write(name)
        async with sink() as upstream:
            config = corpus.config("rest", "127.0.0.1", upstream.port) | QUICK
            body = {"name": name, "connector_type": "api", "provider": "rest", "config": config}
            await asked(served, name, await stored(served, name, body, {}), config, {}, "GET /things")
            await all_at_once(served, [name])
        served.look_at_processes()
    places = {one.partition(" in ")[2] for one in leaks.found}
    assert places == {
        "HTTP answers", "MCP over HTTP", "MCP on a pipe", "the command line", "the log at DEBUG", "traces", "other files",
        "tables of PostgreSQL", "files of PostgreSQL", "processes' environment",
        "processes' open files",
    }  # fmt: skip


def test_what_a_process_below_holds_is_found(tmp_path: Path) -> None:
    leaks = Leaks(counted=False)
    given = leaks.canary("argument", plain=True), leaks.canary("variable", plain=True), leaks.canary("file", plain=True)
    holds = "import os, sys; f = open('held', 'w+'); f.write(sys.stdin.readline()); f.flush(); os.remove('held'); print(flush=True); sys.stdin.read()"
    below = (
        f"import subprocess, sys; sys.exit(subprocess.run([sys.executable, '-c', {holds!r}, {given[0]!r}]).returncode)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", below], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path, text=True,
        env=poison.clean(TOLD=given[1]),
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(given[2] + "\n")
        process.stdin.flush()
        process.stdout.readline()
        for what, content in processes(process.pid):
            leaks.search(what, content)
    assert {one.partition(" in ")[2] for one in leaks.found} == {"arguments", "environment", "open files"}


async def test_a_process_that_logs_everything_logs_no_session_token(
    local: Target, caplog: pytest.LogCaptureFixture
) -> None:
    """As a library we do not choose the levels; botocore would write the token at DEBUG."""
    caplog.set_level("DEBUG")
    async with sink("s3") as upstream:
        made = await local.create("s3", corpus.config("s3", "127.0.0.1", upstream.port, "c4n4ry-abcdefgh"))
        await local.service.test_connection(made)
        assert b"c4n4ry" in upstream.seen
    assert "c4n4ry" not in caplog.text
