"""What the guards of this house refuse, one attack each. `corpus/guards.yaml` names the guard behind each of these
tests and behind many elsewhere, and `switch.py` runs them once more without it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from tests import toy
from tests.attack import corpus, switch
from tests.attack.conftest import Serve, Target
from tests.attack.report import report
from tests.attack.sink import answer, connects, sink

from studio.errors import (
    EgressDenied,
    Forbidden,
    InvalidConfig,
    OverrideNotAllowed,
    ReadOnly,
    ResultBlocked,
    SecretsRequired,
    UpstreamError,
)
from studio.security import belt, hygiene
from studio.security.egress import Egress
from studio.services import revocation

SECRET = "k3pt-s3cret-c4n4ry"
FAST = {"connect_timeout_s": 0.3, "timeout_s": 1.0}


@pytest.fixture(autouse=True)
def catalogue() -> Iterator[None]:
    with toy.installed():
        yield


@pytest.mark.parametrize("guard", switch.guards())
def test_each_guard_has_an_attack_that_exists(guard: str) -> None:
    found = switch.guards()[guard]
    path, _, rest = (found.get("test") or found["bare"]).partition("::")
    name = rest.rpartition("::")[2].partition("[")[0]
    suites = (switch.ROOT / "src/studio/testing").glob("*.py") if "::" in rest else ()  # a class may inherit its tests
    assert any(f"def {name}(" in file.read_text() for file in (switch.ROOT / path, *suites)), f"{guard}: no such test"
    report.count("guards", guard, listed=1)


async def test_a_closed_place_is_not_dialled(serve: Serve) -> None:
    target = await serve(host="0.0.0.0")
    async with sink("redis") as found:
        made = await target.create("redis", {**corpus.config("redis", "127.0.0.1", found.port, SECRET), **FAST})
        assert (await target.service.test_connection(made))["code"] == EgressDenied.code
        assert not found.connections


@pytest.mark.parametrize("kind", ["postgresql", "mysql"])
async def test_no_password_is_given_away_in_clear_text(serve: Serve, kind: str) -> None:
    target = await serve()
    async with sink(kind) as rogue:
        made = await target.create(kind, {**corpus.config(kind, "127.0.0.1", rogue.port, SECRET), **FAST})
        assert not (await target.service.test_connection(made))["success"]
        assert rogue.connections
        assert SECRET.encode() not in rogue.seen


async def test_a_secret_does_not_move_with_its_connector(serve: Serve) -> None:
    target = await serve()
    async with sink("redis") as away:
        made = await target.create("redis", {**corpus.config("redis", "127.0.0.1", 9, SECRET), **FAST})
        with pytest.raises(SecretsRequired):
            await target.service.update(made, {"config": {"port": away.port}})
        await target.service.test_connection(made)
        assert SECRET.encode() not in away.seen


async def test_an_attachment_does_not_lead_elsewhere(serve: Serve) -> None:
    target = await serve()
    made = await target.create("redis", {**corpus.config("redis", "127.0.0.1", 9, SECRET), **FAST})
    with pytest.raises(OverrideNotAllowed):
        await target.service.attach_to_agent(made, "agent", "main", {"host": "127.0.0.2"})


async def test_an_answer_of_sqs_that_becomes_a_wide_text_is_not_read(serve: Serve) -> None:
    target = await serve()
    message = {"MessageId": "1", "ReceiptHandle": "r", "Body": "x" * 3_000_000 + "🙂"}
    url = "http://127.0.0.1/1/things"
    body = json.dumps({"QueueUrl": url, "Messages": [message]}, ensure_ascii=False).encode()
    async with sink("sqs", http=answer(body)) as rogue:
        made = await target.create("sqs", {**corpus.config("sqs", "127.0.0.1", rogue.port, SECRET), "read_only": False})
        with pytest.raises(UpstreamError, match="larger than is read at once"):
            await target.service.execute("receive", {"name": "things", "wait_s": 0}, connector_id=made)


async def _toy(serve: Serve, **config: Any) -> tuple[Target, str]:
    target = await serve()
    return target, (await target.service.create(toy.body(**config)))["id"]


async def test_a_connectors_own_secret_does_not_come_back(serve: Serve) -> None:
    target, made = await _toy(serve, read_only=False)
    with pytest.raises(ResultBlocked):
        await target.service.execute("put", {"key": "k", "value": "p4ssw0rd-c4n4ry"}, connector_id=made)


async def test_nobody_writes_where_one_may_read(serve: Serve) -> None:
    target, made = await _toy(serve)
    with pytest.raises(ReadOnly):
        await target.service.execute("put", {"key": "k"}, connector_id=made)


async def test_a_driver_gets_no_key_of_somebodys_own(serve: Serve) -> None:
    target = await serve()
    with pytest.raises(InvalidConfig):
        await target.create("postgresql", {**corpus.config("postgresql", "h", 9), "passfile": "/etc/passwd"})


async def test_a_socket_opened_behind_the_gates_back_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks: list[Any] = []
    monkeypatch.setattr(sys, "addaudithook", hooks.append)
    belt.fasten(Egress(private_open=False), [])
    monkeypatch.undo()
    async with sink() as found:
        with connects(hooks[0]), pytest.raises(EgressDenied):
            (await asyncio.open_connection("127.0.0.1", found.port))[1].close()
        assert not found.connections


def test_a_clean_start_leaves_nothing_that_a_driver_would_find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hygiene, "_refuse_core_dumps", lambda: None)  # this process goes on
    with patch.dict(os.environ, {"PGPASSWORD": SECRET, "HTTP_PROXY": "http://127.0.0.1:9"}):
        hygiene.clean(tmp_path / "empty")
        assert not {"PGPASSWORD", "HTTP_PROXY"} & set(os.environ)


async def test_an_operation_ends_with_the_attachment_that_allowed_it(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "LOOK_EVERY_S", 0.1)
    target, made = await _toy(serve)
    watching = asyncio.create_task(revocation.watch(await target.root._home.core()))
    toy.Toy.gate = asyncio.Event()
    instance = await target.service.attach_to_agent(made, "agent", "main")
    running = asyncio.create_task(target.service.execute_query(agent_id="agent", alias="main", query="hold"))
    for _ in range(500):
        await asyncio.sleep(0 if toy.Toy.log["hold"] else 0.01)
    await target.service.detach_from_agent(instance["id"])
    done, _ = await asyncio.wait({running}, timeout=1.5)
    toy.Toy.gate.set()
    await asyncio.wait({running})
    watching.cancel()
    assert done, "it went on"
    assert isinstance(running.exception(), Forbidden)
