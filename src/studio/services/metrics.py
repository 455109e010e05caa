"""What happened, in numbers: operations by provider, operation and outcome, and how long they took."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

CONTENT_TYPE = CONTENT_TYPE_LATEST
registry = CollectorRegistry()
_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_mcp = Histogram(
    "mcp_server_operation_duration_seconds", "Time of one MCP request.",
    ("mcp_method_name", "gen_ai_tool_name", "error_type", "mcp_protocol_version"),
    buckets=_BUCKETS, registry=registry,
)  # fmt: skip
_fallbacks = Counter(
    "studio_credential_fallbacks", "Calls whose credentials were refused and that tried another set of a rotation.",
    ("provider",), registry=registry,
)  # fmt: skip
_rotations = Counter(
    "studio_rotations", "Rotations of credentials by outcome (ok or an error code).", ("provider", "outcome"),
    registry=registry,
)  # fmt: skip
_probes = Counter(
    "studio_probes", "Health probes by outcome (ok, busy or an error code).", ("provider", "outcome"),
    registry=registry,
)  # fmt: skip
_health_changes = Counter(
    "studio_health_changes", "Changes of a connector's health, by the new state.", ("provider", "state"),
    registry=registry,
)  # fmt: skip
_alerts = Counter(
    "studio_alerts", "Deliveries of alerts by outcome (ok or an error code).", ("channel", "outcome"),
    registry=registry,
)  # fmt: skip
_refused = Counter(
    "studio_refused_requests", "HTTP requests refused before any route, by the status of the answer.", ("status",),
    registry=registry,
)  # fmt: skip
_health = Gauge("studio_connectors", "Connectors of the store by health.", ("state",), registry=registry)


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


def refused(status: int) -> None:
    """Count an HTTP request that was refused before any route."""
    _refused.labels(str(status)).inc()


def fell_back(provider: str) -> None:
    """Count a call that tried another set of secrets."""
    _fallbacks.labels(provider).inc()


def rotated(provider: str, outcome: str) -> None:
    """Count a rotation."""
    _rotations.labels(provider, outcome).inc()


class _Tally:
    """Operations that were alike: how many in each bucket of time, and their time together."""

    __slots__ = ("buckets", "seconds")

    def __init__(self) -> None:
        self.buckets = [0] * (len(_BUCKETS) + 1)
        self.seconds = 0.0

    def add(self, other: _Tally) -> None:
        self.buckets = list(map(sum, zip(self.buckets, other.buckets, strict=True)))
        self.seconds += other.seconds

    def cumulative(self) -> list[tuple[str, float]]:
        """As Prometheus' text format has it."""
        return list(zip([*map(floatToGoString, _BUCKETS), "+Inf"], accumulate(self.buckets), strict=True))


_tallies: dict[tuple[str, str, str, str], _Tally] = {}
"""By family, provider, operation and outcome; these labels are few."""


def record(family: str, provider: str, operation: str, outcome: str, seconds: float) -> None:
    """Count one operation. `outcome` is `ok` or an error code.

    This is on the path of every operation: one tally, from which the families are made when somebody reads them.
    """
    key = (family, provider, operation, outcome)
    tally = _tallies.get(key)
    if tally is None:
        tally = _tallies.setdefault(key, _Tally())
    tally.seconds += seconds
    tally.buckets[bisect_left(_BUCKETS, seconds)] += 1


class _Operations(Collector):
    def collect(self) -> Iterator[Metric]:
        """The tallies under our names, and those of databases under OpenTelemetry's too."""
        counts = CounterMetricFamily(
            "studio_operations", "Operations by outcome (ok or an error code).",
            labels=("provider", "operation", "outcome"),
        )  # fmt: skip
        times = HistogramMetricFamily(
            "studio_operation_seconds", "Time of one operation, queueing included.", labels=("provider", "operation")
        )
        databases = HistogramMetricFamily(
            "db_client_operation_duration_seconds", "Time of one operation on a database.",
            labels=("db_system_name", "db_operation_name", "error_type"),
        )  # fmt: skip
        together: dict[tuple[str, str], _Tally] = {}
        for (family, provider, operation, outcome), tally in list(_tallies.items()):
            counts.add_metric((provider, operation, outcome), sum(tally.buckets))
            together.setdefault((provider, operation), _Tally()).add(tally)
            if family == "database":
                labels = (provider, operation, "" if outcome == "ok" else outcome)
                databases.add_metric(labels, tally.cumulative(), tally.seconds)
        for pair, tally in together.items():
            times.add_metric(pair, tally.cumulative(), tally.seconds)
        yield from (counts, times, databases)


registry.register(_Operations())


def record_mcp(method: str, tool: str, error: str, version: str, seconds: float) -> None:
    """Count one MCP request; `tool` and `error` are empty where there is none (OpenTelemetry's MCP conventions)."""
    _mcp.labels(method, tool, error, version).observe(seconds)


def render() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(registry)
