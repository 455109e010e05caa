"""Spans of what a server does by itself and of rotations: the same outcomes as the metrics count, and no value."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests import toy
from tests.services.test_alerts import Receiver, delivered, fail, receiver, told_to  # noqa: F401
from tests.services.test_health import down, made, turn  # noqa: F401

from studio.errors import AuthFailed
from studio.services import metrics
from studio.services.connector_service import ConnectorService
from studio.settings import Settings


def last(spans: InMemorySpanExporter, name: str) -> tuple[ReadableSpan, Mapping[str, Any]]:
    found = [span for span in spans.get_finished_spans() if span.name == name][-1]
    return found, dict(found.attributes or {})


def counted(line: str) -> float:
    return sum(float(one.split()[-1]) for one in metrics.render().decode().splitlines() if one.startswith(line))


async def test_a_probe_is_a_span_with_its_outcome(
    service: ConnectorService, spans: InMemorySpanExporter, down: set[str]  # noqa: F811
) -> None:  # fmt: skip
    connector_id = await made(service)
    await turn(service)
    assert last(spans, "probe toy")[1] == {"studio.provider": "toy"}
    down.add((await service.get(connector_id))["config"]["host"])
    await turn(service)
    span, attributes = last(spans, "probe toy")
    assert not span.status.is_ok
    assert counted(f'studio_probes_total{{outcome="{attributes["error.type"]}",provider="toy"}}') >= 1


async def test_a_rotation_is_a_span_with_its_outcome(service: ConnectorService, spans: InMemorySpanExporter) -> None:
    connector_id = await made(service)
    with pytest.raises(AuthFailed):
        await service.rotate(connector_id, {"config": {"password": "wrong"}})
    assert last(spans, "rotate toy")[1] == {"studio.provider": "toy", "error.type": "auth_failed"}
    await service.rotate(connector_id, {"config": {"password": "right", "login": {"token": "t2"}}})
    assert last(spans, "rotate toy")[1] == {"studio.provider": "toy"}


async def test_a_delivery_of_an_alert_is_a_span_with_its_outcome(
    settings: Settings, toys: type[toy.Toy], receiver: Receiver, spans: InMemorySpanExporter  # noqa: F811
) -> None:  # fmt: skip
    receiver.answers = [400]
    async with told_to(settings, alert_webhook_url=receiver.url) as service:
        await fail(service, await made(service))
        await delivered(service)
        assert last(spans, "alert webhook")[1] == {"studio.alert.channel": "webhook", "error.type": "upstream_error"}
        await delivered(service)
        assert last(spans, "alert webhook")[1] == {"studio.alert.channel": "webhook"}
    assert receiver.url not in "".join(span.to_json() for span in spans.get_finished_spans())
