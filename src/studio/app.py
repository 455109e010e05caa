"""The HTTP application: management routes in FastAPI, the hot routes beside them, one service behind both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from studio import __version__
from studio.api import agents, alerts, audit, connectors, execute, keys, problems, protected_resource, system
from studio.api.auth import Door
from studio.api.execute import Execute
from studio.api.gate import Gate
from studio.api.hosts import Hosts
from studio.api.protected_resource import Challenge
from studio.api.repeats import Repeats
from studio.api.traced import traced
from studio.api.wire import Receive, Scope, Send
from studio.mcp import document, endpoint
from studio.models import current_request, new_id
from studio.services import tracing
from studio.services.connector_service import ConnectorService
from studio.settings import Settings


class Application:
    """An ASGI application. Hot routes are matched first and touch no framework."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or Settings()
        self.service = ConnectorService(self.settings)
        self.door = door = Door(self.service, self.settings)
        self.management = _management(self.service, self.settings, door)
        self.gate = Gate(self._serve, Hosts.of(self.settings))
        self._execute = Execute(door, self.settings.max_timeout_s)
        self._mcp = endpoint.Mcp(door)
        self._repeats = Repeats(self.management, door)
        self._challenge = Challenge(self.settings) if self.settings.oidc_issuer else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection scope (ASGI 3)."""
        if scope["type"] == "http":
            current_request.set(new_id())
        if tracing.on() and scope["type"] == "http":
            await traced(self.gate, scope, receive, send)  # around the gate: what it refuses was asked too
        else:
            await self.gate(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._challenge is not None and scope["type"] == "http":
            send = self._challenge.around(scope, send)
        parts = execute.match(scope)
        if parts is not None:
            scope["route"] = execute.template(parts)
            await self._execute(parts, scope, receive, send)
        elif endpoint.match(scope):
            scope["route"] = "/mcp"
            await self._mcp(scope, receive, send)
        elif scope["type"] == "http":
            # Answered and logged by then: raised further, its text would stand in the server's log.
            with suppress(Exception):
                await self._repeats(scope, receive, send)
        else:
            await self.management(scope, receive, send)


def _management(service: ConnectorService, settings: Settings, door: Door) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with service:
            yield

    app = FastAPI(
        title="Studio Connectors",
        version=__version__,
        openapi_url=None,  # `system` has the document and its page, behind a key
        lifespan=lifespan,
        redirect_slashes=False,  # a redirect would name the Host that the client sent
    )
    app.state.service, app.state.settings, app.state.door = service, settings, door
    for module in (connectors, agents, alerts, keys, audit, system, protected_resource):
        app.include_router(module.router)
    problems.install(app)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
        schema["paths"].update(execute.openapi_paths() | document.OPENAPI_PATHS)
        app.openapi_schema = schema
    return app.openapi_schema
