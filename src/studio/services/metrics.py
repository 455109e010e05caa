"""What happened, in numbers: operations by provider, operation and outcome, and how long they took."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest

CONTENT_TYPE = CONTENT_TYPE_LATEST
_registry = CollectorRegistry()
_operations = Counter(
    "studio_operations", "Operations by outcome (ok or an error code).", ("provider", "operation", "outcome"),
    registry=_registry,
)  # fmt: skip
_seconds = Histogram(
    "studio_operation_seconds", "Time of one operation, queueing included.", ("provider", "operation"),
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60), registry=_registry,
)  # fmt: skip


def record(provider: str, operation: str, outcome: str, seconds: float) -> None:
    """Count one operation."""
    _operations.labels(provider, operation, outcome).inc()
    _seconds.labels(provider, operation).observe(seconds)


def render() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(_registry)
