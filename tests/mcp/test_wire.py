"""Every rule of the wire, message by message: what is refused, how, and what is let through."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests import toy
from tests.mcp.conftest import CAPABILITIES_KEY, LEGACY, META, MODERN, VERSION_KEY, Made, World, request, serving

from studio.api.hosts import Hosts
from studio.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIST = request("tools/list", {"_meta": META})
CALL = request("tools/call", {"name": "list_connectors", "_meta": META})
HEADERS = {"mcp_protocol_version": MODERN, "mcp_method": "tools/list"}
CALLING = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "list_connectors"}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(made_once: Made, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One server for all: nothing here changes what is stored, but for keys of a test's own."""
    folder = shutil.copytree(made_once.folder, tmp_path_factory.mktemp("wire") / "data")
    with toy.installed():
        async with serving(Settings(data_dir=folder), made_once) as found:
            yield found


# -- 2026-07-28 ---------------------------------------------------------------------------------


async def test_a_modern_result_says_that_it_is_complete_and_who_answers(world: World) -> None:
    for reply in (
        await world.modern("server/discover"),
        await world.modern("tools/list"),
        await world.send(CALL, **CALLING),
    ):
        assert reply.headers["content-type"] == "application/json"
        assert "mcp-session-id" not in reply.headers
        assert reply.json["id"] == 1
        assert reply.result["resultType"] == "complete"
        assert reply.result["_meta"]["io.modelcontextprotocol/serverInfo"]["name"] == "studio-connectors"


async def test_discover_names_versions_capabilities_and_how_long_that_holds(world: World) -> None:
    result = (await world.modern("server/discover")).result
    assert result["supportedVersions"] == [MODERN]
    assert result["capabilities"] == {"tools": {}}
    assert (result["ttlMs"], result["cacheScope"]) == (3_600_000, "public")


async def test_a_list_of_tools_may_be_kept_for_a_minute_by_its_own_client_only(world: World) -> None:
    result = (await world.modern("tools/list")).result
    assert (result["ttlMs"], result["cacheScope"]) == (60_000, "private")
    assert "ttlMs" not in (await world.legacy("tools/list")).result


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"_meta": None},
        {"_meta": {}},
        {"_meta": {CAPABILITIES_KEY: {}}},
        {"_meta": {VERSION_KEY: MODERN}},
        {"_meta": {**META, VERSION_KEY: 7}},
        {"_meta": {**META, CAPABILITIES_KEY: None}},
        {"_meta": {**META, CAPABILITIES_KEY: []}},
    ],
)
async def test_a_modern_request_without_a_required_key_is_malformed(world: World, params: Any) -> None:
    reply = await world.send(request("tools/list", params), **HEADERS)
    reply.is_error(400, -32602)
    assert reply.json["id"] == 1


@pytest.mark.parametrize(
    ("message", "headers"),
    [
        (LIST, {**HEADERS, "mcp_protocol_version": None}),
        (LIST, {**HEADERS, "mcp_protocol_version": LEGACY}),
        (LIST, {**HEADERS, "mcp_protocol_version": "2027-01-01"}),
        (LIST, {**HEADERS, "mcp_method": None}),
        (LIST, {**HEADERS, "mcp_method": "tools/call"}),
        (LIST, {**HEADERS, "mcp_method": "Tools/List"}),
        (CALL, {**CALLING, "mcp_name": None}),
        (CALL, {**CALLING, "mcp_name": "run"}),
        (CALL, {**CALLING, "mcp_name": "=?base64?cnVu?="}),
        (CALL, {**CALLING, "mcp_name": "=?base64?***?="}),
        (CALL, {**CALLING, "mcp_name": "=?base64?/w==?="}),
    ],
)
async def test_headers_and_body_must_say_the_same(world: World, message: Any, headers: dict[str, str | None]) -> None:
    reply = await world.send(message, **headers)
    assert "header" in reply.is_error(400, -32020)["message"]
    assert reply.json["id"] == 1


@pytest.mark.parametrize("name", ["MCP-Protocol-Version", "Mcp-Method", "Mcp-Name"])
async def test_a_header_that_stands_twice_is_refused_even_where_both_agree(world: World, name: str) -> None:
    headers = [("authorization", f"Bearer {world.keys['agent']}"), ("content-type", "application/json")]
    headers += [("MCP-Protocol-Version", MODERN), ("Mcp-Method", "tools/call"), ("Mcp-Name", "list_connectors")]
    again = next(value for header, value in headers if header == name)
    async with world.session.post(f"{world.base}/mcp", json=CALL, headers=[*headers, (name, again)]) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (400, -32020)


async def test_a_name_that_no_header_can_hold_comes_encoded(world: World) -> None:
    message = request("tools/call", {"name": "wörld", "_meta": META})
    encoded = f"=?base64?{base64.b64encode('wörld'.encode()).decode()}?="
    (await world.send(message, **{**CALLING, "mcp_name": encoded})).is_error(400, -32602)  # unknown, and no mismatch


@pytest.mark.parametrize("version", ["1900-01-01", LEGACY])
async def test_an_unknown_version_is_told_the_known_ones(world: World, version: str) -> None:
    message = request("tools/list", {"_meta": {**META, VERSION_KEY: version}})
    error = (await world.send(message, **{**HEADERS, "mcp_protocol_version": version})).is_error(400, -32022)
    assert error["data"] == {"supported": [MODERN], "requested": version}


@pytest.mark.parametrize("method", ["initialize", "ping", "logging/setLevel", "resources/list", "no/such"])
async def test_a_method_that_this_era_does_not_have_is_not_found(world: World, method: str) -> None:
    (await world.modern(method)).is_error(404, -32601)


@pytest.mark.parametrize(
    "params",
    [{"name": "nothing"}, {}, {"name": 7}, {"name": "run", "arguments": []}, {"name": "run", "arguments": "x"}],
)
async def test_a_call_of_no_tool_is_a_protocol_error(world: World, params: dict[str, Any]) -> None:
    headers = {**CALLING, "mcp_name": str(params.get("name", "x"))}
    if not isinstance(params.get("name", ""), str):
        headers["mcp_name"] = "7"
    reply = await world.send(request("tools/call", {**params, "_meta": META}), **headers)
    assert reply.status == 400
    assert reply.json["error"]["code"] in {-32602, -32020}


async def test_there_is_no_second_page_of_tools(world: World) -> None:
    (await world.modern("tools/list", {"cursor": "x"})).is_error(400, -32602)


# -- 2025-11-25 ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "told"), [(LEGACY, LEGACY), ("2025-06-18", "2025-06-18"), ("2024-11-05", LEGACY), (None, LEGACY)]
)
async def test_initialize_agrees_on_a_version_and_opens_no_session(world: World, asked: Any, told: str) -> None:
    params = {"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}}
    reply = await world.send(request("initialize", params))
    assert reply.result["protocolVersion"] == told
    assert reply.result["serverInfo"]["version"]
    assert "mcp-session-id" not in reply.headers


async def test_each_legacy_request_stands_alone(world: World) -> None:
    """No request before it, and a session that nobody opened: any replica can answer."""
    for headers in ({}, {"mcp_protocol_version": LEGACY}, {"mcp_session_id": "stale"}):
        result = (await world.send(request("tools/list"), **headers)).result
        assert len(result["tools"]) == 3
        assert not {"resultType", "_meta"} & set(result)
    assert (await world.legacy("ping")).result == {}


async def test_a_legacy_method_that_is_not_there_is_an_answer(world: World) -> None:
    (await world.legacy("resources/list")).is_error(200, -32601)
    (await world.legacy("server/discover")).is_error(200, -32601)


async def test_a_header_of_neither_era_is_told_all_versions(world: World) -> None:
    error = (await world.send(request("tools/list"), mcp_protocol_version="2024-11-05")).is_error(400, -32022)
    assert error["data"]["supported"] == [MODERN, LEGACY, "2025-06-18"]


@pytest.mark.parametrize("version", [None, LEGACY, MODERN])
@pytest.mark.parametrize("method", ["notifications/initialized", "notifications/cancelled", "notifications/unknown"])
async def test_a_notification_is_taken_without_an_answer(world: World, method: str, version: str | None) -> None:
    reply = await world.send({"jsonrpc": "2.0", "method": method}, mcp_protocol_version=version)
    assert (reply.status, reply.body) == (202, b"")


async def test_a_clients_answer_to_nothing_is_taken_from_legacy_clients_only(world: World) -> None:
    answer = {"jsonrpc": "2.0", "id": 1, "result": {}}
    assert (await world.send(answer)).status == 202
    (await world.send(answer, mcp_protocol_version=MODERN)).is_error(400, -32600)


# -- HTTP and JSON-RPC ----------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT"])
async def test_only_post_is_allowed(world: World, method: str) -> None:
    reply = await world.send(b"", method=method)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", -32700),
        (b"{", -32700),
        (b"\xff", -32700),
        (b'{"a": 1, "a": 2}', -32700),
        (b'{"a": NaN}', -32700),
        (b"[" * 100_000, -32600),
        (b"[]", -32600),
        (b'[{"jsonrpc": "2.0", "id": 1, "method": "ping"}]', -32600),
        (b"7", -32700),
        ({"jsonrpc": "1.0", "id": 1, "method": "ping"}, -32600),
        ({"id": 1, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": 1}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": 7}, -32600),
        ({"jsonrpc": "2.0", "id": None, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": True, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": 1.5, "method": "ping"}, -32600),
        ({"jsonrpc": "2.0", "id": [], "method": "ping"}, -32600),
    ],
)
async def test_what_is_no_message_is_refused(world: World, body: Any, code: int) -> None:
    reply = await world.send(body)
    reply.is_error(400, code)
    assert reply.json["id"] in (None, 1)


async def test_params_must_be_an_object(world: World) -> None:
    (await world.send({"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []})).is_error(200, -32602)


async def test_a_body_past_the_limit_is_not_read(world: World) -> None:
    assert (await world.send(b'{"a":"' + b"x" * (1 << 20) + b'"}')).status == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content_type": "text/plain"}, 415),
        ({"content_type": "application/json-seq"}, 415),
        ({"content_type": "application/json; charset=utf-8"}, 200),
        ({"accept": "text/html"}, 406),
        ({"accept": "*/*"}, 200),
    ],
)
async def test_json_is_what_is_spoken(world: World, headers: dict[str, str], status: int) -> None:
    assert (await world.send(request("ping"), **headers)).status == status


# -- who asks, and from where -------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, "", "Bearer", "Bearer nonsense", "Basic {agent}", "bearer  "])
@pytest.mark.parametrize("message", [LIST, request("initialize"), request("server/discover", {"_meta": META})])
async def test_nothing_is_answered_without_a_key(world: World, key: str | None, message: Any) -> None:
    given = key.format(agent=world.keys["agent"]) if key else None
    reply = await world.send(message, who=None, authorization=given)
    assert reply.status == 401
    assert reply.headers["www-authenticate"] == "Bearer"
    assert reply.json["code"] == "unauthenticated"


async def test_a_revoked_key_is_refused_from_the_next_request_on(world: World) -> None:
    key = await world.service.create_key({"agent_id": "agent-1", "organization_id": "acme"})
    world.keys["short-lived"] = key["key"]
    assert (await world.modern("tools/list", who="short-lived")).status == 200
    await world.service.revoke_key(key["id"])
    assert (await world.modern("tools/list", who="short-lived")).status == 401


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8400", "127.0.0.1.evil.example", "localhost.evil", "", "[::1", "a@127.0.0.1:1@evil"],
)
async def test_a_foreign_host_is_refused_before_anything_else(world: World, host: str) -> None:
    reply = await world.send(LIST, **HEADERS, host=host)
    assert reply.status == 403 if host else reply.status in {400, 403}
    assert b"tools" not in reply.body


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "https://127.0.0.1.evil.example", "null", "", "file://", "http://[::1"]
)
async def test_a_foreign_origin_is_refused(world: World, origin: str) -> None:
    assert (await world.send(LIST, **HEADERS, origin=origin)).status == 403


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
async def test_loopback_names_are_our_own_on_any_port(world: World, name: str) -> None:
    assert (await world.send(LIST, **HEADERS, host=f"{name}:9", origin=f"http://{name}:5173")).status == 200


async def test_an_operator_can_allow_more_hosts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {**HEADERS, "host": "mcp.example.com", "origin": "https://mcp.example.com"}
    assert (await world.send(LIST, **headers)).status == 403
    for names in (["mcp.example.com"], ["*"]):
        monkeypatch.setattr(world.application.gate, "hosts", Hosts(names))
        assert (await world.send(LIST, **headers)).status == 200


async def test_without_the_check_a_rebound_name_would_be_answered(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control."""
    monkeypatch.setattr(Hosts, "require", lambda *_: None)
    assert (await world.send(LIST, **HEADERS, host="evil.example")).status == 200


async def test_a_person_names_the_agent_and_an_agent_only_itself(world: World) -> None:
    for who, at, status in (
        ("developer", "?agent=agent-1", 200),
        ("developer", "", 422),
        ("developer", "?agent=a%20b", 422),
        ("agent", "?agent=agent-1", 200),
        ("agent", "?agent=agent-2", 403),
        ("other agent", "", 200),
    ):
        reply = await world.modern("tools/list", who=who, at=at)
        assert reply.status == status, (who, at, reply.body)
    error = (await world.modern("tools/list", who="developer")).json["error"]
    assert "?agent=" in error["message"]
    assert (
        json.loads((await world.modern("tools/list", who="agent", at="?agent=agent-2")).body)["error"]["data"]["code"]
        == "forbidden"
    )


async def test_a_member_may_look_and_not_run(world: World) -> None:
    at = "?agent=agent-1"
    assert (await world.modern("tools/list", who="member", at=at)).status == 200
    result = await world.call("run", who="member", at=at, alias="main_db", operation="list_tables")
    assert result["isError"]
    assert "forbidden" in result["content"][0]["text"]
