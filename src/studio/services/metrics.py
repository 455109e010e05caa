"""What happened, in numbers: operations by provider, operation and outcome, and how long they took."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_registry = CollectorRegistry()
_operations = Counter(
    "studio_operations", "Operations by outcome (ok or an error code).", ("provider", "operation", "outcome"),
    registry=_registry,
)  # fmt: skip
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_seconds = Histogram(
    "studio_operation_seconds", "Time of one operation, queueing included.", ("provider", "operation"),
    buckets=_BUCKETS, registry=_registry,
)  # fmt: skip
_databases = Histogram(
    "db_client_operation_duration_seconds", "Time of one operation on a database.",
    ("db_system_name", "db_operation_name", "error_type"), buckets=_BUCKETS, registry=_registry,
)  # fmt: skip
_mcp = Histogram(
    "mcp_server_operation_duration_seconds", "Time of one MCP request.",
    ("mcp_method_name", "gen_ai_tool_name", "error_type", "mcp_protocol_version"),
    buckets=_BUCKETS, registry=_registry,
)  # fmt: skip
_fallbacks = Counter(
    "studio_credential_fallbacks", "Calls whose credentials were refused and that tried another set of a rotation.",
    ("provider",), registry=_registry,
)  # fmt: skip
_rotations = Counter(
    "studio_rotations", "Rotations of credentials by outcome (ok or an error code).", ("provider", "outcome"),
    registry=_registry,
)  # fmt: skip
_probes = Counter(
    "studio_probes", "Health probes by outcome (ok, busy or an error code).", ("provider", "outcome"),
    registry=_registry,
)  # fmt: skip
_health_changes = Counter(
    "studio_health_changes", "Changes of a connector's health, by the new state.", ("provider", "state"),
    registry=_registry,
)  # fmt: skip
_alerts = Counter(
    "studio_alerts", "Deliveries of alerts by outcome (ok or an error code).", ("channel", "outcome"),
    registry=_registry,
)  # fmt: skip
_health = Gauge("studio_connectors", "Connectors of the store by health.", ("state",), registry=_registry)


def probed(provider: str, outcome: str) -> None:
    """Count a health probe."""
    _probes.labels(provider, outcome).inc()


def health_changed(provider: str, state: str) -> None:
    """Count a change of health."""
    _health_changes.labels(provider, state).inc()


def health_counted(counts: Mapping[str, int]) -> None:
    """Keep how many connectors are in each state."""
    for state in ("unknown", "healthy", "degraded", "error"):
        _health.labels(state).set(counts.get(state, 0))


def alerted(channel: str, outcome: str) -> None:
    """Count a delivery of an alert."""
    _alerts.labels(channel, outcome).inc()


def fell_back(provider: str) -> None:
    """Count a call that tried another set of secrets."""
    _fallbacks.labels(provider).inc()


def rotated(provider: str, outcome: str) -> None:
    """Count a rotation."""
    _rotations.labels(provider, outcome).inc()


def record(family: str, provider: str, operation: str, outcome: str, seconds: float) -> None:
    """Count one operation. `outcome` is `ok` or an error code; databases count under OpenTelemetry's names too."""
    counter, histograms = _meters(family, provider, operation, outcome)
    counter.inc()
    for histogram in histograms:
        histogram.observe(seconds)


@cache
def _meters(family: str, provider: str, operation: str, outcome: str) -> tuple[Counter, tuple[Histogram, ...]]:
    """Looked up once: finding a meter by its labels costs more than using it, and labels are few."""
    histograms = [_seconds.labels(provider, operation)]
    if family == "database":
        histograms.append(_databases.labels(provider, operation, "" if outcome == "ok" else outcome))
    return _operations.labels(provider, operation, outcome), tuple(histograms)


def record_mcp(method: str, tool: str, error: str, version: str, seconds: float) -> None:
    """Count one MCP request; `tool` and `error` are empty where there is none (OpenTelemetry's MCP conventions)."""
    _mcp.labels(method, tool, error, version).observe(seconds)


def render() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(_registry)
