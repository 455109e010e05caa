"""Spans as a collector gets them: one trace from the client's own to the operation, and no value in any."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
from typing import Any

from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from tests import poison
from tests.collector import collecting
from tests.mcp.conftest import META, MODERN, World, request

from studio.services import metrics, tracing
from studio.settings import Settings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
CANARY = "canary-4711"


def run(query: str, alias: str = "main_db", **meta: Any) -> dict[str, Any]:
    arguments = {"alias": alias, "query": query, "params": {"x": CANARY}}
    return request("tools/call", {"name": "run", "arguments": arguments, "_meta": {**META, **meta}})


HEADERS = {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "run"}


async def test_a_call_lies_in_the_trace_that_the_client_names_in_meta(
    world: World, spans: InMemorySpanExporter
) -> None:
    await world.send(run("SELECT :x AS x", traceparent=TRACEPARENT), **HEADERS)
    found = {span.name: span for span in spans.get_finished_spans()}
    call = found["tools/call run"]
    assert call.parent is not None
    assert (f"{call.context.trace_id:032x}", f"{call.parent.span_id:016x}") == (TRACE, PARENT)
    assert dict(call.attributes or {}) == {
        "mcp.method.name": "tools/call",
        "mcp.protocol.version": MODERN,
        "network.transport": "tcp",
        "gen_ai.tool.name": "run",
        "gen_ai.operation.name": "execute_tool",
    }
    operation = found["query sqlite"]
    assert operation.parent is not None
    assert operation.parent.span_id == call.context.span_id
    assert dict(operation.attributes or {}) == {
        "studio.provider": "sqlite",
        "db.system.name": "sqlite",
        "db.operation.name": "query",
        "db.response.returned_rows": 1,
    }


async def test_without_a_trace_of_the_clients_the_request_begins_one(world: World, spans: InMemorySpanExporter) -> None:
    for given in ({}, {"traceparent": "nonsense"}, {"traceparent": 7}):
        spans.clear()
        await world.send(run("SELECT :x AS x", **given), **HEADERS)
        found = {span.name: span for span in spans.get_finished_spans()}
        assert found["POST /mcp"].parent is None
        parent = found["tools/call run"].parent
        assert parent is not None
        assert parent.span_id == found["POST /mcp"].context.span_id


async def test_no_value_name_or_statement_stands_in_a_span_also_of_what_fails(
    world: World, spans: InMemorySpanExporter
) -> None:
    async with world.session.post(
        f"{world.base}/api/v1/agents/agent-1/connectors/main_db/query?{CANARY}=1",
        json={"query": f"SELECT '{CANARY}' FROM {CANARY}"},
        headers={"authorization": f"Bearer {world.keys['agent']}", "traceparent": TRACEPARENT},
    ) as answer:
        assert answer.status == 422
    await world.send(run(f"SELECT {CANARY}"), **HEADERS)
    await world.send(run("broken", alias="store"), **HEADERS)
    found = spans.get_finished_spans()
    told = "".join(span.to_json() for span in found)
    assert CANARY not in told
    assert "agent-1" not in told
    assert "main_db" not in told
    assert world.keys["agent"] not in told
    errors = {span.name: (span.attributes or {}).get("error.type") for span in found}
    assert errors["query sqlite"] == "invalid_request"
    assert errors["query toy"] == "upstream_error"
    assert errors["tools/call run"] == "tool_error"
    route = "POST /api/v1/agents/{agent_id}/connectors/{alias}/query"
    (http,) = [span for span in found if span.name == route]
    assert f"{http.context.trace_id:032x}" == TRACE
    assert (http.attributes or {})["http.response.status_code"] == 422


async def test_a_call_that_the_sampler_leaves_out_is_answered_all_the_same(world: World) -> None:
    tracing.use(TracerProvider(sampler=ALWAYS_OFF))
    try:
        assert (await world.data("run", alias="main_db", query="SELECT 1 AS one"))["rows"] == [[1]]
    finally:
        tracing.stop()


async def test_the_metrics_tell_the_same_story(world: World) -> None:
    tool = f"t{secrets.token_hex(4)}"
    await world.modern("tools/call", {"name": tool, "arguments": {}})
    await world.data("run", alias="main_db", query="SELECT 1 AS one")
    async with world.session.get(
        f"{world.base}/metrics", headers={"authorization": f"Bearer {world.keys['member']}"}
    ) as answer:
        text = await answer.text()
    labels = 'error_type="",gen_ai_tool_name="run",mcp_method_name="tools/call"'
    assert f"mcp_server_operation_duration_seconds_count{{{labels}" in text
    assert 'db_client_operation_duration_seconds_count{db_operation_name="query",db_system_name="sqlite"' in text
    assert tool not in text


def test_a_program_exports_its_spans_as_the_environment_says(settings: Settings) -> None:
    lines = [json.dumps(request("tools/list", {"_meta": {**META, "traceparent": TRACEPARENT}}))]
    with collecting() as collector:
        done = subprocess.run(
            [sys.executable, "-c", "from studio.cli import main; main()", "mcp", "--agent", "agent-1"],
            input="\n".join(lines) + "\n",
            env=poison.program(settings.data_dir.parent, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    (resource,) = collector.spans()
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.trace_id.hex(), span.parent_span_id.hex()) == ("tools/list", TRACE, PARENT)
    assert "studio-connectors" in str(resource.resource)
    counted = collector.metrics()["mcp.server.operation.duration"]
    assert counted.unit == "s"
    [point] = counted.histogram.data_points
    attributes = {one.key: one.value.string_value for one in point.attributes}
    assert attributes == {"mcp.method.name": "tools/list", "mcp.protocol.version": MODERN}
    assert (point.count, sum(point.bucket_counts)) == (1, 1)
    assert len(point.bucket_counts) == len(point.explicit_bounds) + 1


async def test_what_the_gate_refuses_is_traced_without_a_route_and_counted(
    world: World, spans: InMemorySpanExporter
) -> None:
    url = f"{world.base}/api/v1/connectors"
    async with world.session.get(url, headers={"host": f"{CANARY}.example", "traceparent": TRACEPARENT}) as answer:
        status = answer.status
    [span] = spans.get_finished_spans()
    assert span.name == "GET"
    assert dict(span.attributes or {}) == {"http.request.method": "GET", "http.response.status_code": status}
    assert f'studio_refused_requests_total{{status="{status}"}}'.encode() in metrics.render()
