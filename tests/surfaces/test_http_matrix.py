"""Every route against every kind of caller, and every body against everything that a body must not be."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from tests import toy
from tests.surfaces.served import HIDDEN, KEYS, Api, Reply, serving
from tests.upstreams.issuer import AUDIENCE, issuing

from studio.api import execute
from studio.app import Application
from studio.settings import Settings

pytestmark = pytest.mark.asyncio(loop_scope="module")
C, A, K = "/api/v1/connectors", "/api/v1/agents/{agent_id}/connectors", "/api/v1/keys"
NOBODY = "nobody"
WHO = [NOBODY, *KEYS]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    folder = tmp_path_factory.mktemp("data")
    with toy.installed():
        async with issuing() as issuer:
            settings = Settings(
                data_dir=folder, port=0, oidc_issuer=issuer.url, oidc_audience=(AUDIENCE,), oidc_agent_claim="agent_id"
            )
            async with serving(settings) as found:
                for who, body in KEYS.items():
                    claims = {"organization": body["organization_id"], "role": body.get("role")}
                    found.keys[f"{who} by token"] = issuer.token(**claims, agent_id=body.get("agent_id"))
                yield found


# -- who may what -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A route, a body that it takes, and the status for each of `WHO` in their order."""

    method: str
    path: str
    statuses: tuple[int, int, int, int, int, int, int]
    body: Any = None


ATTACH = {"agent_id": "agent-1", "alias": "new"}
QUERY = {"query": "rows 1"}
ROTATE = {"config": {"password": "n3w"}}
SAVE = {"name": "new", "description": "One row.", **QUERY}
TEST = {"connector_type": "database", "provider": "toy", "config": toy.config()}
# method, path, (nobody, member, developer, admin, agent, other agent, admin of another organization)
MATRIX = [
    Row("GET", f"{C}/types", (401, 200, 200, 200, 403, 403, 200)),
    Row("GET", f"{C}/types/{{provider}}", (401, 200, 200, 200, 403, 403, 200)),
    Row("GET", C, (401, 200, 200, 200, 403, 403, 200)),
    Row("POST", C, (401, 403, 403, 201, 403, 403, 201), {"name": "new", **TEST}),
    Row("POST", f"{C}/test", (401, 403, 403, 200, 403, 403, 200), TEST),
    Row("GET", f"{C}/{{connector_id}}", (401, 200, 200, 200, 403, 403, 404)),
    Row("PUT", f"{C}/{{connector_id}}", (401, 403, 403, 200, 403, 403, 404), {"status": "inactive"}),
    Row("DELETE", f"{C}/{{connector_id}}", (401, 403, 403, 200, 403, 403, 404)),
    Row("GET", f"{C}/{{connector_id}}/health", (401, 200, 200, 200, 403, 403, 404)),
    Row("PUT", f"{C}/{{connector_id}}/health", (401, 403, 403, 200, 403, 403, 404), {"interval_s": 30}),
    Row("POST", "/api/v1/alerts/test", (401, 403, 403, 200, 403, 403, 200)),
    Row("POST", f"{C}/{{connector_id}}/rotate", (401, 403, 403, 200, 403, 403, 404), ROTATE),
    Row("POST", f"{C}/{{connector_id}}/test", (401, 403, 200, 200, 403, 403, 404)),
    Row("POST", f"{C}/{{connector_id}}/attach", (401, 403, 201, 201, 403, 403, 404), ATTACH),
    Row("GET", f"{C}/{{connector_id}}/instances", (401, 200, 200, 200, 403, 403, 404)),
    Row("GET", f"{C}/{{connector_id}}/operations", (401, 403, 200, 200, 403, 403, 404)),
    Row("POST", f"{C}/{{connector_id}}/query", (401, 403, 200, 200, 403, 403, 404), QUERY),
    Row("POST", f"{C}/{{connector_id}}/operations/{{operation}}", (401, 403, 200, 200, 403, 403, 404), QUERY),
    Row("POST", f"{C}/{{connector_id}}/saved-operations", (401, 403, 201, 201, 403, 403, 404), SAVE),
    Row("GET", f"{C}/{{connector_id}}/saved-operations", (401, 200, 200, 200, 403, 403, 404)),
    Row("DELETE", f"{C}/{{connector_id}}/saved-operations/{{name}}", (401, 403, 200, 200, 403, 403, 404)),
    Row("DELETE", f"{C}/instances/{{instance_id}}", (401, 403, 200, 200, 403, 403, 404)),
    Row("GET", A, (401, 200, 200, 200, 200, 403, 200)),
    Row("GET", f"{A}/{{alias}}/operations", (401, 403, 200, 200, 200, 403, 404)),
    Row("POST", f"{A}/{{alias}}/query", (401, 403, 200, 200, 200, 403, 404), QUERY),
    Row("POST", f"{A}/{{alias}}/operations/{{operation}}", (401, 403, 200, 200, 200, 403, 404), QUERY),
    Row("GET", K, (401, 403, 403, 200, 403, 403, 200)),
    Row("POST", K, (401, 403, 403, 201, 403, 403, 201), {"role": "member"}),
    Row("PUT", f"{K}/{{key_id}}", (401, 403, 403, 200, 403, 403, 404), {"role": "member"}),
    Row("DELETE", f"{K}/{{key_id}}", (401, 403, 403, 200, 403, 403, 404)),
    Row("GET", "/api/v1/audit", (401, 403, 403, 200, 403, 403, 200)),
    Row("GET", "/api/v1/audit/verify", (401, 403, 403, 200, 403, 403, 200)),
    Row("GET", "/healthz", (200,) * 7),
    Row("GET", "/readyz", (200,) * 7),
    Row("GET", "/metrics", (401, 200, 200, 200, 403, 403, 200)),
    Row("GET", "/api/v1/openapi.json", (200,) * 7),  # on loopback; see test_http_tokens.py for elsewhere
    Row("GET", "/docs", (200,) * 7),
    Row("GET", "/.well-known/oauth-protected-resource", (200,) * 7),
    Row("GET", "/.well-known/oauth-protected-resource/mcp", (200,) * 7),
]
"""Every route but `/mcp`, which has its own suite."""


def _routes(routes: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _routes(inner.routes, prefix)
            continue
        for method in route.methods or ():
            yield method, prefix + getattr(route, "path_format", route.path)


def served(application: Application) -> set[tuple[str, str]]:
    """Every (method, path) of the application, in its document or not."""
    found = set(_routes(application.management.routes))
    documented = {
        (method.upper(), path)
        for path, methods in application.management.openapi()["paths"].items()
        for method in methods
        if path != "/mcp"
    }
    return {(method, path) for method, path in found | documented if method != "HEAD"}


async def test_every_route_of_the_application_has_a_row(api: Api) -> None:
    rows = {(row.method, row.path) for row in MATRIX}
    missing = served(api.application) - rows
    assert not missing, "a route without a row: say who may call it"
    assert not rows - served(api.application), "a row without a route"


async def test_every_hot_route_is_in_the_document_and_so_in_the_matrix() -> None:
    """The hot routes are matched by a pattern, not by a table: all of its forms have rows."""
    hot = [row for row in MATRIX if execute.match({"type": "http", "method": row.method, "path": row.path})]
    assert len(hot) == len(execute.openapi_paths()) == 4
    assert len(re.findall(r"\(\?P<", execute._PATH.pattern)) == 4


async def test_a_route_without_a_row_would_be_found(api: Api) -> None:
    """The negative control."""
    rows = {(row.method, row.path) for row in MATRIX}
    for row in MATRIX:
        assert served(api.application) - (rows - {(row.method, row.path)}) == {(row.method, row.path)}


@pytest.mark.parametrize("by", ["", " by token"], ids=["key", "token"])
@pytest.mark.parametrize("row", MATRIX, ids=lambda row: f"{row.method} {row.path}")
async def test_a_route_answers_each_caller_as_the_matrix_says(api: Api, row: Row, by: str) -> None:
    """By key and by token of the issuer alike."""
    for who, status in zip(WHO, row.statuses, strict=True):
        api.count += 1
        instance = await api.attached(f"alias-{api.count}")
        key = await api.service.create_key({"organization_id": "acme", "role": "member"})
        await api.service.create_saved_operation(instance["connector_id"], {**SAVE, "name": "kept"})
        path = row.path.format(
            provider="toy", name="kept", connector_id=instance["connector_id"], instance_id=instance["id"], agent_id="agent-1",
            alias=instance["alias"], operation="query", key_id=key["id"],
        )  # fmt: skip
        body = row.body
        if isinstance(body, dict):
            body = {**body, **({"name": f"new_{api.count}"} if "name" in body else {})}
            body = {**body, **({"alias": f"new-{api.count}"} if "alias" in body else {})}
        before = await api.stored()
        reply = await api.call(row.method, path, body, who=None if who == NOBODY else who + by)
        assert reply.status == status, (who, reply.body)
        if status in {401, 403, 404}:
            reply.is_problem(status, {401: "unauthenticated", 403: "forbidden", 404: "not_found"}[status])
            assert await api.stored() == before, f"refused, and yet {who} changed something"


async def test_the_matrix_refuses_where_the_guard_is_and_not_by_chance(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: without policy the member's calls pass."""
    instance = await api.attached()
    path = f"{C}/{instance['connector_id']}/query"
    assert (await api.call("POST", path, QUERY, who="member")).status == 403
    monkeypatch.setattr("studio.security.policy.require_role", lambda *_: None)
    assert (await api.call("POST", path, QUERY, who="member")).status == 200


# -- bodies -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taker:
    """A route that reads a body: one that it takes, and the wrong values to try in each field."""

    method: str
    path: str
    body: dict[str, Any]
    fields: dict[str, str]


TEXT, OBJECT, FREE, LIST = "text", "object", "free", "list"
TAKERS = {
    "create": Taker(
        "POST", C, {"name": "n", **TEST},
        {"name": TEXT, "connector_type": TEXT, "provider": TEXT, "config": OBJECT, "config.host": TEXT,
         "config.port": "number", "config.database": TEXT, "config.password": "secret", "config.login": OBJECT,
         "config.login.user": TEXT, "config.login.token": "secret", "config.read_only": "bool", "config.timeout_s": "number"},
    ),
    "test": Taker("POST", f"{C}/test", TEST, {"connector_type": TEXT, "provider": TEXT, "config": OBJECT}),
    "update": Taker("PUT", f"{C}/{{connector_id}}", {"status": "active", "config": {"max_rows": 5}},
                    {"name": TEXT, "status": TEXT, "config": OBJECT, "config.database": TEXT, "config.max_rows": "number"}),
    "health": Taker("PUT", f"{C}/{{connector_id}}/health", {"interval_s": 60}, {"interval_s": "number"}),
    "rotate": Taker("POST", f"{C}/{{connector_id}}/rotate", {**ROTATE, "grace_s": 60, "expires_at": "2999-01-01"},
                    {"config": OBJECT, "config.password": "secret", "generate": "bool", "grace_s": "number", "expires_at": TEXT}),
    "attach": Taker("POST", f"{C}/{{connector_id}}/attach", {**ATTACH, "config_override": {"database": "d"}},
                    {"agent_id": TEXT, "alias": TEXT, "config_override": OBJECT, "config_override.database": TEXT}),
    "key": Taker("POST", K, {"name": "k", "agent_id": "a", "aliases": ["x"], "effects": ["read"], "expires_at": "2999-01-01"},
                 {"name": TEXT, "agent_id": TEXT, "aliases": LIST, "effects": LIST, "expires_at": TEXT}),
    "query": Taker("POST", f"{C}/{{connector_id}}/query", {**QUERY, "params": {}}, {"query": "query", "params": FREE}),
    "operation": Taker("POST", f"{C}/{{connector_id}}/operations/query", QUERY, {"query": "words", "params": FREE}),
    "alias query": Taker("POST", f"{A}/{{alias}}/query", QUERY, {"query": "query", "params": FREE}),
    "alias operation": Taker("POST", f"{A}/{{alias}}/operations/put", {"key": "k"}, {"key": "words"}),
}  # fmt: skip
NOT_TEXT: list[Any] = [1, 1.5, True, [], ["x"], {}, {"a": 1}]
BAD_TEXT = ["\x00", "a\x00b", "x" * 10_000, "\ud800", "a\udfffb"]
WRONG: dict[str, list[Any]] = {
    TEXT: [*NOT_TEXT, *BAD_TEXT, "\x01", "a\nb", "\x7f"],
    "secret": [*NOT_TEXT, "\x00", "\ud800", "x" * 70_000],
    "words": [*NOT_TEXT, "\x00", "a\x00b", "\ud800", "a\udfffb"],
    "query": [*NOT_TEXT, "", "\x00", "a\x00b", "\ud800", "x" * 100_001],
    "number": ["5", [], {}, True, -1, 2**63 - 1, "x" * 10_000],
    "bool": [0, 1, "true", [], {}],
    OBJECT: [1, "x", [], True, [{}], "x" * 10_000],
    FREE: [1, "x", [], True],
    LIST: [1, "x", {}, [], [1], [None], ["\x00"], ["a b"], ["x" * 10_000], ["x"] * 1000, [[]]],
}
NESTED = 5000
"""Raw bodies that are wrong for every route: (what, bytes)."""
RAW: dict[str, bytes] = {
    "empty": b"",
    "blank": b"  \n",
    "not JSON": b"name=x",
    "cut": b'{"name": "x"',
    "more behind it": b"{} {}",
    "an array": b"[]",
    "an array of objects": b'[{"name": "x"}]',
    "a string": b'"x"',
    "null": b"null",
    "a number": b"1",
    "invalid UTF-8": b'{"name": "\xff\xfe"}',
    "overlong UTF-8": b'{"name": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"name": "\xed\xa0\x80"}',
    "UTF-16": '{"name": "x"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"name": "x"}',
    "a raw NUL": b'{"name": "\x00"}',
    "a raw control character": b'{"name": "\x01"}',
    "an escaped NUL": b'{"name": "a\\u0000b"}',
    "an escaped NUL in a name": b'{"na\\u0000me": 1}',
    "half a surrogate pair": b'{"name": "\\ud83d"}',
    "halves in the wrong order": b'{"name": "\\udc00\\ud800"}',
    "a name twice": b'{"name": "x", "name": "y"}',
    "a name twice by escape": b'{"name": "x", "n\\u0061me": "y"}',
    "a name twice inside": b'{"config": {"host": "a", "host": "b"}, "query": "x", "params": {"a": 1, "a": 2}}',
    "NaN": b'{"name": NaN}',
    "Infinity": b'{"params": {"a": -Infinity}, "config": {"port": Infinity}}',
    "an integer past 64 bits": b'{"query": "rows 1", "params": {"deep": [{"here": 18446744073709551616}]}}',
    "an integer of 5,000 digits": b'{"name": ' + b"9" * 5000 + b"}",
    "deep arrays": b'{"query": "rows 1", "params": {"a": ' + b"[" * NESTED + b"]" * NESTED + b"}}",
    "deep objects": b'{"query": "rows 1", "params": ' + b'{"a":' * NESTED + b"1" + b"}" * NESTED + b"}",
    "deep arrays that do not end": b"[" * 100_000,
    "deep objects that do not end": b'{"a":' * 100_000,
    "comments": b'{"name": "x" /* y */}',
    "single quotes": b"{'name': 'x'}",
    "a trailing comma": b'{"name": "x",}',
    "an unknown field": b'{"nonsense": 1}',
    "an unknown field of 10,000 characters": b'{"' + b"n" * 10_000 + b'": 1}',
    "ten thousand unknown fields": b"{" + b",".join(b'"f%d":1' % number for number in range(10_000)) + b"}",
    "a prototype": b'{"__proto__": {"role": "admin"}, "constructor": 1}',
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def target(api: Api) -> dict[str, str]:
    instance = await api.attached("main", read_only=False)
    return {"connector_id": instance["connector_id"], "agent_id": "agent-1", "alias": "main"}


def is_refused(reply: Reply) -> None:
    """A 4xx that names a field and repeats nothing."""
    assert 400 <= reply.status < 500, reply.body[:300]
    found = reply.problem
    assert found["code"] in {"invalid_request", "invalid_config", "override_not_allowed"}
    assert reply.fields
    assert all(reply.fields)
    assert len(reply.body) < 2_000_000


@pytest.mark.parametrize("what", RAW)
@pytest.mark.parametrize("taker", TAKERS.values(), ids=list(TAKERS))
async def test_a_body_that_is_no_plain_object_is_refused_by_field(
    api: Api, target: dict[str, str], taker: Taker, what: str
) -> None:
    before = await api.stored()
    reply = await api.call(taker.method, taker.path.format(**target), raw=RAW[what])
    is_refused(reply)
    assert await api.stored() == before


def changed(body: dict[str, Any], path: str, value: Any) -> bytes:
    found = json.loads(json.dumps(body))
    *parents, last = path.split(".")
    inner = found
    for name in parents:
        inner = inner.setdefault(name, {})
    inner[last] = value
    return json.dumps(found).encode()


@pytest.mark.parametrize(
    ("taker", "field"), [(taker, field) for taker in TAKERS.values() for field in taker.fields],
    ids=[f"{name} {field}" for name, taker in TAKERS.items() for field in taker.fields],
)  # fmt: skip
async def test_a_wrong_value_is_refused_by_its_fields_name(
    api: Api, target: dict[str, str], taker: Taker, field: str
) -> None:
    before = await api.stored()
    for value in WRONG[taker.fields[field]]:
        reply = await api.call(taker.method, taker.path.format(**target), raw=changed(taker.body, field, value))
        is_refused(reply)
        assert any(name == field or name.startswith(f"{field}.") for name in reply.fields) or reply.fields == ["provider"], (
            field, repr(value)[:80], reply.fields,
        )  # fmt: skip
    assert await api.stored() == before


@pytest.mark.parametrize("taker", TAKERS.values(), ids=list(TAKERS))
async def test_an_unknown_field_is_refused_by_its_name(api: Api, target: dict[str, str], taker: Taker) -> None:
    before = await api.stored()
    inside = [name for name, kind in taker.fields.items() if kind == OBJECT]
    for field in ["nonsense", *(f"{name}.nonsense" for name in inside)]:
        reply = await api.call(taker.method, taker.path.format(**target), raw=changed(taker.body, field, HIDDEN))
        is_refused(reply)
        assert field in reply.fields
    assert await api.stored() == before


@pytest.mark.parametrize("taker", TAKERS.values(), ids=list(TAKERS))
async def test_the_untouched_body_is_taken(api: Api, target: dict[str, str], taker: Taker) -> None:
    """The control: what the corpus changes is right before it is changed."""
    assert (await api.call(taker.method, taker.path.format(**target), taker.body)).status in {200, 201}


@pytest.mark.parametrize("taker", TAKERS.values(), ids=list(TAKERS))
async def test_ten_megabytes_are_not_read(api: Api, target: dict[str, str], taker: Taker) -> None:
    before = await api.stored()
    for raw in (b'{"name": "' + b"x" * 10_000_000 + b'"}', b" " * 10_000_000, b"\x00" * 10_000_000):
        reply = await api.call(taker.method, taker.path.format(**target), raw=raw)
        assert reply.is_problem(413, "invalid_request", "body")
    assert await api.stored() == before


@pytest.mark.parametrize(
    "value",
    [
        "18446744073709551616",
        "9" * 5000,
        "NaN",
        "-Infinity",
        "1e999",
        "-1E400",
        "1" + "0" * 400 + ".0",
        '"\\u0000"',
        '"\\udead"',
    ],
)
async def test_what_cannot_travel_safely_is_named_by_its_path(api: Api, target: dict[str, str], value: str) -> None:
    raw = f'{{"query": "rows 1", "params": {{"fine": 1.5e300, "deep": [{{"here": {value}}}]}}}}'.encode()
    reply = await api.call("POST", f"{C}/{target['connector_id']}/query", raw=raw)
    reply.is_problem(400, "invalid_request", "params.deep.0.here")


@pytest.mark.parametrize("depth", [65, 100, 300, 500, 700, 800, 850, 900, 925, 950, 975, 1000, 2000])
@pytest.mark.parametrize("form", ['{"a":%s}', "[%s]"])
async def test_no_depth_of_nesting_exhausts_the_stack(api: Api, target: dict[str, str], depth: int, form: str) -> None:
    before, after = form.split("%s")
    deep = before * depth + '"\\u0000"' + after * depth
    bodies = {
        f"{C}/{{connector_id}}": ("PUT", f'{{"config": {{"login": {deep}}}}}'),
        f"{C}/{{connector_id}}/attach": (
            "POST",
            f'{{"agent_id": "a", "alias": "b", "config_override": {{"database": {deep}}}}}',
        ),
        f"{C}/{{connector_id}}/query": ("POST", f'{{"query": "rows 1", "params": {{"a": {deep}}}}}'),
    }
    for path, (method, raw) in bodies.items():
        for text in (raw, raw.replace("\\u0000", "x")):
            reply = await api.call(method, path.format(**target), raw=text.encode())
            reply.is_problem(400, "invalid_request", "body")


async def test_sixty_levels_are_taken(api: Api, target: dict[str, str]) -> None:
    raw = '{"query": "rows 1", "params": {"a": ' + "[" * 60 + "]" * 60 + "}}"
    assert (await api.call("POST", f"{C}/{target['connector_id']}/query", raw=raw.encode())).status == 200


async def test_a_name_that_stands_twice_among_very_many_is_found_quickly(api: Api, target: dict[str, str]) -> None:
    names = "".join(f'"n{number}":1,' for number in range(30_000))
    start = time.perf_counter()
    reply = await api.call("POST", f"{C}/{target['connector_id']}/query", raw=f'{{{names}"x":1,"x":2}}'.encode())
    reply.is_problem(400, "invalid_request", "x")
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("number", ["9223372036854775807", "-9223372036854775808", "0", "-0", "1.5e300"])
async def test_a_number_of_64_bits_is_taken(api: Api, target: dict[str, str], number: str) -> None:
    path = f"{A}/{{alias}}/operations/put".format(**target)
    reply = await api.call("POST", path, raw=f'{{"key": "k", "value": {number}}}'.encode())
    assert reply.status == 200


@pytest.mark.parametrize(
    "name", ["ünï", "日本語", "😀", "a'b\"c", "a%b_c", "<script>", "../x", "' OR 1=1 --", "x" * 255]
)
async def test_a_name_of_any_script_is_kept_as_it_was_given(api: Api, name: str) -> None:
    made = (await api.call("POST", C, {"name": name, **TEST})).json
    assert (await api.call("GET", f"{C}/{made['id']}")).json["name"] == name
    assert (await api.call("GET", f"{C}?q={made['name'][:1]}")).status == 200


async def test_everything_that_was_refused_left_the_store_sound(api: Api) -> None:
    """Runs last: the kept count is the true one, and every connector still opens."""
    page = (await api.call("GET", f"{C}?limit=200")).json
    stored = await api.stored()
    acme = [row for row in stored[0] if "acme" in row]
    assert page["total"] == len(acme)
