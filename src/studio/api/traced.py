"""The server span of one HTTP request, under the caller's own trace.

Source: OpenTelemetry's HTTP conventions. The route is a template: no id, alias or query stands in a span.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from studio.api.wire import Receive, Scope, Send
from studio.services import tracing

App = Callable[[Scope, Receive, Send], Awaitable[None]]


async def traced(app: App, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request with a span around it."""
    method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
    given = dict(scope["headers"])
    carried = {name: given.get(name.encode(), b"").decode("latin-1") or None for name in tracing.CARRIED}
    status = 0

    async def sending(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        await send(message)

    with tracing.span(method, "server", {"http.request.method": method}, carried) as span:
        try:
            await app(scope, receive, sending)
        finally:
            route = scope.get("route")
            if (path := route if isinstance(route, str) else getattr(route, "path", None)) is not None:
                span.update_name(f"{method} {path}")
                span.set_attribute("http.route", path)
            if status:
                span.set_attribute("http.response.status_code", status)
            if status >= 500 or not status:
                tracing.failed(span, str(status or "closed"))


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
