"""Spans on OpenTelemetry's conventions, for those who collect them.

Off, and without cost, until `use` or `use_environment` is called. No span holds a value of a
tenant's: kinds, operations, codes and counts only.

Sources: https://opentelemetry.io/docs/specs/semconv/ (database and MCP conventions),
https://www.w3.org/TR/trace-context/.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal
from urllib.parse import urlsplit

from studio.errors import OperationNotSupported

Attributes = Mapping[str, str | int]
CARRIED = ("traceparent", "tracestate")
"""What a caller's context travels in: HTTP headers, or members of MCP's `_meta`."""
_COLLECTOR = "http://localhost:4318"
_NOTHING: AbstractContextManager[Any] = nullcontext()
_SIGNALS = ("TRACES", "METRICS")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", *(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT" for signal in _SIGNALS))
_tracer: Any = None


def use(provider: Any = None) -> None:
    """Make spans from now on, with a `TracerProvider`; None takes the one that is set for the whole process."""
    from opentelemetry import trace

    global _tracer
    _tracer = trace.get_tracer("studio", tracer_provider=provider)


def stop() -> None:
    """Make no spans any more."""
    global _tracer
    _tracer = None


def on() -> bool:
    """Whether spans are made: for callers that would prepare something for one."""
    return _tracer is not None


def exports_to() -> list[tuple[str, int]]:
    """Host and port of each collector that the environment may mean; the SDK's own default is one."""
    urls = [os.environ.get(name, "") for name in _ENDPOINTS]
    parsed = [urlsplit(url) for url in [*urls, _COLLECTOR]]
    return [(url.hostname, url.port or (443 if url.scheme == "https" else 80)) for url in parsed if url.hostname]


def use_environment() -> Callable[[], None]:
    """Export spans and metrics by OTLP over HTTP where the environment says so, under the SDK's own names.

    Gives what flushes both.

    Raises:
        OperationNotSupported: asked for, and the exporter is not installed.
    """
    asked = [signal for signal in _SIGNALS if _asked(signal)]
    if not asked or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as exc:
        raise OperationNotSupported(
            "the environment asks for OpenTelemetry (OTEL_…), which is not installed here; "
            "install it with pip install 'studio-connectors[otel]'"
        ) from exc
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "studio-connectors"}
    resource, ends = Resource.create(named), list[Callable[[], None]]()
    if "TRACES" in asked:
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        use(provider)
        ends += [stop, provider.shutdown]
    if "METRICS" in asked:
        from studio.services import metrics
        from studio.services.otlp_metrics import Pusher

        ends.append(Pusher(OTLPMetricExporter(), metrics.registry, resource).shutdown)

    def flush() -> None:
        for end in ends:
            end()

    return flush


def _asked(signal: str) -> bool:
    exporter = os.environ.get(f"OTEL_{signal}_EXPORTER", "")
    ends = (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"), os.environ.get(f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))
    return exporter != "none" and bool(exporter or any(ends))


def span(
    name: str,
    kind: Literal["server", "client", "internal"],
    attributes: Attributes,
    carried: Mapping[str, Any] | None = None,
) -> AbstractContextManager[Any]:
    """A span around the body of a `with`; gives the span, or None where none is made.

    `carried` holds the caller's trace context (W3C), where it sent one.
    """
    return _NOTHING if _tracer is None else _span(name, kind, attributes, carried or {})


@contextmanager
def _span(name: str, kind: str, attributes: Attributes, carried: Mapping[str, Any]) -> Iterator[Any]:
    from opentelemetry.context import get_current
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    given = {key: value for key in CARRIED if isinstance(value := carried.get(key), str)}
    with _tracer.start_as_current_span(
        name,
        context=TraceContextTextMapPropagator().extract(given, get_current()),  # the present one if unreadable
        kind=SpanKind[kind.upper()],
        attributes=dict(attributes),
        record_exception=False,  # an exception's text may hold what a statement held
        set_status_on_exception=False,
    ) as made:
        yield made


_MESSAGING = {"sqs": "aws_sqs", "redis_pubsub": "redis"}


def begun(family: str, provider: str, operation: str) -> Any:
    """The client span of one operation, under whatever span surrounds it; None where none is made.

    It is not made current: a streamed operation goes on in other contexts than it began in.
    """
    if _tracer is None:
        return None
    from opentelemetry.trace import SpanKind

    attributes = {"studio.provider": provider}
    if family == "database":
        attributes |= {"db.system.name": provider, "db.operation.name": operation}
    elif family == "messaging":
        attributes |= {
            "messaging.system": _MESSAGING.get(provider, provider),
            "messaging.operation.name": operation,
        }
    else:
        attributes["studio.operation"] = operation
    return _tracer.start_span(f"{operation} {provider}", kind=SpanKind.CLIENT, attributes=attributes)


def ended(made: Any, code: str, rows: int | None) -> None:
    """End a span of `begun`; `code` is `ok` or an error code."""
    if made is None or not made.is_recording():  # one that the sampler left out has no attributes
        return
    if code != "ok":
        failed(made, code)
    elif rows is not None and made.attributes.get("db.system.name"):
        made.set_attribute("db.response.returned_rows", rows)
    made.end()


def failed(made: Any, code: str) -> None:
    """Mark a span as failed, with a code of ours."""
    if made is not None:
        from opentelemetry.trace import StatusCode

        made.set_attribute("error.type", code)
        made.set_status(StatusCode.ERROR)
