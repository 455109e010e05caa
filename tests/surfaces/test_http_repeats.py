"""`Idempotency-Key`: a request that is sent again is answered again, and done once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from sqlalchemy import func, select
from tests import toy
from tests.surfaces.served import Api, serving

from studio.api import repeats as layer
from studio.client import RemoteService
from studio.errors import InFlight
from studio.services import repeats
from studio.settings import Settings
from studio.store import repeats as rows
from studio.store.engine import along
from studio.store.tables import repeats as table

pytestmark = pytest.mark.asyncio(loop_scope="module")
C, A, K = "/api/v1/connectors", "/api/v1/agents/agent-1/connectors", "/api/v1/keys"
TEST = {"connector_type": "database", "provider": "toy", "config": toy.config()}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    with toy.installed():
        async with serving(Settings(data_dir=tmp_path_factory.mktemp("data"), port=0)) as found:
            yield found


async def count(api: Api) -> int:
    total: int = (await api.call("GET", C)).json["total"]
    return total


async def kept(api: Api) -> list[Any]:
    core = await api.service._home.core()
    return list(await core.database.read(lambda connection: connection.execute(select(table)).all()))


async def test_a_change_that_is_sent_again_is_answered_again_and_made_once(api: Api) -> None:
    before = await count(api)
    first = await api.call("POST", C, {"name": "once", **TEST}, idempotency_key="create-1")
    again = await api.call("POST", C, {"name": "once", **TEST}, idempotency_key="create-1")
    assert (first.status, again.status) == (201, 201)
    assert first.body == again.body
    assert again.headers["etag"] == first.headers["etag"]
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    assert await count(api) == before + 1
    gone = [await api.call("DELETE", f"{C}/{first.json['id']}", idempotency_key="delete-1") for _ in range(2)]
    assert [reply.status for reply in gone] == [200, 200]
    assert (await api.call("DELETE", f"{C}/{first.json['id']}", idempotency_key="delete-2")).status == 404


async def test_the_same_key_for_another_request_is_refused(api: Api) -> None:
    assert (await api.call("POST", K, {"role": "member"}, idempotency_key="key-1")).status == 201
    for method, path, body in (
        ("POST", K, {"role": "admin"}),
        ("POST", f"{K}?x=1", {"role": "member"}),
        ("POST", C, {}),
    ):
        reply = await api.call(method, path, body, idempotency_key="key-1")
        reply.is_problem(422, "invalid_request", "Idempotency-Key")
        assert reply.problem["retryable"] is False


async def test_a_key_belongs_to_one_principal(api: Api) -> None:
    made = [
        (await api.call("POST", K, {"role": "member"}, who=who, idempotency_key="shared")).json["id"]
        for who in ("admin", "foreign admin")
    ]
    assert len(set(made)) == 2
    assert (await api.call("POST", K, {"role": "member"}, who="developer", idempotency_key="shared")).status == 403


async def test_a_refused_change_may_be_sent_again_better(api: Api) -> None:
    assert (await api.call("POST", K, {"role": "nonsense"}, idempotency_key="better")).status == 422
    assert (await api.call("POST", K, {"role": "member"}, idempotency_key="better")).status == 201


async def test_changes_with_one_key_at_the_same_time_are_one_change(api: Api) -> None:
    before = len((await api.call("GET", K)).json["records"])
    found = await asyncio.gather(
        *(api.call("POST", K, {"role": "member"}, idempotency_key="together") for _ in range(10))
    )
    assert {reply.status for reply in found} <= {201, 409}
    assert len({reply.json["id"] for reply in found if reply.status == 201}) == 1
    for reply in found:
        if reply.status == 409:
            assert reply.is_problem(409, "conflict")["retryable"] is True
            assert reply.headers["retry-after"] == "1"
    assert len((await api.call("GET", K)).json["records"]) == before + 1


async def test_without_the_claim_in_the_transaction_they_would_be_many(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(repeats.Repeatable, "_claim", lambda *_: None)
    before = len((await api.call("GET", K)).json["records"])
    await asyncio.gather(*(api.call("POST", K, {"role": "member"}, idempotency_key="apart") for _ in range(10)))
    assert len((await api.call("GET", K)).json["records"]) > before + 1


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_nothing_of_an_answer_stands_in_the_store_in_clear(api: Api) -> None:
    made = await api.call("POST", K, {"role": "member", "name": "c1ear-name"}, idempotency_key="c1ear-key")
    data = bytes_below(api.application.settings.data_dir)
    assert made.json["key"].encode() not in data
    assert b"c1ear-key" not in data
    assert (
        "key" in (await api.call("POST", K, {"role": "member", "name": "c1ear-name"}, idempotency_key="c1ear-key")).json
    )


async def test_a_claim_is_rolled_back_with_its_change(api: Api) -> None:
    caller = await api.service.authenticate(api.keys["admin"])
    request = await caller.repeatable("rolled-back", b"x")
    core = await api.service._home.core()

    def fails(_connection: Any) -> None:
        raise ValueError

    with request.within(), pytest.raises(ValueError):
        await core.database.write(fails)
    assert await request.recall() is None
    assert along.get() is None
    request = await caller.repeatable("rolled-back", b"x")
    with request.within():
        await core.database.write(lambda connection: None)
    with pytest.raises(InFlight):
        await request.recall()


async def writable(api: Api) -> str:
    made = await api.attached(read_only=False)
    return f"{A}/{made['alias']}/operations/put"


async def test_an_operation_that_is_sent_again_runs_once(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await writable(api)
    ran = 0
    real = layer.once

    async def counted(request: Any, run: Any, send: Any) -> None:
        async def counting() -> bytes:
            nonlocal ran
            ran += 1
            answer: bytes = await run()
            return answer

        await real(request, counting, send)

    monkeypatch.setattr(layer, "once", counted)
    found = [await api.call("POST", path, {"key": "k", "value": 1}, idempotency_key="put-1") for _ in range(3)]
    assert ran == 1
    assert {(reply.status, reply.body) for reply in found} == {(200, found[0].body)}
    assert "idempotency-replayed" in found[2].headers
    (await api.call("POST", path, {"key": "other"}, idempotency_key="put-1")).is_problem(422, "invalid_request")
    (await api.call("POST", path, {"key": "k"}, idempotency_key="put-2", accept="application/x-ndjson")).is_problem(
        422, "invalid_request", "Idempotency-Key"
    )


async def test_an_operation_in_flight_and_one_that_was_cut_short(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    path = await writable(api)
    monkeypatch.setattr(repeats.Repeatable, "keep", lambda *_: asyncio.sleep(0))  # the process ends before it
    await api.call("POST", path, {"key": "k"}, idempotency_key="cut")
    reply = await api.call("POST", path, {"key": "k"}, idempotency_key="cut")
    assert reply.is_problem(409, "conflict")["retryable"] is True
    monkeypatch.setattr(repeats, "_GRACE_S", -1000.0)
    reply = await api.call("POST", path, {"key": "k"}, idempotency_key="cut")
    assert reply.is_problem(409, "conflict")["retryable"] is False


async def test_a_read_needs_no_row(api: Api) -> None:
    made = await api.attached()
    before = len(await kept(api))
    assert (
        await api.call("POST", f"{A}/{made['alias']}/query", {"query": "rows 1"}, idempotency_key="r")
    ).status == 200
    assert len(await kept(api)) == before


@pytest.mark.parametrize("key", ["", "x" * 256, "ü"])
async def test_a_key_of_another_form_is_refused(api: Api, key: str) -> None:
    reply = await api.call("POST", K, {"role": "member"}, idempotency_key=key)
    reply.is_problem(422, "invalid_request", "Idempotency-Key")


async def test_rows_expire_and_are_bounded(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    core = await api.service._home.core()
    caller = await api.service.authenticate(api.keys["admin"])
    for number in range(8):
        request = await caller.repeatable(f"many {number}", b"x")
        await request.keep(repeats.Answer(200, {}, b"{}"))
    await core.database.write(lambda connection: rows.sweep(connection, "acme", most=5))
    total = select(func.count()).select_from(table).where(table.c.organization_id == "acme")
    assert await core.database.read(lambda connection: connection.scalar(total)) == 5
    monkeypatch.setattr(repeats, "KEPT", -repeats.KEPT)
    old = await caller.repeatable("expired", b"x")
    await old.keep(repeats.Answer(200, {}, b"{}"))
    assert await old.recall() is None
    await core.database.write(lambda connection: rows.sweep(connection, "acme"))
    assert not [row for row in await kept(api) if row.id == old._row.id]


async def test_the_client_repeats_a_change_whose_answer_was_lost(api: Api) -> None:
    """A proxy that passes the request on and cuts the connection before the first answer."""
    port, cut = int(api.base.rsplit(":", 1)[1]), True

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal cut
        upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", port)
        upstream.write(await reader.read(65_536))
        answer = await upstream_reader.read(65_536)
        if cut:
            cut = False
        else:
            writer.write(answer)
        upstream.close()
        writer.close()

    before = len((await api.call("GET", K)).json["records"])
    async with await asyncio.start_server(pass_on, "127.0.0.1", 0) as proxy:
        url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
        async with RemoteService(url, api.keys["admin"]) as remote:
            made = await remote.create_key({"role": "member"})
    found = (await api.call("GET", K)).json["records"]
    assert len(found) == before + 1
    assert found[-1]["id"] == made["id"]
