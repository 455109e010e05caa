"""The running service against its own OpenAPI document: what it takes, what it refuses, and what it answers.

Schemathesis makes requests that fit the document and requests that do not, the same ones in each run.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import hypothesis
import pytest
import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.checks import CheckFunction
from schemathesis.specs.openapi import checks
from tests.surfaces.conftest import Server

from studio.app import Application
from studio.settings import Settings

EXAMPLES = 4
"""Random ones for each operation, after those of the coverage phase."""
MEANING = {
    "POST /api/v1/connectors": "a config is a provider's own, see /connectors/types/{provider}",
    "POST /api/v1/connectors/test": "a config is a provider's own, see /connectors/types/{provider}",
    "PUT /api/v1/connectors/{connector_id}": "a config is a provider's own",
    "POST /api/v1/connectors/{connector_id}/rotate": "a config is a provider's own",
    "POST /api/v1/connectors/{connector_id}/attach": "an override is a provider's own",
    "PUT /api/v1/keys/{key_id}": "what is narrower hangs on what the key has",
    "POST /api/v1/connectors/{connector_id}/saved-operations": "the statement must take the parameters",
    "POST /api/v1/connectors/{connector_id}/query": "a statement is the upstream's own language",
    "POST /api/v1/connectors/{connector_id}/operations/{operation}": "arguments are the operation's own",
    "POST /api/v1/agents/{agent_id}/connectors/{alias}/query": "a statement is the upstream's own language",
    "POST /api/v1/agents/{agent_id}/connectors/{alias}/operations/{operation}": "arguments are the operation's own",
    "POST /mcp": "messages are specified by MCP",
}
"""Operations that may refuse what fits the document, and why the document cannot say it."""
ANSWERED = {
    "POST /mcp": "JSON-RPC answers an error with 200",
}
"""Operations that may answer 200 to what does not fit the document, and why."""


def _document() -> dict[str, Any]:
    return Application(Settings()).management.openapi()


config = schemathesis.Config.from_dict({"seed": 1})
schema = schemathesis.openapi.from_dict(_document(), config=config)


class Store:
    """A server with one of everything, and requests of its own to make more."""

    def __init__(self, server: Server) -> None:
        self.url, self.session = server.url, requests.Session()
        self.session.trust_env = False
        self.session.headers["authorization"] = f"Bearer {server.key}"
        self._count = itertools.count()
        self.names = self.made()

    def post(self, path: str, body: Any) -> dict[str, Any]:
        reply = self.session.post(f"{self.url}/api/v1{path}", json=body)
        assert reply.ok, reply.text
        found: dict[str, Any] = reply.json()
        return found

    def made(self) -> dict[str, str]:
        """A new connector with an attachment and a saved operation, and a new key: what stands in paths."""
        number = next(self._count)
        body = {"name": f"db {number}", "connector_type": "database", "provider": "sqlite"}
        connector = self.post("/connectors", {**body, "config": {"path": "app.db"}})
        at = f"/connectors/{connector['id']}"
        instance = self.post(f"{at}/attach", {"agent_id": "agent-1", "alias": f"db-{number}"})
        saved = {"name": "all_users", "description": "Users", "query": "SELECT * FROM users"}
        self.post(f"{at}/saved-operations", saved)
        key = self.post("/keys", {"agent_id": "agent-1"})
        return {
            "connector_id": connector["id"],
            "instance_id": instance["id"],
            "agent_id": "agent-1",
            "alias": instance["alias"],
            "name": "all_users",
            "operation": "all_users",
            "key_id": key["id"],
            "provider": "sqlite",
        }


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("data")
    (folder / "files").mkdir()
    with closing(sqlite3.connect(folder / "files" / "app.db")) as database:
        database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
        database.execute("INSERT INTO users (name) VALUES ('Ada')")
        database.commit()
    nowhere = ("0.0.0.0/0", "::/0")  # a config may name any host
    server = Server(
        Settings(
            data_dir=folder,
            rate_limit_per_s=0,
            organization_rate_limit_per_s=0,
            health_interval_s=0,
            egress_deny=nowhere,
        )
    )
    server.start()
    found = Store(server)
    yield found
    found.session.close()
    server.stop()


def _checks(label: str) -> list[CheckFunction]:
    found = [
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
        checks.unsupported_method,
    ]
    if label not in ANSWERED:
        found.append(checks.negative_data_rejection)
    if label not in MEANING:
        found.append(checks.positive_data_acceptance)
    return [schemathesis.checks.not_a_server_error, *found]


@schema.parametrize()
@hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
def test_the_service_and_its_document_agree(case: schemathesis.Case, store: Store) -> None:
    meta = case.meta
    if meta is not None and meta.generation.mode is GenerationMode.POSITIVE:
        names = store.made() if case.method in {"DELETE", "PUT"} else store.names
        case.path_parameters = {name: names[name] for name in case.path_parameters or {}}
        if case.operation.label == "POST /api/v1/connectors":
            case.query.pop("test", None)  # a 502 is the right answer where the new connector's host is not there
    case.call_and_validate(base_url=store.url, session=store.session, checks=_checks(case.operation.label))
