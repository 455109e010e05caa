"""A collector of traces and metrics: takes what OpenTelemetry's exporter sends over HTTP, and keeps it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Collector:
    """Where it listens, and the bodies that arrived (protobuf, unpacked), of spans and of metrics."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.taken: list[bytes] = []
        self.measured: list[bytes] = []

    def spans(self) -> list[Any]:
        """Everything that arrived, parsed (opentelemetry-proto): resources with their spans."""
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        return [one for body in self.taken for one in ExportTraceServiceRequest.FromString(body).resource_spans]

    def metrics(self) -> dict[str, Any]:
        """The metrics that arrived last, by name."""
        from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

        [resource] = ExportMetricsServiceRequest.FromString(self.measured[-1]).resource_metrics
        return {metric.name: metric for metric in resource.scope_metrics[0].metrics}


@contextmanager
def collecting() -> Iterator[Collector]:
    """A running collector on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            packed = self.headers.get("content-encoding") == "gzip"
            kept = collector.measured if self.path.endswith("/metrics") else collector.taken
            kept.append(gzip.decompress(body) if packed else body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield collector
        server.shutdown()
        thread.join()
