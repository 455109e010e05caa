"""The `graphql` provider on a real server: conformance, operations, schema, limits, faults."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import poison
from tests.servers import certificates
from tests.upstreams.graphql import GraphqlApi

from studio.errors import (
    AuthFailed,
    InvalidRequest,
    OperationNotSupported,
    RateLimited,
    ReadOnly,
    ResultBlocked,
    StudioError,
    Unreachable,
    UpstreamError,
)
from studio.providers.graphql import schema as graphql_schema
from studio.providers.graphql.provider import Graphql
from studio.services.connector_service import ConnectorService
from studio.testing.api import ApiConformance
from studio.testing.harness import call, open_provider
from studio.testing.http import Received, reply, upstream

pytestmark = pytest.mark.server

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "graphql.md"


class TestGraphql(ApiConformance):
    """The family's suite."""

    kind = "graphql"
    endpoint = "endpoint"
    one = "{ hello }"
    slow = "{ slow(seconds: 10) }"
    broken = "{ fail }"
    write = 'mutation { addUser(user: {name: "x"}) { id } }'

    @pytest.fixture
    async def config(self, graphql_api: GraphqlApi) -> dict[str, Any]:
        return graphql_api.config()


@pytest.fixture
async def api(graphql_api: GraphqlApi) -> AsyncIterator[Any]:
    async with open_provider(Graphql, graphql_api.config(read_only=False)) as provider:
        yield provider


def answers(data: Any = None, errors: Any = None, status: int = 200, **headers: str) -> bytes:
    document = {name: value for name, value in (("data", data), ("errors", errors)) if value is not None}
    return reply(status, json.dumps(document).encode(), Content_Type="application/json", **headers)


def plain(url: str, **config: Any) -> Any:
    """A provider without introspection, on a server of the test's own."""
    return open_provider(Graphql, {"endpoint": url, "introspect": False, "read_only": False, **config})


async def slow_running(server: GraphqlApi, *, number: int = 1) -> None:
    """Wait until the server works on so many slow fields."""
    async with asyncio.timeout(5):
        while (await asyncio.to_thread(server.state))["slow"] != number:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


# -- operations -----------------------------------------------------------------------------------


async def test_a_query_answers_its_data_in_canonical_form(api: Any) -> None:
    text = "query One($id: ID!) { user(id: $id) { name role posts(first: 1) { title rating day } } }"
    result = await call(api, "query", query=text, variables={"id": "1"})
    post = {"title": "Post 0", "rating": "4.50", "day": "2026-01-01"}
    assert result.data == {"user": {"name": "Ada", "role": "ADMIN", "posts": [post]}}
    assert (result.row_count, result.truncated) == (1, False)


async def test_a_mutation_writes_and_the_server_has_it(api: Any, graphql_api: GraphqlApi) -> None:
    text = "mutation ($user: NewUser!) { addUser(user: $user) { id name } }"
    name = 'Bob"}) { secret } #'
    result = await call(api, "mutate", query=text, variables={"user": {"name": name, "tags": ["a"]}})
    assert graphql_api.state()["users"][result.data["addUser"]["id"]] == name


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        ("{ hello }", "query"),
        ("\ufeff # mutation {\n, query mutation { hello }", "query"),
        ("mutation { a }", "mutate"),
        ('fragment mutation on Query { a(x: "}") } query { hello ...mutation }', "query"),
        ('"mutation" { a }', "query"),
        ('fragment f on M { a(x: """{ \\""" }""") } mutation { ...f }', "mutate"),
        ("subscription { a }", "query"),
        ("", "query"),
        ("}}}} mutation", "query"),
    ],
)
def test_execute_query_chooses_the_verb_by_the_document(text: str, verb: str) -> None:
    assert Graphql.native(text, {"a": 1}) == (verb, {"query": text, "variables": {"a": 1}})


async def test_each_verb_takes_its_own_kind_only(api: Any, graphql_api: GraphqlApi) -> None:
    before = graphql_api.state()["users"]
    with pytest.raises(InvalidRequest, match="run it with the operation mutate"):
        await call(api, "query", query='mutation { addUser(user: {name: "x"}) { id } }')
    with pytest.raises(InvalidRequest, match="run it with the operation query"):
        await call(api, "mutate", query="{ hello }")
    with pytest.raises(InvalidRequest, match="subscription"):
        await call(api, "query", query="subscription { hello }")
    two = 'query A { hello } mutation B { addUser(user: {name: "x"}) { id } }'
    with pytest.raises(InvalidRequest, match="operation mutate"):
        await call(api, "query", query=two, operation_name="B")
    assert graphql_api.state()["users"] == before


async def test_only_the_chosen_operation_of_a_document_is_sent() -> None:
    """So a server that runs another one than it was told cannot make a query of ours write."""
    async with upstream(answers({"a": 1})) as server, plain(server.url) as api:
        text = "query A { a ...F } mutation B { b } fragment F on Q { c } fragment G on Q { d } # mutation C { c }"
        await call(api, "query", query=text, operation_name="A")
    sent = json.loads(server.requests[0].body)
    assert sent["operationName"] == "A"
    assert "mutation" not in sent["query"]
    assert "fragment F" in sent["query"]
    assert "fragment G" not in sent["query"]


async def test_a_read_only_provider_refuses_to_mutate_before_anything_is_sent() -> None:
    async with upstream(answers({"a": 1})) as server, plain(server.url, read_only=True) as api:
        with pytest.raises(ReadOnly):
            await call(api, "mutate", query="mutation { a }")
    assert not server.requests


async def test_no_agent_mutates_through_a_read_only_attachment(graphql_api: GraphqlApi, tmp_path: Path) -> None:
    from studio.settings import Settings

    before = graphql_api.state()["users"]
    async with ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        body = {"organization_id": "acme", "name": "it", "connector_type": "api", "provider": "graphql"}
        made = await service.create({**body, "config": graphql_api.config(read_only=False)})
        await service.attach_to_agent(made["id"], "agent-1", "book", {"read_only": True})
        write = 'mutation { addUser(user: {name: "x"}) { id } }'
        for asked in ({"query": write}, {"query": f"query A {{ hello }} {write}"}, {"query": "# query\n" + write}):
            with pytest.raises((ReadOnly, InvalidRequest)):
                await service.execute_query(agent_id="agent-1", alias="book", **asked)
        with pytest.raises(InvalidRequest):
            await service.execute("query", {"query": write}, agent_id="agent-1", alias="book")
    assert graphql_api.state()["users"] == before


# -- variables ------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_no_value_of_a_variable_changes_the_document() -> None:
    async def all_of_it() -> None:
        async with upstream(answers({"a": 1})) as server, plain(server.url) as api:
            text = "query ($v: Any) { a(v: $v) }"

            async def send(value: Any) -> None:
                try:
                    await call(api, "query", query=text, variables={"v": value})
                except InvalidRequest:
                    # Halves of surrogate pairs and infinities are refused.
                    assert re.search(r"\\ud|Infinity", json.dumps(value))
                    return
                sent = json.loads(server.requests[-1].body)
                assert sent["variables"] == {"v": value}
                assert sent["query"] == "query ($v: Any) {\n  a(v: $v)\n}"

            loop = asyncio.get_running_loop()

            @settings(max_examples=150, deadline=None)
            @given(value=JSON)
            def generated(value: Any) -> None:
                asyncio.run_coroutine_threadsafe(send(value), loop).result(10)

            await asyncio.to_thread(generated)

    asyncio.run(all_of_it())


async def test_missing_unknown_and_wrong_variables_are_named_and_nothing_is_sent(
    api: Any, graphql_api: GraphqlApi
) -> None:
    text = "query ($id: ID!, $n: Int = 2) { user(id: $id) { posts(first: $n) { title } } }"
    await call(api, "query", query=text, variables={"id": "1"})
    before = graphql_api.state()["calls"]
    for variables, named in (
        ({}, "variables.id"), (None, "variables.id"), ({"id": None}, "variables.id"),
        ({"id": "1", "extra": 1}, r"variables\.extra.*\$id, \$n"), ({"id": "1", "n": "x"}, r"\$n"), ({"id": [1]}, r"\$id"),
        ({"id": 2**70}, "JSON"),
    ):  # fmt: skip
        with pytest.raises(InvalidRequest, match=named):
            await call(api, "query", query=text, variables=variables)
    assert graphql_api.state()["calls"] == before


# -- the schema -----------------------------------------------------------------------------------


async def test_a_mistyped_name_is_answered_with_what_was_probably_meant(api: Any, graphql_api: GraphqlApi) -> None:
    await call(api, "query", query="{ hello }")
    before = graphql_api.state()["calls"]
    for text, said in (
        ("{ helo }", "Did you mean 'hello'"),
        ('{ user(id: "1") { nme } }', "Did you mean 'name'"),
        ('{ user(idd: "1") { name } }', "Did you mean 'id'"),
        ("query ($u: NewUsr) { hello }", "NewUser"),
        ("{ user { name } }", "required"),
    ):
        for _ in range(2):
            with pytest.raises(InvalidRequest, match=said):
                await call(api, "query", query=text)
    assert graphql_api.state()["calls"] == before


async def test_the_schema_is_read_once_for_a_hundred_callers(graphql_api: GraphqlApi) -> None:
    async with open_provider(Graphql, graphql_api.config()) as provider:
        before = graphql_api.state()["calls"]
        await asyncio.gather(*(call(provider, "query", query="{ hello }") for _ in range(100)))
        assert graphql_api.state()["calls"] == before + 101


async def test_names_come_first_then_a_type_then_a_field(api: Any) -> None:
    names = (await call(api, "schema")).data
    assert names == {
        "queries": ["hello", "user", "numbers", "slow", "fail"],
        "mutations": ["addUser"],
        "types": {
            "objects": ["User", "Post"],
            "enums": ["Role"],
            "scalars": ["Decimal", "Date"],
            "inputs": ["NewUser"],
        },
    }
    assert (await call(api, "schema", search="use")).data == {
        "queries": ["user"], "mutations": ["addUser"], "types": {"objects": ["User"], "inputs": ["NewUser"]},
    }  # fmt: skip
    assert (await call(api, "schema", name="User")).data == (
        "# Somebody in the address book.\ntype User {\n  id: ID!\n  name: String!\n  role: Role!\n"
        "  posts(first: Int! = 3): [Post!]!  # What they wrote, newest first.\n  secret: String\n}"
    )
    for name in ("addUser", "Mutation.addUser"):
        assert (await call(api, "schema", name=name)).data.startswith(
            "Mutation.addUser(user: NewUser!): User!\ninput NewUser {\n  name: String!\n  role: Role! = MEMBER\n"
            "  tags: [String!] = null\n}\nenum Role { MEMBER ADMIN }\ntype User {"
        )
    assert (await call(api, "schema", name="Role")).data.endswith("enum Role { MEMBER ADMIN }")


async def test_an_unknown_name_of_the_schema_is_answered_with_similar_ones(api: Any) -> None:
    for name, said in (("Usr", "'User'"), ("User.nme", "'name'"), ("Role.x", "no such field"), ("", "no type")):
        with pytest.raises(InvalidRequest, match=said):
            await call(api, "schema", name=name)


async def test_long_lists_of_names_are_cut_at_max_rows(graphql_api: GraphqlApi) -> None:
    async with open_provider(Graphql, graphql_api.config(max_rows=2)) as provider:
        result = await call(provider, "schema")
    assert (result.data["queries"], result.truncated) == (["hello", "user"], True)


async def test_without_introspection_nothing_is_asked_and_nobody_else_may() -> None:
    async with upstream(answers({"a": 1})) as server, plain(server.url) as api:
        await call(api, "query", query="{ anything(at: all) { __typename } }")
        with pytest.raises(OperationNotSupported, match="introspect"):
            await call(api, "schema")
        for text in (
            "{ __schema { types { name } } }",
            '{ ...F } fragment F on Query { x: __type(name: "A") { name } }',
        ):
            with pytest.raises(InvalidRequest, match="introspection"):
                await call(api, "query", query=text)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "refusal",
    [
        answers(errors=[{"message": "GraphQL introspection is not allowed"}], status=400),
        answers(errors=[{"message": "no"}]),
        answers({"__schema": {"nonsense": []}}),
        reply(403, b"forbidden"),
        reply(401, b"{}"),
        reply(500, b"oops"),
        reply(200, b"<html>", Content_Type="text/html"),
        reply(200, b'{"data": {"__schema": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001, Content_Type="application/json"),
    ],
)
async def test_an_api_that_keeps_its_schema_to_itself_is_used_without(refusal: bytes) -> None:
    def serve(request: Received) -> bytes:
        return refusal if b"__schema" in request.body else answers({"a": 1})

    async with upstream(serve) as server, open_provider(Graphql, {"endpoint": server.url}) as api:
        for _ in range(3):
            assert (await call(api, "query", query="{ a }")).data == {"a": 1}
        assert len(server.requests) == 4
        with pytest.raises(UpstreamError, match="introspection"):
            await call(api, "schema")


async def test_a_slow_schema_holds_a_query_up_for_half_its_deadline_at_most() -> None:
    async def serve(request: Received) -> bytes:
        if b"__schema" in request.body:
            await asyncio.sleep(30)
        return answers({"a": 1})

    async with upstream(serve) as server:
        async with open_provider(Graphql, {"endpoint": server.url, "timeout_s": 0.4}) as api:
            start = time.perf_counter()
            assert (await call(api, "query", query="{ a }")).data == {"a": 1}
            assert 0.19 < time.perf_counter() - start < 0.35
            await asyncio.sleep(0.3)  # the schema's own deadline passes
            start = time.perf_counter()
            await call(api, "query", query="{ a }")
            assert time.perf_counter() - start < 0.1
        assert await server.drained()


async def test_a_schema_that_is_being_read_ends_with_its_session() -> None:
    async def serve(_request: Received) -> bytes:
        await asyncio.sleep(30)
        return b""

    async with upstream(serve) as server:
        async with open_provider(Graphql, {"endpoint": server.url}) as api:
            task = asyncio.create_task(call(api, "query", query="{ a }"))
            await asyncio.sleep(0.1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert await server.drained()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("studio-")]


async def test_a_field_that_is_new_upstream_is_found_before_a_query_is_refused(
    graphql_api: GraphqlApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_provider(Graphql, graphql_api.config()) as provider:
        await call(provider, "query", query="{ hello }")
        source = provider._schema  # type: ignore[attr-defined]
        fields = source._known.schema.query_type.fields
        del fields["numbers"]
        with pytest.raises(InvalidRequest, match="numbers"):
            await call(provider, "query", query="{ numbers(count: 1) }")
        monkeypatch.setattr(graphql_schema, "DOUBT_S", 0.0)
        assert (await call(provider, "query", query="{ numbers(count: 1) }")).data == {"numbers": [0]}


async def test_an_old_schema_is_renewed_behind_the_callers_back(
    graphql_api: GraphqlApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_provider(Graphql, graphql_api.config()) as provider:
        await call(provider, "query", query="{ hello }")
        first = provider._schema._known  # type: ignore[attr-defined]
        monkeypatch.setattr(graphql_schema, "KEEP_S", 0.0)
        await call(provider, "query", query="{ hello }")
        await provider._schema._reading  # type: ignore[attr-defined]
        assert provider._schema._known is not first  # type: ignore[attr-defined]


# -- answers --------------------------------------------------------------------------------------


async def test_partial_data_comes_with_its_errors(api: Any) -> None:
    result = await call(api, "query", query='{ user(id: "1") { name secret } }')
    assert result.data == {
        "data": {"user": {"name": "Ada", "secret": None}},
        "errors": [{"message": "not for you", "path": "user.secret"}],
    }


async def test_errors_without_data_say_where_and_why(api: Any) -> None:
    with pytest.raises(UpstreamError, match=r"fail: it broke: a b$"):
        await call(api, "query", query="{ fail }")


@pytest.mark.parametrize(
    ("answer", "error", "said"),
    [
        (answers(errors=[{"message": "x", "extensions": {"code": "UNAUTHENTICATED"}}]), AuthFailed, "x"),
        (answers(errors=[{"message": "x", "extensions": {"code": "THROTTLED"}}]), RateLimited, "x"),
        (answers(errors=[{"message": "x", "extensions": {"code": "GRAPHQL_VALIDATION_FAILED"}}]), InvalidRequest, "x"),
        (answers(errors=[{"message": "x"}], status=500), UpstreamError, "x"),
        (answers(errors=["just text"]), UpstreamError, "just text"),
        (answers(errors=[{"no": "message"}]), UpstreamError, "no message"),
        (answers(errors=[], status=400), UpstreamError, "400"),
        (answers(errors=[]), UpstreamError, "GraphQL"),
        (reply(200, b"[1]", Content_Type="application/json"), UpstreamError, "GraphQL"),
        (reply(200, b"<html>", Content_Type="text/html"), UpstreamError, "GraphQL"),
        (reply(200, b"{", Content_Type="application/json"), UpstreamError, "JSON"),
        (reply(502, b"{", Content_Type="application/json"), UpstreamError, "502"),
        (reply(200, b'{"data":' + b"[" * 3000, Content_Type="application/json"), UpstreamError, "nested|JSON"),
        (reply(401, b"{}"), AuthFailed, "credentials"),
        (reply(302, Location="http://x/"), UpstreamError, "redirect"),
    ],
)
async def test_each_bad_answer_is_an_error_of_ours(answer: bytes, error: type[StudioError], said: str) -> None:
    async with upstream(answer) as server, plain(server.url) as api:
        with pytest.raises(error, match=said):
            await call(api, "mutate", query="mutation { a }")


async def test_nothing_but_message_path_and_code_of_an_error_is_shown() -> None:
    error = {
        "message": "m" * 5000,
        "path": ["a", 0],
        "extensions": {"code": "X\nY", "trace": "canary"},
        "locations": [1],
    }
    async with upstream(answers({"a": 1}, [error] * 50)) as server, plain(server.url) as api:
        shown = (await call(api, "query", query="{ a }")).data["errors"]
    assert shown == [{"message": "m" * 300, "path": "a.0"}] * 20


async def test_lists_are_cut_at_max_rows_and_answers_bounded_by_max_bytes(graphql_api: GraphqlApi) -> None:
    async with open_provider(Graphql, graphql_api.config(max_rows=3, max_bytes=1024)) as provider:
        three = await call(provider, "query", query="{ numbers(count: 3) }")
        assert (three.data, three.row_count, three.truncated) == ({"numbers": [0, 1, 2]}, 3, False)
        four = await call(provider, "query", query="{ numbers(count: 4) }")
        assert (four.data, four.row_count, four.truncated) == ({"numbers": [0, 1, 2]}, 3, True)
        with pytest.raises(ResultBlocked, match="max_bytes"):
            await call(provider, "query", query="{ numbers(count: 1000) }")


async def test_what_an_error_repeats_of_the_credentials_is_taken_out(graphql_api: GraphqlApi) -> None:
    secret = 'wr0ng#@/:%" canary'
    wrong = graphql_api.config(auth={"type": "bearer", "token": secret})
    async with open_provider(Graphql, wrong) as provider:
        with pytest.raises(AuthFailed) as caught:
            await call(provider, "query", query="{ hello }")
        assert "canary" not in caught.value.message
    async with (
        upstream(answers({"a": f"Bearer {secret}"}, [{"message": secret}])) as server,
        plain(server.url, auth={"type": "bearer", "token": secret}) as api,
    ):
        assert "canary" not in json.dumps((await call(api, "query", query="{ a }")).data)


async def test_no_log_holds_a_credential_or_a_value(graphql_api: GraphqlApi, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_provider(Graphql, graphql_api.config()) as provider:
        await call(provider, "query", query="query ($n: String!) { hello(name: $n) }", variables={"n": "canary-value"})
    assert graphql_api.token not in caplog.text
    assert "canary-value" not in caplog.text


# -- faults ---------------------------------------------------------------------------------------


async def test_a_test_says_whether_queries_are_checked(graphql_api: GraphqlApi, tmp_path: Path) -> None:
    from studio.settings import Settings

    async with ConnectorService(Settings(data_dir=tmp_path / "s")) as service:
        body = {"connector_type": "api", "provider": "graphql"}
        for config, said in (
            (graphql_api.config(), None),
            (graphql_api.config(introspect=False), "introspect is off"),
        ):
            tested = await service.test_config({**body, "config": config})
            assert tested["success"], tested
            assert (tested["stages"][-1].get("detail") or "")[:17] == (said or "")


async def test_tls_is_checked_against_the_ca(graphql_tls: GraphqlApi) -> None:
    async with open_provider(Graphql, graphql_tls.config(ssl_ca=certificates().ca)) as provider:
        assert (await call(provider, "query", query="{ hello }")).data == {"hello": "Hello World"}
    async with open_provider(Graphql, graphql_tls.config()) as provider:
        with pytest.raises(Unreachable, match="certificate"):
            await call(provider, "query", query="{ hello }")
    async with open_provider(
        Graphql, graphql_tls.config(endpoint=graphql_tls.url.replace("https", "http"))
    ) as provider:
        with pytest.raises(Unreachable):
            await call(provider, "query", query="{ hello }")


async def test_a_server_killed_in_the_middle_of_a_call_heals_with_the_next(own_graphql: GraphqlApi) -> None:
    async with open_provider(Graphql, own_graphql.config()) as provider:
        await call(provider, "query", query="{ hello }")
        running = asyncio.create_task(call(provider, "query", query="{ slow(seconds: 20) }"))
        await slow_running(own_graphql)
        await asyncio.to_thread(own_graphql.crash)
        with pytest.raises(Unreachable):
            await running
        with pytest.raises(Unreachable):
            await call(provider, "query", query="{ hello }")
        await asyncio.to_thread(own_graphql.restart)
        results = await asyncio.gather(*(call(provider, "query", query="{ hello }") for _ in range(20)))
        assert all(result.data == {"hello": "Hello World"} for result in results)


async def test_a_cancelled_query_stops_upstream(graphql_api: GraphqlApi) -> None:
    async with open_provider(Graphql, graphql_api.config()) as provider:
        task = asyncio.create_task(call(provider, "query", query="{ slow(seconds: 20) }"))
        await slow_running(graphql_api)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await slow_running(graphql_api, number=0)


async def test_a_mutation_is_never_sent_twice_and_a_query_may_be() -> None:
    async with upstream(b"") as server, plain(server.url) as api:
        with pytest.raises(Unreachable):
            await call(api, "mutate", query="mutation { a }")
        assert len(server.requests) == 1
        with pytest.raises(Unreachable):
            await call(api, "query", query="{ a }")
        assert len(server.requests) == 4


def test_the_page_is_true(graphql_api: GraphqlApi, tmp_path: Path) -> None:
    [example] = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    env = poison.program(tmp_path) | {
        "GRAPHQL_URL": graphql_api.url,
        "GRAPHQL_TOKEN": graphql_api.token,
    }
    done = subprocess.run([sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, env=env)
    expected = "Connection successful\n{'user': {'name': 'Ada'}}\nquery: does not fit the API's schema: "
    assert (done.stdout[: len(expected)], done.stderr) == (expected, "")
    assert "Did you mean 'name'" in done.stdout
