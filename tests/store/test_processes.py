"""Several processes on one store: no lost update, no double alias, no stale pool."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests import poison
from tests.store.conftest import Home

from studio.errors import NotFound
from studio.services.connector_service import ConnectorService
from studio.settings import Settings

PROCESSES = {"sqlite": 2, "postgresql": 3}
ROUNDS = 12

WORKER = """
import asyncio, json, os, sys
from studio.errors import Conflict
from studio.services.connector_service import ConnectorService

async def main():
    job = json.loads(sys.argv[1])
    async with ConnectorService() as service:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)  # all begin together
        print(json.dumps(await JOBS[job["job"]](service, job)), flush=True)

async def count_up(service, job):
    \"\"\"Read, add one, write back if nobody else wrote meanwhile: the way an ETag is used.\"\"\"
    conflicts = 0
    for _ in range(job["rounds"]):
        while True:
            seen = await service.get(job["connector"])
            change = {"config": {"max_rows": seen["config"]["max_rows"] + 1}}
            try:
                await service.update(job["connector"], change, version=seen["version"])
                break
            except Conflict:
                conflicts += 1
    return conflicts

async def take(service, job):
    \"\"\"Names and aliases that every process wants.\"\"\"
    won = []
    for number in range(job["rounds"]):
        calls = [
            service.attach_to_agent(job["connector"], "agent-1", f"a{number}"),
            service.create({"organization_id": "acme", "name": f"n{number}", "connector_type": "database",
                            "provider": "sqlite", "config": {"path": "x.db"}}),
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, (dict, Conflict)) for answer in answers), answers
        won += [kind + str(number) for kind, answer in zip("an", answers) if isinstance(answer, dict)]
    return won

async def switch(service, job):
    await service.update(job["connector"], {"config": {"path": job["path"]}})

async def drop(service, job):
    (instance,) = (await service.list_instances(job["connector"]))["records"]
    await service.detach_from_agent(instance["id"])

JOBS = {"count_up": count_up, "take": take, "switch": switch, "drop": drop}
asyncio.run(main())
"""


def files(home: Home) -> Path:
    folder = home.folder / "files"
    folder.mkdir(exist_ok=True)
    for name in "ab":
        with sqlite3.connect(folder / f"{name}.db") as made:
            made.execute("CREATE TABLE t (origin)")
            made.execute("INSERT INTO t VALUES (?)", (name,))
        made.close()
    return folder


def work(home: Home, processes: int, **job: Any) -> list[Any]:
    """Run a job in that many processes at once; what each of them answered."""
    command = [sys.executable, "-c", WORKER, json.dumps(job)]
    environment = poison.program(home.folder, **home.environment)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        running: list[subprocess.Popen[str]] = []
        for _ in range(processes):
            running.append(stack.enter_context(subprocess.Popen(command, env=environment, **pipes)))
            stack.callback(running[-1].kill)
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in running:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [json.loads(process.communicate(timeout=60)[0]) for process in running]
        assert [process.returncode for process in running] == [0] * processes
        return answers


@pytest.fixture
async def service(home: Home) -> Any:
    files(home)
    settings = Settings(data_dir=home.folder, database_url=home.url)
    async with ConnectorService(settings) as found:
        yield found


async def create(service: ConnectorService, **config: Any) -> str:
    body = {"organization_id": "acme", "name": "shared", "connector_type": "database", "provider": "sqlite"}
    return str((await service.create({**body, "config": {"path": "a.db", "max_rows": 1, **config}}))["id"])


async def test_no_update_is_lost(home: Home, service: ConnectorService) -> None:
    connector = await create(service)
    processes = PROCESSES[home.kind]
    await asyncio.to_thread(work, home, processes, job="count_up", connector=connector, rounds=ROUNDS)
    found = await service.get(connector)
    assert (found["config"]["max_rows"], found["version"]) == (1 + processes * ROUNDS,) * 2


async def test_no_name_and_no_alias_is_given_twice(home: Home, service: ConnectorService) -> None:
    connector = await create(service)
    processes = PROCESSES[home.kind]
    won = await asyncio.to_thread(work, home, processes, job="take", connector=connector, rounds=ROUNDS)
    taken = [name for names in won for name in names]
    assert sorted(taken) == sorted(f"{kind}{number}" for kind in "an" for number in range(ROUNDS))
    assert (await service.list())["total"] == 1 + ROUNDS
    assert len(await service.list_agent_connectors("agent-1")) == ROUNDS


async def test_a_change_made_by_another_process_is_in_force_for_the_next_query(
    home: Home, service: ConnectorService
) -> None:
    connector = await create(service)
    await service.attach_to_agent(connector, "agent-1", "db")
    for path, expected in [("b.db", "b"), ("a.db", "a")]:
        for call in ({"connector_id": connector}, {"agent_id": "agent-1", "alias": "db"}):
            before = await service.execute_query(**call, query="SELECT origin FROM t")
            assert before["data"] == [{"origin": "ab".replace(expected, "")}]
        await asyncio.to_thread(work, home, 1, job="switch", connector=connector, path=path)
        for call in ({"connector_id": connector}, {"agent_id": "agent-1", "alias": "db"}):
            after = await service.execute_query(**call, query="SELECT origin FROM t")
            assert after["data"] == [{"origin": expected}]
    assert (await service._home.core()).sessions.open_count == 1


async def test_an_alias_detached_by_another_process_is_gone_for_the_next_query(
    home: Home, service: ConnectorService
) -> None:
    connector = await create(service)
    await service.attach_to_agent(connector, "agent-1", "db")
    assert (await service.execute_query(agent_id="agent-1", alias="db", query="SELECT 1"))["row_count"] == 1
    await asyncio.to_thread(work, home, 1, job="drop", connector=connector)
    with pytest.raises(NotFound):
        await service.execute_query(agent_id="agent-1", alias="db", query="SELECT 1")
