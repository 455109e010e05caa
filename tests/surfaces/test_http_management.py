"""The management routes over a real connection: statuses, codes, shapes, concurrency."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests import toy
from tests.surfaces.served import HIDDEN, Api, serving

from studio.models import FAMILIES, new_id
from studio.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
C = "/api/v1/connectors"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    with toy.installed():
        async with serving(Settings(data_dir=tmp_path_factory.mktemp("data"), port=0)) as found:
            yield found


def body(api: Api, **config: Any) -> dict[str, Any]:
    api.count += 1
    return toy.body(f"made {api.count}", **config)


# -- types --------------------------------------------------------------------------------------


async def test_the_types_are_the_documents_sixteen_in_their_order(api: Api) -> None:
    reply = await api.call("GET", f"{C}/types", who="member")
    assert reply.status == 200
    types = reply.json["types"]
    assert list(types) == ["database", "api", "storage", "messaging"]
    assert {family: kinds[: len(FAMILIES[family])] for family, kinds in types.items()} == {
        family: list(kinds) for family, kinds in FAMILIES.items()
    }
    named = [kind for kinds in types.values() for kind in kinds]
    assert sorted(reply.json["available"] + reply.json["not_built_yet"]) == sorted(named)
    assert {"sqlite", "postgresql", "toy"} <= set(reply.json["available"])


async def test_a_type_describes_its_config_its_operations_and_what_may_be_overridden(api: Api) -> None:
    reply = await api.call("GET", f"{C}/types/toy", who="member")
    assert reply.status == 200
    found = reply.json
    assert (found["provider"], found["connector_type"]) == ("toy", "database")
    properties = found["config_schema"]["properties"]
    assert "writeOnly" in str(properties["password"])
    assert found["config_schema"]["additionalProperties"] is False
    assert found["destination_fields"] == ["host", "port"]
    assert set(found["overridable"]) >= {"database", "prefix", "read_only", "max_rows"}
    assert "host" not in found["overridable"]
    assert {entry["name"]: entry["effect"] for entry in found["operations"]} == {
        "query": "read", "secrets": "read", "put": "write", "drop": "delete",
    }  # fmt: skip
    assert all("properties" in entry["parameters"] for entry in found["operations"])


async def test_every_built_type_can_be_described(api: Api) -> None:
    for kind in (await api.call("GET", f"{C}/types")).json["available"]:
        assert (await api.call("GET", f"{C}/types/{kind}")).status == 200


async def test_an_unknown_type_is_not_found_and_one_not_built_says_so(api: Api) -> None:
    for kind in ("nonsense", "Toy", "_sql", "__init__", "%00", "a" * 8_000):
        (await api.call("GET", f"{C}/types/{kind}")).is_problem(404, "not_found")
    for kind in (await api.call("GET", f"{C}/types")).json["not_built_yet"]:
        found = (await api.call("GET", f"{C}/types/{kind}")).is_problem(422, "operation_not_supported")
        assert "not built yet" in found["detail"]


# -- create -------------------------------------------------------------------------------------


async def test_a_created_connector_comes_back_in_the_documents_fields_without_its_secrets(api: Api) -> None:
    reply = await api.call("POST", C, body(api, port=99))
    assert reply.status == 201
    assert reply.headers["etag"] == '"v1"'
    found = reply.json
    assert list(found) == [
        "id", "organization_id", "name", "connector_type", "provider", "config", "secrets_set", "status",
        "last_tested_at", "last_test_result", "last_error", "created_by", "created_at", "updated_at", "version",
        "secret_set_at", "secret_expires_at",
    ]  # fmt: skip
    assert (found["organization_id"], found["status"], found["last_test_result"]) == ("acme", "active", None)
    assert (found["config"]["host"], found["config"]["port"], found["config"]["read_only"]) == ("db.example", 99, True)
    assert found["secrets_set"] == ["login.token", "password"]
    assert found["created_by"].startswith("key:")
    assert uuid.UUID(found["id"]).version == 7
    assert len(found["created_at"]) == 27
    assert found["created_at"].endswith("Z")
    read = await api.call("GET", f"{C}/{found['id']}", who="member")
    assert (read.status, read.json, read.headers["etag"]) == (200, found, '"v1"')


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"connector_type": "nonsense"}, 422, "invalid_request", "connector_type"),
        ({"connector_type": "storage"}, 400, "invalid_request", "provider"),
        ({"provider": "nonsense"}, 400, "invalid_request", "provider"),
        ({"provider": "kafka", "connector_type": "database"}, 400, "invalid_request", "provider"),
        ({"config": {}}, 422, "invalid_config", "config.host"),
        ({"config": {"host": "db", HIDDEN[:5]: 1}}, 422, "invalid_config", f"config.{HIDDEN[:5]}"),
        ({"config": {"host": f"{HIDDEN}:80"}}, 422, "invalid_config", "config.host"),
        ({"config": {"host": "db", "password": [HIDDEN]}}, 422, "invalid_config", "config.password"),
        ({"config": {"host": "db", "password": None}}, 422, "invalid_config", "config.password"),
        ({"name": ""}, 422, "invalid_request", "name"),
        ({"name": "   "}, 422, "invalid_request", "name"),
        ({"organization_id": "beta"}, 422, "invalid_request", "organization_id"),
        ({"created_by": "me"}, 422, "invalid_request", "created_by"),
        ({"id": "mine"}, 422, "invalid_request", "id"),
        ({"status": "active"}, 422, "invalid_request", "status"),
    ],
)
async def test_a_body_that_is_wrong_is_refused_by_field_and_nothing_is_stored(
    api: Api, change: dict[str, Any], status: int, code: str, field: str
) -> None:
    before = await api.stored()
    (await api.call("POST", C, {**body(api), **change})).is_problem(status, code, field)
    assert await api.stored() == before


async def test_a_kind_that_is_not_built_cannot_be_created(api: Api) -> None:
    types = (await api.call("GET", f"{C}/types")).json
    for kind in types["not_built_yet"]:
        family = next(family for family, kinds in types["types"].items() if kind in kinds)
        made = {"name": "later", "connector_type": family, "provider": kind, "config": {}}
        (await api.call("POST", C, made)).is_problem(422, "operation_not_supported")


async def test_a_name_that_is_taken_is_a_conflict(api: Api) -> None:
    made = body(api)
    assert (await api.call("POST", C, made)).status == 201
    (await api.call("POST", C, made)).is_problem(409, "conflict", "name")
    assert (await api.call("POST", C, made, who="foreign admin")).status == 201


async def test_of_many_who_create_one_name_at_once_one_succeeds(api: Api) -> None:
    made = body(api)
    replies = await asyncio.gather(*(api.call("POST", C, made) for _ in range(12)))
    assert sorted(reply.status for reply in replies) == [201] + [409] * 11


async def test_a_tested_creation_stores_only_what_passed(api: Api) -> None:
    before = await api.stored()
    wrong = body(api, password="wrong")
    (await api.call("POST", f"{C}?test=true", wrong)).is_problem(502, "auth_failed")
    assert await api.stored() == before
    assert (await api.call("POST", f"{C}?test=true", body(api))).status == 201


async def test_an_unsaved_config_can_be_tested(api: Api) -> None:
    before = await api.stored()
    for password, success in [("right", True), ("wrong", False)]:
        given = {key: value for key, value in body(api, password=password).items() if key != "name"}
        reply = await api.call("POST", f"{C}/test", given)
        assert (reply.status, reply.json["success"]) == (200, success)
        assert reply.json["stages"][-1]["ok"] is success
    assert await api.stored() == before


# -- list ---------------------------------------------------------------------------------------


async def test_pages_lead_through_every_connector_once(api: Api) -> None:
    for _ in range(7):
        await api.create()
    whole = (await api.call("GET", f"{C}?limit=200", who="member")).json
    ids, cursor = [], None
    while True:
        more = f"&cursor={cursor}" if cursor else ""
        page = (await api.call("GET", f"{C}?limit=3{more}", who="member")).json
        assert page["total"] == whole["total"] == len(whole["records"])
        ids += [record["id"] for record in page["records"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert ids == [record["id"] for record in whole["records"]]
    skipped = (await api.call("GET", f"{C}?limit=2&offset=3")).json
    assert [record["id"] for record in skipped["records"]] == ids[3:5]
    beyond = (await api.call("GET", f"{C}?offset=2147483647")).json
    assert (beyond["records"], beyond["next_cursor"]) == ([], None)


async def test_filters_narrow_the_list(api: Api) -> None:
    made = await api.create()
    await api.service.update(made["id"], {"status": "inactive", "name": "Needle 100%_x"})
    for query, held in [
        ("connector_type=database", True), ("connector_type=api", False), ("provider=toy", True),
        ("provider=sqlite", False), ("status=inactive", True), ("status=error", False), ("q=needle", True),
        ("q=100%25_", True), ("q=zzz", False), ("q=needle&status=inactive&provider=toy", True),
    ]:  # fmt: skip
        page = (await api.call("GET", f"{C}?limit=200&{query}", who="member")).json
        assert (made["id"] in [record["id"] for record in page["records"]]) is held, query
        assert page["total"] == len(page["records"])


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), ("limit=1e3", "limit"), ("offset=-1", "offset"),
        ("offset=2147483648", "offset"), ("offset=9999999999999999999999", "offset"), ("status=nonsense", "status"),
        ("connector_type=nonsense", "connector_type"), ("cursor=nonsense", "cursor"), ("cursor=%00", "cursor"),
        ("q=%00", "q"), ("q=" + "a" * 10_000, "q"), ("q=%0a", "q"), ("provider=%00", "provider"),
    ],
)  # fmt: skip
async def test_a_wrong_query_parameter_is_named(api: Api, query: str, field: str) -> None:
    (await api.call("GET", f"{C}?{query}", who="member")).is_problem(422, "invalid_request", field)


# -- update -------------------------------------------------------------------------------------


async def test_an_update_merges_and_counts_the_version(api: Api) -> None:
    made = await api.create(port=77, database="orders")
    reply = await api.call("PUT", f"{C}/{made['id']}", {"config": {"password": "new"}, "name": f"renamed {made['id']}"})
    assert (reply.status, reply.headers["etag"]) == (200, '"v2"')
    assert reply.json["config"] == made["config"]
    assert reply.json["name"] == f"renamed {made['id']}"
    assert reply.json["secrets_set"] == made["secrets_set"]
    assert reply.json["updated_at"] > made["updated_at"]


@pytest.mark.parametrize(
    ("change", "status", "code", "fields"),
    [
        ({}, 400, "invalid_request", []),
        ({"name": None}, 400, "invalid_request", []),
        ({"config": {}}, 400, "invalid_request", []),
        ({"provider": "sqlite"}, 422, "invalid_request", ["provider"]),
        ({"connector_type": "api"}, 422, "invalid_request", ["connector_type"]),
        ({"version": 5}, 422, "invalid_request", ["version"]),
        ({"status": "error"}, 422, "invalid_request", ["status"]),
        ({"config": {"port": 0}}, 422, "invalid_config", ["config.port"]),
        ({"config": {"port": HIDDEN}}, 422, "invalid_config", ["config.port"]),
        ({"config": {"nonsense": 1}}, 422, "invalid_config", ["config.nonsense"]),
        ({"config": {"host": None}}, 422, "invalid_config", ["config.host"]),
        ({"config": {"login": {"nonsense": HIDDEN}}}, 422, "invalid_config", ["config.login.nonsense"]),
        ({"config": {"host": "sink"}}, 409, "secrets_required", ["config.login.token", "config.password"]),
    ],
)
async def test_an_update_that_is_wrong_changes_nothing(
    api: Api, change: dict[str, Any], status: int, code: str, fields: list[str]
) -> None:
    made = await api.create()
    reply = await api.call("PUT", f"{C}/{made['id']}", change)
    reply.is_problem(status, code, *fields)
    assert await api.service.get(made["id"]) == made


async def test_a_version_that_was_not_the_last_is_a_conflict(api: Api) -> None:
    made = await api.create()
    path = f"{C}/{made['id']}"
    assert (await api.call("PUT", path, {"status": "inactive"}, if_match='"v1"')).headers["etag"] == '"v2"'
    (await api.call("PUT", path, {"status": "active"}, if_match='"v1"')).is_problem(409, "conflict")
    (await api.call("PUT", path, {"status": "active"}, if_match='"v3"')).is_problem(409, "conflict")
    assert (await api.call("PUT", path, {"status": "active"}, if_match="*")).headers["etag"] == '"v3"'
    for text in ("v3", '"3"', '""', "x", '"v3", "v4"', 'W/"v3"', '"v99999999999"'):
        (await api.call("PUT", path, {"status": "active"}, if_match=text)).is_problem(
            400, "invalid_request", "If-Match"
        )
    assert (await api.service.get(made["id"]))["version"] == 3


async def test_of_many_who_update_one_version_one_succeeds(api: Api) -> None:
    made = await api.create()
    replies = await asyncio.gather(
        *(api.call("PUT", f"{C}/{made['id']}", {"config": {"max_rows": n + 1}}, if_match='"v1"') for n in range(12))
    )
    assert sorted(reply.status for reply in replies) == [200] + [409] * 11
    (winner,) = [reply.json for reply in replies if reply.status == 200]
    assert await api.service.get(made["id"]) == winner


async def test_a_tested_update_stores_only_what_passed(api: Api) -> None:
    made = await api.create()
    path = f"{C}/{made['id']}?test=true"
    (await api.call("PUT", path, {"config": {"password": "wrong"}})).is_problem(502, "auth_failed")
    assert await api.service.get(made["id"]) == made
    assert (await api.call("PUT", path, {"config": {"password": "right"}})).status == 200


async def test_a_connector_can_be_switched_off_and_on(api: Api) -> None:
    made = await api.create()
    path = f"{C}/{made['id']}"
    assert (await api.call("PUT", path, {"status": "inactive"})).json["status"] == "inactive"
    (await api.call("POST", f"{path}/query", {"query": "rows 1"})).is_problem(409, "inactive")
    assert (await api.call("PUT", path, {"status": "active"})).json["status"] == "active"
    assert (await api.call("POST", f"{path}/query", {"query": "rows 1"})).status == 200


# -- delete, test, attach -----------------------------------------------------------------------


async def test_deleting_says_what_would_break_and_takes_the_attachments_along(api: Api) -> None:
    instance = await api.attached()
    path = f"{C}/{instance['connector_id']}"
    preview = (await api.call("DELETE", f"{path}?dry_run=true")).json
    assert preview["instances"] == [{"id": instance["id"], "agent_id": "agent-1", "alias": instance["alias"]}]
    assert (await api.call("GET", path)).status == 200
    reply = await api.call("DELETE", path)
    assert (reply.status, reply.json["message"], reply.json["detached"]) == (200, "Connector deleted", 1)
    for method, gone in [("GET", path), ("DELETE", path), ("DELETE", f"{C}/instances/{instance['id']}")]:
        (await api.call(method, gone)).is_problem(404, "not_found")
    listed = (await api.call("GET", "/api/v1/agents/agent-1/connectors", who="agent")).json["records"]
    assert instance["id"] not in [record["id"] for record in listed]


@pytest.mark.parametrize(("password", "success"), [("right", True), ("wrong", False)])
async def test_a_test_answers_200_either_way_and_is_kept_on_the_record(api: Api, password: str, success: bool) -> None:
    made = await api.create(password=password)
    reply = await api.call("POST", f"{C}/{made['id']}/test", who="developer")
    assert (reply.status, reply.json["success"]) == (200, success)
    assert set(reply.json) >= {"success", "message", "latency_ms", "stages", "privileges"}
    assert reply.json["latency_ms"] >= 0
    if success:
        assert reply.json["message"] == "Connection successful"
    else:
        assert reply.json["code"] == "auth_failed"
        assert reply.json["stages"][-1]["fix"]
    kept = (await api.call("GET", f"{C}/{made['id']}")).json
    assert kept["last_test_result"] == ("success" if success else "failed")
    assert kept["status"] == ("active" if success else "error")
    assert (kept["last_error"] is None) is success
    assert kept["last_tested_at"]
    assert kept["version"] == made["version"], "a test is no change"


async def test_attaching_answers_the_instance_and_lists_it_everywhere(api: Api) -> None:
    made = await api.create(database="big")
    path = f"{C}/{made['id']}"
    given = {"agent_id": "agent-1", "alias": "main_db", "config_override": {"database": "small"}}
    reply = await api.call("POST", f"{path}/attach", given, who="developer")
    assert reply.status == 201
    found = reply.json
    assert list(found)[:5] == ["id", "connector_id", "agent_id", "alias", "created_at"]
    assert (found["config"]["database"], found["config_sources"]["database"]) == ("small", "override")
    assert (await api.call("GET", f"{path}/instances", who="member")).json == {"records": [found], "total": 1}
    listed = (await api.call("GET", "/api/v1/agents/agent-1/connectors", who="agent")).json
    assert found in listed["records"]
    (await api.call("POST", f"{path}/attach", given, who="developer")).is_problem(409, "conflict", "alias")
    detached = await api.call("DELETE", f"{C}/instances/{found['id']}", who="developer")
    assert (detached.status, detached.json["message"]) == (200, "Connector detached")
    assert (await api.call("GET", f"{path}/instances")).json["total"] == 0


@pytest.mark.parametrize(
    ("change", "status", "code", "field"),
    [
        ({"agent_id": "a b"}, 422, "invalid_request", "agent_id"),
        ({"agent_id": ""}, 422, "invalid_request", "agent_id"),
        ({"agent_id": "a" * 129}, 422, "invalid_request", "agent_id"),
        ({"alias": "a/b"}, 422, "invalid_request", "alias"),
        ({"alias": "ä"}, 422, "invalid_request", "alias"),
        ({"connector_id": "x"}, 422, "invalid_request", "connector_id"),
        ({"config_override": {"host": HIDDEN}}, 422, "override_not_allowed", "config_override.host"),
        ({"config_override": {"read_only": False}}, 422, "override_not_allowed", "config_override.read_only"),
        ({"config_override": {"database": [HIDDEN]}}, 422, "invalid_config", "config_override.database"),
    ],
)
async def test_an_attachment_that_is_wrong_is_refused_by_field(
    api: Api, change: dict[str, Any], status: int, code: str, field: str
) -> None:
    made = await api.create()
    given = {"agent_id": "agent-1", "alias": f"w{api.count}", **change}
    (await api.call("POST", f"{C}/{made['id']}/attach", given)).is_problem(status, code, field)
    assert (await api.call("GET", f"{C}/{made['id']}/instances")).json["total"] == 0


# -- keys ---------------------------------------------------------------------------------------


async def test_a_key_is_made_shown_once_listed_and_revoked(api: Api) -> None:
    reply = await api.call("POST", "/api/v1/keys", {"agent_id": "agent-9", "aliases": ["a"], "effects": ["read"]})
    assert reply.status == 201
    made = reply.json
    listed = (await api.call("GET", "/api/v1/keys")).json["records"]
    assert {**next(entry for entry in listed if entry["id"] == made["id"]), "key": made["key"]} == made
    assert made["key"] not in str(listed)
    api.keys["new"] = made["key"]
    assert (await api.call("GET", "/api/v1/agents/agent-9/connectors", who="new")).status == 200
    assert (await api.call("DELETE", f"/api/v1/keys/{made['id']}")).json["message"] == "Key revoked"
    (await api.call("GET", "/api/v1/agents/agent-9/connectors", who="new")).is_problem(401, "unauthenticated")


# -- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", f"{C}/{{}}"), ("PUT", f"{C}/{{}}"), ("DELETE", f"{C}/{{}}"), ("DELETE", f"{C}/{{}}?dry_run=true"),
        ("POST", f"{C}/{{}}/test"), ("POST", f"{C}/{{}}/attach"), ("GET", f"{C}/{{}}/instances"),
        ("GET", f"{C}/{{}}/operations"), ("POST", f"{C}/{{}}/query"), ("POST", f"{C}/{{}}/operations/query"),
    ],
)  # fmt: skip
async def test_an_unknown_id_and_another_organizations_answer_the_same_bytes(api: Api, method: str, path: str) -> None:
    foreign = (await api.create())["id"]
    given = {"name": "mine", "query": "rows 1", "agent_id": "a", "alias": "b"}
    body = None if method in {"GET", "DELETE"} else given
    answers = [
        await api.call(method, path.format(known), body, who="foreign admin")
        for known in (foreign, new_id(), "nonsense", "0" * 36, "%00", "a" * 5000)
    ]
    assert {reply.status for reply in answers} == {404}
    assert len({reply.body for reply in answers}) == 1
    different = {"date", "x-request-id"}
    shown = [{name: value for name, value in reply.headers.items() if name not in different} for reply in answers]
    assert all(headers == shown[0] for headers in shown)
    assert answers[0].problem["code"] == "not_found"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"{C}/instances/{{instance}}"), ("DELETE", "/api/v1/keys/{key}"),
        ("GET", "/api/v1/agents/agent-1/connectors/{alias}/operations"),
        ("POST", "/api/v1/agents/agent-1/connectors/{alias}/query"),
        ("POST", "/api/v1/agents/agent-1/connectors/{alias}/operations/put"),
    ],
)  # fmt: skip
async def test_other_foreign_things_answer_like_unknown_ones(api: Api, method: str, path: str) -> None:
    instance = await api.attached()
    key = (await api.service.create_key({"organization_id": "acme", "role": "member"}))["id"]
    body = {"query": "rows 1"} if method == "POST" else None
    answers = [
        await api.call(method, path.format(instance=one, key=two, alias=three), body, who="foreign admin")
        for one, two, three in [(instance["id"], key, instance["alias"]), (new_id(), new_id(), "unknown")]
    ]
    assert [reply.status for reply in answers] == [404, 404]
    assert answers[0].body == answers[1].body


@pytest.mark.parametrize(
    "header",
    [
        None, "", "Bearer", "Bearer ", "Basic YWRtaW46YWRtaW4=", "Bearer studio_x", "bearer " + "a" * 20_000,
        "Bearer studio_0000000000000000_" + "A" * 43, "Token abc", "Bearer \u00e9",
    ],
)  # fmt: skip
async def test_every_missing_or_bad_credential_gets_one_answer(api: Api, header: str | None) -> None:
    for method, path in [("GET", C), ("POST", C), ("POST", f"{C}/{new_id()}/query"), ("GET", "/api/v1/keys")]:
        headers = {} if header is None else {"authorization": header}
        reply = await api.call(method, path, who=None, raw=b"{" if method == "POST" else None, **headers)
        found = reply.is_problem(401, "unauthenticated")
        assert reply.headers["www-authenticate"] == "Bearer"
        assert found["detail"].startswith("the API key is missing, unknown, expired or revoked")


async def test_the_bearer_scheme_is_read_in_any_case(api: Api) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        reply = await api.call("GET", C, who=None, authorization=f"{scheme} {api.keys['member']}")
        assert reply.status == 200


@pytest.mark.parametrize(
    "path", ["/", "/api/v1", "/api/v1/nonsense", f"{C}/a/b/c", "/api/v2/connectors", "/etc/passwd"]
)
async def test_an_unknown_route_is_a_problem_too(api: Api, path: str) -> None:
    (await api.call("GET", path)).is_problem(404, "not_found")


async def test_a_wrong_method_is_a_problem_that_names_the_right_ones(api: Api) -> None:
    for method, path, allowed in [
        ("PATCH", f"{C}/{new_id()}", {"GET", "HEAD", "PUT", "DELETE"}),
        ("PUT", "/healthz", {"GET", "HEAD"}),
    ]:
        reply = await api.call(method, path)
        assert reply.status == 405
        assert reply.problem["code"] == "invalid_request"
        assert set(reply.headers["allow"].split(", ")) == allowed


async def test_a_defect_is_internal_and_says_nothing_of_itself(
    api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("h1dd3n-c4n4ry")

    monkeypatch.setattr("studio.services.connectors.connector_dict", explode)
    made = new_id()
    with caplog.at_level(logging.DEBUG):
        reply = await api.call("POST", C, {**body(api), "name": made})
    found = reply.is_problem(500, "internal")
    assert found["request_id"]
    assert "ZeroDivisionError" in caplog.text, "the log names the class"
    assert HIDDEN not in caplog.text, "and not the text"
    monkeypatch.undo()
    assert (await api.call("GET", C)).status == 200


async def test_a_client_that_leaves_in_the_midst_of_its_body_is_no_defect(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    for path in (C, f"{C}/{new_id()}/query"):
        host, port = api.base.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {api.keys['admin']}\r\n"
        writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        await writer.wait_closed()
    await asyncio.sleep(0.1)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


# -- beside the API -----------------------------------------------------------------------------


async def test_health_and_readiness_answer_without_a_key(api: Api) -> None:
    assert (await api.call("GET", "/healthz", who=None)).json == {"status": "ok"}
    assert (await api.call("GET", "/readyz", who=None)).json == {"status": "ready"}


async def test_readiness_says_no_while_the_store_cannot_answer(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    core = await api.service._home.core()

    async def gone(*_: Any) -> Any:
        raise OSError("h1dd3n-c4n4ry")

    monkeypatch.setattr(core.database, "ping", gone)
    reply = await api.call("GET", "/readyz", who=None)
    assert (reply.status, reply.json) == (503, {"status": "not ready"})
    assert (await api.call("GET", "/healthz", who=None)).status == 200


async def test_metrics_count_operations_without_names_or_hosts(api: Api) -> None:
    made = await api.create(host="secret-host.example")
    await api.call("POST", f"{C}/{made['id']}/query", {"query": "rows 1"})
    reply = await api.call("GET", "/metrics", who="member")
    assert reply.status == 200
    assert b'studio_operations_total{operation="query",outcome="ok",provider="toy"}' in reply.body
    for hidden in (made["id"], made["name"], "secret-host", "rows 1", "acme"):
        assert hidden.encode() not in reply.body


async def test_the_openapi_document_names_every_route_and_refuses_unknown_fields(api: Api) -> None:
    found = (await api.call("GET", "/api/v1/openapi.json", who=None)).json
    assert found["openapi"].startswith("3.1")
    for path, methods in found["paths"].items():
        for method, entry in methods.items():
            assert entry["summary"], (method, path)
            assert "200" in entry["responses"] or "201" in entry["responses"]
            if path.startswith("/api/"):
                assert entry["security"]
    made = found["paths"][C]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert made["additionalProperties"] is False
    assert (await api.call("GET", "/docs", who=None)).status == 200


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())


async def test_nothing_secret_stands_in_any_file_of_the_store(api: Api) -> None:
    await api.create()
    data = bytes_below(api.application.settings.data_dir)
    assert b"p4ssw0rd-c4n4ry" not in data
    assert b"t0k3n-c4n4ry" not in data
