"""An OpenAPI document in the config becomes operations with schemas and effects."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.providers.rest_kit import api
from tests.upstreams.httpbin import Httpbin

from studio.errors import InvalidConfig, InvalidRequest, OperationNotSupported, ReadOnly
from studio.providers.rest.config import RestConfig
from studio.providers.rest.openapi import compact, documented
from studio.providers.rest.provider import Rest
from studio.services.connector_service import ConnectorService
from studio.settings import Settings
from studio.testing.http import reply, upstream

PETS = """
openapi: 3.0.3
info: {title: Pets, version: 2020-01-01}
servers: [{url: "http://169.254.169.254/"}]
paths:
  /teams/{team}/pets:
    parameters:
      - $ref: "#/components/parameters/Team"
    get:
      operationId: pets.list
      summary: List the pets of a team.
      parameters:
        - {name: limit, in: query, schema: {type: integer, minimum: 1, maximum: 100}}
        - {name: tag, in: query, schema: {type: array, items: {type: string}}, explode: false}
        - {name: color, in: query, schema: {type: array, items: {type: string}}}
        - {name: filter, in: query, style: deepObject, schema: {type: object}}
        - {name: X-Trace, in: header, schema: {type: string}}
        - {name: Authorization, in: header, schema: {type: string}}
      responses: {200: {description: fine}}
    post:
      operationId: pets.create
      summary: Add a pet.
      requestBody: {$ref: "#/components/requestBodies/Pet"}
      responses: {201: {description: made}}
  /teams/{team}/pets/{id}:
    delete:
      parameters:
        - $ref: "#/components/parameters/Team"
        - {name: id, in: path, required: true, schema: {type: string}}
      responses: {204: {description: gone}}
  /login:
    post:
      operationId: request
      requestBody:
        content:
          application/x-www-form-urlencoded: {schema: {type: object, properties: {user: {type: string}}}}
      responses: {200: {description: in}}
  /upload:
    post:
      operationId: upload
      requestBody: {content: {multipart/form-data: {schema: {type: object}}}}
      responses: {200: {description: in}}
  /cookie:
    get:
      operationId: cookie
      parameters: [{name: sid, in: cookie, required: true, schema: {type: string}}]
      responses: {200: {description: in}}
components:
  parameters:
    Team: {name: team, in: path, required: true, description: The team., schema: {type: string}}
  requestBodies:
    Pet: {required: true, content: {application/json: {schema: {$ref: "#/components/schemas/Pet"}}}}
  schemas:
    Pet:
      type: object
      required: [name]
      additionalProperties: false
      properties:
        name: {type: string, minLength: 1, example: Rex}
        kind: {type: string, enum: [cat, dog], nullable: true}
        age: {type: integer, minimum: 0, exclusiveMinimum: true}
        mother: {$ref: "#/components/schemas/Pet"}
        example: {type: string}
    Unused: {type: string}
"""


def operations(**config: Any) -> dict[str, Any]:
    parsed = RestConfig.parse({"base_url": "http://h", "openapi": PETS, **config})
    return {name: op.describe() for name, op in Rest.operations_for(parsed.split()[0]).items()}


def test_each_entry_is_an_operation_with_name_effect_and_schema() -> None:
    found = operations()
    assert {name: entry["effect"] for name, entry in found.items()} == {
        "request": "by_arguments", "pets_list": "read", "pets_create": "write", "delete_teams_team_pets_id": "delete",
        "request_2": "write",
    }  # fmt: skip
    listed = found["pets_list"]
    assert (listed["description"], listed["idempotent"]) == ("List the pets of a team.", True)
    assert list(listed["parameters"]["properties"]) == ["team", "limit", "tag", "color", "filter", "X-Trace"]
    assert listed["parameters"]["required"] == ["team"]
    assert listed["parameters"]["properties"]["team"]["description"] == "The team."
    pet = found["pets_create"]["parameters"]["$defs"]["Pet"]
    assert pet["properties"]["kind"] == {"type": ["string", "null"], "enum": ["cat", "dog", None]}
    assert pet["properties"]["age"] == {"type": "integer", "exclusiveMinimum": 0}
    assert pet["properties"]["mother"] == {"$ref": "#/$defs/Pet"}
    assert "example" in pet["properties"]
    assert set(found["pets_create"]["parameters"]["$defs"]) == {"Pet"}
    json.dumps(found)


def test_the_document_is_kept_small_and_is_its_own_fixed_point() -> None:
    kept = compact(PETS)
    assert compact(kept) == kept == compact(json.loads(kept))
    assert "169.254" not in kept
    assert "Rex" not in kept


async def test_an_operation_sends_what_the_document_says(httpbin: Httpbin) -> None:
    async with api(f"{httpbin.url}/anything", openapi=PETS) as rest:
        answer = await rest.run(
            "pets_list",
            team="a b",
            limit=5,
            tag=["x", "y,z"],
            color=["red", "blue"],
            filter={"age": 3},
            **{"X-Trace": "t"},
        )
        data = answer["data"]
        assert data["url"].partition("?")[0] == f"{httpbin.url}/anything/teams/a%20b/pets"
        assert data["args"] == {"limit": "5", "tag": "x,y,z", "color": ["red", "blue"], "filter[age]": "3"}
        assert data["headers"]["X-Trace"] == "t"
        made = await rest.run("pets_create", team="7", body={"name": "Rex", "mother": {"name": "Ada", "kind": None}})
        assert (made["data"]["method"], made["data"]["json"]["mother"]["name"]) == ("POST", "Ada")
        assert (await rest.run("delete_teams_team_pets_id", team="7", id="9"))["data"]["method"] == "DELETE"
        assert (await rest.run("request_2", body={"user": "a&b"}))["data"]["form"] == {"user": "a&b"}


@pytest.mark.parametrize(
    ("name", "given", "field"),
    [
        ("pets_list", {}, "team"),
        ("pets_list", {"team": 7}, "team"),
        ("pets_list", {"team": "a/../b"}, "team"),
        ("pets_list", {"team": ""}, "team"),
        ("pets_list", {"team": "a", "limit": 0}, "limit"),
        ("pets_list", {"team": "a", "limit": "5"}, "limit"),
        ("pets_list", {"team": "a", "limit": True}, "limit"),
        ("pets_list", {"team": "a", "limt": 5}, "limt"),
        ("pets_list", {"team": "a", "tag": [1]}, "tag.0"),
        ("pets_list", {"team": "a", "self": 1}, "self"),
        ("pets_create", {"team": "a"}, "body"),
        ("pets_create", {"team": "a", "body": {}}, "body.name"),
        ("pets_create", {"team": "a", "body": {"name": ""}}, "body.name"),
        ("pets_create", {"team": "a", "body": {"name": "x", "kind": "cow"}}, "body.kind"),
        ("pets_create", {"team": "a", "body": {"name": "x", "age": 0}}, "body.age"),
        ("pets_create", {"team": "a", "body": {"name": "x", "mother": {"nme": 1}}}, "body.mother.name"),
        ("pets_create", {"team": "a", "body": "x"}, "body"),
    ],
)
async def test_a_wrong_argument_is_named_and_nothing_is_sent(name: str, given: dict[str, Any], field: str) -> None:
    async with upstream(reply(200)) as server, api(server.url, openapi=PETS) as rest:
        with pytest.raises(InvalidRequest) as caught:
            await rest.run(name, **given)
        assert field in [error.field for error in caught.value.fields]
    assert not server.requests


def test_paths_that_are_not_allowed_are_not_offered() -> None:
    assert set(operations(allowed_paths=["/teams/*/pets"])) == {"request", "pets_list", "pets_create"}
    assert set(operations(allowed_paths=["/teams/7/**"])) == {
        "request", "pets_list", "pets_create", "delete_teams_team_pets_id",
    }  # fmt: skip
    assert set(operations(allowed_paths=["/nothing"])) == {"request"}


async def test_a_base_path_fills_the_names_that_it_covers(httpbin: Httpbin) -> None:
    found = operations(base_path="/teams/7")
    assert set(found) == {"request", "pets_list", "pets_create", "delete_teams_team_pets_id"}
    assert "team" not in found["pets_list"]["parameters"]["properties"]
    assert "required" not in found["pets_list"]["parameters"]
    async with api(f"{httpbin.url}/anything", openapi=PETS, base_path="/teams/7") as rest:
        assert (await rest.run("pets_list"))["data"]["url"] == f"{httpbin.url}/anything/teams/7/pets"
        with pytest.raises(InvalidRequest):
            await rest.run("pets_list", team="8")


async def test_the_service_lists_and_runs_them_for_an_agent(tmp_path: Path, httpbin: Httpbin) -> None:
    async with ConnectorService(Settings(data_dir=tmp_path)) as service:
        config = {"base_url": f"{httpbin.url}/anything", "openapi": PETS}
        made = await service.create(
            {"organization_id": "acme", "name": "pets", "connector_type": "api", "provider": "rest", "config": config}
        )
        await service.attach_to_agent(made["id"], "agent-123", "pets", {"base_path": "/teams/7"})
        offered = [entry["name"] for entry in await service.operations("agent-123", "pets")]
        assert offered == ["request", "pets_list"]
        result = await service.execute("pets_list", {"limit": 3}, agent_id="agent-123", alias="pets")
        assert result["data"]["url"] == f"{httpbin.url}/anything/teams/7/pets?limit=3"
        with pytest.raises(ReadOnly):
            await service.execute("pets_create", {"body": {"name": "x"}}, agent_id="agent-123", alias="pets")
        with pytest.raises(OperationNotSupported, match="pets_list"):
            await service.execute("request_2", {}, agent_id="agent-123", alias="pets")
        changed = await service.update(made["id"], {"config": {"openapi": PETS.replace("pets.list", "show")}})
        assert changed["version"] == 2
        assert "show" in [entry["name"] for entry in await service.operations("agent-123", "pets")]


@pytest.mark.parametrize(
    "document",
    [
        "", "[]", "text", "{", "swagger: '2.0'", {"openapi": "3.0.0"}, {"openapi": "3.0.0", "paths": {}},
        {"openapi": "3.0.0", "paths": {"/a": {"x": {}}}}, "openapi: 3.0.0\npaths: {/a: &a {get: *a}}",
        "[" * 100_000, "{" * 100_000, '{"a":' * 100_000, "a: " * 1000, "!!python/object/apply:os.system ['true']",
        {"openapi": "3.0.0", "paths": {"a{": {"get": {}}}}, {"openapi": "3.0.0", "paths": {"/{a}": {"get": {}}}},
        {"openapi": "3.0.0", "paths": {f"/p{n}": {"get": {}} for n in range(501)}},
        {"openapi": "3.0.0", "paths": {"/" + "x" * 300_000: {"get": {}}}}, "x" * (1 << 21), 7, None,
    ],
)  # fmt: skip
def test_what_is_no_usable_document_is_refused_quickly(document: Any) -> None:
    start = time.perf_counter()
    with pytest.raises(InvalidConfig):
        RestConfig.parse({"base_url": "http://h", "openapi": document if document is not None else 0})
    assert time.perf_counter() - start < 2


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema}
    return schema


async def test_schemas_that_branch_without_end_cost_little() -> None:
    names = [f"S{n}" for n in range(400)]
    chain = {
        name: {"anyOf": [{"$ref": f"#/components/schemas/{names[(n + 1) % 400]}"}] * 3} for n, name in enumerate(names)
    }
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/S0"}}}
    document = {
        "openapi": "3.1.0",
        "paths": {"/x": {"post": {"operationId": "x", "requestBody": {"content": content}}, "get": {
            "operationId": "y", "parameters": [{"name": "q", "in": "query", "schema": deep(25)}, {"$ref": "#/components/parameters/L"}],
        }}},
        "components": {"schemas": chain, "parameters": {"L": {"$ref": "#/components/parameters/L"}}},
    }  # fmt: skip
    chain["S15"] = {"type": "integer"}  # every branch fails, but only at its end
    start = time.perf_counter()
    answer = reply(200, b"1", Content_Type="application/json")
    async with upstream(answer) as server, api(server.url, openapi=document) as rest:
        assert (await rest.run("x", body=[1]))["data"] == 1
        assert (await rest.run("y", q=[]))["data"] == 1
    assert time.perf_counter() - start < 2


def test_a_large_document_is_read_in_good_time() -> None:
    schemas = {
        f"T{n}": {"type": "object", "properties": {f"p{k}": {"type": "string"} for k in range(5)}} for n in range(500)
    }
    paths = {
        f"/things{n}/{{id}}": {
            "get": {"operationId": f"get{n}", "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]},
        }
        for n in range(499)
    }  # fmt: skip
    start = time.perf_counter()
    text = compact({"openapi": "3.0.0", "paths": paths, "components": {"schemas": schemas}})
    assert len(documented(text)) == 499
    assert time.perf_counter() - start < 2
