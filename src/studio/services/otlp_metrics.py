"""The metrics of `metrics.py`, pushed by OTLP: the same numbers under the same names, as OpenTelemetry spells them.

Prometheus's `db_client_operation_duration_seconds{error_type}` is OpenTelemetry's `db.client.operation.duration` in
`s` with `error.type`; a collector that turns them back gets the names of `/metrics`.
Source: https://opentelemetry.io/docs/specs/otel/compatibility/prometheus_and_openmetrics/.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

from opentelemetry.sdk.metrics import export as otel
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from prometheus_client import CollectorRegistry, Metric

_BEGUN_NS = time.time_ns()


class Pusher:
    """Exports a registry every OTEL_METRIC_EXPORT_INTERVAL milliseconds (60,000), and once more at its end."""

    def __init__(self, exporter: otel.MetricExporter, registry: CollectorRegistry, resource: Resource) -> None:
        self._exporter, self._registry, self._resource = exporter, registry, resource
        self._interval_s = float(os.environ.get("OTEL_METRIC_EXPORT_INTERVAL") or 60_000) / 1000
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="studio-otlp-metrics", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        over = False
        while not over:
            over = self._over.wait(self._interval_s)
            self._exporter.export(self.collected())

    def collected(self) -> otel.MetricsData:
        """What the registry holds now."""
        found = [metric for family in self._registry.collect() if (metric := _metric(family))]
        scope = otel.ScopeMetrics(InstrumentationScope("studio"), found, "")
        return otel.MetricsData([otel.ResourceMetrics(self._resource, [scope], "")])

    def shutdown(self) -> None:
        """Export for the last time."""
        self._over.set()
        self._thread.join()
        self._exporter.shutdown()


def _metric(family: Metric) -> otel.Metric | None:
    """One family; None for one that nothing was counted in yet."""
    unit = "s" if family.name.endswith("_seconds") else ""
    kinds: dict[str, Callable[[Metric], Any]] = {"counter": _sum, "gauge": _gauge, "histogram": _histogram}
    data = kinds[family.type](family)
    name = _dotted(family.name.removesuffix("_seconds"))
    return otel.Metric(name, family.documentation, unit, data) if data.data_points else None


def _sum(family: Metric) -> otel.Sum:
    points = _points(family, "_total", _BEGUN_NS)
    return otel.Sum(points, otel.AggregationTemporality.CUMULATIVE, is_monotonic=True)


def _gauge(family: Metric) -> otel.Gauge:
    return otel.Gauge(_points(family, "", None))


def _points(family: Metric, suffix: str, begun: Any) -> list[otel.NumberDataPoint]:
    return [
        otel.NumberDataPoint(_attributes(sample.labels.items()), begun, time.time_ns(), sample.value)
        for sample in family.samples
        if sample.name == family.name + suffix
    ]


def _histogram(family: Metric) -> otel.Histogram:
    series: dict[tuple[tuple[str, str], ...], dict[str, Any]] = {}
    for sample in family.samples:
        labels = tuple((name, value) for name, value in sample.labels.items() if name != "le")
        one = series.setdefault(labels, {"bounds": [], "below": []})
        if sample.name.endswith("_bucket"):
            one["bounds"].append(float(sample.labels["le"]))
            one["below"].append(int(sample.value))
        else:
            one[sample.name.removeprefix(family.name)] = sample.value
    points = [
        otel.HistogramDataPoint(
            attributes=_attributes(labels), start_time_unix_nano=_BEGUN_NS, time_unix_nano=time.time_ns(),
            count=int(one["_count"]), sum=one["_sum"], explicit_bounds=one["bounds"][:-1],  # the last is infinity
            bucket_counts=[after - before for before, after in pairwise([0, *one["below"]])], min=0, max=0,
        )
        for labels, one in series.items()
    ]  # fmt: skip
    return otel.Histogram(points, otel.AggregationTemporality.CUMULATIVE)


def _attributes(labels: Iterable[tuple[str, str]]) -> dict[str, str]:
    return {_dotted(name): value for name, value in labels if value}


def _dotted(name: str) -> str:
    return name.replace("_", ".").replace("gen.ai.", "gen_ai.")
