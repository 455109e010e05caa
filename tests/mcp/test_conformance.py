"""The protocol's own conformance suite and its inspector, against a running server.

The suite sends no credentials, so a wrapper adds an agent's key to what it sends; nothing else of a
request is changed. Scenarios that need a server's special test tools, prompts, resources or sampling
are not about this server; those below are all that are.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.mcp.conftest import World, running
from tests.mcp.npm import MODULES, node

pytestmark = pytest.mark.server
SUITE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
INSPECTOR = MODULES / "@modelcontextprotocol" / "inspector-cli" / "build" / "index.js"
SCENARIOS: dict[str, set[str]] = {
    "server-initialize": set(),
    "server-session-lifecycle": set(),
    "ping": set(),
    "tools-list": set(),
    "dns-rebinding-protection": set(),
    "http-header-validation": set(),
    "server-stateless": {
        # Each wants a tool of the suite's own (test_missing_capability, test_streaming_elicitation, test_logging_tool).
        "sep-2575-server-rejects-undeclared-capability",
        "sep-2575-missing-capability-http-400",
        "sep-2575-http-server-no-independent-requests-on-stream",
        "sep-2575-server-no-log-without-loglevel",
    },
    "caching": {
        # This server has neither prompts nor resources, and says so in its capabilities.
        "sep-2549-prompts-list-caching-hints",
        "sep-2549-resources-list-caching-hints",
        "sep-2549-resources-templates-list-caching-hints",
    },
}
"""Scenario to the checks that cannot pass here, with the reason. Any other failure is one."""


def report_in(folder: Path) -> list[dict[str, Any]]:
    (report,) = folder.rglob("checks.json")
    found: list[dict[str, Any]] = json.loads(report.read_text())
    return found


@asynccontextmanager
async def authorized(world: World) -> AsyncIterator[str]:
    """The server, for clients without a key."""
    key = (b"authorization", f"Bearer {world.keys['agent']}".encode())

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [*scope["headers"], key]}
        await world.application(scope, receive, send)

    async with running(application) as base:
        yield f"{base}/mcp"


@pytest.mark.parametrize("scenario", SCENARIOS)
async def test_the_official_suite_finds_nothing_else(world: World, tmp_path: Path, scenario: str) -> None:
    async with authorized(world) as url:
        _, out = await node(SUITE, "server", "--url", url, "--scenario", scenario, "-o", tmp_path)
    checks = report_in(tmp_path)
    assert checks, out
    failed = {check["id"] for check in checks if check["status"] == "FAILURE"}
    assert failed == SCENARIOS[scenario], out
    assert scenario == "server-session-lifecycle" or any(check["status"] == "SUCCESS" for check in checks)


async def test_the_inspector_lists_and_calls_tools(world: World) -> None:
    async def inspect(*arguments: str) -> Any:
        url, key = f"{world.base}/mcp", world.keys["agent"]
        header = ("--transport", "http", "--header", f"Authorization: Bearer {key}")
        code, out = await node(
            INSPECTOR, url, *header, *arguments, folder=INSPECTOR.parent
        )  # it looks there for itself
        assert code == 0, out
        return json.loads(out)

    listed = await inspect("--method", "tools/list")
    assert [tool["name"] for tool in listed["tools"]] == ["list_connectors", "describe", "run"]
    arguments = ("--tool-arg", "alias=main_db", "--tool-arg", "query=SELECT count(*) AS n FROM users")
    called = await inspect("--method", "tools/call", "--tool-name", "run", *arguments)
    assert called["structuredContent"]["rows"] == [[250]]
