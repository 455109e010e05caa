"""`RemoteService` is `ConnectorService` at a distance: the same answers, the same errors, and a key that stays put."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests import toy
from tests.surfaces.conftest import Server

from studio import errors
from studio.api import problems
from studio.client import RemoteService
from studio.errors import FieldError, StudioError
from studio.models import Principal, Role
from studio.services.connector_service import ConnectorService

ADMIN = Principal(organization_id="default", subject="test", role=Role.ADMIN)
SQLITE = {"name": "Main", "connector_type": "database", "provider": "sqlite", "config": {"path": "app.db"}}
NOT_REMOTE = {
    "repeatable": "that is the Idempotency-Key which every change of the client bears",
    "upload": "raw bytes: curl and any HTTP client do it, see docs/providers/s3.md",
    "download": "raw bytes: curl and any HTTP client do it, see docs/providers/s3.md",
    "acting_as": "a server decides who somebody is",
    "authenticate": "a server decides who somebody is",
    "principal": "a server decides who somebody is",
    "ready": "that is GET /readyz",
    "watch": "a server's own background work",
    "metrics": "that is GET /metrics, for Prometheus",
    "create_first_key": "only whoever starts a server sees its first key",
    "target": "a step of execute, for surfaces in process",
    "plan": "a step of execute, for surfaces in process",
    "plan_query": "a step of execute, for surfaces in process",
    "run": "a step of execute, for surfaces in process",
    "stream": "a step of execute, for surfaces in process",
}


def public(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


@pytest.fixture
async def remote(server: Server) -> AsyncIterator[RemoteService]:
    async with RemoteService(server.url, server.key) as found:
        yield found


@asynccontextmanager
async def stub(answer: bytes, delay_s: float = 0) -> AsyncIterator[tuple[str, list[bytes]]]:
    """An HTTP server that gives one fixed answer; its URL, and the requests that it saw."""
    seen: list[bytes] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            seen.append(await reader.readuntil(b"\r\n\r\n"))
            await asyncio.sleep(delay_s)
            writer.write(answer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", seen


def raw(status: str, body: bytes, *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"content-length: {len(body)}", "connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


# -- the same methods and answers ---------------------------------------------------------------


def test_every_use_case_is_remote_too_with_the_same_parameters() -> None:
    assert public(ConnectorService) - public(RemoteService) == set(NOT_REMOTE)
    assert public(RemoteService) <= public(ConnectorService)
    for name in public(RemoteService) - {"close"}:
        ours, theirs = (
            [(p.name, p.kind, p.default) for p in inspect.signature(getattr(cls, name)).parameters.values()]
            for cls in (RemoteService, ConnectorService)
        )
        assert ours == theirs, name


async def test_records_are_the_same_dicts_as_in_process(remote: RemoteService, service: ConnectorService) -> None:
    created = await remote.create(SQLITE)
    instance = await remote.attach_to_agent(created["id"], "agent-1", "db", {"max_rows": 2})
    await remote.create_key({"role": "member"})
    alias = {"agent_id": "agent-1", "alias": "db"}
    asked: list[Callable[[Any], Any]] = [
        lambda s: s.get(created["id"]),
        lambda s: s.list(connector_type="database", q="mai", limit=1),
        lambda s: s.list(status="inactive"),
        lambda s: s.types(),
        lambda s: s.describe_type("sqlite"),
        lambda s: s.list_instances(created["id"]),
        lambda s: s.list_agent_connectors("agent-1"),
        lambda s: s.operations(connector_id=created["id"]),
        lambda s: s.operations("agent-1", "db"),
        lambda s: s.preview_delete(created["id"]),
    ]
    async with service:
        local = service.acting_as(ADMIN)
        for ask in asked:
            assert await ask(remote) == await ask(local), inspect.getsource(ask)
        assert [key["id"] for key in await remote.list_keys()] == [key["id"] for key in await local.list_keys()]
        for run in (
            lambda s: s.execute_query(created["id"], "SELECT * FROM users WHERE id = :id", {"id": 1}),
            lambda s: s.execute_query(query="SELECT * FROM users", **alias),
            lambda s: s.execute("list_tables", connector_id=created["id"]),
            lambda s: s.execute("describe_table", {"table": "users"}, **alias),
        ):
            ours, theirs = await run(remote), await run(local)
            assert ours["data"]
            assert {**ours, "execution_time_ms": 0} == {**theirs, "execution_time_ms": 0}
    assert instance["config"]["max_rows"] == 2


async def test_a_connector_lives_and_ends_through_the_client(remote: RemoteService) -> None:
    created = await remote.create(SQLITE, test=True)
    assert (await remote.test_connection(created["id"]))["success"]
    tried = await remote.test_config({**{k: v for k, v in SQLITE.items() if k != "name"}, "config": {"path": "no.db"}})
    assert not tried["success"]
    changed = await remote.update(created["id"], {"config": {"max_rows": 5}}, version=1)
    assert (changed["version"], changed["config"]["max_rows"]) == (2, 5)
    with pytest.raises(errors.Conflict):
        await remote.update(created["id"], {"name": "late"}, version=1)
    instance = await remote.attach(created["id"], {"agent_id": "agent-1", "alias": "db"})
    assert await remote.detach_from_agent(instance["id"]) == {"message": "Connector detached", "id": instance["id"]}
    assert (await remote.delete(created["id"]))["message"] == "Connector deleted"
    assert (await remote.list())["records"] == []


async def test_rotation_health_and_previews_go_through_the_client(remote: RemoteService, server: Server) -> None:
    created = await remote.create(toy.body())
    change = {"config": {"password": "n3w-c4n4ry"}}
    assert (await remote.preview_update(created["id"], change))["changes"] == ["config.password"]
    assert (await remote.preview_rotate(created["id"], change))["secrets_set"] == ["login.token", "password"]
    assert (await remote.rotate(created["id"], change))["version"] == 2
    assert (await remote.health(created["id"]))["health"] == "healthy"
    assert (await remote.set_health(created["id"], {"interval_s": 30}))["interval_s"] == 30
    assert await remote.test_alerts() == {"success": False, "channels": []}
    token = (await remote.preview_delete(created["id"]))["confirm"]
    assert (await remote.delete(created["id"], confirm=token))["message"] == "Connector deleted"


async def test_a_key_made_through_the_client_works_until_it_is_revoked(remote: RemoteService, server: Server) -> None:
    made = await remote.create_key({"role": "member", "name": "reader"})
    async with RemoteService(server.url, made["key"]) as reader:
        assert (await reader.list())["total"] == 0
        with pytest.raises(errors.Forbidden):
            await reader.create(SQLITE)
        assert (await remote.narrow_key(made["id"], {"role": "member"}))["id"] == made["id"]
        await remote.revoke_key(made["id"])
        with pytest.raises(errors.Unauthenticated):
            await reader.list()


async def test_a_client_without_a_key_is_told_how_to_send_one(server: Server) -> None:
    async with RemoteService(server.url) as stranger:
        with pytest.raises(errors.Unauthenticated, match="Bearer"):
            await stranger.types()


async def test_a_client_can_be_used_again_after_it_was_closed(server: Server) -> None:
    remote = RemoteService(f"{server.url}/api/v1/", server.key)
    for _ in range(2):
        assert (await remote.types())["types"]
        await remote.close()


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", problems.STATUS, ids=lambda cls: cls.__name__)
async def test_each_error_comes_back_as_its_own_class(cls: type[StudioError]) -> None:
    sent = cls("what happened", fields=[FieldError("config.port", "is wrong")], retry_after_s=7)
    status, headers, body = problems.problem(sent)
    answer = raw(f"{status} X", body, *(f"{name}: {value}" for name, value in headers.items()))
    async with stub(answer) as (url, _), RemoteService(url, "k") as remote:
        with pytest.raises(StudioError) as caught:
            await remote.types()
    assert type(caught.value) is cls
    assert caught.value.message == "what happened"
    assert caught.value.fields == sent.fields
    assert caught.value.retry_after_s == 7


async def test_an_error_of_the_server_names_the_request_to_look_for(server: Server) -> None:
    async with RemoteService(server.url, server.key) as remote:
        with pytest.raises(errors.InvalidRequest) as caught:
            await remote.create({})
    assert [note for note in caught.value.__notes__ if note.startswith("request id ")]


async def test_a_code_that_this_version_does_not_know_is_still_an_error() -> None:
    body = b'{"code": "from_the_future", "detail": "new"}'
    async with stub(raw("418 X", body)) as (url, _), RemoteService(url) as remote:
        with pytest.raises(errors.Internal, match="new"):
            await remote.types()


async def test_no_server_is_unreachable_and_says_how_to_start_one() -> None:
    async with stub(b"") as (url, _):
        pass
    async with RemoteService(url, "k") as remote:
        with pytest.raises(errors.Unreachable, match=r"127\.0\.0\.1.*studio serve") as caught:
            await remote.types()
    assert caught.value.retryable


async def test_a_cut_connection_is_unreachable() -> None:
    async with stub(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{") as (url, _), RemoteService(url) as remote:
        with pytest.raises(errors.Unreachable):
            await remote.types()


async def test_a_server_that_does_not_answer_is_a_timeout() -> None:
    async with stub(raw("200 OK", b"{}"), delay_s=5) as (url, _), RemoteService(url, timeout_s=0.1) as remote:
        with pytest.raises(errors.Timeout, match=r"0\.1 s"):
            await remote.types()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (raw("200 OK", b"<html>hello</html>"), errors.UpstreamError),
        (raw("404 Not Found", b"<html>nothing</html>"), errors.UpstreamError),
        (raw("502 Bad Gateway", b"<html>bad</html>"), errors.Unreachable),
        (raw("404 Not Found", b'["a list"]'), errors.UpstreamError),
    ],
)
async def test_an_answer_of_another_program_is_not_taken_for_ours(answer: bytes, error: type[StudioError]) -> None:
    async with stub(answer) as (url, _), RemoteService(url) as remote:
        with pytest.raises(error):
            await remote.types()


# -- the key goes to the named server only ------------------------------------------------------


async def test_a_redirect_is_not_followed_so_the_key_stays_here() -> None:
    async with (
        stub(raw("200 OK", b"{}")) as (elsewhere, seen),
        stub(raw("307 X", b"", f"location: {elsewhere}/")) as (url, first),
        RemoteService(url, "secret-key") as remote,
    ):
        with pytest.raises(errors.UpstreamError, match="redirect"):
            await remote.types()
    assert b"Bearer secret-key" in first[0]
    assert not seen


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with stub(raw("200 OK", b"{}")) as (proxy, seen), stub(raw("200 OK", b"{}")) as (url, first):
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        async with RemoteService(url, "k") as remote:
            assert await remote.types() == {}
    assert first
    assert not seen


@pytest.mark.parametrize("url", ["localhost:8400", "ftp://host", "http://", "http://user:pw@host", "http://host?x=1"])
def test_a_url_that_is_none_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        RemoteService(url, "k")
    assert "pw" not in caught.value.message


@pytest.mark.parametrize("key", ["a\r\nX-Injected: 1", "two words", "schlüssel"])
def test_a_key_that_would_break_the_header_is_refused(key: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        RemoteService("http://localhost", key)


async def test_an_id_never_leaves_its_place_in_the_path(remote: RemoteService) -> None:
    for hostile in ("../keys", "..", ".", "a/b", "x?limit=1", "x#y", "%2e%2e", ""):
        with pytest.raises(errors.NotFound):
            await remote.get(hostile)
        with pytest.raises(errors.NotFound):
            await remote.delete(hostile)


async def test_a_value_without_a_json_form_is_refused_before_it_is_sent() -> None:
    remote = RemoteService("http://localhost")
    for value in (float("nan"), object(), b"bytes"):
        with pytest.raises(errors.InvalidRequest):
            await remote.execute_query("x", "SELECT :v", {"v": value})


async def test_a_call_about_nothing_is_refused_as_in_process() -> None:
    with pytest.raises(errors.InvalidRequest, match="connector_id"):
        await RemoteService("http://localhost").execute_query(query="SELECT 1", agent_id="agent-1")


async def test_secrets_do_not_come_back_over_http(remote: RemoteService) -> None:
    created = await remote.create(toy.body())
    everything = repr([created, await remote.get(created["id"]), await remote.list()])
    assert created["secrets_set"] == ["login.token", "password"]
    assert "p4ssw0rd" not in everything
    assert "t0k3n" not in everything
